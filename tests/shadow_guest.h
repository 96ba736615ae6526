/*
 * A guest for the shadow MMU's tests: a little memory, a walker written apart
 * from mmu/walk.c, and the history that says which stale translations the
 * architecture still permits.
 */
#ifndef TESTS_SHADOW_GUEST_H
#define TESTS_SHADOW_GUEST_H

#include "mmu/walk.h"
#include "shadowpt/shadow.h"

/* Frames with contents: tables, some in an area that the host maps in large
 * pages. Then the window's tables, through which the guest's kernel reaches
 * all of them at VA index WINDOW. All other frames read as 0. */
#define TABLES        32u
#define WINDOW_TABLES 4u
#define FRAMES        (TABLES + WINDOW_TABLES)
#define SLOTS         (FRAMES * PT_ENTRIES)
#define WINDOW        7u
#define LARGE_AREA    1024u      /* first frame that the host maps in 2 MiB */
#define SMALL_END     2048u      /* first without memory */
#define HUGE_AREA     (1u << 18) /* 1 GiB of memory, in one host page */
#define HOST_READONLY 1000u      /* 4 frames from here */
#define HOST_NOEXEC   1004u      /* and 4 */
#define HOST_UNITS    (LARGE_AREA + SMALL_END / PT_ENTRIES + 1)

#define CHANGES     (1u << 18)
#define FLUSH_SLOTS 4096u
#define GUEST_CPUS  4u

struct change {
    uint64_t old, from, until; /* the value, and when it was there */
    uint32_t slot, previous;
};

struct flush {
    uint64_t page, time;
};

/* What each CPU has of its own: its state, and its TLB's flushes. */
struct guest_cpu {
    struct mmu_state state;
    uint64_t flushed;                    /* time of the last flush of all */
    struct flush invlpg[3][FLUSH_SLOTS]; /* by page size */
};

struct guest {
    struct guest_cpu *cpu; /* whose access or flush is next */
    uint64_t memory[SLOTS];
    uint64_t since[SLOTS]; /* the current value is there */
    uint32_t last[SLOTS];  /* change */
    struct change change[CHANGES];
    uint32_t changes; /* ever; the last CHANGES are kept */
    uint64_t now;
    uint64_t mmu_sets; /* calls of guest_set */
    /* What the host maps in one piece (guest_unit) moves as one, and is away
     * one time in eight. */
    uint32_t moved[HOST_UNITS];
    struct guest_cpu cpus[GUEST_CPUS];
};

/* What one access does by the manual. */
struct expected {
    enum mmu_outcome outcome;
    uint32_t error;
    uint64_t pa;
    bool user;    /* a page that CPL 3 may use */
    bool pending; /* accessed or dirty bits are to be set */
    unsigned entries;
    int slot[MMU_LEVELS_MAX];      /* of the path's entries, */
    uint64_t bits[MMU_LEVELS_MAX]; /* and their bits once it was done */
};

void guest_init(struct guest *g, unsigned levels);
uint64_t guest_frame_pa(unsigned index);
/* The slot of an address in memory with contents, or -1. */
int guest_slot(uint64_t pa);
void guest_store(struct guest *g, uint64_t pa, uint64_t value);
int guest_read(void *guest, uint64_t pa, uint64_t *entry);
int guest_set(void *guest, uint64_t pa, uint64_t old, uint64_t bits);
/* The host's mapping: 0, or -1 for no memory. */
int guest_host(const struct guest *g, uint64_t frame,
               struct shadow_frame *host);
/* UINT64_MAX: nothing is there, or the host forbids the access. */
uint64_t guest_host_pa(const struct guest *g, uint64_t pa,
                       enum mmu_access access);
unsigned guest_unit(uint64_t frame);

void guest_flush_all(struct guest *g);
void guest_flush(struct guest *g, uint64_t va);

void guest_expect(const struct guest *g, const struct mmu_request *request,
                  struct expected *e);
/* Could a CPU do the access and arrive at `host_pa`, with translations and
 * partial translations cached since the flushes that concern it? */
bool guest_stale(const struct guest *g, const struct mmu_request *request,
                 uint64_t host_pa);

#endif
