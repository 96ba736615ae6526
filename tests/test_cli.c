/*
 * The command as a person types it: usage errors, hostile images, folders
 * that cannot be used, KVM that is not there, Ctrl-C. Exit status 2 is for
 * usage, 1 for failure; either comes with one line that names cause and cure.
 */
#include "harness/table.h"
#include "tests/images.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SMALL "-t shadow -w cpuid --ops 10 --no-lab --no-figures"

/* Runs memvirt with `arguments`; checks status and that `expected` is said. */
static void says(int status, const char *expected, const char *arguments)
{
    char *output;
    int got = test_shell(&output, "\"$MEMVIRT\" %s", arguments);

    CU_ASSERT_EQUAL(got, status);
    CU_ASSERT_PTR_NOT_NULL(strstr(output, expected));
    if (got != status || !strstr(output, expected))
        printf("\n  memvirt %s: status %d, said: %s\n", arguments, got, output);
    free(output);
}

static void usage_errors(void)
{
    says(2, "no command 'frobnicate'", "frobnicate");
    says(2, "Usage: memvirt", "");
    says(2, "there is no workload 'nosuch'", "run -w nosuch");
    says(2, "native, emulation, shadow, nested", "run -t vmware");
    says(2, "is there twice", "run -t shadow,shadow");
    says(2, "empty element", "run -t shadow,");
    says(2, "unrecognized option", "run --frobnicate");
    says(2, "requires an argument", "run -w");
    says(2, "unexpected 'gups'", "run gups");
    says(2, "is not a size", "run -w gups --size many");
    says(2, "no unit", "run -w gups --size 4X");
    says(2, "does not fit", "run -w gups --size 99999999999T");
    says(2, "half of the address space", "run -w gups --size 200T");
    says(2, "4K, 2M or 1G", "run -w gups --guest-page 8K");
    says(2, "host page", "run -w gups --host-page 3M");
    says(2, "out of range", "run -w gups --vcpus 0");
    says(2, "whole number", "run -w gups --ops ten");
    says(2, "core:", "run -w gups --cpu core:999");
    says(2, "node", "run -w gups --numa 77");
    says(2, "expected '-- run", "lab");
    says(2, "not svm or vmx", "lab --machine arm -- run -w cpuid");
    says(2, "no list of", "list flavours");
    says(2, "--bt-adaptive: 'maybe' is not on or off",
         "run -t bt --bt-adaptive maybe");
    says(2, "--bt-adaptive: the list is too long",
         "run -t bt --bt-adaptive on,off,on");
    says(2, "--assist: 'maybe' is not on or off", "run -t bt --assist maybe");
    says(2, "not from 16K to 2M", "run -t bt --bt-cache 4K");
    says(2, "not from 16K to 2M", "run -t bt --bt-cache 4M");
    says(2, "is not a size", "run -t bt --bt-cache small");
    says(1, "the model has no technique 'bt'", "model -t bt");
    says(2, "unexpected 'x'", "published x");
    says(2, "unexpected 'y'", "published --nanobenchmarks x y");
    says(1, "/nonexistent", "published --nanobenchmarks /nonexistent");
}

static void help_has_examples(void)
{
    static const char *const commands[] = {
        "run", "lab", "list", "kvm", "published", "doctor", "figures", "walk"};

    for (unsigned i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        char arguments[64];

        snprintf(arguments, sizeof arguments, "%s --help", commands[i]);
        says(0, "Examples:", arguments);
    }
    says(0, "Examples:", "--help");
}

