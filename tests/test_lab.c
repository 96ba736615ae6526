/*
 * What the lab must show, by the real command in the emulated machines: exact
 * exit counts, equal sources, determinism, page-walk references.
 */
#include "harness/table.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LAB "\"$MEMVIRT\" lab"

/* Exits that are no doing of the operation: the two marks, a timer's
 * interrupt now and then, the first use of a page. */
#define HANDFUL 16

static bool have(const char *program, const char *package)
{
    char *output;
    int status = test_shell(&output, "command -v %s", program);

    free(output);
    if (status)
        test_skip("no %s: 'apt install %s'", program, package);
    return !status;
}

/* Runs a command of the lab; prints what it said when it failed. */
static bool lab_ok(const char *folder, const char *command)
{
    char *output;
    int status = test_shell(&output, "%s -o %s --no-figures", command, folder);

    CU_ASSERT_EQUAL(status, 0);
    if (status)
        printf("\n%s\n", output);
    free(output);
    return !status;
}

static struct table *read_csv(const char *folder, const char *name)
{
    struct table *table = NULL;
    struct why why = {""};
    char path[512];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    CU_ASSERT_EQUAL(table_read(&table, path, &why), 0);
    return table;
}

static const char *cell(const struct table *table, size_t row,
                        const char *column)
{
    return table_cell(table, row, table_column(table, column));
}

/* The run id of a technique's steady phase of a workload. */
static const char *find_run(const struct table *runs, const char *technique,
                            const char *workload)
{
    for (size_t i = 0; i < table_rows(runs); i++)
        if (!strcmp(cell(runs, i, "technique"), technique) &&
            !strcmp(cell(runs, i, "workload"), workload))
            return cell(runs, i, "run_id");
    return "";
}

/* VM exits of a run by source; `reason` NULL for all but interrupts. */
static long exits(const struct table *table, const char *run,
                  const char *source, const char *reason)
{
    double count;
    long sum = 0;

    for (size_t i = 0; i < table_rows(table); i++) {
        const char *why = cell(table, i, "reason");

        if (strcmp(cell(table, i, "run_id"), run) ||
            strcmp(cell(table, i, "kind"), "vm_exit") ||
            strcmp(cell(table, i, "source"), source) ||
            (reason ? strcmp(why, reason) : !strcmp(why, "interrupt")) ||
            !table_number(table, i, table_column(table, "count"), &count))
            continue;
        sum += (long)count;
    }
    return sum;
}

/* ---- Exit counts ------------------------------------------------------- */

static const struct expectation {
    const char *workload, *reason;
    long nested, shadow;
} expectations[] = {
    {"invlpg", "invlpg", 0, 1000},  {"cr3", "write_cr3", 0, 1000},
    {"cpuid", "cpuid", 1000, 1000}, {"in", "io", 1000, 1000},
    {"remap", NULL, 0, 2000},
};

static void check_count(long count, long expected)
{
    CU_ASSERT(count >= expected);
    CU_ASSERT(count <= expected + HANDFUL);
    if (count < expected || count > expected + HANDFUL)
        printf("(%ld exits, expected %ld) ", count, expected);
}

static void check_exit_counts(const char *folder)
{
    struct table *runs = read_csv(folder, "runs.csv");
    struct table *table = read_csv(folder, "exits.csv");

    for (size_t i = 0; runs && table && i < 5; i++) {
        const struct expectation *e = &expectations[i];
        const char *nested = find_run(runs, "nested", e->workload);
        const char *shadow = find_run(runs, "shadow", e->workload);

        CU_ASSERT(*nested && *shadow);
        check_count(exits(table, nested, "kvm_trace", e->reason), e->nested);
        check_count(exits(table, shadow, "kvm_trace", e->reason), e->shadow);
        /* and nothing else worth counting */
        check_count(exits(table, nested, "kvm_trace", NULL), e->nested);
        check_count(exits(table, shadow, "kvm_trace", NULL), e->shadow);
    }
    table_free(runs);
    table_free(table);
}

/* KVM's statistics, our histogram and PAPI's tracepoint saw the same. */
static void check_sources_agree(const char *folder)
{
    struct table *runs = read_csv(folder, "runs.csv");
    struct table *table = read_csv(folder, "exits.csv");
    unsigned compared = 0;

    for (size_t i = 0; runs && table && i < table_rows(runs); i++) {
        const char *run = cell(runs, i, "run_id");
        long stats = exits(table, run, "kvm_stats", "all");
        long papi = exits(table, run, "papi", "all");
        long trace = exits(table, run, "kvm_trace", NULL) +
                     exits(table, run, "kvm_trace", "interrupt");

        if (!stats)
            continue; /* the bare machine */
        CU_ASSERT_EQUAL(stats, trace);
        CU_ASSERT_EQUAL(stats, papi);
        compared++;
    }
    CU_ASSERT(compared >= 10);
    table_free(runs);
    table_free(table);
}

