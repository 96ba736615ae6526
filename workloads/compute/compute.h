/*
 * Kernel code that computes: what it costs to run a kernel's instructions when
 * none of them needs a VMM. Under a VMM that runs the kernel directly that is
 * nothing; a translator pays for branches, calls and returns.
 *
 * The guest's kernel calls these functions in its own mode, a process calls
 * the same object files. They are freestanding, use no vector registers, and
 * write to one page and the stack only, so there are no page faults and next
 * to no TLB misses to measure.
 */
#ifndef WORKLOADS_COMPUTE_COMPUTE_H
#define WORKLOADS_COMPUTE_COMPUTE_H

#include <stdint.h>

#define COMPUTE_WORDS     256
#define COMPUTE_SIEVE     8192 /* numbers: a bit each */
#define COMPUTE_PROGRAM   64   /* instructions */
#define COMPUTE_REGISTERS 8

enum compute_opcode {
    COMPUTE_ADD,
    COMPUTE_SUB,
    COMPUTE_MUL,
    COMPUTE_AND,
    COMPUTE_OR,
    COMPUTE_XOR,
    COMPUTE_NOT,
    COMPUTE_SHIFT_LEFT,
    COMPUTE_SHIFT_RIGHT,
    COMPUTE_ROTATE,
    COMPUTE_MOVE,
    COMPUTE_LOAD,
    COMPUTE_STORE,
    COMPUTE_MINIMUM,
    COMPUTE_SKIP_IF_ODD, /* the next instruction */
    COMPUTE_CONSTANT,
    COMPUTE_OPCODES,
};

/* register a <- a op b, on 64 bits. */
struct compute_instruction {
    uint8_t opcode, a, b, constant;
};

/* All that is written. */
struct compute_page {
    uint32_t crc_table[256];
    uint32_t words[COMPUTE_WORDS];
    uint8_t composite[COMPUTE_SIEVE / 8];
    struct compute_instruction program[COMPUTE_PROGRAM];
    uint64_t registers[COMPUTE_REGISTERS];
};
_Static_assert(sizeof(struct compute_page) <= 4096, "it is a page");

/* `operations` times, a checksum of what came out; it depends on the arguments
 * alone. `seed` is not 0. */
typedef uint64_t compute_function(struct compute_page *page,
                                  uint64_t operations, uint64_t seed);
#define COMPUTE(id, summary, operation, operations) compute_function id;
#include "workloads/compute/compute.def"
#undef COMPUTE

/* What they are made of, for tests. */

/* kcompute.c: words in ascending order; how many primes there are below
 * COMPUTE_SIEVE; the CRC-32 of IEEE 802.3. */
void compute_insertion_sort(uint32_t *words, unsigned count);
void compute_heap_sort(uint32_t *words, unsigned count);
unsigned compute_sieve(uint8_t composite[COMPUTE_SIEVE / 8]);
void compute_crc_table(uint32_t table[256]);
uint32_t compute_crc(const uint32_t table[256], const void *bytes,
                     unsigned count);

/* kcall.c: Fibonacci's numbers, Ackermann's function as Peter wrote it, and
 * the sum of the binary tree whose node n has the children 2n and 2n + 1. */
uint64_t compute_fibonacci(unsigned n);
uint64_t compute_ackermann(uint64_t m, uint64_t n);
uint64_t compute_tree_sum(const uint32_t *words, unsigned node, unsigned count);

/* kindirect.c: from the program's start, `steps` instructions, around its end;
 * the sum of the registers. Both do the same. */
void compute_make_program(struct compute_page *page, uint64_t *rng);
uint64_t compute_by_switch(struct compute_page *page, unsigned steps);
uint64_t compute_by_pointers(struct compute_page *page, unsigned steps);

/* One more value into a checksum. */
static inline uint64_t compute_mix(uint64_t sum, uint64_t value)
{
    return ((sum << 7 | sum >> 57) ^ value) * 0x9e3779b97f4a7c15;
}

#endif
