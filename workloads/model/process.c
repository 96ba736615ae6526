/*
 * Processes and their switches, as workloads/guest/process.c has them. A guest
 * process is a process of the host, so that its data is copied by the host's
 * fork; a word in shared memory says which of them may run.
 */
#include "workloads/model/tracer.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void kill_children(void)
{
    for (unsigned i = 0; i < PROCESSES_MAX; i++) {
        pid_t pid = tracer->process[i].pid;

        if (!pid)
            continue;
        kill(pid, SIGKILL);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
}

void process_end(enum ring_state state)
{
    kill_children();
    ring_finish(tracer->ring, state);
    _exit(state == RING_DONE ? 0 : 1);
}

static void on_term(int signal_no)
{
    (void)signal_no;
    kill_children();
    _exit(1);
}

void process_handle_term(void)
{
    signal(SIGTERM, on_term);
}

/* ---- Whose turn it is --------------------------------------------------- */

static void give_turn(unsigned id)
{
    uint32_t *turn = &tracer->process[id].turn;

    __atomic_store_n(turn, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, turn, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static bool is_root(unsigned id)
{
    return !tracer->kernel.processes[id].parent;
}

/* A child that ended without handing over is not coming back. */
static void look_for_the_dead(unsigned self)
{
    for (unsigned i = 0; i < PROCESSES_MAX; i++) {
        const struct tracer_process *p = &tracer->process[i];
        siginfo_t info = {.si_pid = 0};

        if (!p->pid || tracer->kernel.processes[i].state == PROCESS_ZOMBIE)
            continue;
        if (waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT) ||
            info.si_pid) {
            tracer->current = self;
            tracer_fail(ECANCELED, "a process of the workload died");
        }
    }
}

static void await_turn(unsigned self)
{
    const struct timespec while_ = {.tv_nsec = 100 * 1000 * 1000};
    uint32_t *turn = &tracer->process[self].turn;

    while (!__atomic_load_n(turn, __ATOMIC_ACQUIRE))
        if (syscall(SYS_futex, turn, FUTEX_WAIT, 0, &while_, NULL, 0) &&
            errno == ETIMEDOUT && is_root(self) && !*turn)
            look_for_the_dead(self);
    *turn = 0;
    if (tracer->failing)
        process_end(RING_FAILED);
}

static void enter_space(unsigned id)
{
    struct kernel *k = &tracer->kernel;
    struct space *space = &k->processes[id].space;

    tracer->current = id;
    space_switch(k, space);
    space->tagged = true;
    tracer_leave_kernel();
}

static void switch_to(unsigned next)
{
    unsigned self = tracer->current;

    enter_space(next);
    give_turn(next);
    await_turn(self);
}

static unsigned id_of(const struct process *process)
{
    return (unsigned)(process - tracer->kernel.processes);
}

void process_give_up(void)
{
    unsigned self = tracer->current;

    if (is_root(self))
        process_end(RING_FAILED);
    give_turn(id_of(tracer->kernel.processes[self].parent));
    _exit(1);
}

/* ---- What a workload asks for ------------------------------------------- */

static struct process *process_alloc(struct kernel *k)
{
    for (unsigned i = 0; i < PROCESSES_MAX; i++)
        if (k->processes[i].state == PROCESS_FREE)
            return &k->processes[i];
    return NULL;
}

static void forget(struct process *child)
{
    space_destroy(&tracer->kernel, &child->space);
    tracer_leave_kernel();
    child->state = PROCESS_FREE;
}

static void start_child(unsigned id, pid_t parent)
{
    signal(SIGTERM, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    await_turn(id);
}

/* SIGTERM waits until it would find the child. */
static pid_t fork_child(unsigned id)
{
    pid_t parent = getpid(), pid;
    sigset_t term, before;

    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, &before);
    pid = fork();
    if (pid > 0)
        tracer->process[id].pid = pid;
    if (!pid)
        signal(SIGTERM, SIG_DFL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (!pid)
        start_child(id, parent);
    return pid;
}

/* Only the first process forks: it reaps all others. */
long process_fork(void)
{
    struct kernel *k = &tracer->kernel;
    struct process *parent = &k->processes[tracer->current];
    struct process *child = process_alloc(k);
    int err;

    if (!child || parent->parent)
        return -EAGAIN;
    *child = (struct process){.state = PROCESS_READY, .parent = parent};
    err = space_clone(k, &child->space, &parent->space);
    tracer_leave_kernel();
    if (err) {
        child->state = PROCESS_FREE;
        return err;
    }
    tracer->process[id_of(child)] = tracer->process[tracer->current];
    tracer->process[id_of(child)].pid = 0;
    switch (fork_child(id_of(child))) {
    case 0:
        return 0;
    case -1:
        forget(child);
        return -EAGAIN;
    default:
        return id_of(child);
    }
}

static void reap(struct tracer_process *p)
{
    while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    p->pid = 0;
}

int process_wait(long id, int *status)
{
    struct kernel *k = &tracer->kernel;
    struct process *child;

    if (id < 0 || id >= PROCESSES_MAX)
        return -ECHILD;
    child = &k->processes[id];
    if (child->state == PROCESS_FREE ||
        child->parent != &k->processes[tracer->current])
        return -ECHILD;
    while (child->state != PROCESS_ZOMBIE)
        switch_to((unsigned)id);
    reap(&tracer->process[id]);
    forget(child);
    *status = child->exit_status;
    return 0;
}

void process_yield(void)
{
    struct kernel *k = &tracer->kernel;
    struct process *p = &k->processes[tracer->current], *peer = p->parent;

    for (unsigned i = PROCESSES_MAX; !peer && i-- > 0;)
        if (k->processes[i].state == PROCESS_READY &&
            k->processes[i].parent == p)
            peer = &k->processes[i];
    if (peer)
        switch_to(id_of(peer));
}

void process_exit(int status)
{
    struct process *p = &tracer->kernel.processes[tracer->current];
    unsigned parent;

    if (!p->parent)
        tracer_finish();
    parent = id_of(p->parent);
    p->exit_status = status;
    p->state = PROCESS_ZOMBIE;
    enter_space(parent);
    give_turn(parent);
    _exit(0);
}