static void check_repeats(const char *first, const char *second)
{
    char *output;
    int status = test_shell(&output,
                            "cmp %s/exits.csv %s/exits.csv && cmp %s/runs.csv "
                            "%s/runs.csv && cmp %s/counters.csv "
                            "%s/counters.csv",
                            first, second, first, second, first, second);

    CU_ASSERT_EQUAL(status, 0);
    if (status)
        printf("(%s) ", output);
    free(output);
}

static void exact_exits(void)
{
    static const char run[] =
        LAB " -- run -t shadow,nested -w invlpg,cr3,cpuid,in,remap --ops 1000";
    char *folders = test_folder(), first[600], second[600];

    if (!have("qemu-system-x86_64", "qemu-system-x86")) {
        free(folders);
        return;
    }
    snprintf(first, sizeof first, "%s/1", folders);
    snprintf(second, sizeof second, "%s/2", folders);
    if (lab_ok(first, run)) {
        check_exit_counts(first);
        check_sources_agree(first);
        if (lab_ok(second, run))
            check_repeats(first, second);
    }
    free(folders);
}

/* ---- Every workload ---------------------------------------------------- */

/* The same checksum wherever a workload ran: what it computed does not depend
 * on how it was virtualized. */
static void check_checksums(const struct table *runs)
{
    for (size_t i = 0; i < table_rows(runs); i++) {
        CU_ASSERT_STRING_EQUAL(cell(runs, i, "status"), "ok");
        for (size_t j = 0; j < i; j++) {
            if (strcmp(cell(runs, i, "workload"), cell(runs, j, "workload")) ||
                strcmp(cell(runs, i, "phase"), cell(runs, j, "phase")))
                continue;
            CU_ASSERT_STRING_EQUAL(cell(runs, i, "checksum"),
                                   cell(runs, j, "checksum"));
            if (strcmp(cell(runs, i, "checksum"), cell(runs, j, "checksum")))
                printf("(%s, %s against %s) ", cell(runs, i, "workload"),
                       cell(runs, i, "technique"), cell(runs, j, "technique"));
        }
    }
}

static void everywhere_the_same(void)
{
    char *folder = test_folder(), results[600];
    struct table *runs;

    snprintf(results, sizeof results, "%s/r", folder);
    free(folder);
    if (!have("qemu-system-x86_64", "qemu-system-x86") ||
        !lab_ok(results, "\"$MEMVIRT\" run -t native,emulation,shadow,nested "
                         "-w mmu,memory,selftest --size 64K --ops 5 "
                         "--no-counters"))
        return;
    runs = read_csv(results, "runs.csv");
    if (runs) {
        check_checksums(runs);
        CU_ASSERT(table_rows(runs) > 200);
    }
    table_free(runs);
}

/* ---- Paging ------------------------------------------------------------ */

/* docs/paging.md has the command for all of its cases. */
static void paging_agrees(void)
{
    char *folder = test_folder(), results[600];
    struct table *runs;

    snprintf(results, sizeof results, "%s/r", folder);
    free(folder);
    if (!have("qemu-system-x86_64", "qemu-system-x86") ||
        !lab_ok(results, LAB " -- run -t shadow,nested -w paging --ops 1020000 "
                             "--no-counters"))
        return;
    runs = read_csv(results, "runs.csv");
    CU_ASSERT(runs && table_rows(runs) == 2);
    for (size_t i = 0; runs && i < table_rows(runs); i++) {
        const char *message = cell(runs, i, "message");

        CU_ASSERT_STRING_EQUAL(cell(runs, i, "status"), "ok");
        CU_ASSERT_PTR_NOT_NULL(strstr(message, "no disagreement"));
        printf("(%s: %s) ", cell(runs, i, "technique"), message);
    }
    table_free(runs);
}

/* ---- The software VMM --------------------------------------------------- */

/* A row of exits.csv; -1 without one. */
static long count_of(const struct table *table, const char *run,
                     const char *kind, const char *reason)
{
    double count;

    for (size_t i = 0; i < table_rows(table); i++)
        if (!strcmp(cell(table, i, "run_id"), run) &&
            !strcmp(cell(table, i, "kind"), kind) &&
            !strcmp(cell(table, i, "reason"), reason) &&
            table_number(table, i, table_column(table, "count"), &count))
            return (long)count;
    return -1;
}

