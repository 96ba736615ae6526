/*
 * The guest's user program: finds the workload it is asked for and offers it
 * struct wl_os by the guest kernel's system calls.
 */
#include "workloads/abi.h"
#include "workloads/api.h"
#include "workloads/guest/layout.h"
#include "workloads/guest/selftest_user.h"
#include "workloads/guest/syscalls.h"

#include <stdbool.h>

struct guest {
    int (*segv)(const struct wl_env *env, void *addr, void *arg);
    void *segv_arg;
    void (*part)(const struct wl_env *env, void *arg, unsigned id);
    void *part_arg;
    uint32_t vcpus;
};

long user_syscall(long number, long a, long b, long c, long d, long e);
void user_segv_entry(void);
void user_part_entry(void);
extern const long user_sys_resume;
int user_segv(const struct wl_env *env, void *addr);
void user_part(const struct wl_env *env, struct guest *guest, unsigned id);
void user_main(void) __attribute__((noreturn));

/* The program's only variable. The kernel calls user_segv_entry with nothing
 * but an address, so the environment comes first, at a place it knows. */
struct user_state {
    struct wl_env env;
    struct guest guest;
    struct guest_config config;
    struct wl_params params;
};
extern struct user_state user_state;
struct user_state user_state;

const long user_sys_resume = SYS_RESUME;

static long call(const struct wl_env *env, enum guest_syscall number, long a,
                 long b, long c, long d, long e)
{
    (void)env;
    return user_syscall(number, a, b, c, d, e);
}

static long call0(const struct wl_env *env, enum guest_syscall number)
{
    return call(env, number, 0, 0, 0, 0, 0);
}

static void *guest_map(const struct wl_env *env, uint64_t bytes,
                       uint64_t page_bytes, enum wl_map_flags flags)
{
    return (void *)call(env, SYS_MAP, (long)bytes, (long)page_bytes,
                        flags & WL_POPULATE, 0, 0);
}

static int guest_unmap(const struct wl_env *env, void *addr, uint64_t bytes)
{
    return (int)call(env, SYS_UNMAP, (long)addr, (long)bytes, 0, 0, 0);
}

static int guest_protect(const struct wl_env *env, void *addr, uint64_t bytes,
                         unsigned prot)
{
    return (int)call(env, SYS_PROTECT, (long)addr, (long)bytes, (long)prot, 0,
                     0);
}

static int guest_on_segv(const struct wl_env *env,
                         int (*handler)(const struct wl_env *env, void *addr,
                                        void *arg),
                         void *arg)
{
    struct guest *guest = env->self;

    guest->segv = handler;
    guest->segv_arg = arg;
    return (int)call(env, SYS_ON_SEGV, handler ? (long)user_segv_entry : 0, 0,
                     0, 0, 0);
}

int user_segv(const struct wl_env *env, void *addr)
{
    const struct guest *guest = env->self;
    int err = guest->segv(env, addr, guest->segv_arg);

    if (err)
        env->os->fail(env, "a segv handler gave up");
    return err;
}

static long guest_fork(const struct wl_env *env)
{
    return call0(env, SYS_FORK);
}

__attribute__((noreturn)) static void guest_exit_child(const struct wl_env *env,
                                                       int status)
{
    call(env, SYS_EXIT, status, 0, 0, 0, 0);
    __builtin_unreachable();
}

static int guest_wait_child(const struct wl_env *env, long child, int *status)
{
    long result = call(env, SYS_WAIT, child, 0, 0, 0, 0);

    *status = (int)result;
    return result < 0 ? (int)result : 0;
}

static void guest_yield(const struct wl_env *env)
{
    call0(env, SYS_YIELD);
}

static void guest_null_call(const struct wl_env *env)
{
    call0(env, SYS_NULL);
}

void user_part(const struct wl_env *env, struct guest *guest, unsigned id)
{
    guest->part(env, guest->part_arg, id);
    call0(env, SYS_WORK_DONE);
}

static int guest_parallel(const struct wl_env *env,
                          void (*fn)(const struct wl_env *env, void *arg,
                                     unsigned id),
                          void *arg)
{
    struct guest *guest = env->self;

    guest->part = fn;
    guest->part_arg = arg;
    call(env, SYS_PARALLEL, (long)user_part_entry, (long)env, (long)guest, 0,
         0);
    fn(env, arg, 0);
    call0(env, SYS_WORK_WAIT);
    return 0;
}

static void guest_phase_begin(const struct wl_env *env, enum wl_phase phase)
{
    call(env, SYS_PHASE_BEGIN, phase, 0, 0, 0, 0);
}

static void guest_phase_end(const struct wl_env *env, enum wl_phase phase,
                            uint64_t operations, uint64_t tsc_begin,
                            uint64_t tsc_end, uint64_t checksum)
{
    call(env, SYS_PHASE_END, phase, (long)operations, (long)tsc_begin,
         (long)tsc_end, (long)checksum);
}

__attribute__((noreturn)) static void finish(const struct wl_env *env,
                                             enum guest_state state,
                                             const char *message)
{
    call(env, SYS_FINISH, state, (long)message, 0, 0, 0);
    __builtin_unreachable();
}

__attribute__((noreturn)) static void guest_fail(const struct wl_env *env,
                                                 const char *why)
{
    finish(env, GUEST_FAILED, why);
}

static const struct wl_os guest_os = {
    .map = guest_map,
    .unmap = guest_unmap,
    .protect = guest_protect,
    .on_segv = guest_on_segv,
    .fork = guest_fork,
    .exit_child = guest_exit_child,
    .wait_child = guest_wait_child,
    .yield = guest_yield,
    .null_call = guest_null_call,
    .parallel = guest_parallel,
    .phase_begin = guest_phase_begin,
    .phase_end = guest_phase_end,
    .fail = guest_fail,
};

/* The one nanobenchmark that is user code. */
static void nano_syscall(const struct wl_env *env)
{
    uint64_t begin, end;

    env->os->null_call(env);
    env->os->phase_begin(env, WL_STEADY);
    begin = wl_tsc();
    for (uint64_t i = env->params->operations; i; i--)
        env->os->null_call(env);
    end = wl_tsc();
    env->os->phase_end(env, WL_STEADY, env->params->operations, begin, end, 0);
}

static bool same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static void run(const struct wl_env *env, const char *name)
{
    if (same(name, "syscall")) {
        nano_syscall(env);
        return;
    }
    if (same(name, "selftest")) {
        selftest_user(env);
        return;
    }
    for (const struct workload *const *w = wl_user_workloads; (*w)->name; w++) {
        if (!same((*w)->name, name))
            continue;
        (*w)->run(env);
        return;
    }
    guest_fail(env, "the guest image has no workload of that name");
}

void user_main(void)
{
    struct wl_env *env = &user_state.env;
    struct guest *guest = &user_state.guest;
    struct guest_config *config = &user_state.config;

    env->params = &user_state.params;
    env->os = &guest_os;
    env->self = guest;
    call(env, SYS_CONFIG, (long)config, 0, 0, 0, 0);
    user_state.params = (struct wl_params){
        .working_set_bytes = config->working_set_bytes,
        .page_bytes = config->page_bytes,
        .operations = config->operations,
        .seed = config->seed,
        .vcpus = config->vcpus,
    };
    run(env, config->workload);
    finish(env, GUEST_DONE, NULL);
}