static void walk_as_typed(void)
{
    says(0, "24 references cold", "walk -t nested 0x7f1234567abc");
    says(0, "5 references cold", "walk --levels 5 139716061985468");
    says(0, "15 references cold",
         "walk -t nested --guest-page 2M --host-page 2M");
    says(0, "hidden page fault", "walk -t shadow");
    says(0, "\"kind\": \"ept_violation\"",
         "walk -t nested --end violation --json");
    says(0, "CR4.SMAP", "walk --kernel --prot rwu");
    says(0, "not present", "walk --prot none");
    says(0, "PKRU", "walk --state pke --pkru 0x4 --entry leaf:+key1");
    says(0, "XU",
         "walk -t nested --state mbec,advanced --access fetch "
         "--entry ept-pte:-xu");
    says(0, "NPT page-walk cache", "walk -t nested --format npt --cpu zen4");
    says(1, "output can't be written", "walk --json >/dev/full");
}

static void walk_usage_errors(void)
{
    says(2, "is not a number", "walk 7f1234567abc");
    says(2, "is not a number", "walk -- -1");
    says(2, "is not a number", "walk ''");
    says(2, "does not fit 64 bits", "walk 0x11112222333344445");
    says(2, "one address at a time", "walk 1 2");
    says(2, "native, nested, shadow", "walk -t vtlb");
    says(2, "4+4, 4+5, 5+4, 5+5", "walk --levels 3");
    says(2, "add --technique nested, or write 4", "walk --levels 4+5");
    says(2, "4K, 2M or 1G", "walk --guest-page 8K");
    says(2, "native has no host", "walk --host-page 2M");
    says(2, "add --technique nested", "walk --format npt");
    says(2, "ept, npt", "walk -t nested --format spt");
    says(2, "read, write, fetch", "walk --access execute");
    says(2, "letters rwxu", "walk --prot rwz");
    says(2, "add r", "walk -t nested --host-prot w");
    says(2, "is none of wp", "walk --state cet");
    says(2, "32 bits", "walk --pkru 0x100000000");
    says(2, "there is no ending", "walk --end badly");
    says(2, "is of nested paging", "walk --end violation");
    says(2, "is of no one entry", "walk --end non-canonical@pde");
    says(2, "NPT has no misconfiguration",
         "walk -t nested --format npt --end misconfiguration");
    says(2, "reads no PTE", "walk --guest-page 2M --entry pte:-p");
    says(2, "at most 16 changes",
         "walk $(for i in $(seq 17); do echo --entry pte:-p; done)");
    says(1, "nosuch", "walk --cpu nosuch");
}

/* ---- Runs that fail are rows ------------------------------------------- */

static bool have_kvm(void)
{
    if (!access("/dev/kvm", R_OK | W_OK))
        return true;
    test_skip("no access to /dev/kvm: load kvm, join the group kvm");
    return false;
}

/* Runs into a fresh folder, expects exit status `status` and, in the only
 * row, `row_status` and a message that has `message` in it. */
static void row_says(int status, const char *row_status, const char *message,
                     const char *prefix, const char *arguments)
{
    char *folder = test_folder(), *output, path[600];
    struct table *runs = NULL;
    struct why why = {""};
    int got = test_shell(&output, "%s \"$MEMVIRT\" run %s -o %s/r", prefix,
                         arguments, folder);

    snprintf(path, sizeof path, "%s/r/runs.csv", folder);
    CU_ASSERT_EQUAL(got, status);
    CU_ASSERT_EQUAL(table_read(&runs, path, &why), 0);
    if (runs && table_rows(runs) == 1) {
        const char *said = table_cell(runs, 0, table_column(runs, "message"));

        CU_ASSERT_STRING_EQUAL(
            table_cell(runs, 0, table_column(runs, "status")), row_status);
        CU_ASSERT_PTR_NOT_NULL(strstr(said, message));
        if (!strstr(said, message))
            printf("\n  %s: the row says: %s\n", arguments, said);
    } else {
        CU_FAIL("not one row");
        printf("\n  %s: status %d: %s\n", arguments, got, output);
    }
    table_free(runs);
    free(output);
    free(folder);
}

