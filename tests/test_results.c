/*
 * Result folders. What was written is read by libcsv here, in its strict mode,
 * and not by memvirt's own reader. All rows are made up.
 */
#include "harness/results.h"
#include "tests/test.h"

#include <csv.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const file_names[] = {"runs.csv", "exits.csv",
                                         "counters.csv"};

#define FILES (sizeof file_names / sizeof file_names[0])

static char *read_file(const char *folder, const char *name)
{
    char path[512], *text = calloc(1, 1 << 22);
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    file = fopen(path, "re");
    if (file) {
        if (fread(text, 1, (1 << 22) - 1, file) == 0)
            text[0] = 0;
        fclose(file);
    }
    return text;
}

/* ---- An independent reader --------------------------------------------- */

struct sheet {
    char *cells[16384];
    unsigned count, columns, rows, uneven;
    unsigned in_row;
};

static void on_cell(void *bytes, size_t count, void *arg)
{
    struct sheet *sheet = arg;

    if (sheet->count < 16384)
        sheet->cells[sheet->count++] = strndup(bytes ? bytes : "", count);
    sheet->in_row++;
}

static void on_row(int end, void *arg)
{
    struct sheet *sheet = arg;

    (void)end;
    if (!sheet->rows++)
        sheet->columns = sheet->in_row;
    sheet->uneven += sheet->in_row != sheet->columns;
    sheet->in_row = 0;
}

static int keeps_spaces(unsigned char c)
{
    (void)c;
    return 0;
}

/* The sheet, header included; freed with sheet_free. */
static struct sheet *parse(const char *text)
{
    struct sheet *sheet = calloc(1, sizeof *sheet);
    struct csv_parser csv;
    size_t length = strlen(text);

    if (!sheet || csv_init(&csv, CSV_STRICT | CSV_STRICT_FINI))
        abort();
    csv_set_space_func(&csv, keeps_spaces);
    CU_ASSERT_EQUAL(csv_parse(&csv, text, length, on_cell, on_row, sheet),
                    length);
    CU_ASSERT_EQUAL(sheet->in_row, 0); /* the last row has its end */
    CU_ASSERT_EQUAL(csv_fini(&csv, on_cell, on_row, sheet), 0);
    CU_ASSERT_EQUAL(sheet->uneven, 0);
    csv_free(&csv);
    return sheet;
}

static struct sheet *sheet_of(const char *folder, const char *name)
{
    char *text = read_file(folder, name);
    struct sheet *sheet = parse(text);

    free(text);
    return sheet;
}

static void sheet_free(struct sheet *sheet)
{
    for (unsigned i = 0; i < sheet->count; i++)
        free(sheet->cells[i]);
    free(sheet);
}

/* Row 0 is the first after the header. */
static const char *cell(const struct sheet *sheet, unsigned row,
                        const char *column)
{
    for (unsigned i = 0; i < sheet->columns; i++) {
        unsigned at = (row + 1) * sheet->columns + i;

        if (!strcmp(sheet->cells[i], column) && at < sheet->count)
            return sheet->cells[at];
    }
    return "(no such cell)";
}

/* ---- Made-up runs ------------------------------------------------------ */

static struct run_spec spec_on(enum platform platform, unsigned rep)
{
    return (struct run_spec){
        .technique = TECH_SHADOW,
        .platform = platform,
        .workload = "synthetic",
        .working_set_bytes = 1 << 20,
        .guest_page_bytes = 4096,
        .operations = 1000,
        .seed = UINT64_MAX,
        .vcpus = 1,
        .rep = rep,
    };
}

static void add_rows(struct rows *rows)
{
    struct exit_row all = {"vm_exit", "kvm_stats", "all", 1001, {0}};
    struct exit_row timed = {
        "vm_exit", "kvm_trace", "cpuid", UINT64_MAX, {true, 12}};
    struct counter_row counter = {"papi", "guest_user", "dtlb_load_misses", 0.1,
                                  "events"};

    rows_add_exit(rows, &all);
    rows_add_exit(rows, &timed);
    rows_add_counter(rows, &counter);
}

/* Two phases; freed with run_record_free. */
static struct run_record two_phases(void)
{
    struct run_record record = {
        .status = RUN_OK,
        .started_at = "2024-01-01T00:00:00Z",
        .kvm = "kvm_amd",
        .mmu = "shadow",
        .guest_page_bytes = {true, 4096},
        .phase_count = 2,
        .phases = {{.phase = WL_FIRST_TOUCH, .operations = 256},
                   {.phase = WL_STEADY,
                    .operations = 1000,
                    .checksum = 0xfedcba9876543210,
                    .wall_ns = {true, 0},
                    .guest_tsc_ticks = {true, UINT64_MAX}}},
    };

