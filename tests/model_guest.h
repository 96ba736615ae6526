/*
 * A tiny operating system for the model's tests: it keeps its page tables in a
 * memory of its own and says what it does as events. Memory is an array that
 * any walker can read, so that it is the oracle's too.
 */
#ifndef TESTS_MODEL_GUEST_H
#define TESTS_MODEL_GUEST_H

#include "model/machine.h"

/* The kernel has all memory here, in supervisor pages. */
#define GUEST_DIRECT 0xffff800000000000ull
#define GUEST_WORDS  (1u << 16)

struct model_os {
    struct event_guest guest;
    uint64_t *ram;
    uint64_t next; /* frame never used */
    uint64_t free[4096];
    unsigned free_count;
    uint64_t cr3;
    bool paging;
    uint64_t words[GUEST_WORDS];
    size_t count;
};

/* Tables with a direct map in pages of `direct_bytes`, global, and MOV CR3 is
 * still to come. -1 without memory. */
int os_init(struct model_os *os, const struct event_guest *guest,
            uint64_t direct_bytes);
void os_free(struct model_os *os);

uint64_t os_frame(struct model_os *os);
/* A frame that is zero, said so by EVENT_CLEAR when it was used before. */
uint64_t os_table(struct model_os *os);
void os_give_back(struct model_os *os, uint64_t frame);
/* A root with the kernel's half. */
uint64_t os_space(struct model_os *os);

void os_event(struct model_os *os, uint64_t word);
void os_access(struct model_os *os, enum event_kind kind, uint64_t va);
void os_store(struct model_os *os, uint64_t pa, uint64_t value);
void os_fault(struct model_os *os, uint64_t va, unsigned error);
void os_cr3(struct model_os *os, uint64_t cr3, unsigned pcid, bool keep);

uint64_t os_read(const struct model_os *os, uint64_t pa);
/* Address of the entry for `va` at a level, tables made on the way with
 * `flags`; 0 when a page is mapped above. */
uint64_t os_entry(struct model_os *os, uint64_t root, uint64_t va,
                  unsigned level, uint64_t flags);
/* Maps one page. */
void os_map(struct model_os *os, uint64_t root, uint64_t va, uint64_t pa,
            uint64_t page_bytes, uint64_t flags);
/* The architectural walk of its memory. */
void os_walk(struct model_os *os, enum event_kind kind, uint64_t va,
             struct mmu_walk *walk);

/* Gives the events so far to a machine; -EPROTO and such with the sentence. */
int os_run(const struct model_os *os, struct machine *m, struct why *why);

/* ---- CPUs ---------------------------------------------------------------- */

/* TLBs for all accesses and sizes, `l2` may be 0; no other cache; data comes
 * from memory in 100 cycles. */
struct mmu_profile cpu_bare(uint32_t l1, uint32_t l1_ways, uint32_t l2,
                            uint32_t l2_ways);
const struct model_costs *cpu_costs(void);

/* ---- Counts -------------------------------------------------------------- */

uint64_t count_of(const struct machine *m, const char *name);
uint64_t exits_of(const struct machine *m, const char *reason);

#endif
