/*
 * Calls and returns: three recursive functions that do next to nothing else.
 * Every return goes somewhere else than the last one, as in no benchmark of
 * one CALL.
 */
#include "workloads/api.h"
#include "workloads/compute/compute.h"

/* A compiler unrolls recursion by putting a function into itself. */
#define CALLED __attribute__((noinline, noclone))

#define FIBONACCI 17
#define ACKERMANN 16

CALLED uint64_t compute_fibonacci(unsigned n)
{
    if (n < 2)
        return n;
    return compute_fibonacci(n - 1) + compute_fibonacci(n - 2);
}

CALLED uint64_t compute_ackermann(uint64_t m, uint64_t n)
{
    if (!m)
        return n + 1;
    if (!n)
        return compute_ackermann(m - 1, 1);
    return compute_ackermann(m - 1, compute_ackermann(m, n - 1));
}

CALLED uint64_t compute_tree_sum(const uint32_t *words, unsigned node,
                                 unsigned count)
{
    if (node >= count)
        return 0;
    return words[node] + compute_tree_sum(words, 2 * node, count) +
           compute_tree_sum(words, 2 * node + 1, count);
}

uint64_t kcall(struct compute_page *page, uint64_t operations, uint64_t seed)
{
    uint64_t rng = seed, sum = 0;

    for (unsigned i = 0; i < COMPUTE_WORDS; i++)
        page->words[i] = (uint32_t)wl_random(&rng);
    for (; operations; operations--) {
        page->words[operations % COMPUTE_WORDS] ^= (uint32_t)sum;
        sum = compute_mix(sum, compute_fibonacci(FIBONACCI));
        sum = compute_mix(sum, compute_ackermann(2, ACKERMANN));
        sum = compute_mix(sum, compute_tree_sum(page->words, 1, COMPUTE_WORDS));
    }
    return sum;
}
