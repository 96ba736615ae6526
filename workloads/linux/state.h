/* The state of one run as a Linux process, and its parts. */
#ifndef WORKLOADS_LINUX_STATE_H
#define WORKLOADS_LINUX_STATE_H

#include "workloads/linux/process.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

#define LINUX_MAPPINGS_MAX 32

struct linux_mapping {
    void *addr;
    uint64_t bytes;
    uint64_t page_bytes; /* as asked */
    bool pool;           /* reserved pages, not counted as available */
};

struct linux_memory {
    struct linux_mapping mappings[LINUX_MAPPINGS_MAX];
    unsigned count;
    uint64_t asked_page_bytes; /* the run's */
    uint64_t found_page_bytes; /* 0: not known yet */
    uint64_t mapped;           /* other than from the pool */
    uint64_t available;        /* when the run began; 0 when not known */
    bool no_hugetlb; /* a request failed; transparent pages from then on */
};

/* What the two processes of a pair share. */
struct linux_baton {
    uint32_t holder; /* enum linux_process */
    int32_t cpu;     /* where both run */
    struct why why;  /* why the child failed, if it did */
};

enum linux_process { LINUX_PARENT, LINUX_CHILD };

struct linux_pair {
    struct linux_baton *baton;
    pid_t parent, child; /* child: 0 when there is none */
    bool is_child;
    bool yielded;
    bool pinned;
    cpu_set_t before; /* the CPUs to return to */
};

struct linux_segv {
    int (*handler)(const struct wl_env *env, void *addr, void *arg);
    void *arg;
    void *stack;
    stack_t stack_before;
    struct sigaction before;
};

struct linux_team;

struct wl_linux {
    struct wl_env env;
    const struct wl_linux_hooks *hooks;
    pthread_t thread;
    sigjmp_buf out;
    struct why why;
    int error; /* negative errno of why */
    struct linux_memory memory;
    struct linux_pair pair;
    struct linux_segv segv;
    struct linux_team *team;
    bool in_phase;
};

static inline struct wl_linux *wl_linux_of(const struct wl_env *env)
{
    return env->self;
}

/* Ends the run with the error and sentence that `self` holds. */
void linux_give_up(struct wl_linux *self) __attribute__((noreturn));

/* memory.c */
void linux_memory_init(struct linux_memory *memory, uint64_t page_bytes);
void *linux_map(const struct wl_env *env, uint64_t bytes, uint64_t page_bytes,
                enum wl_map_flags flags);
int linux_unmap(const struct wl_env *env, void *addr, uint64_t bytes);
int linux_protect(const struct wl_env *env, void *addr, uint64_t bytes,
                  unsigned prot);
/* Reads back the page size of what is mapped; 0, or a negative errno when
 * the kernel did not use the size asked for throughout. */
int linux_memory_verify(struct linux_memory *memory, struct why *why);
void linux_memory_free(struct linux_memory *memory);

/* pair.c */
long linux_fork(const struct wl_env *env);
void linux_exit_child(const struct wl_env *env, int status)
    __attribute__((noreturn));
int linux_wait_child(const struct wl_env *env, long child, int *status);
void linux_yield(const struct wl_env *env);
void linux_child_failed(struct wl_linux *self, const char *sentence)
    __attribute__((noreturn));
void linux_pair_free(struct linux_pair *pair);

/* segv.c */
int linux_on_segv(const struct wl_env *env,
                  int (*handler)(const struct wl_env *env, void *addr,
                                 void *arg),
                  void *arg);
void linux_segv_free(struct linux_segv *segv);

/* team.c */
int linux_parallel(const struct wl_env *env,
                   void (*fn)(const struct wl_env *env, void *arg, unsigned id),
                   void *arg);
/* On a thread of the team: does not return. Otherwise it does. */
void linux_team_member_failed(struct linux_team *team, const char *sentence);
void linux_team_free(struct linux_team *team);

#endif
