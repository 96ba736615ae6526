/*
 * The shim that runs workloads as Linux processes: what it promises to a
 * workload (workloads/api.h), and that it leaves nothing behind.
 */
#include "tests/test.h"
#include "workloads/catalog.h"
#include "workloads/limits.h"
#include "workloads/linux/process.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a workload of this file and its test tell each other: shared, so that
 * a child's word counts too. */
struct talk {
    unsigned log[64];
    unsigned logged;
    uint64_t result;
    int error;
    pid_t pids[4];
    int cpus[4];
    struct wl_linux_found found;
    struct why why;
};

static struct talk *talk_new(void)
{
    void *page = mmap(NULL, sizeof(struct talk), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED)
        abort();
    return page;
}

/* Workloads have no argument, but hooks have. */
static struct talk *talk_of(const struct wl_env *env)
{
    return (struct talk *)(uintptr_t)env->params->seed;
}

static int run(void (*fn)(const struct wl_env *env), struct talk *talk,
               const struct wl_linux_hooks *hooks, struct wl_params params)
{
    const struct workload workload = {.name = "of a test", .run = fn};

    params.seed = (uintptr_t)talk;
    return wl_linux_run(&workload, &params, hooks, &talk->found, &talk->why);
}

static const struct wl_params four_k = {1 << 20, WL_PAGE_4K, 10, 1, 1};
static const struct wl_params two_m = {8 << 20, WL_PAGE_2M, 10, 1, 1};

static unsigned mappings_now(void)
{
    FILE *file = fopen("/proc/self/maps", "re");
    unsigned lines = 0;

    for (int c; (c = getc(file)) != EOF;)
        lines += c == '\n';
    fclose(file);
    return lines;
}

/* The whole file at once, and by name: not how the shim reads it. */
static uint64_t smaps_kib(const void *addr, const char *field)
{
    char *text = NULL, start[32];
    FILE *file = fopen("/proc/self/smaps", "re");
    const char *at;
    size_t size = 0;
    uint64_t kib = 0;

    snprintf(start, sizeof start, "%" PRIxPTR "-", (uintptr_t)addr);
    if (getdelim(&text, &size, 0, file) < 0)
        abort();
    at = strstr(text, start);
    if (at && (at = strstr(at, field)))
        kib = strtoull(at + strlen(field) + 1, NULL, 10);
    fclose(file);
    free(text);
    return kib;
}

static void look_at_pages(const struct wl_env *env)
{
    uint64_t bytes = env->params->working_set_bytes;
    void *base = env->os->map(env, bytes, env->params->page_bytes, WL_POPULATE);
    struct talk *talk = talk_of(env);

    if (!base)
        env->os->fail(env, "no memory");
    talk->result = smaps_kib(base, "AnonHugePages:");
    if (smaps_kib(base, "KernelPageSize:") > 4)
        talk->result = bytes >> 10;
}

static void small_pages_are_small(void)
{
    struct talk *talk = talk_new();
    struct wl_params params = four_k;

    params.working_set_bytes = 16 << 20;
    CU_ASSERT_EQUAL(run(look_at_pages, talk, NULL, params), 0);
    CU_ASSERT_EQUAL(talk->result, 0);
    CU_ASSERT_EQUAL(talk->found.page_bytes, WL_PAGE_4K);
    munmap(talk, sizeof *talk);
}

static void large_pages_are_large(void)
{
    struct talk *talk = talk_new();
    int error = run(look_at_pages, talk, NULL, two_m);

    if (error == -ENOTSUP) {
        CU_ASSERT_PTR_NOT_NULL(strstr(talk->why.text, "vm.nr_hugepages="));
        test_skip("%s", talk->why.text);
    } else {
        CU_ASSERT_EQUAL(error, 0);
        CU_ASSERT_EQUAL(talk->result, two_m.working_set_bytes >> 10);
        CU_ASSERT_EQUAL(talk->found.page_bytes, WL_PAGE_2M);
    }
    munmap(talk, sizeof *talk);
}

static void all_keep_large_pages(void)
{
    for (const struct workload *const *w = workload_catalog(); *w; w++) {
        struct wl_params params = two_m;
        struct wl_linux_found found;
        struct why why = {""};
        int error;

        if (!(*w)->run || !(*w)->default_working_set_bytes)
            continue;
        error = wl_linux_run(*w, &params, NULL, &found, &why);
        if (error == -ENOTSUP) {
            test_skip("%s", why.text);
            return;
        }
        CU_ASSERT_EQUAL(error, 0);
        CU_ASSERT_EQUAL(found.page_bytes, WL_PAGE_2M);
        if (error || found.page_bytes != WL_PAGE_2M)
            printf("\n    %s: %s\n", (*w)->name, why.text);
    }
}