#define TRAPS 640

/* Traps that the architecture fixes: `each` an operation, and `more` that the
 * workload's frame brings. */
static void check_traps(const struct table *runs, const struct table *table)
{
    static const struct {
        const char *technique, *workload, *reason;
        long each, more;
    } expected[] = {
        {"trap", "invlpg", "invlpg", 1, 1},
        {"trap", "cr3", "mov_to_cr", 1, 0},
        {"trap", "cr8wr", "mov_to_cr", 1, 0},
        {"trap", "in", "in", 1, 0},
        {"trap", "pgfault", "true_fault", 1, 0},
        {"trap", "pgfault", "iret", 1, 0},
        {"trap", "divzero", "de", 1, 0},
        {"trap", "divzero", "iret", 1, 0},
        {"trap", "syscall", "syscall", 1, 1},
        {"trap", "syscall", "sysret", 1, 1},
        {"trap", "hidden", "hidden_fault", 1, 0},
        {"pv", "cr8wr", "mov_to_cr", 1, 0},
        {"pv", "pgfault", "true_fault", 1, 0},
        {"pv", "syscall", "syscall", 1, 1},
        {"pv", "ptemod", "hypercall", 1, 2},
    };

    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        long want = TRAPS * expected[i].each + expected[i].more;
        long seen = count_of(
            table, find_run(runs, expected[i].technique, expected[i].workload),
            "monitor_trap", expected[i].reason);

        CU_ASSERT_EQUAL(seen, want);
        if (seen != want)
            printf("\n    %s %s: %ld %s, not %ld\n", expected[i].technique,
                   expected[i].workload, seen, expected[i].reason, want);
    }
}

/* Instructions an operation, which the lab's clock counts. */
static double cost_of(const struct table *runs, const char *technique,
                      const char *workload)
{
    double ticks, operations;

    for (size_t i = 0; i < table_rows(runs); i++)
        if (!strcmp(cell(runs, i, "technique"), technique) &&
            !strcmp(cell(runs, i, "workload"), workload) &&
            table_number(runs, i, table_column(runs, "guest_tsc_ticks"),
                         &ticks) &&
            table_number(runs, i, table_column(runs, "operations"),
                         &operations))
            return ticks / operations;
    return 0;
}

/* Of the published ones, what binary translation does cheaper than a VMM that
 * needs an exit, and dearer (docs/published.md has all seven). */
static void check_directions(const struct table *runs,
                             const struct table *exits_csv)
{
    static const struct {
        const char *workload;
        bool cheaper;
    } expected[] = {
        {"syscall", false}, {"divzero", false}, {"callret", false},
        {"in", true},       {"pgfault", true},
    };

    (void)exits_csv;
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        double bt = cost_of(runs, "bt", expected[i].workload);
        double shadow = cost_of(runs, "shadow", expected[i].workload);

        CU_ASSERT(bt > 0 && shadow > 0);
        CU_ASSERT_EQUAL(bt < shadow, expected[i].cheaper);
        if ((bt < shadow) != expected[i].cheaper)
            printf("\n    %s: bt %.0f, shadow %.0f\n", expected[i].workload, bt,
                   shadow);
    }
}

/* A hidden fault, KVM's exit included. */
static void check_nanos(const struct table *runs, const struct table *exits_csv)
{
    check_traps(runs, exits_csv);
    CU_ASSERT(cost_of(runs, "trap", "hidden") > 0);
    CU_ASSERT(3 * cost_of(runs, "trap", "hidden") <=
              cost_of(runs, "shadow", "hidden"));
}

/* One hypercall for the updates, one for the flush; and two of the warm-up's.
 */
#define BATCHES 10

static void check_batches(const struct table *runs,
                          const struct table *exits_csv)
{
    CU_ASSERT(cost_of(runs, "pv", "ptebatch") > 0);
    CU_ASSERT(10 * cost_of(runs, "pv", "ptebatch") <=
              cost_of(runs, "trap", "ptebatch"));
    CU_ASSERT_EQUAL(count_of(exits_csv, find_run(runs, "pv", "ptebatch"),
                             "monitor_trap", "hypercall"),
                    2 * BATCHES + 2);
}