static void write_file(const char *folder, const char *name, const void *bytes,
                       size_t count)
{
    char path[600];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    file = fopen(path, "we");
    CU_ASSERT_FATAL(file != NULL);
    CU_ASSERT_EQUAL(fwrite(bytes, 1, count, file), count);
    fclose(file);
}

static void image_says(const char *folder, const char *name,
                       const char *message)
{
    char arguments[800];

    snprintf(arguments, sizeof arguments, SMALL " --image %s/%s --time-limit 2",
             folder, name);
    row_says(1, "failed", message, "", arguments);
}

static void hostile_images(void)
{
    static const char halt[] = "\xf4", loop[] = "\xeb\xfe";
    /* lidt of an empty table; ud2 */
    static const char triple[] = "\x48\xc7\xc4\x00\x08\x10\x00"
                                 "\x0f\x01\x1c\x24\x0f\x0b";
    /* fill 4 KiB at 0x8000 with 0xff, byte by byte; out %eax,$0xf4 */
    static const char scribble[] = "\xbf\x00\x80\x00\x00\xb9\x00\x10\x00\x00"
                                   "\xc6\x07\xff\xff\xc7\xff\xc9\x75\xf7"
                                   "\xe7\xf4\xeb\xfe";
    char *folder = test_folder();
    struct test_image image;

    if (have_kvm()) {
        image = test_image(halt, 1);
        write_file(folder, "halt", &image, sizeof image);
        write_file(folder, "cut", &image, sizeof image - 10);
        image.header.e_machine = EM_AARCH64;
        write_file(folder, "arm", &image, sizeof image);
        image = test_image(loop, sizeof loop - 1);
        write_file(folder, "loop", &image, sizeof image);
        image = test_image(triple, sizeof triple - 1);
        write_file(folder, "triple", &image, sizeof image);
        image = test_image(scribble, sizeof scribble - 1);
        write_file(folder, "scribble", &image, sizeof image);
        write_file(folder, "text", "hello", 5);
        write_file(folder, "empty", "", 0);
        image_says(folder, "halt", "halted");
        image_says(folder, "cut", "truncated");
        image_says(folder, "arm", "another machine");
        image_says(folder, "loop", "time limit of 2 s");
        image_says(folder, "triple", "triple-faulted");
        image_says(folder, "scribble", "no results");
        image_says(folder, "text", "not an ELF");
        image_says(folder, "empty", "empty");
        image_says(folder, "nosuch", "cannot read the guest image");
        image_says(folder, ".", "no regular file");
    }
    free(folder);
}

static void more_than_there_is(void)
{
    if (!have_kvm())
        return;
    row_says(1, "failed", "smaller --size", "",
             "-t shadow -w gups --size 8T --no-lab --no-figures --ram 400G");
    row_says(0, "unsupported", "hugepages-1048576kB", "",
             "-t shadow -w cpuid --ops 10 --host-page 1G --no-lab "
             "--no-figures");
    row_says(0, "unsupported", "nr_hugepages", "",
             "-t native -w firsttouch --size 1G --guest-page 1G --no-lab "
             "--no-figures");
}

static bool am_root(void)
{
    if (!geteuid())
        return true;
    test_skip("needs root, to take KVM away");
    return false;
}

static void without_kvm(void)
{
    if (!am_root() || !have_kvm())
        return;
    says(2, "nothing to run",
         "list >/dev/null; unshare -m sh -c 'mount -t tmpfs none "
         "/dev && \"$MEMVIRT\" run " SMALL "'");
    says(2, "nothing to run",
         "list >/dev/null; setpriv --reuid=65534 --clear-groups \"$MEMVIRT\" "
         "run " SMALL);
}

