#include "workloads/linux/process.h"

#include "workloads/linux/state.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

void linux_give_up(struct wl_linux *self)
{
    siglongjmp(self->out, 1);
}

/* A sentence already there is the deeper one: why a map() failed, say. */
static __attribute__((noreturn)) void linux_fail(const struct wl_env *env,
                                                 const char *sentence)
{
    struct wl_linux *self = wl_linux_of(env);

    if (self->pair.is_child)
        linux_child_failed(self, self->error ? self->why.text : sentence);
    linux_team_member_failed(self->team, sentence);
    if (!self->error)
        self->error = why_set(&self->why, ECANCELED, "%s", sentence);
    linux_give_up(self);
}

static void linux_null_call(const struct wl_env *env)
{
    (void)env;
    syscall(SYS_getppid);
}

static void linux_phase_begin(const struct wl_env *env, enum wl_phase phase)
{
    struct wl_linux *self = wl_linux_of(env);
    const struct wl_linux_hooks *hooks = self->hooks;

    if (self->pair.is_child)
        return;
    self->in_phase = true;
    if (hooks && hooks->phase_begin)
        hooks->phase_begin(hooks->arg, phase);
}

/* After the first touch it shows whether pages have the size asked for. */
static void linux_phase_end(const struct wl_env *env, enum wl_phase phase,
                            uint64_t operations, uint64_t tsc_begin,
                            uint64_t tsc_end, uint64_t checksum)
{
    struct wl_linux *self = wl_linux_of(env);
    const struct wl_linux_hooks *hooks = self->hooks;

    if (self->pair.is_child)
        return;
    if (hooks && hooks->phase_end)
        hooks->phase_end(hooks->arg, phase, operations, tsc_begin, tsc_end,
                         checksum);
    self->in_phase = false;
    if (phase != WL_FIRST_TOUCH)
        return;
    self->error = linux_memory_verify(&self->memory, &self->why);
    if (self->error)
        linux_give_up(self);
}

static const struct wl_os linux_os = {
    .map = linux_map,
    .unmap = linux_unmap,
    .protect = linux_protect,
    .on_segv = linux_on_segv,
    .fork = linux_fork,
    .exit_child = linux_exit_child,
    .wait_child = linux_wait_child,
    .yield = linux_yield,
    .null_call = linux_null_call,
    .parallel = linux_parallel,
    .phase_begin = linux_phase_begin,
    .phase_end = linux_phase_end,
    .fail = linux_fail,
};

/* The run proper; what it leaves behind, cleanly or not, the caller frees. */
static void run_workload(struct wl_linux *self, const struct workload *workload)
{
    if (sigsetjmp(self->out, 1))
        return;
    workload->run(&self->env);
    self->error = linux_memory_verify(&self->memory, &self->why);
}

int wl_linux_run(const struct workload *workload,
                 const struct wl_params *params,
                 const struct wl_linux_hooks *hooks,
                 struct wl_linux_found *found, struct why *why)
{
    struct wl_linux *self;
    int error;

    if (!workload->run)
        return why_set(why, ENOTSUP,
                       "%s runs in the guest's kernel only, not as a process",
                       workload->name);
    self = calloc(1, sizeof *self);
    if (!self)
        return why_set(why, ENOMEM, "out of memory");
    self->env = (struct wl_env){params, &linux_os, self};
    self->hooks = hooks;
    self->thread = pthread_self();
    linux_memory_init(&self->memory, params->page_bytes);

    run_workload(self, workload);
    linux_pair_free(&self->pair);
    linux_segv_free(&self->segv);
    linux_team_free(self->team);
    linux_memory_free(&self->memory);
    if (found)
        found->page_bytes = self->memory.found_page_bytes;
    error = self->error;
    if (error && why)
        *why = self->why;
    free(self);
    return error;
}