static void with_results(const char *command,
                         void (*check)(const struct table *runs,
                                       const struct table *exits_csv))
{
    char *folder = test_folder(), results[600];
    struct table *runs, *exits_csv;

    snprintf(results, sizeof results, "%s/r", folder);
    free(folder);
    if (!lab_ok(results, command))
        return;
    runs = read_csv(results, "runs.csv");
    exits_csv = read_csv(results, "exits.csv");
    if (runs && exits_csv)
        check(runs, exits_csv);
    table_free(runs);
    table_free(exits_csv);
}

static void software_traps(void)
{
    if (!have("qemu-system-x86_64", "qemu-system-x86"))
        return;
    with_results(LAB " -- run -t shadow,trap,pv -w syscall,in,cr8wr,pgfault,"
                     "divzero,ptemod,hidden,invlpg,cr3 "
                     "--ops 640",
                 check_nanos);
    with_results(LAB " -- run -t trap,pv -w ptebatch --shadow-policy traced "
                     "--ops 10",
                 check_batches);
}

/* The steady phase of a memory workload leaves guest mode once: its end's
 * mark. And N pages miss the TLB N times, the stack and the program's data once
 * each; and again after a timer's interrupt, whose exit empties an emulated
 * TLB. */
static void check_steady(const struct table *runs,
                         const struct table *exits_csv,
                         const struct table *counters)
{
    unsigned seen = 0;

    for (size_t i = 0; i < table_rows(runs); i++) {
        const char *id = cell(runs, i, "run_id");
        double value, misses = 0, pages = 0;
        long flushes;

        if (strcmp(cell(runs, i, "phase"), "steady"))
            continue;
        seen++;
        CU_ASSERT_EQUAL(count_of(exits_csv, id, "user_exit", "io"), 1);
        if (strcmp(cell(runs, i, "technique"), "trap"))
            continue;
        table_number(runs, i, table_column(runs, "working_set_bytes"), &pages);
        for (size_t n = 0; n < table_rows(counters); n++)
            if (!strcmp(cell(counters, n, "run_id"), id) &&
                strstr(cell(counters, n, "name"), "_misses_4k") &&
                !strcmp(cell(counters, n, "source"), "monitor") &&
                table_number(counters, n, table_column(counters, "value"),
                             &value))
                misses += value;
        pages = pages / 4096 + 2;
        flushes = count_of(exits_csv, id, "vm_exit", "interrupt");
        CU_ASSERT(misses >= pages);
        CU_ASSERT(misses <= pages * (1 + (flushes > 0 ? flushes : 0)));
    }
    CU_ASSERT_EQUAL(seen, 4);
}

static void software_steady(void)
{
    char *folder = test_folder(), results[600];
    struct table *runs, *exits_csv, *counters;

    snprintf(results, sizeof results, "%s/r", folder);
    free(folder);
    if (!have("qemu-system-x86_64", "qemu-system-x86") ||
        !lab_ok(results, LAB " -- run -t trap,pv -w gups --size 64K,1M "
                             "--ops 2000 --tlb-misses poison"))
        return;
    runs = read_csv(results, "runs.csv");
    exits_csv = read_csv(results, "exits.csv");
    counters = read_csv(results, "counters.csv");
    if (runs && exits_csv && counters)
        check_steady(runs, exits_csv, counters);
    table_free(runs);
    table_free(exits_csv);
    table_free(counters);
}

static void translated_directions(void)
{
    if (have("qemu-system-x86_64", "qemu-system-x86"))
        with_results(LAB " -- run -t shadow,bt -w syscall,in,callret,pgfault,"
                         "divzero --ops 640 --no-counters",
                     check_directions);
}

static void same_under(const char *folder, const char *name,
                       const char *command)
{
    char results[600];
    struct table *runs;

    snprintf(results, sizeof results, "%s/%s", folder, name);
    if (!lab_ok(results, command))
        return;
    runs = read_csv(results, "runs.csv");
    if (runs)
        check_checksums(runs);
    table_free(runs);
}

/* As on the bare machine, under every policy. The self-test under pv makes
 * fewer checks: a kernel that can't write to tables can't test that it can. */
static void software_computes_the_same(void)
{
    char *folder = test_folder();

    if (have("qemu-system-x86_64", "qemu-system-x86")) {
        same_under(
            folder, "trap",
            LAB
            " -- run -t native,trap,bt -w kindirect,process,protect,gups,"
            "selftest --size 64K --ops 10 --shadow-policy traced,unsync,vtlb "
            "--no-counters");
        same_under(folder, "pv",
                   LAB
                   " -- run -t native,pv -w mmu,gups,btree --size 64K --ops 10 "
                   "--no-counters");
    }
    free(folder);
}

