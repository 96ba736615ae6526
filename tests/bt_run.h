/*
 * Machine code run by this CPU, in this process: as it is, or translated. What
 * the monitor does with the traps of translated code is done here with signals.
 *
 * Guest code is what the caller has mapped; it may touch all memory and must
 * not make system calls.
 */
#ifndef TESTS_BT_RUN_H
#define TESTS_BT_RUN_H

#include "base/why.h"
#include "bt/bt.h"

#include <stdbool.h>
#include <stdint.h>

#define RUN_PAGE     4096u
#define RUN_RESERVED 0x2 /* the bit of RFLAGS that is always set */
#define RUN_TF       0x100
#define RUN_IF       0x200
#define RUN_CS       0x33 /* Linux's */
#define RUN_SS       0x2b

enum run_vector {
    RUN_DIVIDE = 0,
    RUN_DEBUG = 1,
    RUN_UNDEFINED = 6,
    RUN_STACK = 12,
    RUN_PROTECTION = 13,
    RUN_PAGE_FAULT = 14,
    RUN_TIMEOUT = 256, /* SIGVTALRM: it doesn't end */
    RUN_STOPPED,       /* `stop` said so */
    RUN_BROKEN,        /* the translation left its own; `broken` says how */
};

struct run_regs {
    uint64_t gpr[16];
    uint64_t rip, rflags;
    _Alignas(16) uint8_t fx[512]; /* as FXSAVE stores them */
};

struct run_trap {
    unsigned vector;
    uint64_t error, cr2; /* where the vector has them */
};

/* ---- As it is ----------------------------------------------------------- */

struct run;

/* One at a time: it takes the signals. 0, or a negative errno. */
int run_open(struct run **run, struct why *why);
void run_close(struct run *run);

/* Goes on with these registers until a trap comes; they are what it found. */
void run_enter(struct run *run, struct run_regs *regs, struct run_trap *trap);
/* One instruction: RUN_DEBUG when it is done. */
void run_step(struct run *run, struct run_regs *regs, struct run_trap *trap);

/* ---- Translated ---------------------------------------------------------- */

struct run_code {
    uint64_t begin, end; /* whole pages that hold code */
};

#define RUN_CODES 4

struct translated {
    struct run *run;
    struct bt *bt;
    struct bt_cache *cache;
    uint8_t *area;
    struct run_code code[RUN_CODES];
    unsigned codes;
    bool give_next; /* the next page from the start, not only when asked */
    /* Where an instruction begins that ends the run; may be NULL. */
    bool (*stop)(uint64_t rip);
    /*
     * Called before each instruction of the cache, with the guest's state; may
     * be NULL. What it returns true for is resumed from that state alone.
     */
    bool (*on_step)(void *context, const struct run_regs *regs,
                    const struct bt_point *point);
    void *context;
    uint64_t entries_left; /* RUN_TIMEOUT without; 0: no limit */
    struct bt_trace *trace;
    bool user;
    uint64_t translations, call_outs, misses, entries, drains;
    char broken[128];
};

struct translated_config {
    uint64_t va;
    uint32_t code_bytes;
    bool (*is_sensitive)(const uint8_t *bytes, unsigned count);
    bool user;
    struct bt_trace *trace; /* gets what is run, or NULL */
};

/* 0, or a negative errno; translated_close in any case. */
int translated_open(struct translated *t, struct run *run,
                    const struct translated_config *config, struct why *why);
void translated_close(struct translated *t);

/* Empties the log; also the bt_trace_config.drain of a trace. */
void translated_drain(void *translated);

/* As run_enter, the registers being the guest's; call-outs are done, with the
 * instruction itself. */
void translated_run(struct translated *t, struct run_regs *regs,
                    struct run_trap *trap);

#endif