    add_rows(&record.phases[1].rows);
    return record;
}

static struct results *create(const char *folder)
{
    struct results *results = NULL;
    struct why why = {""};

    CU_ASSERT_EQUAL(results_create(&results, folder, &why), 0);
    CU_ASSERT_STRING_EQUAL(why.text, "");
    CU_ASSERT_PTR_NOT_NULL_FATAL(results);
    return results;
}

static int add(struct results *results, enum platform platform, unsigned rep,
               struct why *why)
{
    struct run_spec spec = spec_on(platform, rep);
    struct run_record record = two_phases();
    int err = results_add(results, &spec, &record, why);

    run_record_free(&record);
    return err;
}

static void add_and_close(struct results *results, enum platform platform,
                          unsigned runs)
{
    struct why why = {""};

    for (unsigned i = 0; i < runs; i++)
        CU_ASSERT_EQUAL(add(results, platform, i + 1, &why), 0);
    CU_ASSERT_EQUAL(results_close(results, &why), 0);
    CU_ASSERT_STRING_EQUAL(why.text, "");
}

/* ---- Rows -------------------------------------------------------------- */

static void check_steady(const struct sheet *runs, unsigned row)
{
    static const char *const expected[][2] = {
        {"run_id", "host-0002"},
        {"started_at", "2024-01-01T00:00:00Z"},
        {"platform", "host"},
        {"kvm", "kvm_amd"},
        {"technique", "shadow"},
        {"mmu", "shadow"},
        {"shadow_policy", ""},
        {"workload", "synthetic"},
        {"phase", "steady"},
        {"working_set_bytes", "1048576"},
        {"guest_page_bytes", "4096"},
        {"host_page_bytes", ""},
        {"vcpus", "1"},
        {"rep", "1"},
        {"operations", "1000"},
        {"wall_ns", "0"},
        {"guest_tsc_ticks", "18446744073709551615"},
        {"guest_instructions", ""},
        {"status", "ok"},
        {"message", ""},
        {"seed", "18446744073709551615"},
        {"checksum", "fedcba9876543210"},
        {"cpu_profile", ""},
        {"levels", ""},
        {"costs", ""},
        {"assist", ""},
        {"shadow_roots", ""},
        {"bt_adaptive", ""},
        {"bt_cache_bytes", ""},
    };

    CU_ASSERT_EQUAL(runs->columns, sizeof expected / sizeof expected[0]);
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
        CU_ASSERT_STRING_EQUAL(cell(runs, row, expected[i][0]), expected[i][1]);
}

static void rows(void)
{
    char *folder = test_folder();
    struct sheet *runs, *exits, *counters;

    add_and_close(create(folder), PLATFORM_HOST, 1);
    runs = sheet_of(folder, "runs.csv");
    exits = sheet_of(folder, "exits.csv");
    counters = sheet_of(folder, "counters.csv");
    CU_ASSERT_EQUAL(runs->rows, 3);
    CU_ASSERT_STRING_EQUAL(cell(runs, 0, "run_id"), "host-0001");
    CU_ASSERT_STRING_EQUAL(cell(runs, 0, "phase"), "first_touch");
    CU_ASSERT_STRING_EQUAL(cell(runs, 0, "wall_ns"), "");
    check_steady(runs, 1);
    CU_ASSERT_EQUAL(exits->rows, 3);
    CU_ASSERT_STRING_EQUAL(cell(exits, 0, "run_id"), "host-0002");
    CU_ASSERT_STRING_EQUAL(cell(exits, 0, "reason"), "all");
    CU_ASSERT_STRING_EQUAL(cell(exits, 0, "total_ns"), "");
    CU_ASSERT_STRING_EQUAL(cell(exits, 1, "count"), "18446744073709551615");
    CU_ASSERT_STRING_EQUAL(cell(exits, 1, "total_ns"), "12");
    CU_ASSERT_EQUAL(counters->rows, 2);
    CU_ASSERT_STRING_EQUAL(cell(counters, 0, "scope"), "guest_user");
    CU_ASSERT_EQUAL(strtod(cell(counters, 0, "value"), NULL), 0.1);
    sheet_free(runs);
    sheet_free(exits);
    sheet_free(counters);
    free(folder);
}

