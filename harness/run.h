/*
 * One run: what is asked (struct run_spec), what came of it (struct
 * run_record), and both as JSON, since every run is a process of its own that
 * reads a spec on its standard input and writes a record on its standard
 * output (`memvirt one-run`).
 */
#ifndef HARNESS_RUN_H
#define HARNESS_RUN_H

#include "base/why.h"
#include "shadowpt/policy.h"
#include "workloads/abi.h"
#include "workloads/api.h"

#include <stdbool.h>
#include <stdint.h>

enum technique {
    TECH_NATIVE,
    TECH_EMULATION,
    TECH_SHADOW,
    TECH_NESTED,
    TECH_TRAP,
    TECH_PV,
    TECH_BT,
    /* These exist in the model only. */
    TECH_AGILE,
    TECH_FLAT,
    TECHNIQUES,
};

enum platform {
    PLATFORM_HOST,
    PLATFORM_LAB_SVM,
    PLATFORM_LAB_VMX,
    PLATFORM_MODEL, /* computed, not run */
    PLATFORMS,
};

enum host_page { HOST_4K, HOST_THP, HOST_2M, HOST_1G, HOST_PAGES };

enum run_status { RUN_OK, RUN_FAILED, RUN_UNSUPPORTED };

#define RUN_WORKLOAD_MAX 64 /* a trace is called by its file's name */

struct run_spec {
    enum technique technique;
    enum platform platform;
    char workload[RUN_WORKLOAD_MAX];
    uint64_t working_set_bytes;
    uint64_t guest_page_bytes;
    enum host_page host_page;
    uint64_t operations;
    uint64_t seed;
    uint64_t ram_bytes; /* 0: what the working set needs */
    unsigned vcpus;
    unsigned rep;
    unsigned time_limit_s;
    bool pcid;
    /* Of the software VMM only: */
    enum shadow_policy shadow_policy;
    unsigned shadow_roots; /* 0: the default */
    bool no_assist;
    bool no_adaptive;        /* bt */
    uint32_t bt_cache_bytes; /* bt; 0: the default */
    bool tlb_poison; /* count misses of the real TLB in the counted execution */
    bool uncounted;  /* only time, only what costs nothing */
    char cpu[64];    /* --cpu, "" for any */
    char numa[64];   /* --numa, "" for any */
    char image[4096]; /* guest image to load, "" for ours */
};

/* A number that may be missing: an empty cell, never 0. */
struct maybe_u64 {
    bool known;
    uint64_t value;
};

struct exit_row {
    char kind[16];   /* vm_exit, user_exit, monitor_trap */
    char source[16]; /* kvm_stats, kvm_trace, papi, monitor, vmm, model */
    char reason[40]; /* the manual's name, lower case, underscores */
    uint64_t count;
    struct maybe_u64 total_ns;
};

struct counter_row {
    char source[16]; /* papi, kvm_stats, kvm_trace, timing, ... */
    char scope[16];  /* guest_user, guest_kernel, guest, host, vm */
    char name[64];
    double value;
    char unit[24];
};

/* Growing arrays owned by their phase; rows_free empties both. */
struct rows {
    struct exit_row *exits;
    unsigned exit_count;
    struct counter_row *counters;
    unsigned counter_count;
};

/* These return 0 or -ENOMEM and copy. */
int rows_add_exit(struct rows *rows, const struct exit_row *row);
int rows_add_counter(struct rows *rows, const struct counter_row *row);
int rows_append(struct rows *to, const struct rows *from);
void rows_free(struct rows *rows);

struct phase_record {
    enum wl_phase phase;
    uint64_t operations;
    uint64_t checksum;
    struct maybe_u64 wall_ns;
    struct maybe_u64 guest_tsc_ticks;
    struct maybe_u64 guest_instructions;
    struct rows rows;
};

#define RUN_PHASES_MAX 8

struct run_record {
    enum run_status status;
    char message[320];
    char started_at[32];    /* ISO 8601, UTC */
    char kvm[16];           /* kvm_intel, kvm_amd, kvm_pvm, "" without KVM */
    char mmu[16];           /* 1d, shadow, nested, direct, software */
    char shadow_policy[16]; /* traced, unsync, vtlb, "" without a choice */
    char assist[8];         /* on, off, "" where there is no monitor */
    struct maybe_u64 shadow_roots;
    char bt_adaptive[8]; /* on, off, "" where nothing is translated */
    struct maybe_u64 bt_cache_bytes;
    /* What the model computed with; "" elsewhere. None of it travels as
     * JSON: a modelled run is no process of its own. */
    char cpu_profile[32];
    char levels[8]; /* "4", or guest's and host's as "4+5" */
    char costs[32];
    struct maybe_u64 guest_page_bytes; /* as found, not as asked */
    struct maybe_u64 host_page_bytes;
    unsigned phase_count;
    struct phase_record phases[RUN_PHASES_MAX];
    unsigned audit_count; /* 0 but for the workload of that name */
    struct guest_audit audits[GUEST_AUDITS_MAX];
};

void run_record_free(struct run_record *record);

/* The time now as `started_at` has it; `bytes` is at least 21. */
void run_stamp(char *text, size_t bytes);

/* Names as they stand in the CSV files and on the command line. Parsers
 * return -EINVAL with a sentence that lists the valid names. */
const char *technique_name(enum technique technique);
const char *platform_name(enum platform platform);
const char *host_page_name(enum host_page page);
const char *phase_name(enum wl_phase phase);
const char *status_name(enum run_status status);
const char *shadow_policy_name(enum shadow_policy policy);
int technique_parse(const char *name, enum technique *technique,
                    struct why *why);
int shadow_policy_parse(const char *name, enum shadow_policy *policy,
                        struct why *why);
int platform_parse(const char *name, enum platform *platform, struct why *why);
int host_page_parse(const char *name, enum host_page *page, struct why *why);

/* JSON, one object; the caller frees the text. NULL when memory is short or a
 * spec's text is not UTF-8; a record's text has such characters replaced by
 * '?', and its counters that are no number left out. The readers reject
 * anything that is not a complete, well-typed object, with -EINVAL and a
 * sentence. */
char *run_spec_to_json(const struct run_spec *spec);
int run_spec_from_json(const char *text, struct run_spec *spec,
                       struct why *why);
char *run_record_to_json(const struct run_record *record);
int run_record_from_json(const char *text, struct run_record *record,
                         struct why *why);

#endif
