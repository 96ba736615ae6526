/*
 * One modelled machine: a core with its TLBs, paging-structure caches and the
 * data caches its walks go through, under one technique. It consumes a guest's
 * stream of events (trace/event.h) and counts. Machines share nothing, so
 * that any number of them can follow one stream.
 *
 * Each keeps its own copy of the guest's page tables, built from the stores in
 * the stream, and walks them by the architectural walkers of mmu/ and ept/,
 * with the caches around. A fault that the stream tells of must happen in
 * every machine, and no other: a difference is an error, never a count.
 */
#ifndef MODEL_MACHINE_H
#define MODEL_MACHINE_H

#include "base/why.h"
#include "ept/translate.h"
#include "mmu/profile.h"
#include "shadowpt/shadow.h"
#include "trace/event.h"

enum model_technique {
    MODEL_NATIVE, /* one dimension: the guest's tables are the CPU's */
    MODEL_SHADOW, /* shadow tables, kept by shadowpt/ */
    MODEL_NESTED, /* EPT or NPT */
    MODEL_AGILE,  /* shadow above, nested below (Gandhi et al., ISCA 2016) */
    MODEL_FLAT,   /* nested, the second dimension one flat table (Ahn, Jin and
                     Huh, ISCA 2012) */
    MODEL_TECHNIQUES,
};

/* Cycles of everything that isn't a table's reference or a cache's hit; data
 * files describe them (model/costs/, read by harness/costs.h). */
struct model_costs {
    char name[32];
    unsigned vm_exit;       /* to the host and back, without what it does */
    unsigned ept_violation; /* work of mapping a page in the second dimension */
    unsigned hidden_fault;  /* work of filling a shadow entry */
    unsigned traced_write;  /* work of emulating a write and following it */
    unsigned true_fault;    /* work of reflecting a fault into the guest */
    unsigned invlpg, cr3_load; /* work of following them in a shadow */
    unsigned resync_entry;     /* each entry looked through again */
    unsigned guest_fault;      /* the CPU's delivery of #PF, and its IRET */
};

struct machine_config {
    enum model_technique technique;
    const struct mmu_profile *profile;
    const struct model_costs *costs;
    enum shadow_policy shadow_policy; /* MODEL_SHADOW */
    unsigned shadow_roots;            /* 0: the default */
    unsigned shadow_tables;           /* 0: as many as the guest can need */
    unsigned nested_levels;           /* 4 or 5; what has a 2nd dimension */
    enum ept_format nested_format;
    /* MODEL_AGILE: writes to a guest's table within an interval that move it
     * to nested mode; an interval in accesses; 0: the defaults. Or everything
     * is nested from the start, the mode for processes that end soon. */
    unsigned agile_writes;
    uint64_t agile_interval;
    bool agile_nested;
    uint64_t host_page_bytes; /* 4 KiB, 2 MiB or 1 GiB */
    uint32_t host_large_ppm;  /* ept/map.h's fragmentation; 1,000,000: none */
    bool data_in_caches;      /* the accesses themselves use the data caches */
    uint64_t seed;
};

#define MACHINE_COUNTERS_MAX 160
#define MACHINE_EXITS_MAX    24

/* What happened since the last machine_reset_counts. */
struct machine_counts {
    unsigned counters;
    struct machine_counter {
        char name[40];    /* lower case with underscores */
        const char *unit; /* "accesses", "walks", "references", "cycles", ... */
        uint64_t value;
    } counter[MACHINE_COUNTERS_MAX];
    unsigned exits;
    struct machine_exit {
        const char *reason; /* the manual's name */
        uint64_t count;
        uint64_t cycles; /* by the cost table */
    } exit[MACHINE_EXITS_MAX];
};

struct machine;

/* -EINVAL or -ENOMEM with the sentence: a configuration or profile that
 * can't be. `config` is copied; profile and costs stay the caller's. */
int machine_create(struct machine **machine,
                   const struct machine_config *config,
                   const struct event_guest *guest, struct why *why);
void machine_destroy(struct machine *machine);

/* Follows `count` words of whole events. -EPROTO with the sentence when they
 * make no sense (no such kind, a store outside RAM, a fault that does not
 * happen here); the machine is of no use afterwards. Phase events do nothing:
 * the caller splits the stream at them. */
int machine_run(struct machine *machine, const uint64_t *words, size_t count,
                struct why *why);

/* Zeroes what was counted; what is cached stays. */
void machine_reset_counts(struct machine *machine);
void machine_counts(const struct machine *machine,
                    struct machine_counts *counts);

/* Bytes the machine holds, tables included. */
uint64_t machine_bytes(const struct machine *machine);

#endif
