/* A guest for the monitor's core without a CPU: memory, page tables and one
 * vCPU whose traps a test makes up. */
#ifndef TESTS_MONITOR_GUEST_H
#define TESTS_MONITOR_GUEST_H

#include "bt/bt.h"
#include "vmm/monitor/monitor.h"

#define MG_RAM     (32ull << 20)
#define MG_PA      (1ull << 32) /* of the monitor's memory */
#define MG_CODE    0x100000ull  /* RAM from here is mapped at MG_KERNEL + pa */
#define MG_KERNEL  0xffffffff80000000ull
#define MG_USER    0x400000ull /* user page of MG_USER_PA */
#define MG_USER_PA 0x300000ull
#define MG_PAGES   0x10000ull /* the guest's page tables */

#define MG_CPUS_TRANSLATED 2

struct mg {
    struct mon mon;
    uint8_t *ram, *memory;
    size_t memory_bytes;
    uint16_t port; /* of the last I/O */
    uint32_t value;
    uint64_t base[2]; /* FS, GS */
    uint16_t selector[4];
    unsigned kicks;
    bool held; /* the last one kicked was to stay out of the guest */
    struct bt *bt[MG_CPUS_TRANSLATED];
};

/* 4 KiB pages: RAM's first 4 MiB at MG_KERNEL for the kernel, and one user
 * page. The vCPU is at MG_KERNEL + MG_CODE. NULL when memory is short. */
struct mg *mg_create(enum shadow_policy policy, unsigned cpus);
/* The same, whose kernel makes hypercalls. */
struct mg *mg_create_pv(unsigned cpus);
/* The same, whose kernel runs translated. */
struct mg *mg_create_translated(enum shadow_policy policy, unsigned cpus);
void mg_destroy(struct mg *g);

struct mon_cpu *mg_cpu(struct mg *g, unsigned id);
/* The guest's entry for va at level 1. */
uint64_t *mg_pte(struct mg *g, uint64_t va);
/* Bytes at RIP, and the trap they bring. */
void mg_code(struct mg *g, uint64_t va, const void *bytes, unsigned count);
void mg_trap(struct mg *g, unsigned cpu, unsigned vector, uint32_t error,
             uint64_t cr2);
/* What the vCPU's real CPU would find in its tables: the leaf, or 0. */
uint64_t mg_leaf(struct mg *g, unsigned cpu, uint64_t va, unsigned *level);

#endif