/* The second half of the runs finds KVM gone: rows, not a crash. */
static void kvm_goes_away(void)
{
    char *folder = test_folder(), *output, path[600];
    struct table *runs = NULL;
    unsigned ok = 0, lost = 0;
    struct why why;

    if (am_root() && have_kvm()) {
        test_shell(&output,
                   "cd %s && unshare -m sh -c '\"$MEMVIRT\" run -t shadow -w "
                   "cpuid --ops 30000 --reps 8 --no-lab --no-figures -o r & "
                   "while [ \"$(wc -l <r/runs.csv 2>/dev/null || echo 0)\" "
                   "-lt 3 ]; do sleep 0.05; done; mount --bind /dev/null "
                   "/dev/kvm; wait'",
                   folder);
        free(output);
        snprintf(path, sizeof path, "%s/r/runs.csv", folder);
        CU_ASSERT_EQUAL(table_read(&runs, path, &why), 0);
        for (size_t i = 0; runs && i < table_rows(runs); i++) {
            const char *status =
                table_cell(runs, i, table_column(runs, "status"));

            ok += !strcmp(status, "ok");
            lost += strcmp(status, "ok") &&
                    *table_cell(runs, i, table_column(runs, "message"));
        }
        CU_ASSERT(ok >= 2);
        CU_ASSERT(lost >= 1);
        CU_ASSERT_EQUAL(ok + lost, 8);
        table_free(runs);
    }
    free(folder);
}

/* ---- What a translated run says of itself ------------------------------- */

/* The sum of the run's counters whose names begin so, and how many. */
static double counted(const struct table *counters, const char *run,
                      const char *prefix, unsigned *rows)
{
    double sum = 0, value;

    *rows = 0;
    for (size_t i = 0; i < table_rows(counters); i++) {
        const char *name =
            table_cell(counters, i, table_column(counters, "name"));

        if (strcmp(table_cell(counters, i, table_column(counters, "run_id")),
                   run) ||
            strncmp(name, prefix, strlen(prefix)))
            continue;
        CU_ASSERT(
            table_number(counters, i, table_column(counters, "value"), &value));
        CU_ASSERT(value >= 0);
        sum += value;
        ++*rows;
    }
    return sum;
}

static void check_translated(const struct table *runs,
                             const struct table *counters)
{
    static const char *const columns[][2] = {{"technique", "bt"},
                                             {"shadow_policy", "unsync"},
                                             {"bt_adaptive", "off"},
                                             {"bt_cache_bytes", "65536"}};
    int checksum = table_column(runs, "checksum");
    unsigned rows;

    for (size_t i = 1; i < 3; i++)
        CU_ASSERT_STRING_EQUAL(table_cell(runs, 0, checksum),
                               table_cell(runs, i, checksum));
    for (unsigned i = 0; i < 4; i++) {
        int column = table_column(runs, columns[i][0]);

        CU_ASSERT_STRING_EQUAL(table_cell(runs, 0, column), columns[i][1]);
        if (i > 1)
            CU_ASSERT_STRING_EQUAL(table_cell(runs, 1, column), "");
    }
    CU_ASSERT(counted(counters, "host-0001", "bt_blocks", &rows) > 0);
    CU_ASSERT_EQUAL(rows, 1);
    CU_ASSERT(counted(counters, "host-0001", "bt_instructions_", &rows) > 0);
    CU_ASSERT_EQUAL(rows, 10);
    CU_ASSERT(counted(counters, "host-0001", "bt_code_bytes", &rows) >
              counted(counters, "host-0001", "bt_guest_bytes", &rows));
    counted(counters, "host-0002", "bt_", &rows);
    CU_ASSERT_EQUAL(rows, 0);
}

static void translated(void)
{
    char *folder = test_folder(), *output, path[600];
    struct table *runs = NULL, *counters = NULL;
    struct why why;
    int status;

    if (have_kvm()) {
        status =
            test_shell(&output,
                       "\"$MEMVIRT\" run -t bt,trap,native -w kcall --ops 3 "
                       "--bt-adaptive off --bt-cache 64K --no-lab "
                       "--no-figures -o %s/r",
                       folder);
        CU_ASSERT_EQUAL(status, 0);
        free(output);
        snprintf(path, sizeof path, "%s/r/runs.csv", folder);
        CU_ASSERT_EQUAL(table_read(&runs, path, &why), 0);
        snprintf(path, sizeof path, "%s/r/counters.csv", folder);
        CU_ASSERT_EQUAL(table_read(&counters, path, &why), 0);
        if (runs && counters && table_rows(runs) == 3)
            check_translated(runs, counters);
        else
            CU_FAIL("not three rows");
        table_free(runs);
        table_free(counters);
    }
    free(folder);
}

