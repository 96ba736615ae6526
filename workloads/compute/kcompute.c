/*
 * Integer work on a page: filling, two sorts, a sieve, a CRC. Straight code
 * and loops, the commonest instructions of any kernel, direct branches only.
 */
#include "workloads/api.h"
#include "workloads/compute/compute.h"

#define RUN 32 /* words that are sorted by insertion */

void compute_insertion_sort(uint32_t *words, unsigned count)
{
    for (unsigned i = 1; i < count; i++) {
        uint32_t word = words[i];
        unsigned at = i;

        for (; at && words[at - 1] > word; at--)
            words[at] = words[at - 1];
        words[at] = word;
    }
}

static void sift_down(uint32_t *words, unsigned at, unsigned count)
{
    uint32_t word = words[at];

    for (unsigned child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && words[child + 1] > words[child])
            child++;
        if (words[child] <= word)
            break;
        words[at] = words[child];
    }
    words[at] = word;
}

void compute_heap_sort(uint32_t *words, unsigned count)
{
    for (unsigned i = count / 2; i-- > 0;)
        sift_down(words, i, count);
    for (unsigned i = count; i-- > 1;) {
        uint32_t largest = words[0];

        words[0] = words[i];
        words[i] = largest;
        sift_down(words, 0, i);
    }
}

unsigned compute_sieve(uint8_t composite[COMPUTE_SIEVE / 8])
{
    unsigned primes = 0;

    for (unsigned i = 0; i < COMPUTE_SIEVE / 8; i++)
        composite[i] = 0;
    for (unsigned i = 2; i < COMPUTE_SIEVE; i++) {
        if (composite[i / 8] >> i % 8 & 1)
            continue;
        primes++;
        for (unsigned j = i * i; i * i < COMPUTE_SIEVE && j < COMPUTE_SIEVE;
             j += i)
            composite[j / 8] |= (uint8_t)(1 << j % 8);
    }
    return primes;
}

void compute_crc_table(uint32_t table[256])
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;

        for (unsigned bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
        table[i] = crc;
    }
}

uint32_t compute_crc(const uint32_t table[256], const void *bytes,
                     unsigned count)
{
    const uint8_t *at = bytes;
    uint32_t crc = ~0u;

    for (; count; count--)
        crc = crc >> 8 ^ table[(crc ^ *at++) & 0xff];
    return ~crc;
}

static uint64_t do_round(struct compute_page *page, uint64_t *rng)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < COMPUTE_WORDS; i++)
        page->words[i] = (uint32_t)wl_random(rng);
    for (unsigned i = 0; i < COMPUTE_WORDS; i += RUN)
        compute_insertion_sort(page->words + i, RUN);
    sum = compute_mix(
        sum, compute_crc(page->crc_table, page->words, sizeof page->words));
    compute_heap_sort(page->words, COMPUTE_WORDS);
    sum = compute_mix(
        sum, compute_crc(page->crc_table, page->words, sizeof page->words));
    sum = compute_mix(sum, compute_sieve(page->composite));
    return compute_mix(sum, compute_crc(page->crc_table, page->composite,
                                        sizeof page->composite));
}

uint64_t kcompute(struct compute_page *page, uint64_t operations, uint64_t seed)
{
    uint64_t rng = seed, sum = 0;

    compute_crc_table(page->crc_table);
    for (; operations; operations--)
        sum = compute_mix(sum, do_round(page, &rng));
    return sum;
}