static void gigantic_pages_or_the_cure(void)
{
    struct talk *talk = talk_new();
    struct wl_params params = four_k;
    int error;

    params.page_bytes = WL_PAGE_1G;
    error = run(look_at_pages, talk, NULL, params);
    if (error) {
        CU_ASSERT_EQUAL(error, -ENOTSUP);
        CU_ASSERT_PTR_NOT_NULL(strstr(talk->why.text, "hugepagesz=1G"));
    } else {
        CU_ASSERT_EQUAL(talk->found.page_bytes, WL_PAGE_1G);
    }
    munmap(talk, sizeof *talk);
}

static void too_much_memory_is_refused(void)
{
    struct talk *talk = talk_new();
    struct wl_params params = four_k;

    params.working_set_bytes = UINT64_C(1) << 45;
    CU_ASSERT_EQUAL(run(look_at_pages, talk, NULL, params), -ENOMEM);
    CU_ASSERT_PTR_NOT_NULL(strstr(talk->why.text, "ask for a smaller --size"));
    munmap(talk, sizeof *talk);
}

static void gives_up(const struct wl_env *env)
{
    env->os->map(env, 1 << 20, WL_PAGE_4K, WL_POPULATE);
    env->os->fork(env);
    env->os->fail(env, "this is the sentence");
}

static void failure_comes_back_as_error(void)
{
    struct talk *talk = talk_new();
    unsigned before = mappings_now();

    for (unsigned i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL(run(gives_up, talk, NULL, four_k), -ECANCELED);
        CU_ASSERT_STRING_EQUAL(talk->why.text, "this is the sentence");
        CU_ASSERT_EQUAL(waitpid(-1, NULL, WNOHANG), -1);
        CU_ASSERT_EQUAL(errno, ECHILD);
    }
    CU_ASSERT(mappings_now() <= before + 2); /* malloc's, at most */
    munmap(talk, sizeof *talk);
}

static void member_gives_up(const struct wl_env *env, void *arg, unsigned id)
{
    (void)arg;
    if (id == 1)
        env->os->fail(env, "member 1 gave up");
}

static void fails_in_parallel(const struct wl_env *env)
{
    env->os->parallel(env, member_gives_up, NULL);
    talk_of(env)->result = 1;
}

static void failure_of_a_thread_is_the_runs(void)
{
    struct talk *talk = talk_new();
    struct wl_params params = four_k;

    params.vcpus = 3;
    CU_ASSERT_EQUAL(run(fails_in_parallel, talk, NULL, params), -ECANCELED);
    CU_ASSERT_STRING_EQUAL(talk->why.text, "member 1 gave up");
    CU_ASSERT_EQUAL(talk->result, 0);
    munmap(talk, sizeof *talk);
}

static void fails_in_child(const struct wl_env *env)
{
    int status;
    long child = env->os->fork(env);

    if (child == 0)
        env->os->fail(env, "the child gave up");
    env->os->wait_child(env, child, &status);
    talk_of(env)->result = 1;
}

static void failure_of_a_child_is_the_runs(void)
{
    struct talk *talk = talk_new();

    CU_ASSERT_EQUAL(run(fails_in_child, talk, NULL, four_k), -ECANCELED);
    CU_ASSERT_STRING_EQUAL(talk->why.text, "the child gave up");
    CU_ASSERT_EQUAL(talk->result, 0);
    munmap(talk, sizeof *talk);
}

static void child_that_dies(const struct wl_env *env)
{
    long child = env->os->fork(env);

    if (child == 0)
        env->os->exit_child(env, 3);
    env->os->yield(env);
    talk_of(env)->result = 1;
}

static void yield_to_a_dead_child_ends(void)
{
    struct talk *talk = talk_new();

    CU_ASSERT_EQUAL(run(child_that_dies, talk, NULL, four_k), -ECANCELED);
    CU_ASSERT_PTR_NOT_NULL(strstr(talk->why.text, "died"));
    CU_ASSERT_EQUAL(talk->result, 0);
    munmap(talk, sizeof *talk);
}

