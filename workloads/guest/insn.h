/* What only a CPU can do, and where the kernel sees physical memory. The model
 * has its own (workloads/model/insn.h). */
#ifndef WORKLOADS_GUEST_INSN_H
#define WORKLOADS_GUEST_INSN_H

#include "workloads/guest/layout.h"

#include <stdint.h>

#define PAGING_LEVELS 4u

static inline void *phys_to_virt(uint64_t pa)
{
    return (void *)(DIRECT_BASE + pa);
}

/* While only the boot tables exist. */
static inline void *boot_to_virt(uint64_t pa)
{
    return (void *)(KERNEL_BASE + pa);
}

/* Frames through the direct map; `bytes` is a multiple of 4 KiB. */
static inline void frame_clear(void *frame, uint64_t bytes)
{
    uint64_t words = bytes / 8;

    __asm__ volatile("rep stosq"
                     : "+D"(frame), "+c"(words)
                     : "a"(0ull)
                     : "memory");
}

static inline void frame_copy(void *to, const void *from, uint64_t bytes)
{
    uint64_t words = bytes / 8;

    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words)::"memory");
}

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}

static inline void out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline uint64_t read_cr3(void)
{
    uint64_t value;

    __asm__ volatile("movq %%cr3, %0" : "=r"(value));
    return value;
}

/* Before there are hypercalls. */
static inline void load_first_root(uint64_t value)
{
    __asm__ volatile("movq %0, %%cr3" ::"r"(value) : "memory");
}

#ifdef GUEST_PV /* pv.c */
uint64_t read_cr2(void);
void write_cr3(uint64_t root);
void invlpg(uint64_t va);
#else
static inline uint64_t read_cr2(void)
{
    uint64_t value;

    __asm__ volatile("movq %%cr2, %0" : "=r"(value));
    return value;
}

static inline void write_cr3(uint64_t value)
{
    __asm__ volatile("movq %0, %%cr3" ::"r"(value) : "memory");
}

static inline void invlpg(uint64_t va)
{
    __asm__ volatile("invlpg (%0)" ::"r"(va) : "memory");
}
#endif

static inline uint64_t read_cr4(void)
{
    uint64_t value;

    __asm__ volatile("movq %%cr4, %0" : "=r"(value));
    return value;
}

static inline void write_cr4(uint64_t value)
{
    __asm__ volatile("movq %0, %%cr4" ::"r"(value) : "memory");
}

static inline uint64_t rdmsr(uint32_t msr)
{
    uint32_t lo, hi;

    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
    return (uint64_t)hi << 32 | lo;
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
    __asm__ volatile("wrmsr" ::"c"(msr), "a"((uint32_t)value),
                     "d"((uint32_t)(value >> 32))
                     : "memory");
}

static inline void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
                     : "a"(leaf), "c"(subleaf)
                     : "memory");
}

#endif
