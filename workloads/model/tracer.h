/*
 * The process whose accesses become events: the guest kernel's state, a
 * software TLB before its page tables, the batch being filled.
 *
 * The compiler's call-outs have no argument but an address, so all of it is a
 * mapping at a fixed address. It is shared with the processes that the
 * workload forks, of which one runs at a time, and exists in no other.
 */
#ifndef WORKLOADS_MODEL_TRACER_H
#define WORKLOADS_MODEL_TRACER_H

#define GUEST_HOSTED

#include "trace/event.h"
#include "workloads/guest/kernel.h"
#include "workloads/model/ring.h"
#include "workloads/model/source.h"

#include <sys/types.h>

#define TRACER_AT 0x10000000

/* Data of instrumented workloads is where the guest has it, below the RAM. */
#define DATA_START USER_MAP
#define DATA_END   RAM_AT

/* 1 GiB in pages of 4 KiB; a power of two. */
#define TRACER_PAGES (1u << 18)
/* Tags of the software TLB: bit 0 write access, bits 11:1 a generation, the
 * page above. Generations start at 1, so that 0 matches nothing. */
#define TRACER_WRITABLE   1ull
#define TRACER_GENERATION 2ull

struct tracer_process {
    uint32_t turn; /* 1: it may run */
    pid_t pid;     /* of a forked process, until it is reaped; else 0 */
    int (*segv)(const struct wl_env *env, void *addr, void *arg);
    void *segv_arg;
    const struct wl_env *env;
};

struct tracing {
    uint64_t *next, *limit; /* of the batch: at `limit` any event has room */
    uint64_t generation;    /* in the tags of now, TRACER_WRITABLE included */
    unsigned page_shift;    /* of the software TLB's pages */

    /* A store of the kernel's whose value goes to `pending` when the store has
     * happened. */
    uint64_t *pending;
    const uint64_t *pending_from;

    uint64_t *batch;
    struct ring *ring;
    struct mmu_state mmu;
    unsigned current; /* process */
    bool failing;     /* a process gave up; the ring has the reason */
    struct tracer_process process[PROCESSES_MAX];
    struct kernel kernel;
    uint64_t tlb[TRACER_PAGES];
};

#define tracer ((struct tracing *)TRACER_AT)

/* Hands over the full batch and gets an empty one. */
void tracer_submit(void);
/* Ends the run: with everything said, or for a reason. */
void tracer_finish(void) __attribute__((noreturn));
void tracer_fail(int error, const char *format, ...)
    __attribute__((noreturn, format(printf, 2, 3)));

/* Makes the tracer and starts the kernel with its first process. `program`:
 * the process has the pages of a program and its stack, as the guest's has. */
void tracer_start(struct ring *ring, const struct event_guest *guest,
                  bool program);

/* Back from the kernel: what it stored last is said. */
void tracer_leave_kernel(void);

/* An access of user code that the software TLB does not know; it crosses no
 * 4-KiB boundary. Page faults are served. */
void tracer_access(uint64_t va, enum mmu_access access);

/* Any access by instrumented code, workload or kernel, that tracer_hit does
 * not know. */
void tracer_call_out(uint64_t va, uint64_t bytes, enum mmu_access access);

static inline struct space *tracer_space(void)
{
    return &tracer->kernel.processes[tracer->current].space;
}

static inline void tracer_push(uint64_t word)
{
    if (__builtin_expect(tracer->next > tracer->limit, 0))
        tracer_submit();
    *tracer->next++ = word;
}

static inline void tracer_event(enum event_kind kind, uint64_t argument)
{
    tracer_push(event_word(kind, argument));
}

/* Whether the page of an address below DATA_END is known to allow the access,
 * with pages of 1 << shift bytes. */
static inline bool tracer_hit(uint64_t va, bool write, unsigned shift)
{
    uint64_t entry = tracer->tlb[va >> shift & (TRACER_PAGES - 1)];
    uint64_t want = (va >> shift << shift) | tracer->generation;

    return write ? entry == want : (entry | TRACER_WRITABLE) == want;
}

/* An access of user code that crosses no 4-KiB boundary. The software TLB takes
 * what can be read for what can be executed: only bare accesses are fetches,
 * and all of their pages are executable. */
static inline void tracer_user(uint64_t va, enum mmu_access access,
                               unsigned shift)
{
    if (__builtin_expect(tracer_hit(va, access == MMU_WRITE, shift), 1))
        tracer_event((enum event_kind)access, va);
    else
        tracer_access(va, access);
}

/* process.c: the guest's processes as processes of the host, of which one runs
 * until it waits, yields or exits. */
long process_fork(void);
int process_wait(long id, int *status);
void process_yield(void);
void process_exit(int status) __attribute__((noreturn));
/* The end of the run: kills and reaps what was forked. */
void process_end(enum ring_state state) __attribute__((noreturn));
/* The same from any process, as failed. */
void process_give_up(void) __attribute__((noreturn));
/* SIGTERM is to end the run at any time. */
void process_handle_term(void);

/* The three kinds of runs; they return when all accesses are done. */
void model_run_workload(const struct workload *workload,
                        const struct wl_params *params);
void model_run_pattern(const struct workload *pattern,
                       const struct wl_params *params);
void model_run_raw(struct raw_source *raw, uint64_t page_bytes);

#define PATTERN(id, text) extern const struct workload pattern_##id;
#include "workloads/model/pattern.def"
#undef PATTERN

void model_phase_begin(enum wl_phase phase);
void model_phase_end(enum wl_phase phase, uint64_t operations,
                     uint64_t checksum);

#endif