static void note_begin(void *arg, enum wl_phase phase)
{
    struct talk *talk = arg;

    talk->pids[phase] = getpid();
    talk->log[talk->logged++] = phase;
}

static void note_end(void *arg, enum wl_phase phase, uint64_t operations,
                     uint64_t tsc_begin, uint64_t tsc_end, uint64_t checksum)
{
    struct talk *talk = arg;

    talk->log[talk->logged++] = 10 + phase;
    talk->result = operations + tsc_begin + tsc_end + checksum;
}

static void phases_in_both(const struct wl_env *env)
{
    int status;
    long child = env->os->fork(env);

    env->os->phase_begin(env, WL_STEADY);
    env->os->phase_end(env, WL_STEADY, 1, 20, 300, 4000);
    if (child == 0)
        env->os->exit_child(env, 0);
    env->os->wait_child(env, child, &status);
}

static void hooks_run_in_the_parent_only(void)
{
    struct talk *talk = talk_new();
    const struct wl_linux_hooks hooks = {note_begin, note_end, talk};

    CU_ASSERT_EQUAL(run(phases_in_both, talk, &hooks, four_k), 0);
    CU_ASSERT_EQUAL(talk->logged, 2);
    CU_ASSERT_EQUAL(talk->log[0], WL_STEADY);
    CU_ASSERT_EQUAL(talk->log[1], 10 + WL_STEADY);
    CU_ASSERT_EQUAL(talk->pids[WL_STEADY], getpid());
    CU_ASSERT_EQUAL(talk->result, 4321);
    munmap(talk, sizeof *talk);
}

static void take_turns(const struct wl_env *env)
{
    struct talk *talk = talk_of(env);
    long child = env->os->fork(env);
    int status = -1;

    for (unsigned i = 0; i < 20; i++) {
        if (child) {
            usleep(100); /* time enough for a child that does not wait */
            talk->log[talk->logged++] = 0;
            talk->cpus[0] = sched_getcpu();
        }
        env->os->yield(env);
        if (!child) {
            talk->log[talk->logged++] = 1;
            talk->cpus[1] = sched_getcpu();
        }
    }
    if (!child)
        env->os->exit_child(env, 5);
    talk->error = env->os->wait_child(env, child, &status);
    talk->result = status;
}

/* Work before the child's first yield is not counted: it may be early. */
static void processes_take_turns(void)
{
    struct talk *talk = talk_new();
    cpu_set_t before, after;

    sched_getaffinity(0, sizeof before, &before);
    CU_ASSERT_EQUAL(run(take_turns, talk, NULL, four_k), 0);
    sched_getaffinity(0, sizeof after, &after);
    CU_ASSERT_EQUAL(talk->logged, 40);
    for (unsigned i = 0; i < talk->logged; i++)
        CU_ASSERT_EQUAL(talk->log[i], i == 39 || (i && i % 2 == 0 ? 1 : 0));
    CU_ASSERT_EQUAL(talk->cpus[0], talk->cpus[1]);
    CU_ASSERT_EQUAL(talk->error, 0);
    CU_ASSERT_EQUAL(talk->result, 5);
    CU_ASSERT(CPU_EQUAL(&before, &after));
    munmap(talk, sizeof *talk);
}

static void copy_on_write(const struct wl_env *env)
{
    volatile uint64_t *word =
        env->os->map(env, 1 << 20, WL_PAGE_4K, WL_POPULATE);
    long child;
    int status;

    *word = 1;
    child = env->os->fork(env);
    if (child == 0) {
        *word = 2;
        env->os->exit_child(env, *word);
    }
    env->os->wait_child(env, child, &status);
    talk_of(env)->result = *word * 100 + status;
}

static void memory_is_copied_on_write(void)
{
    struct talk *talk = talk_new();

    CU_ASSERT_EQUAL(run(copy_on_write, talk, NULL, four_k), 0);
    CU_ASSERT_EQUAL(talk->result, 102);
    munmap(talk, sizeof *talk);
}

static int refuse(const struct wl_env *env, void *addr, void *arg)
{
    (void)env;
    *(void **)arg = addr;
    return 1;
}

static void unhandled_violation(const struct wl_env *env)
{
    unsigned char *base = env->os->map(env, 1 << 20, WL_PAGE_4K, WL_POPULATE);
    void *at = NULL;

    env->os->on_segv(env, refuse, &at);
    env->os->protect(env, base, 1 << 20, WL_PROT_READ);
    *(volatile unsigned char *)(base + 12345) = 1;
    talk_of(env)->result = 1;
}