/* A message that looks like CSV, and a run that never had a phase. */
static void failed_run(void)
{
    static const char message[] = " \"no\" /dev/kvm,\r\nline two\n,,\" ";
    struct run_spec spec = spec_on(PLATFORM_HOST, 1);
    struct run_record record = {.status = RUN_FAILED};
    char *folder = test_folder();
    struct results *results = create(folder);
    struct sheet *runs;
    struct why why;

    strcpy(record.message, message);
    CU_ASSERT_EQUAL(results_add(results, &spec, &record, &why), 0);
    CU_ASSERT_EQUAL(results_close(results, &why), 0);
    runs = sheet_of(folder, "runs.csv");
    CU_ASSERT_EQUAL(runs->rows, 2);
    CU_ASSERT_STRING_EQUAL(cell(runs, 0, "message"), message);
    CU_ASSERT_STRING_EQUAL(cell(runs, 0, "status"), "failed");
    CU_ASSERT_STRING_EQUAL(cell(runs, 0, "phase"), "");
    CU_ASSERT_STRING_EQUAL(cell(runs, 0, "operations"), "");
    CU_ASSERT_STRING_EQUAL(cell(runs, 0, "checksum"), "");
    sheet_free(runs);
    free(folder);
}

/* Lines end as RFC 4180 has it, and the same runs give the same bytes. */
static void bytes_repeat(void)
{
    char *one = test_folder(), *two = test_folder();

    add_and_close(create(one), PLATFORM_LAB_SVM, 3);
    add_and_close(create(two), PLATFORM_LAB_SVM, 3);
    for (unsigned i = 0; i < FILES; i++) {
        char *a = read_file(one, file_names[i]);
        char *b = read_file(two, file_names[i]);

        CU_ASSERT(strlen(a) > 100);
        CU_ASSERT_STRING_EQUAL(a, b);
        for (const char *at = a; (at = strchr(at, '\n')); at++)
            CU_ASSERT_EQUAL(at[-1], '\r');
        free(a);
        free(b);
    }
    free(one);
    free(two);
}

static void ids_by_platform(void)
{
    char *folder = test_folder();
    struct results *results = create(folder);
    struct sheet *runs;
    struct why why;

    CU_ASSERT_EQUAL(results_next_id(results, PLATFORM_HOST), 1);
    results_number_from(results, PLATFORM_LAB_VMX, 9999);
    CU_ASSERT_EQUAL(add(results, PLATFORM_HOST, 1, &why), 0);
    CU_ASSERT_EQUAL(add(results, PLATFORM_LAB_VMX, 1, &why), 0);
    CU_ASSERT_EQUAL(add(results, PLATFORM_HOST, 2, &why), 0);
    CU_ASSERT_EQUAL(results_next_id(results, PLATFORM_HOST), 5);
    CU_ASSERT_EQUAL(results_close(results, &why), 0);
    runs = sheet_of(folder, "runs.csv");
    CU_ASSERT_STRING_EQUAL(cell(runs, 1, "run_id"), "host-0002");
    CU_ASSERT_STRING_EQUAL(cell(runs, 2, "run_id"), "lab-vmx-9999");
    CU_ASSERT_STRING_EQUAL(cell(runs, 3, "run_id"), "lab-vmx-10000");
    CU_ASSERT_STRING_EQUAL(cell(runs, 4, "run_id"), "host-0003");
    sheet_free(runs);
    free(folder);
}

/* ---- Folders ----------------------------------------------------------- */

static void parents(void)
{
    char *folder = test_folder(), deep[256];

    snprintf(deep, sizeof deep, "%s/a/b//c/", folder);
    add_and_close(create(deep), PLATFORM_HOST, 1);
    snprintf(deep, sizeof deep, "%s/a/b/c/runs.csv", folder);
    CU_ASSERT_EQUAL(access(deep, R_OK), 0);
    free(folder);
}

/* Refused with a sentence that has the folder and the cure. */
static void refuses(const char *folder, int err)
{
    struct results *results = (void *)1;
    struct why why = {""};

    CU_ASSERT_EQUAL(results_create(&results, folder, &why), err);
    CU_ASSERT_PTR_NULL(results);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, folder));
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "-o"));
}

