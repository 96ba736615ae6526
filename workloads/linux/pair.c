/*
 * A parent and its child process: fork, wait, and handing the CPU over.
 *
 * A baton in shared memory says which of the two may run; whoever does not
 * hold it sleeps on it (futex(2)). Both move to one CPU when the first of them
 * yields, for a switch between address spaces is to be measured, not a wake-up
 * of another CPU. A child that never yields is left alone: it runs where and
 * when the scheduler likes, and no cost is added to its creation.
 */
#include "workloads/linux/state.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHILD_FAILED 127

static struct linux_baton *baton_of(struct linux_pair *pair)
{
    void *page;

    if (pair->baton)
        return pair->baton;
    page = mmap(NULL, sizeof *pair->baton, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page != MAP_FAILED)
        pair->baton = page;
    return pair->baton;
}

long linux_fork(const struct wl_env *env)
{
    struct linux_pair *pair = &wl_linux_of(env)->pair;
    pid_t child;

    if (pair->is_child || pair->child)
        return -EBUSY;
    if (!baton_of(pair))
        return -ENOMEM;
    pair->baton->holder = LINUX_PARENT;
    pair->parent = getpid();
    pair->yielded = false;
    child = fork();
    if (child < 0)
        return -errno;
    if (child == 0)
        pair->is_child = true;
    else
        pair->child = child;
    return child;
}

void linux_exit_child(const struct wl_env *env, int status)
{
    (void)env;
    _exit(status);
}

void linux_child_failed(struct wl_linux *self, const char *sentence)
{
    why_set(&self->pair.baton->why, ECANCELED, "%s", sentence);
    _exit(CHILD_FAILED);
}

static bool child_is_dead(const struct linux_pair *pair)
{
    siginfo_t info = {.si_pid = 0};

    return waitid(P_PID, pair->child, &info, WEXITED | WNOHANG | WNOWAIT) ||
           info.si_pid;
}

/* Sleeps until `who` holds the baton; false when it never will. */
static bool await_baton(const struct linux_pair *pair, uint32_t who)
{
    const struct timespec second = {.tv_sec = 1};
    uint32_t *holder = &pair->baton->holder, now;

    while ((now = __atomic_load_n(holder, __ATOMIC_ACQUIRE)) != who) {
        if (!syscall(SYS_futex, holder, FUTEX_WAIT, now, &second, NULL, 0) ||
            errno != ETIMEDOUT)
            continue;
        if (who == LINUX_PARENT && child_is_dead(pair))
            return false;
    }
    return true;
}

static void pass_baton(const struct linux_pair *pair, uint32_t to)
{
    uint32_t *holder = &pair->baton->holder;

    __atomic_store_n(holder, to, __ATOMIC_RELEASE);
    syscall(SYS_futex, holder, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void pin_to(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static void first_yield_of_parent(struct linux_pair *pair)
{
    pair->yielded = true;
    if (!pair->pinned &&
        !sched_getaffinity(0, sizeof pair->before, &pair->before))
        pair->pinned = true;
    pair->baton->cpu = sched_getcpu();
    pin_to(pair->baton->cpu);
}

/* The child may have come here before the parent's first yield. From here on
 * it sleeps, so that it must not outlive a parent that is killed. */
static void first_yield_of_child(struct linux_pair *pair)
{
    pair->yielded = true;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != pair->parent)
        _exit(CHILD_FAILED);
    await_baton(pair, LINUX_CHILD);
    pin_to(pair->baton->cpu);
}

static void yield_of_child(struct linux_pair *pair)
{
    if (!pair->yielded)
        first_yield_of_child(pair);
    pass_baton(pair, LINUX_PARENT);
    await_baton(pair, LINUX_CHILD);
}

void linux_yield(const struct wl_env *env)
{
    struct linux_pair *pair = &wl_linux_of(env)->pair;

    if (pair->is_child) {
        yield_of_child(pair);
        return;
    }
    if (!pair->child)
        return;
    if (!pair->yielded)
        first_yield_of_parent(pair);
    pass_baton(pair, LINUX_CHILD);
    if (!await_baton(pair, LINUX_PARENT))
        env->os->fail(env, "the child process died");
}

static int status_of(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int linux_wait_child(const struct wl_env *env, long child, int *status)
{
    struct wl_linux *self = wl_linux_of(env);
    struct linux_pair *pair = &self->pair;
    int raw;

    if (!pair->child || child != pair->child)
        return -ECHILD;
    if (pair->yielded)
        pass_baton(pair, LINUX_CHILD);
    while (waitpid(pair->child, &raw, 0) < 0)
        if (errno != EINTR)
            return -errno;
    pair->child = 0;
    *status = status_of(raw);
    if (*status == CHILD_FAILED && pair->baton->why.text[0])
        env->os->fail(env, pair->baton->why.text);
    return 0;
}

void linux_pair_free(struct linux_pair *pair)
{
    if (pair->child) {
        kill(pair->child, SIGKILL);
        while (waitpid(pair->child, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    if (pair->pinned)
        sched_setaffinity(0, sizeof pair->before, &pair->before);
    if (pair->baton)
        munmap(pair->baton, sizeof *pair->baton);
}
