/*
 * Lookups per second that hit the first level of a modelled TLB, in the
 * geometries of real CPUs, by how the pages are chosen. It measures the
 * lookup alone: no walk, no trace to read. The aim is 100 million a second.
 */
#include "mmu/tlb.h"
#include "harness/stats.h"
#include "tests/bench/bench.h"
#include "workloads/api.h"

#include <stdio.h>
#include <stdlib.h>

#define ROUNDS  9
#define LOOKUPS (1u << 22)
#define ADVANCE 4096 /* addresses prepared; they stay in the L1 data cache */
#define AIM     100e6

static double rate(struct tlb *tlb, const uint64_t *va)
{
    double begin = seconds();
    uint64_t hits = 0;
    struct tlb_hit hit;

    for (unsigned i = 0; i < LOOKUPS; i++)
        hits += tlb_lookup(tlb, va[i % ADVANCE], MMU_READ, &hit);
    begin = seconds() - begin;
    return hits == LOOKUPS ? LOOKUPS / begin : 0;
}

static struct tlb_config first_level(uint32_t entries, uint32_t ways,
                                     unsigned sizes)
{
    return (struct tlb_config){
        .count = 1,
        .structure[0] = {.entries = entries,
                         .ways = ways,
                         .level = 1,
                         .accesses = 7,
                         .sizes = sizes},
    };
}

static void run(const char *name, const struct tlb_config *config,
                unsigned pages)
{
    uint64_t va[ADVANCE], random = 1;
    double rates[ROUNDS];
    struct estimate median;
    size_t bytes;
    void *storage;
    struct tlb *tlb = malloc(sizeof *tlb);

    if (!tlb || tlb_bytes(config, &bytes, NULL) || !(storage = malloc(bytes)))
        exit(1);
    tlb_init(tlb, config, storage);
    for (unsigned page = 0; page < pages; page++)
        tlb_insert(tlb, (uint64_t)page << 12, PAGE_4K, MMU_READ, PTE_P, false);
    for (unsigned i = 0; i < ADVANCE; i++)
        va[i] = wl_below(&random, pages) << 12;
    for (unsigned round = 0; round < ROUNDS; round++)
        rates[round] = rate(tlb, va);
    if (stats_median(rates, ROUNDS, &median))
        exit(1);
    printf("%-34s %3u random pages: %6.1f million lookups/s%s\n", name, pages,
           median.value / 1e6, median.value < AIM ? ", below 100" : "");
    free(storage);
    free(tlb);
}

int main(void)
{
    struct tlb_config split = first_level(64, 4, 1);
    struct tlb_config shared = first_level(64, 64, 7);

    run("64 entries, 4-way, 4 KiB", &split, 1);
    run("64 entries, 4-way, 4 KiB", &split, 64);
    run("64 entries, fully associative, all", &shared, 1);
    run("64 entries, fully associative, all", &shared, 64);
    return 0;
}
