/* The result folder: its schema, its quoting, and what happens when it cannot
 * be written. */
#include "harness/results.h"
#include "harness/table.h"
#include "tests/test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define RUNS                                                                \
    "run_id,started_at,platform,kvm,technique,mmu,shadow_policy,workload,"  \
    "phase,working_set_bytes,guest_page_bytes,host_page_bytes,vcpus,rep,"   \
    "operations,wall_ns,guest_tsc_ticks,guest_instructions,status,message," \
    "seed,checksum"

static struct results *create(const char *folder)
{
    struct results *results;
    struct why why = {""};

    CU_ASSERT_EQUAL_FATAL(results_create(&results, folder, &why), 0);
    return results;
}

static char *in(const char *folder, const char *name)
{
    char *path;

    CU_ASSERT_FATAL(asprintf(&path, "%s/%s", folder, name) > 0);
    return path;
}

static char *content(const char *folder, const char *name)
{
    char *path = in(folder, name), *text = NULL;
    FILE *file = fopen(path, "r");
    size_t room = 0;

    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    CU_ASSERT(getdelim(&text, &room, EOF, file) > 0);
    fclose(file);
    free(path);
    return text;
}

static void file_is(const char *folder, const char *name, const char *expected)
{
    char *text = content(folder, name);

    CU_ASSERT_STRING_EQUAL(text, expected);
    free(text);
}

static struct table *read_back(const char *folder, const char *name)
{
    char *path = in(folder, name);
    struct table *table = NULL;
    struct why why = {""};

    CU_ASSERT_EQUAL_FATAL(table_read(&table, path, &why), 0);
    free(path);
    return table;
}

static const char *cell(const struct table *table, size_t row, const char *name)
{
    return table_cell(table, row, table_column(table, name));
}

static const struct run_spec spec = {.technique = TECH_SHADOW,
                                     .workload = "gups",
                                     .working_set_bytes = 4096,
                                     .vcpus = 2,
                                     .rep = 3,
                                     .seed = UINT64_MAX};

/* Two phases, the first with an exit and a counter. */
static struct run_record some_record(void)
{
    struct run_record record = {
        .status = RUN_OK,
        .message = "a, \"b\"\nc",
        .started_at = "2024-01-01T00:00:00Z",
        .kvm = "kvm_amd",
        .mmu = "shadow",
        .guest_page_bytes = {true, 4096},
        .phase_count = 2,
        .phases = {{.phase = WL_FIRST_TOUCH,
                    .operations = 7,
                    .checksum = 255,
                    .wall_ns = {true, 0}},
                   {.phase = WL_STEADY}},
    };

    rows_add_exit(
        &record.phases[0].rows,
        &(struct exit_row){"vm_exit", "kvm_trace", "io", 5, {false, 0}});
    rows_add_counter(
        &record.phases[0].rows,
        &(struct counter_row){"papi", "guest", "cycles", 0.5, "cycles"});
    return record;
}

static int add(struct results *results, struct why *why)
{
    struct run_record record = some_record();
    int err = results_add(results, &spec, &record, why);

    run_record_free(&record);
    return err;
}

static void columns(void)
{
    char *base = test_folder(), *folder = in(base, "deep/er/out");
    struct results *results = create(folder);
    struct why why = {""};

    CU_ASSERT_EQUAL(add(results, &why), 0);
    CU_ASSERT_EQUAL(results_close(results, &why), 0);
    file_is(folder, "runs.csv",
            RUNS "\r\nhost-0001,2024-01-01T00:00:00Z,host,kvm_amd,shadow,"
                 "shadow,,gups,first_touch,4096,4096,,2,3,7,0,,,ok,"
                 "\"a, \"\"b\"\"\nc\",18446744073709551615,00000000000000ff"
                 "\r\nhost-0002,2024-01-01T00:00:00Z,host,kvm_amd,shadow,"
                 "shadow,,gups,steady,4096,4096,,2,3,0,,,,ok,"
                 "\"a, \"\"b\"\"\nc\",18446744073709551615,0000000000000000"
                 "\r\n");
    file_is(folder, "exits.csv",
            "run_id,kind,source,reason,count,total_ns\r\n"
            "host-0001,vm_exit,kvm_trace,io,5,\r\n");
    file_is(folder, "counters.csv",
            "run_id,source,scope,name,value,unit\r\n"
            "host-0001,papi,guest,cycles,0.5,cycles\r\n");
    CU_ASSERT_STRING_EQUAL(results_header("runs.csv"), RUNS);
    CU_ASSERT_PTR_NULL(results_header("other.csv"));
    free(folder);
    free(base);
}

