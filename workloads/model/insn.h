/*
 * The guest kernel's instructions, hosted: they become events. Its physical
 * memory is a sparse mapping at a fixed address, the same in all processes of
 * a run; page tables and reference counts are there, what users store is not.
 */
#ifndef WORKLOADS_MODEL_INSN_H
#define WORKLOADS_MODEL_INSN_H

#include <stdint.h>

#define RAM_AT  0x200000000000ull /* where the host has physical 0 */
#define RAM_MAX 0x200000000000ull

#define PAGING_LEVELS paging_levels() /* 4 or 5 */

static inline void *phys_to_virt(uint64_t pa)
{
    return (void *)(RAM_AT + pa);
}

static inline void *boot_to_virt(uint64_t pa)
{
    return phys_to_virt(pa);
}

unsigned paging_levels(void);
void write_cr3(uint64_t value);
void invlpg(uint64_t va);
static inline void load_first_root(uint64_t value)
{
    write_cr3(value);
}
void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
void frame_clear(void *frame, uint64_t bytes);
void frame_copy(void *to, const void *from, uint64_t bytes);

#endif