static void taken(void)
{
    char *folder = test_folder(), file[256];
    char *before, *after;

    add_and_close(create(folder), PLATFORM_HOST, 1);
    before = read_file(folder, "runs.csv");
    refuses(folder, -EEXIST);
    after = read_file(folder, "runs.csv");
    CU_ASSERT_STRING_EQUAL(before, after);
    snprintf(file, sizeof file, "%s/runs.csv", folder);
    refuses(file, -ENOTDIR);
    strcat(file, "/below");
    refuses(file, -ENOTDIR);
    free(before);
    free(after);
    free(folder);
}

/* As a user who may not write there: root may. */
static void not_writable(void)
{
    char *folder = test_folder(), below[256];
    struct results *results;
    struct why why = {""};
    int status;

    snprintf(below, sizeof below, "%s/below", folder);
    if (chmod(folder, 0555))
        abort();
    fflush(stdout);
    if (!fork()) {
        if (!geteuid() && setresuid(65534, 65534, 65534))
            _exit(2);
        if (results_create(&results, folder, &why) != -EACCES ||
            !strstr(why.text, "-o"))
            _exit(3);
        _exit(results_create(&results, below, &why) != -EACCES ||
              !strstr(why.text, "-o"));
    }
    wait(&status);
    CU_ASSERT_EQUAL(status, 0);
    chmod(folder, 0755);
    free(folder);
}

/* ---- Hard times -------------------------------------------------------- */

/* Every file whole, and no details beyond the runs that are there. */
static void check_whole(const char *folder, unsigned least, unsigned most)
{
    struct sheet *runs = sheet_of(folder, "runs.csv");
    struct sheet *exits = sheet_of(folder, "exits.csv");
    struct sheet *counters = sheet_of(folder, "counters.csv");

    CU_ASSERT(runs->rows > least && runs->rows <= most + 1);
    CU_ASSERT_EQUAL(runs->columns, 29);
    CU_ASSERT_EQUAL(exits->columns, 6);
    CU_ASSERT_EQUAL(counters->columns, 6);
    /* Each second row of runs.csv has two exits and one counter. */
    CU_ASSERT(exits->rows - 1 >= (runs->rows - 1) / 2 * 2);
    CU_ASSERT(counters->rows - 1 >= (runs->rows - 1) / 2);
    sheet_free(runs);
    sheet_free(exits);
    sheet_free(counters);
}

/* Takes away what stands behind the last line end. */
static void cut_last_line(const char *folder)
{
    for (unsigned i = 0; i < FILES; i++) {
        char *text = read_file(folder, file_names[i]), path[512];
        const char *end = strrchr(text, '\n');

        snprintf(path, sizeof path, "%s/%s", folder, file_names[i]);
        CU_ASSERT_PTR_NOT_NULL_FATAL(end);
        CU_ASSERT_EQUAL(truncate(path, end - text + 1), 0);
        free(text);
    }
}

/* Killed in the middle of writing, again and again: at worst the kernel cuts
 * the write that is under way. */
static void killed(void)
{
    for (unsigned round = 0; round < 20; round++) {
        char *folder = test_folder();
        struct results *results = create(folder);
        struct why why;
        pid_t child;

        fflush(stdout);
        child = fork();
        if (!child) {
            for (unsigned i = 0; i < 300; i++)
                add(results, PLATFORM_HOST, i, &why);
            _exit(0);
        }
        usleep(200 * round);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        cut_last_line(folder);
        check_whole(folder, 0, 600);
        results_close(results, NULL);
        free(folder);
    }
}

static void on_alarm(int signal)
{
    (void)signal;
}

/* Signals that are handled, as Ctrl-C is, cut nothing. */
static void interrupted(void)
{
    struct sigaction action = {.sa_handler = on_alarm}, before;
    struct itimerval often = {{0, 50}, {0, 50}}, never = {{0, 0}, {0, 0}};
    char *folder = test_folder();
    struct results *results = create(folder);

    sigaction(SIGALRM, &action, &before);
    setitimer(ITIMER_REAL, &often, NULL);
    add_and_close(results, PLATFORM_HOST, 300);
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &before, NULL);
    check_whole(folder, 600, 600);
    free(folder);
}

/* Adds runs until no more fit; the sentence has the file and the cure. */
static int fill(const char *folder)
{
    struct results *results;
    struct why why = {""};
    int err = results_create(&results, folder, &why);

    for (unsigned i = 0; !err && i < 100; i++)
        err = add(results, PLATFORM_HOST, i, &why);
    if (!strstr(why.text, folder) || !strstr(why.text, "-o"))
        return 1;
    results_close(results, &why);
    return err;
}