static void violation_not_handled_fails_the_run(void)
{
    struct sigaction before, after;
    struct talk *talk = talk_new();

    sigaction(SIGSEGV, NULL, &before);
    CU_ASSERT_EQUAL(run(unhandled_violation, talk, NULL, four_k), -ECANCELED);
    CU_ASSERT_PTR_NOT_NULL(strstr(talk->why.text, "access violation at 0x"));
    CU_ASSERT_EQUAL(talk->result, 0);
    sigaction(SIGSEGV, NULL, &after);
    CU_ASSERT_PTR_EQUAL(before.sa_handler, after.sa_handler);
    munmap(talk, sizeof *talk);
}

static void bad_mappings(const struct wl_env *env)
{
    struct talk *talk = talk_of(env);
    unsigned char *base = env->os->map(env, 5000, WL_PAGE_4K, WL_LAZY);

    talk->result =
        env->os->map(env, 0, WL_PAGE_4K, WL_LAZY) ||
        env->os->map(env, UINT64_MAX, WL_PAGE_4K, WL_LAZY) ||
        env->os->map(env, 4096, 12345, WL_LAZY) ||
        env->os->unmap(env, base + 4096, 4096) != -EINVAL ||
        env->os->unmap(env, base, 4096) != -EINVAL ||
        env->os->unmap(env, NULL, 4096) != -EINVAL ||
        env->os->protect(env, base + 1, 1, WL_PROT_READ) != -EINVAL ||
        env->os->wait_child(env, 1, &talk->error) != -ECHILD ||
        env->os->unmap(env, base, 5000);
}

static void bad_calls_get_errors(void)
{
    struct talk *talk = talk_new();

    CU_ASSERT_EQUAL(run(bad_mappings, talk, NULL, four_k), 0);
    CU_ASSERT_EQUAL(talk->result, 0);
    munmap(talk, sizeof *talk);
}

static void nanobenchmarks_are_not_processes(void)
{
    struct wl_params params = four_k;
    struct why why = {""};

    CU_ASSERT_EQUAL(
        wl_linux_run(workload_find("cpuid"), &params, NULL, NULL, &why),
        -ENOTSUP);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "cpuid"));
}

static void note_cpu(const struct wl_env *env, void *arg, unsigned id)
{
    struct talk *talk = arg;

    (void)env;
    talk->cpus[id] = sched_getcpu();
}

static void note_cpus(const struct wl_env *env)
{
    env->os->parallel(env, note_cpu, talk_of(env));
}

static void threads_have_cpus_of_their_own(void)
{
    struct talk *talk = talk_new();
    struct wl_params params = four_k;
    cpu_set_t before, after;

    sched_getaffinity(0, sizeof before, &before);
    if (CPU_COUNT(&before) < 2) {
        test_skip("one CPU only: run on a machine with two, or widen the "
                  "affinity");
    } else {
        params.vcpus = 2;
        CU_ASSERT_EQUAL(run(note_cpus, talk, NULL, params), 0);
        CU_ASSERT_NOT_EQUAL(talk->cpus[0], talk->cpus[1]);
        sched_getaffinity(0, sizeof after, &after);
        CU_ASSERT(CPU_EQUAL(&before, &after));
    }
    munmap(talk, sizeof *talk);
}

TEST_SUITE(workloads_linux, {"small pages are small", small_pages_are_small},
           {"large pages are large", large_pages_are_large},
           {"all workloads keep large pages", all_keep_large_pages},
           {"1 GiB pages, or the cure", gigantic_pages_or_the_cure},
           {"too much memory is refused", too_much_memory_is_refused},
           {"failure comes back as an error", failure_comes_back_as_error},
           {"failure of a thread is the run's",
            failure_of_a_thread_is_the_runs},
           {"failure of a child is the run's", failure_of_a_child_is_the_runs},
           {"yield to a dead child ends", yield_to_a_dead_child_ends},
           {"hooks run in the parent only", hooks_run_in_the_parent_only},
           {"processes take turns", processes_take_turns},
           {"memory is copied on write", memory_is_copied_on_write},
           {"violation not handled fails the run",
            violation_not_handled_fails_the_run},
           {"bad calls get errors", bad_calls_get_errors},
           {"nanobenchmarks are no processes",
            nanobenchmarks_are_not_processes},
           {"threads have CPUs of their own", threads_have_cpus_of_their_own});
