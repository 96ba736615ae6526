/*
 * The interface every workload is written against.
 *
 * A workload is one row of a table (struct workload) and one function. The
 * same object file runs as a Linux process (workloads/linux/), as a program of
 * the guest (workloads/guest/), and it is freestanding: no libc, no globals
 * that change, everything it needs comes through struct wl_env.
 */
#ifndef WORKLOADS_API_H
#define WORKLOADS_API_H

#include <stddef.h>
#include <stdint.h>

/* Phases are measured apart: the techniques rank differently in each. */
enum wl_phase {
    WL_INIT,        /* building data structures in memory already present */
    WL_FIRST_TOUCH, /* the first access to each page */
    WL_STEADY,      /* the workload proper, on a warm working set */
    WL_PHASES,
};

enum wl_class {
    WL_NANO,    /* one kernel or CPU operation, in the guest kernel only */
    WL_COMPUTE, /* kernel code that computes and hardly traps */
    WL_MMU,     /* one operating-system operation on address spaces */
    WL_MEMORY,  /* a user program that loads and stores */
    WL_TEST,    /* a check of the machine by the guest kernel, no measurement */
};

enum wl_prot { WL_PROT_NONE = 0, WL_PROT_READ = 1, WL_PROT_WRITE = 2 };
enum wl_map_flags {
    WL_LAZY = 0,     /* pages appear at first touch */
    WL_POPULATE = 1, /* all pages present on return */
};

struct wl_params {
    uint64_t working_set_bytes;
    uint64_t page_bytes; /* 4 KiB, 2 MiB or 1 GiB */
    uint64_t operations;
    uint64_t seed;
    uint32_t vcpus;
};

struct wl_env;

/*
 * What an operating system offers a workload. Every function that can fail
 * returns 0 or a negative errno unless said otherwise. `self` is the
 * implementation's own state.
 */
struct wl_os {
    /* Anonymous private zeroed memory, `bytes` rounded up to page_bytes;
     * NULL when there is not enough. page_bytes is what the mapping must
     * use: an implementation that cannot give it returns NULL. */
    void *(*map)(const struct wl_env *env, uint64_t bytes, uint64_t page_bytes,
                 enum wl_map_flags flags);
    int (*unmap)(const struct wl_env *env, void *addr, uint64_t bytes);
    /* prot: a combination of enum wl_prot. */
    int (*protect)(const struct wl_env *env, void *addr, uint64_t bytes,
                   unsigned prot);

    /* Calls handler(fault address, arg) for each access violation in user
     * code; when it returns 0 the access is tried again, otherwise the
     * process fails. NULL removes the handler. */
    int (*on_segv)(const struct wl_env *env,
                   int (*handler)(const struct wl_env *env, void *addr,
                                  void *arg),
                   void *arg);

    /* fork(2) with copy-on-write: 0 in the child, the child's id in the
     * parent, or a negative errno. The child ends with exit_child and the
     * parent collects it with wait_child; a process runs until it waits,
     * yields or exits. */
    long (*fork)(const struct wl_env *env);
    void (*exit_child)(const struct wl_env *env, int status)
        __attribute__((noreturn));
    int (*wait_child)(const struct wl_env *env, long child, int *status);
    /* Hands the CPU to the peer process of a parent/child pair and returns
     * when it hands it back: two address-space switches a round trip. */
    void (*yield)(const struct wl_env *env);

    /* The cheapest system call there is. */
    void (*null_call)(const struct wl_env *env);

    /* Runs fn(env, arg, id) for id 0..vcpus-1, each on a CPU of its own, in
     * one address space; returns when all have. */
    int (*parallel)(const struct wl_env *env,
                    void (*fn)(const struct wl_env *env, void *arg,
                               unsigned id),
                    void *arg);

    /* Counting is on between these two and off outside. Timestamps are taken
     * by the workload (wl_tsc) inside the pair. */
    void (*phase_begin)(const struct wl_env *env, enum wl_phase phase);
    void (*phase_end)(const struct wl_env *env, enum wl_phase phase,
                      uint64_t operations, uint64_t tsc_begin, uint64_t tsc_end,
                      uint64_t checksum);

    /* Ends the run as failed, with one sentence. */
    void (*fail)(const struct wl_env *env, const char *why)
        __attribute__((noreturn));
};

struct wl_env {
    const struct wl_params *params;
    const struct wl_os *os;
    void *self;
};

struct workload {
    const char *name;
    const char *summary;   /* one line, for `memvirt list` */
    const char *operation; /* what one operation is, singular */
    enum wl_class class;
    uint64_t default_working_set_bytes; /* 0: takes none */
    uint64_t default_operations;
    unsigned max_vcpus; /* 1, or how many parallel() supports (0: any) */
    void (*run)(const struct wl_env *env);
};

/* All user-level workloads, ended by an entry whose name is NULL. The guest
 * kernel adds its own nanobenchmarks; see workloads/catalog.h. */
extern const struct workload *const wl_user_workloads[];

/* RDTSC ordered against earlier and later loads (SDM vol. 2, RDTSC). */
static inline uint64_t wl_tsc(void)
{
    uint32_t lo, hi;
    __asm__ volatile("lfence; rdtsc; lfence" : "=a"(lo), "=d"(hi)::"memory");
    return (uint64_t)hi << 32 | lo;
}

/* xorshift64*: small, fast, and the same everywhere. `*state` is not 0. */
static inline uint64_t wl_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1dull;
}

/* An unbiased-enough number below n (n < 2^32), by multiply-shift. */
static inline uint64_t wl_below(uint64_t *state, uint64_t n)
{
    return ((wl_random(state) >> 32) * n) >> 32;
}

#endif