static void files_at_their_limit(void)
{
    char *folder = test_folder();
    int status;

    fflush(stdout);
    if (!fork()) {
        struct rlimit limit = {6000, 6000};

        signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &limit))
            _exit(2);
        _exit(fill(folder) != -EFBIG);
    }
    wait(&status);
    CU_ASSERT_EQUAL(status, 0);
    check_whole(folder, 10, 100);
    free(folder);
}

enum { FULL_DISK_SKIPPED = 77 };

/* In a mount namespace of its own, on a tmpfs of four pages. */
static int fill_small_disk(const char *folder)
{
    unsigned failures = CU_get_number_of_failures();

    if (unshare(CLONE_NEWNS) ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("tmpfs", folder, "tmpfs", 0, "size=16k"))
        return FULL_DISK_SKIPPED;
    if (fill(folder) != -ENOSPC)
        return 1;
    check_whole(folder, 10, 100);
    return CU_get_number_of_failures() != failures;
}

static void full_disk(void)
{
    char *folder = test_folder();
    int status;

    fflush(stdout);
    if (!fork())
        _exit(fill_small_disk(folder));
    wait(&status);
    if (WIFEXITED(status) && WEXITSTATUS(status) == FULL_DISK_SKIPPED)
        test_skip("cannot mount a small tmpfs: run as root");
    else
        CU_ASSERT_EQUAL(status, 0);
    free(folder);
}

/* ---- Merging ----------------------------------------------------------- */

static void merging(void)
{
    char *ours = test_folder(), *lab = test_folder(), *text;
    struct results *results = create(ours), *other = create(lab);
    struct sheet *runs, *exits;
    struct why why = {""};

    results_number_from(other, PLATFORM_LAB_SVM,
                        results_next_id(results, PLATFORM_LAB_SVM));
    add_and_close(other, PLATFORM_LAB_SVM, 2);
    CU_ASSERT_EQUAL(add(results, PLATFORM_HOST, 1, &why), 0);
    CU_ASSERT_EQUAL(results_merge(results, lab, &why), 0);
    CU_ASSERT_EQUAL(results_next_id(results, PLATFORM_LAB_SVM), 5);
    CU_ASSERT_EQUAL(add(results, PLATFORM_LAB_SVM, 3, &why), 0);
    CU_ASSERT_EQUAL(results_close(results, &why), 0);
    CU_ASSERT_STRING_EQUAL(why.text, "");
    runs = sheet_of(ours, "runs.csv");
    exits = sheet_of(ours, "exits.csv");
    CU_ASSERT_EQUAL(runs->rows, 1 + 2 + 4 + 2);
    CU_ASSERT_EQUAL(exits->rows, 1 + 2 + 4 + 2);
    CU_ASSERT_STRING_EQUAL(cell(runs, 2, "run_id"), "lab-svm-0001");
    CU_ASSERT_STRING_EQUAL(cell(runs, 5, "seed"), "18446744073709551615");
    CU_ASSERT_STRING_EQUAL(cell(runs, 6, "run_id"), "lab-svm-0005");
    text = read_file(ours, "counters.csv");
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "lab-svm-0004,papi,guest_user,"));
    free(text);
    sheet_free(runs);
    sheet_free(exits);
    free(ours);
    free(lab);
}

/* Changes `from` in one of the lab's files to `to`, cut off there if NULL. */
static void damage(const char *folder, const char *name, const char *from,
                   const char *to)
{
    char *text = read_file(folder, name), *at = strstr(text, from);
    char path[512];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    file = fopen(path, "we");
    if (!at || !file)
        abort();
    *at = 0;
    fputs(text, file);
    if (to)
        fprintf(file, "%s%s", to, at + strlen(from));
    fclose(file);
    free(text);
}

/* Refused with a sentence that has `word`, and nothing of it taken. */
static void refuses_merge(const char *name, const char *from, const char *to,
                          const char *word, int err)
{
    char *ours = test_folder(), *lab = test_folder();
    struct results *results = create(ours);
    struct why why = {""};

    add_and_close(create(lab), PLATFORM_LAB_SVM, 1);
    damage(lab, name, from, to);
    CU_ASSERT_EQUAL(results_merge(results, lab, &why), err);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, word));
    CU_ASSERT_EQUAL(results_next_id(results, PLATFORM_LAB_SVM), 1);
    CU_ASSERT_EQUAL(results_close(results, &why), 0);
    for (unsigned i = 0; i < FILES; i++) {
        struct sheet *sheet = sheet_of(ours, file_names[i]);

        CU_ASSERT_EQUAL(sheet->rows, 1);
        sheet_free(sheet);
    }
    free(ours);
    free(lab);
}

