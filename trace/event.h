/*
 * What a guest does to memory, as a stream of events: every load and store,
 * and everything that changes what they mean (stores to page tables, flushes,
 * address-space switches). Instrumented workloads, patterns and traces produce
 * it; the model's machines and the trace writer consume it. Freestanding.
 *
 * A stream is 64-bit words. An event is one word, kind above and argument
 * below, and as many words behind it as its kind says. An address loses
 * nothing: it is canonical with 57 bits.
 */
#ifndef TRACE_EVENT_H
#define TRACE_EVENT_H

#include "mmu/walk.h"

#include <stddef.h>

enum event_kind {
    /* Accesses, argument: the GVA. None crosses a 4-KiB boundary. The first
     * three are CPL 3's and in the order of enum mmu_access, the others CPL
     * 0's. */
    EVENT_READ,
    EVENT_WRITE,
    EVENT_FETCH,
    EVENT_KERNEL_READ,
    EVENT_KERNEL_WRITE,
    EVENT_KERNEL_FETCH,
    /* CPL 0 writes 8 aligned bytes of memory that may hold page tables, at a
     * GVA; words: GPA, value. */
    EVENT_STORE,
    /* The access that the error code (PF_*) describes, at a GVA, raises #PF;
     * word: error code. What the kernel does about it follows. */
    EVENT_FAULT,
    /* The 4 KiB at the GPA become zero, whoever did it (a DMA, a new VM's
     * memory); argument: GPA. */
    EVENT_CLEAR,
    EVENT_INVLPG, /* argument: the GVA */
    EVENT_CR3,    /* word: the source of MOV to CR3, bit 63 included */
    /* A phase begins or ends; argument: enum wl_phase. At the end, words:
     * operations, checksum. */
    EVENT_PHASE_BEGIN,
    EVENT_PHASE_END,
    EVENT_INSTRUCTIONS, /* argument: executed since the last such event */
    EVENT_END,          /* nothing is missing */
    EVENT_KINDS,
};

#define EVENT_SHIFT     57
#define EVENT_ARGUMENT  ((1ull << EVENT_SHIFT) - 1)
#define EVENT_WORDS_MAX 3

static inline uint64_t event_word(enum event_kind kind, uint64_t argument)
{
    return (uint64_t)kind << EVENT_SHIFT | (argument & EVENT_ARGUMENT);
}

static inline unsigned event_kind(uint64_t word)
{
    return (unsigned)(word >> EVENT_SHIFT);
}

/* The argument as an address. */
static inline uint64_t event_va(uint64_t word)
{
    return (uint64_t)((int64_t)(word << (64 - EVENT_SHIFT)) >>
                      (64 - EVENT_SHIFT));
}

static inline uint64_t event_argument(uint64_t word)
{
    return word & EVENT_ARGUMENT;
}

/* Words of an event of that kind, its first included; 0: no such kind. */
static inline unsigned event_words(unsigned kind)
{
    switch (kind) {
    case EVENT_FAULT:
    case EVENT_CR3:
        return 2;
    case EVENT_STORE:
    case EVENT_PHASE_END:
        return 3;
    default:
        return kind < EVENT_KINDS ? 1 : 0;
    }
}

/* The guest CPU that the events happen on, the same all the time. CR0.WP and
 * EFER.NXE are set; SMEP, SMAP and protection keys are off. */
struct event_guest {
    unsigned levels;        /* 4 or 5 */
    unsigned physical_bits; /* MAXPHYADDR */
    bool pages_1g;
    bool pcid;          /* CR4.PCIDE */
    uint64_t ram_bytes; /* GPAs are below */
};

#endif
