/*
 * Access violations handed to the workload, through SIGSEGV on a stack of its
 * own (sigaltstack(2)). The bottom of that stack holds the run's state, so
 * that the handler finds it without a global variable.
 */
#include "workloads/linux/state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <ucontext.h>

#define STACK_BYTES (64 << 10)

static void on_fault(int signal_no, siginfo_t *info, void *context)
{
    const ucontext_t *interrupted = context;
    struct wl_linux *self;

    if (interrupted->uc_stack.ss_flags & SS_DISABLE) {
        /* Not the thread that installed it: die of the fault itself. */
        signal(signal_no, SIG_DFL);
        return;
    }
    self = *(struct wl_linux **)interrupted->uc_stack.ss_sp;
    if (!self->segv.handler(&self->env, info->si_addr, self->segv.arg))
        return;
    self->error = why_set(&self->why, ECANCELED,
                          "access violation at 0x%" PRIxPTR
                          " that the workload does not handle",
                          (uintptr_t)info->si_addr);
    self->env.os->fail(&self->env, self->why.text);
}

static int install(struct wl_linux *self)
{
    struct linux_segv *segv = &self->segv;
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK};
    stack_t stack = {.ss_size = STACK_BYTES};

    segv->stack = malloc(STACK_BYTES);
    if (!segv->stack)
        return -ENOMEM;
    *(struct wl_linux **)segv->stack = self;
    stack.ss_sp = segv->stack;
    action.sa_sigaction = on_fault;
    if (!sigaltstack(&stack, &segv->stack_before)) {
        if (!sigaction(SIGSEGV, &action, &segv->before))
            return 0;
        sigaltstack(&segv->stack_before, NULL);
    }
    free(segv->stack);
    segv->stack = NULL;
    return -EAGAIN;
}

int linux_on_segv(const struct wl_env *env,
                  int (*handler)(const struct wl_env *env, void *addr,
                                 void *arg),
                  void *arg)
{
    struct wl_linux *self = wl_linux_of(env);

    if (!handler) {
        linux_segv_free(&self->segv);
        return 0;
    }
    self->segv.handler = handler;
    self->segv.arg = arg;
    return self->segv.stack ? 0 : install(self);
}

void linux_segv_free(struct linux_segv *segv)
{
    if (!segv->stack)
        return;
    sigaction(SIGSEGV, &segv->before, NULL);
    sigaltstack(&segv->stack_before, NULL);
    free(segv->stack);
    segv->stack = NULL;
}