static void bad_merges(void)
{
    refuses_merge("runs.csv", "operations", "oper", "operations", -EINVAL);
    refuses_merge("runs.csv", "lab-svm-0002", "lab-svm-", "run id", -EINVAL);
    refuses_merge("runs.csv", "lab-svm-0002", "moon-0002", "run id", -EINVAL);
    refuses_merge("runs.csv", "lab-svm-0002", "lab-svm-0001", "already",
                  -EEXIST);
    refuses_merge("exits.csv", "cpuid", NULL, "exits.csv", -EINVAL);
    refuses_merge("counters.csv", "papi", "\"papi", "counters.csv", -EINVAL);
}

static void merges_nothing(void)
{
    char *ours = test_folder(), *empty = test_folder();
    struct results *results = create(ours);
    struct why why = {""};

    CU_ASSERT_EQUAL(results_merge(results, empty, &why), -ENOENT);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, empty));
    CU_ASSERT_EQUAL(add(results, PLATFORM_HOST, 1, &why), 0);
    CU_ASSERT_EQUAL(results_merge(results, ours, &why), -EEXIST);
    CU_ASSERT_EQUAL(results_close(results, &why), 0);
    free(ours);
    free(empty);
}

/* ---- The documentation ------------------------------------------------- */

static char *section(const char *document, const char *file)
{
    char heading[64];
    const char *from, *to;

    snprintf(heading, sizeof heading, "\n## `%s`\n", file);
    from = strstr(document, heading);
    CU_ASSERT_PTR_NOT_NULL(from);
    if (!from)
        return strdup("");
    to = strstr(from + 4, "\n## ");
    return to ? strndup(from, (size_t)(to - from)) : strdup(from);
}

/* The first column of the section's table: `a`, `b` becomes "a,b". */
static void documented_columns(const char *text, char *columns, size_t room)
{
    size_t at = 0;

    columns[0] = 0;
    while ((text = strstr(text, "\n| `")) && at < room) {
        text += strlen("\n| `");
        at += (size_t)snprintf(columns + at, room - at, "%s%.*s", at ? "," : "",
                               (int)strcspn(text, "`"), text);
    }
}

/* The section's example: the header line and a row for each column of it. */
static void check_example(const char *text, const char *header)
{
    const char *from = strstr(text, "```csv\n"), *to;
    struct sheet *sheet;
    char *example;

    CU_ASSERT_PTR_NOT_NULL(from);
    if (!from)
        return;
    from += strlen("```csv\n");
    to = strstr(from, "```");
    CU_ASSERT_PTR_NOT_NULL(to);
    if (!to)
        return;
    example = strndup(from, (size_t)(to - from));
    CU_ASSERT_EQUAL(strncmp(example, header, strlen(header)), 0);
    sheet = parse(example);
    CU_ASSERT_EQUAL(sheet->rows, 2);
    sheet_free(sheet);
    free(example);
}

static void documented(void)
{
    char *document = read_file(MEMVIRT_ROOT "/docs", "csv.md");

    for (unsigned i = 0; i < FILES; i++) {
        const char *header = results_header(file_names[i]);
        char *text = section(document, file_names[i]), columns[1024];

        documented_columns(text, columns, sizeof columns);
        if (!header)
            abort();
        CU_ASSERT_STRING_EQUAL(columns, header);
        check_example(text, header);
        free(text);
    }
    CU_ASSERT_PTR_NULL(results_header("figures.csv"));
    free(document);
}

TEST_SUITE(results, {"rows", rows}, {"a failed run is a row", failed_run},
           {"the same runs give the same bytes", bytes_repeat},
           {"ids by platform", ids_by_platform},
           {"folders with their parents", parents},
           {"a folder that is taken", taken},
           {"a folder that is not writable", not_writable},
           {"killed in mid-write", killed},
           {"interrupted in mid-write", interrupted},
           {"files at their limit", files_at_their_limit},
           {"a full disk", full_disk}, {"merging", merging},
           {"merging what is damaged", bad_merges},
           {"merging nothing, or oneself", merges_nothing},
           {"docs/csv.md has the columns", documented});
