/*
 * `memvirt model`, `trace` and `compare` as a person uses them: rows that say
 * what they are, the same numbers from a trace as from the workload, alone as
 * in company, and one line for every input that cannot be.
 */
#include "harness/table.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GUPS "-w gups --size 1M --ops 20000"

/* A fresh folder to run in, gone at the end. */
struct place {
    char *folder;
};

static struct place place_open(void)
{
    return (struct place){test_folder()};
}

static void place_close(struct place *place)
{
    char *output;

    test_shell(&output, "rm -rf '%s'", place->folder);
    free(output);
    free(place->folder);
}

/* `arguments` to memvirt in the folder: its status; what it said. */
static int run(const struct place *place, char **said, const char *arguments)
{
    return test_shell(said, "cd '%s' && \"$MEMVIRT\" %s", place->folder,
                      arguments);
}

static void runs(const struct place *place, const char *arguments)
{
    char *said;
    int status = run(place, &said, arguments);

    CU_ASSERT_EQUAL(status, 0);
    if (status)
        printf("\n  memvirt %s: status %d, said: %s\n", arguments, status,
               said);
    free(said);
}

static struct table *sheet(const struct place *place, const char *file)
{
    struct table *table = NULL;
    struct why why;
    char path[300];

    snprintf(path, sizeof path, "%s/%s", place->folder, file);
    CU_ASSERT_EQUAL_FATAL(table_read(&table, path, &why), 0);
    return table;
}

static const char *cell(const struct table *t, size_t row, const char *column)
{
    return table_cell(t, row, table_column(t, column));
}

static void rows_say_what_they_are(void)
{
    struct place place = place_open();
    struct table *t;

    runs(&place, "model " GUPS " -t native,shadow,nested,agile,flat "
                 "--cpu zen4 --levels 4+5 --host-page 2M --no-figures -o out");
    t = sheet(&place, "out/runs.csv");
    CU_ASSERT_EQUAL(table_rows(t), 15); /* three phases each */
    for (size_t row = 0; row < table_rows(t); row++) {
        bool native = !strcmp(cell(t, row, "technique"), "native");
        bool shadow = !strcmp(cell(t, row, "technique"), "shadow");

        CU_ASSERT_STRING_EQUAL(cell(t, row, "platform"), "model");
        CU_ASSERT_STRING_EQUAL(cell(t, row, "status"), "ok");
        CU_ASSERT_STRING_EQUAL(cell(t, row, "wall_ns"), "");
        CU_ASSERT_STRING_EQUAL(cell(t, row, "kvm"), "");
        CU_ASSERT_STRING_EQUAL(cell(t, row, "cpu_profile"), "zen4");
        CU_ASSERT_STRING_EQUAL(cell(t, row, "costs"), "default");
        CU_ASSERT_STRING_EQUAL(cell(t, row, "levels"),
                               native || shadow ? "4" : "4+5");
        CU_ASSERT_STRING_EQUAL(cell(t, row, "shadow_policy"),
                               shadow ? "unsync" : "");
        CU_ASSERT_STRING_EQUAL(cell(t, row, "host_page_bytes"),
                               native ? "4096" : "2097152");
    }
    table_free(t);
    t = sheet(&place, "out/counters.csv");
    for (size_t row = 0; row < table_rows(t); row++)
        CU_ASSERT_STRING_EQUAL(cell(t, row, "source"), "model");
    table_free(t);
    t = sheet(&place, "out/exits.csv");
    CU_ASSERT(table_rows(t) > 0);
    for (size_t row = 0; row < table_rows(t); row++) {
        CU_ASSERT_STRING_EQUAL(cell(t, row, "source"), "model");
        CU_ASSERT_STRING_EQUAL(cell(t, row, "total_ns"), "");
    }
    table_free(t);
    place_close(&place);
}

/* The counters of `a` and `b`, run ids apart, are the same; `shell` is what
 * to put each through first. */