/* ---- In the lab -------------------------------------------------------- */

/* Suites that need a KVM with its tracepoints, or a switch to turn. */
static void suites_inside(void)
{
    char *output;
    int status;

    if (!have("qemu-system-x86_64", "qemu-system-x86"))
        return;
    status = test_shell(&output,
                        MEMVIRT_ROOT "/scripts/lab/lab --with-perf -- "
                                     "%s/memvirt-tests counters kvm_switch "
                                     "perf_kvm_stat vm hostile",
                        MEMVIRT_BUILD);
    CU_ASSERT_EQUAL(status, 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(output, " 0 failed"));
    printf("\n%s", output);
    free(output);
}

/* Guest instructions from the kernel's start to the first operation, on the
 * bare machine where the TSC counts them: some KVMs emulate each. */
static void boots_quickly(void)
{
    char *folder = test_folder(), results[600];
    struct table *counters;
    double value = 0;

    snprintf(results, sizeof results, "%s/r", folder);
    free(folder);
    if (!have("qemu-system-x86_64", "qemu-system-x86") ||
        !lab_ok(results, LAB " -- run -t native -w syscall"))
        return;
    counters = read_csv(results, "counters.csv");
    for (size_t i = 0; counters && i < table_rows(counters); i++)
        if (!strcmp(cell(counters, i, "name"), "boot_instructions"))
            table_number(counters, i, table_column(counters, "value"), &value);
    CU_ASSERT(value > 1000);
    CU_ASSERT(value <= 200000);
    table_free(counters);
}

/* ---- Bochs ------------------------------------------------------------- */

/* References per load in the order the plan runs: for each guest and host
 * page nested, then shadow. */
static void check_walks(const char *csv)
{
    static const struct {
        int refs, ept;
    } expected[] = {{24, 1}, {4, 0}, {19, 1}, {4, 0},
                    {19, 1}, {4, 0}, {15, 1}, {3, 0}};
    struct table *table = NULL;
    struct why why = {""};
    double loads, refs, ept;
    unsigned seen = 0;

    CU_ASSERT_FATAL(!table_parse(&table, "walk-refs", csv, strlen(csv), &why));
    for (size_t i = 0; i < table_rows(table); i++) {
        if (!table_number(table, i, table_column(table, "loads"), &loads) ||
            loads < 16 || seen == 8)
            continue; /* the warm-up */
        CU_ASSERT(table_number(table, i, table_column(table, "refs_per_load"),
                               &refs));
        CU_ASSERT(
            table_number(table, i, table_column(table, "ept_refs"), &ept));
        CU_ASSERT_EQUAL(refs, expected[seen].refs);
        CU_ASSERT_EQUAL(ept > 0, expected[seen].ept);
        if (refs != expected[seen].refs)
            printf("(window %zu: %g references, expected %d) ", i, refs,
                   expected[seen].refs);
        seen++;
    }
    CU_ASSERT_EQUAL(seen, 8);
    table_free(table);
}

static void walk_references(void)
{
    char *folder = test_folder(), *output;
    int status;

    if (have("bochs", "bochs") && have("xorriso", "xorriso")) {
        status = test_shell(
            &output,
            "cd %s && " MEMVIRT_ROOT "/scripts/lab/lab --machine vmx --trace "
            "trace -- %s/memvirt run --switch-kvm -t nested,shadow -w walk "
            "--ops 16 --size 32M --guest-page 4K,2M --host-page 4K,thp "
            "--no-counters -o /out/run >log 2>&1 || { cat log; exit 1; "
            "}; " MEMVIRT_ROOT "/scripts/lab/walk-refs trace",
            folder, MEMVIRT_BUILD);
        CU_ASSERT_EQUAL(status, 0);
        if (status)
            printf("\n%s\n", output);
        else
            check_walks(output);
        free(output);
    }
    free(folder);
}

TEST_SUITE(lab, {"exits are exact, sources agree, runs repeat", exact_exits},
           {"every workload computes the same everywhere", everywhere_the_same},
           {"traps under the monitor are the architecture's", software_traps},
           {"translated code is cheaper and dearer where it was in 2006",
            translated_directions},
           {"a warm workload stays in the guest", software_steady},
           {"the monitor's guests compute the same",
            software_computes_the_same},
           {"accesses end as the walker says", paging_agrees},
           {"suites that need KVM's tracepoints and switch", suites_inside},
           {"the guest reaches its first operation quickly", boots_quickly},
           {"page-walk references under Bochs", walk_references});