/* Every text that a record can hold comes back as it was. */
static void quoting(void)
{
    static const char *const texts[] = {"plain", "",     " ",        "a,b",
                                        "\"",    "\"\"", "a\r\nb",   "\n",
                                        "'",     ",",    "\xc3\xa9", "\t|;"};
    enum { TEXTS = sizeof texts / sizeof texts[0] };
    char *folder = test_folder();
    struct results *results = create(folder);
    struct table *table;
    struct why why;

    for (size_t i = 0; i < TEXTS; i++) {
        struct run_record record = {.status = RUN_FAILED};

        strcpy(record.message, texts[i]);
        CU_ASSERT_EQUAL(results_add(results, &spec, &record, &why), 0);
    }
    results_close(results, NULL);
    table = read_back(folder, "runs.csv");
    CU_ASSERT_EQUAL_FATAL(table_rows(table), TEXTS);
    for (size_t i = 0; i < TEXTS; i++) {
        CU_ASSERT_STRING_EQUAL(cell(table, i, "message"), texts[i]);
        CU_ASSERT_STRING_EQUAL(cell(table, i, "status"), "failed");
        CU_ASSERT_STRING_EQUAL(cell(table, i, "phase"), "");
        CU_ASSERT_STRING_EQUAL(cell(table, i, "operations"), "");
        CU_ASSERT_STRING_EQUAL(cell(table, i, "checksum"), "");
    }
    table_free(table);
    free(folder);
}

/* ---- Folders that cannot be used --------------------------------------- */

static void refused(const char *folder, int expected, const char *sentence)
{
    struct results *results = (struct results *)1;
    struct why why = {""};

    CU_ASSERT_EQUAL(results_create(&results, folder, &why), expected);
    CU_ASSERT_PTR_NULL(results);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, sentence));
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, folder));
}

static void existing(void)
{
    char *base = test_folder(), *file = in(base, "file"),
         *below = in(base, "file/out");
    FILE *made = fopen(file, "w");

    CU_ASSERT_PTR_NOT_NULL_FATAL(made);
    fputs("precious", made);
    fclose(made);
    refused(base, -EEXIST, "name another with -o");
    refused(file, -ENOTDIR, "cannot use");
    refused(below, -ENOTDIR, "name another with -o");
    file_is(base, "file", "precious");
    free(below);
    free(file);
    free(base);
}

static void read_only(void)
{
    char *base = test_folder(), *folder = in(base, "out");

    if (geteuid() == 0) {
        test_skip("root may write anywhere: run the tests as another user");
    } else {
        CU_ASSERT_EQUAL(chmod(base, 0500), 0);
        refused(folder, -EACCES, "name another with -o");
        CU_ASSERT_EQUAL(chmod(base, 0700), 0);
    }
    free(folder);
    free(base);
}

/* ---- Writes that fail -------------------------------------------------- */

/* A limit on the size of files stands for a disk that fills up: a write is
 * first cut short, then refused. */
static void limit_files(rlim_t bytes)
{
    struct rlimit limit;

    signal(SIGXFSZ, SIG_IGN);
    CU_ASSERT_EQUAL_FATAL(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void full_disk(void)
{
    char *folder = test_folder(), *before, *after;
    struct results *results = create(folder);
    struct table *table;
    struct why why = {""};

    CU_ASSERT_EQUAL(add(results, &why), 0);
    before = content(folder, "runs.csv");
    limit_files(strlen(before) + 20);
    CU_ASSERT_EQUAL(add(results, &why), -EFBIG);
    limit_files(RLIM_INFINITY);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "cannot write"));
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "runs.csv"));
    after = content(folder, "runs.csv");
    CU_ASSERT_STRING_EQUAL(after, before);
    /* With room again, the folder goes on. */
    CU_ASSERT_EQUAL(add(results, &why), 0);
    CU_ASSERT_EQUAL(results_close(results, &why), 0);
    table = read_back(folder, "runs.csv");
    CU_ASSERT_EQUAL(table_rows(table), 4);
    CU_ASSERT_STRING_NOT_EQUAL(cell(table, 2, "run_id"),
                               cell(table, 0, "run_id"));
    table_free(table);
    free(before);
    free(after);
    free(folder);
}