/* ---- Folders and Ctrl-C ------------------------------------------------ */

static void result_folders(void)
{
    char *folder = test_folder(), arguments[800];

    write_file(folder, "mine", "x", 1);
    snprintf(arguments, sizeof arguments, "run " SMALL " -o %s", folder);
    says(1, "nothing is overwritten", arguments);
    says(1, "name another with -o", "run " SMALL " -o /proc/nosuch/r");
    snprintf(arguments, sizeof arguments, "run " SMALL " -o %s/mine/r", folder);
    says(1, "name another with -o", arguments);
    free(folder);
}

static void interrupted(void)
{
    char *folder = test_folder(), *output, path[600];
    struct table *runs = NULL;
    struct why why = {""};
    int status;

    if (have_kvm()) {
        status = test_shell(
            &output,
            "cd %s && { \"$MEMVIRT\" run -t shadow -w cpuid --ops 100000 "
            "--reps 50 --no-lab --no-figures -o r & pid=$!; "
            "while [ \"$(cat r/runs.csv 2>/dev/null | wc -l)\" -lt 3 ]; "
            "do sleep 0.05; done; kill -TERM $pid; wait $pid; echo status $?; "
            /* Ours, by their folder: others may run memvirt here too. */
            "for p in $(pgrep -f '[m]emvirt one-run'); do "
            "[ \"$(readlink /proc/$p/cwd)\" = \"$PWD\" ] && echo child left; "
            "done; for i in /sys/kernel/tracing/instances/memvirt-*; do "
            "[ -d \"$i\" ] && ! kill -0 ${i##*-} && echo instance left; "
            "done; true; }",
            folder);
        CU_ASSERT_EQUAL(status, 0);
        CU_ASSERT_PTR_NOT_NULL(strstr(output, "status 143"));
        CU_ASSERT_PTR_NOT_NULL(strstr(output, "interrupted;"));
        CU_ASSERT_PTR_NULL(strstr(output, "left"));
        if (!strstr(output, "status 143") || strstr(output, "left"))
            printf("\n%s\n", output);
        snprintf(path, sizeof path, "%s/r/runs.csv", folder);
        CU_ASSERT_EQUAL(table_read(&runs, path, &why), 0);
        if (runs) {
            CU_ASSERT(table_rows(runs) >= 2 && table_rows(runs) < 50);
        }
        table_free(runs);
        free(output);
    }
    free(folder);
}

/* ---- Reading commands -------------------------------------------------- */

static void reading_commands(void)
{
    says(0, "shadow", "list techniques");
    says(0, "guest kernel translated", "list techniques");
    says(0, "gups", "list workloads");
    says(0, "kindirect", "list workloads");
    says(0, "/dev/kvm", "doctor");
    says(0, "\"findings\"", "doctor --json");
    says(1, "cannot", "figures /nonexistent");
}

TEST_SUITE(cli, {"usage errors", usage_errors},
           {"help has examples", help_has_examples},
           {"hostile images are failed rows", hostile_images},
           {"more memory than there is", more_than_there_is},
           {"without KVM", without_kvm},
           {"KVM goes away between runs", kvm_goes_away},
           {"what a translated run says of itself", translated},
           {"result folders", result_folders},
           {"an interrupt leaves whole rows", interrupted},
           {"reading commands", reading_commands}, {"walk", walk_as_typed},
           {"walk's usage errors", walk_usage_errors});