static void same(const struct place *place, const char *a, const char *b)
{
    char *said;
    int status = test_shell(&said,
                            "cd '%s' && cut -d, -f2- %s/counters.csv > a && "
                            "cut -d, -f2- %s/counters.csv > b && cmp a b",
                            place->folder, a, b);

    CU_ASSERT_EQUAL(status, 0);
    free(said);
}

static void traces_give_the_same(void)
{
    struct place place = place_open();

    runs(&place, "model " GUPS " -t nested,shadow --no-figures -o direct");
    runs(&place, "model " GUPS " -t nested,shadow --no-figures -o again");
    same(&place, "direct", "again");
    runs(&place, "trace " GUPS " -o gups.mvt");
    runs(&place, "model -w trace:gups.mvt -t nested,shadow --no-figures "
                 "-o replayed");
    same(&place, "direct", "replayed");
    runs(&place, "trace " GUPS " -o - | \"$MEMVIRT\" model -w trace:- "
                 "-t nested,shadow --no-figures -o piped");
    same(&place, "direct", "piped");
    place_close(&place);
}

static void alone_as_in_company(void)
{
    struct place place = place_open();
    char *said;

    runs(&place, "model " GUPS " -t native,nested --cpu zen4,skylake-sp "
                 "--no-figures -o all");
    runs(&place, "model " GUPS " -t native --cpu zen4 --no-figures -o a1");
    runs(&place, "model " GUPS " -t nested --cpu zen4 --no-figures -o a2");
    runs(&place, "model " GUPS " -t native --no-figures -o a3");
    runs(&place, "model " GUPS " -t nested --no-figures -o a4");
    CU_ASSERT_EQUAL(test_shell(&said,
                               "cd '%s' && mkdir one && (head -1 "
                               "a1/counters.csv; for d in a1 a2 a3 a4; do "
                               "tail -n +2 $d/counters.csv; done) > "
                               "one/counters.csv",
                               place.folder),
                    0);
    free(said);
    same(&place, "all", "one");
    place_close(&place);
}

/* Ends with the status, one line on standard error with the text, and no
 * phase in the results. */
static void refuses(const struct place *place, int status, const char *expected,
                    const char *arguments)
{
    char *said, *phases;
    int got = test_shell(&said,
                         "cd '%s' && rm -rf out && \"$MEMVIRT\" %s 2>said "
                         ">/dev/null; status=$?; grep -v '^\\[' said; "
                         "exit $status",
                         place->folder, arguments);
    bool fine = got == status && strstr(said, expected) &&
                strchr(said, '\n') == said + strlen(said) - 1;

    CU_ASSERT(fine);
    if (!fine)
        printf("\n  memvirt %s: status %d, said: %s\n", arguments, got, said);
    free(said);
    test_shell(&phases,
               "cd '%s' && test ! -e out/counters.csv || "
               "tail -n +2 out/counters.csv",
               place->folder);
    CU_ASSERT_STRING_EQUAL(phases, "");
    free(phases);
}

static void write_file(const struct place *place, const char *command)
{
    char *said;

    CU_ASSERT_EQUAL(test_shell(&said, "cd '%s' && %s", place->folder, command),
                    0);
    free(said);
}

static void bad_traces(void)
{
    struct place place = place_open();

    runs(&place, "trace " GUPS " -o gups.mvt");
    write_file(&place, "head -c 10000 gups.mvt > cut.mvt");
    write_file(&place, "cp gups.mvt bent.mvt && printf X | dd of=bent.mvt "
                       "bs=1 seek=9000 conv=notrunc");
    write_file(&place, "printf ' L 800000000000,8\\n' > far.txt");
    write_file(&place, "printf ' L 1000,8\\nnonsense\\n' > odd.txt");
    refuses(&place, 1, "cut.mvt: ", "model -w trace:cut.mvt -o out");
    refuses(&place, 1, "its checksum differs",
            "model -w trace:bent.mvt -o out");
    refuses(&place, 1, "far.txt: line 1: ", "model -w lackey:far.txt -o out");
    refuses(&place, 1, "odd.txt: line 2: ", "model -w lackey:odd.txt -o out");
    refuses(&place, 1, "nothere.mvt: ", "model -w trace:nothere.mvt -o out");
    refuses(&place, 1, "far.txt: ", "model -w trace:far.txt -o out");
    refuses(&place, 1, "far.txt", "trace -w lackey:far.txt -o t.mvt");
    write_file(&place, "test ! -e t.mvt");
    place_close(&place);
}