static void no_room_at_all(void)
{
    char *base = test_folder(), *folder = in(base, "out");

    limit_files(0);
    refused(folder, -EFBIG, "cannot write");
    limit_files(RLIM_INFINITY);
    free(folder);
    free(base);
}

/* What a reader finds while the folder is still open: whole rows. */
static void whole_rows(void)
{
    char *folder = test_folder();
    struct results *results = create(folder);
    struct why why;

    for (size_t i = 0; i < 5; i++) {
        struct table *table = read_back(folder, "runs.csv");

        CU_ASSERT_EQUAL(table_rows(table), 2 * i);
        table_free(table);
        CU_ASSERT_EQUAL(add(results, &why), 0);
    }
    results_close(results, NULL);
    free(folder);
}

/* ---- Merging ----------------------------------------------------------- */

static void merge(void)
{
    char *base = test_folder(), *one = in(base, "1"), *two = in(base, "2");
    struct results *first = create(one), *second = create(two);
    struct why why = {""};
    struct table *table;

    CU_ASSERT_EQUAL(results_next_id(first, PLATFORM_HOST), 1);
    CU_ASSERT_EQUAL(add(first, &why), 0);
    CU_ASSERT_EQUAL(results_next_id(first, PLATFORM_HOST), 3);
    CU_ASSERT_EQUAL(results_next_id(first, PLATFORM_LAB_SVM), 1);
    results_number_from(second, PLATFORM_HOST,
                        results_next_id(first, PLATFORM_HOST));
    CU_ASSERT_EQUAL(add(second, &why), 0);
    results_close(second, NULL);
    CU_ASSERT_EQUAL(results_merge(first, two, &why), 0);
    results_close(first, NULL);
    table = read_back(one, "runs.csv");
    CU_ASSERT_EQUAL_FATAL(table_rows(table), 4);
    CU_ASSERT_STRING_EQUAL(cell(table, 1, "run_id"), "host-0002");
    CU_ASSERT_STRING_EQUAL(cell(table, 2, "run_id"), "host-0003");
    table_free(table);
    table = read_back(one, "exits.csv");
    CU_ASSERT_EQUAL_FATAL(table_rows(table), 2);
    CU_ASSERT_STRING_EQUAL(cell(table, 1, "run_id"), "host-0003");
    table_free(table);
    free(one);
    free(two);
    free(base);
}

static void merge_refused(void)
{
    char *base = test_folder(), *one = in(base, "1"), *two = in(base, "2"),
         *runs = in(base, "2/runs.csv");
    struct results *first = create(one), *second = create(two);
    struct why why = {""};
    FILE *file;

    results_close(second, NULL);
    file = fopen(runs, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fputs("run_id,else\r\n1,2\r\n", file);
    fclose(file);
    CU_ASSERT_EQUAL(results_merge(first, two, &why), -EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "not a runs.csv of this version"));
    unlink(runs);
    CU_ASSERT_EQUAL(results_merge(first, two, &why), -ENOENT);
    results_close(first, NULL);
    file_is(one, "runs.csv", RUNS "\r\n");
    free(runs);
    free(one);
    free(two);
    free(base);
}

TEST_SUITE(results, {"columns", columns}, {"quoting", quoting},
           {"existing folders are refused", existing},
           {"a read-only folder", read_only},
           {"a disk that fills up", full_disk},
           {"a disk without room", no_room_at_all},
           {"a reader finds whole rows", whole_rows}, {"merging", merge},
           {"what is not merged", merge_refused});