static void bad_settings(void)
{
    struct place place = place_open();

    write_file(&place, "cp '" MEMVIRT_ROOT "/mmu/profiles/zen4.conf' "
                       "p.conf && sed -i 's/ways = 72/ways = 71/' p.conf");
    refuses(&place, 1, "p.conf:", "model --cpu ./p.conf -o out");
    refuses(&place, 1, "nosuch.conf", "model --cpu nosuch -o out");
    refuses(&place, 1, "nosuch.conf", "model --costs nosuch -o out");
    write_file(&place, "echo 'costs: { name = \"x\"; };' > c.conf");
    refuses(&place, 1, "c.conf:1: ", "model --costs ./c.conf -o out");
    refuses(&place, 1, "no technique 'vmware'", "model -t vmware -o out");
    refuses(&place, 1, "no workload 'nosuch'", "model -w nosuch -o out");
    refuses(&place, 1, "memvirt run -w cr3", "model -w cr3 -o out");
    refuses(&place, 1, "none of 4+4", "model --levels 3 -o out");
    refuses(&place, 1, "no page size", "model --host-page 8K -o out");
    refuses(&place, 1, "there twice", "model -t native,native -o out");
    refuses(&place, 2, "out of range", "model --large 101 -o out");
    refuses(&place, 2, "unexpected 'gups'", "model gups -o out");
    refuses(&place, 2, "say what to record", "trace -w gups");
    refuses(&place, 1, "of one workload", "trace -w gups,bfs -o t.mvt");
    refuses(&place, 2, "'trap' records nothing",
            "trace -t trap -w gups -o t.mvt");
    refuses(&place, 1, "no workload 'gupz'", "trace -t bt -w gupz -o t.mvt");
    refuses(&place, 1, "4 levels", "trace -t bt -w gups --pcid -o t.mvt");
    place_close(&place);
}

static void comparisons(void)
{
    struct place place = place_open();
    char *said;

    runs(&place, "model -t shadow --shadow-policy traced,unsync,vtlb "
                 "-w firsttouch --size 1M --no-figures -o a");
    runs(&place, "model -t nested -w firsttouch --size 1M --no-figures -o b");
    CU_ASSERT_EQUAL(run(&place, &said, "compare a"), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(said, "model traced"));
    CU_ASSERT_PTR_NOT_NULL(strstr(said, "model unsync"));
    CU_ASSERT_PTR_NOT_NULL(strstr(said, "model vtlb"));
    free(said);
    refuses(&place, 1, "no two rows", "compare b");
    refuses(&place, 1, "nosuch", "compare a nosuch");
    refuses(&place, 2, "name 1 to 16", "compare");
    place_close(&place);
}

static void help_has_examples(void)
{
    static const char *const commands[] = {"model", "trace", "compare",
                                           "published", "walk"};
    struct place place = place_open();

    for (unsigned i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        char arguments[64], *said;

        snprintf(arguments, sizeof arguments, "%s --help", commands[i]);
        CU_ASSERT_EQUAL(run(&place, &said, arguments), 0);
        CU_ASSERT_PTR_NOT_NULL(strstr(said, "xamples:"));
        free(said);
    }
    place_close(&place);
}

TEST_SUITE(model_cli, {"rows say what they are", rows_say_what_they_are},
           {"a trace gives the same as its workload", traces_give_the_same},
           {"a machine alone as in company", alone_as_in_company},
           {"bad traces", bad_traces}, {"bad settings", bad_settings},
           {"comparing", comparisons}, {"help", help_has_examples});
