/*
 * The lab itself, apart from what memvirt does in it: what comes back from it,
 * that it repeats to the bit, and that it leaves nothing behind.
 */
#include "tests/test.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LAB MEMVIRT_ROOT "/scripts/lab/lab "

/* The lab's status for failures of its own. */
#define LAB_FAILED 125

/* What keeps a lab from starting that is no fault of ours. */
static bool not_to_be_had(const char *output)
{
    return strstr(output, " is missing: ") ||
           strstr(output, "no package linux-image") ||
           strstr(output, "cannot download");
}

/* Runs a line that starts labs in `folder`; false, and the test is skipped,
 * where this machine cannot have one. The caller frees `output` if true. */
__attribute__((format(printf, 4, 5))) static bool in_lab(
    const char *folder, int *status, char **output, const char *format, ...)
{
    char *line;
    va_list args;

    va_start(args, format);
    if (vasprintf(&line, format, args) < 0)
        abort();
    va_end(args);
    *status = test_shell(output, "cd %s || exit\n%s", folder, line);
    free(line);
    if (*status != LAB_FAILED || !not_to_be_had(*output))
        return true;
    test_skip("no lab here: %s", *output);
    free(*output);
    return false;
}

static void expect(const char *output, const char *text)
{
    CU_ASSERT_PTR_NOT_NULL(strstr(output, text));
    if (!strstr(output, text))
        printf("('%s' is not in: %s) ", text, output);
}

static void passes_on(void)
{
    char *folder = test_folder(), *output;
    int status;

    if (in_lab(folder, &status, &output,
               "echo brought >file && " LAB "--file file:/some/where --out out "
               "-- 'cat /some/where /sys/module/kvm_amd/parameters/npt; "
               "test -c /dev/kvm && echo $MEMVIRT_LAB >&2; "
               "mkdir /out/a && echo taken >/out/a/b; exit 7'")) {
        CU_ASSERT_EQUAL(status, 7);
        CU_ASSERT_STRING_EQUAL(output, "brought\nY\nsvm\n");
        free(output);
        status = test_shell(&output, "cat %s/out/a/b", folder);
        CU_ASSERT_EQUAL(status, 0);
        CU_ASSERT_STRING_EQUAL(output, "taken\n");
        free(output);
    }
    free(folder);
}

/* Arguments arrive as they were, whatever a shell would make of them. */
static void keeps_arguments(void)
{
    char *folder = test_folder(), *output;
    int status;

    if (in_lab(folder, &status, &output,
               LAB "-- printf '<%%s>' \"it's\" '$HOME *' '' 'a  b'")) {
        CU_ASSERT_EQUAL(status, 0);
        CU_ASSERT_STRING_EQUAL(output, "<it's><$HOME *><><a  b>");
        free(output);
    }
    free(folder);
}

/* Clocks, interrupts, random numbers and the kernel's log: everything that
 * chance could show in. Two labs at once, each making the image it needs. */
static void repeats_exactly(void)
{
    static const char look[] =
        "for i in 1 2 3 4 5; do cat /proc/uptime /proc/interrupts "
        "/proc/sys/kernel/random/uuid /proc/self/maps; done; "
        "cp /proc/vmstat /out; dmesg >/out/dmesg";
    char *folder = test_folder(), *output;
    int status;

    if (in_lab(folder, &status, &output, LAB "-- true")) {
        free(output);
        status = test_shell(
            &output,
            "cd %s && mkdir cache && cp -r \"${MEMVIRT_CACHE:-"
            "${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/memvirt}/linux\" cache\n"
            "export MEMVIRT_CACHE=$PWD/cache; " LAB
            "--out 1 -- '%s' >1.txt & one=$!; " LAB
            "--out 2 -- '%s' >2.txt && wait $one && "
            "cmp 1.txt 2.txt && diff -r 1 2 && test -s 1/dmesg && "
            "grep -c LOC: 1.txt",
            folder, look, look);
        CU_ASSERT_EQUAL(status, 0);
        expect(output, "5\n");
        free(output);
    }
    free(folder);
}

/* Temporary folders go below the test's own, so that what a lab left behind
 * can be told from what other labs have. */
static char *folder_for_temporaries(void)
{
    char *folder = test_folder(), tmp[256];

    snprintf(tmp, sizeof tmp, "%s/tmp", folder);
    if (mkdir(tmp, 0700) || setenv("TMPDIR", tmp, 1))
        abort();
    return folder;
}

/* Whatever a lab starts has its temporary folder among its arguments; they
 * are looked up from a file, for not to be found among grep's. */
static void check_nothing_left(const char *folder)
{
    char *output;
    int status = test_shell(&output,
                            "cd %s && echo \"$TMPDIR/memvirt-lab\" >pattern\n"
                            "for i in 1 2 3 4 5 6; do sleep 0.5\n"
                            "ls -d $TMPDIR/* 2>/dev/null || grep -slF -f "
                            "pattern /proc/[0-9]*/cmdline || exit 0\n"
                            "done; exit 1",
                            folder);

    CU_ASSERT_EQUAL(status, 0);
    if (status)
        printf("(left: %s) ", output);
    free(output);
}

static void stops_in_time(void)
{
    char *folder = folder_for_temporaries(), *output;
    int status;

    if (in_lab(folder, &status, &output,
               LAB "--timeout 10 -- 'echo up; while :; do :; done'")) {
        CU_ASSERT_EQUAL(status, LAB_FAILED);
        expect(output, "up\n");
        expect(output, "stopped after 10 s (--timeout)");
        free(output);
        check_nothing_left(folder);
    }
    unsetenv("TMPDIR");
    free(folder);
}

/* A lab whose command never ends is killed as `victim` says once it is up. */
static void kill_one(const char *victim, bool clean)
{
    char *folder = folder_for_temporaries(), *output;
    int status;

    if (in_lab(folder, &status, &output,
               "echo \"" LAB "-- 'echo up; while :; do :; done' & echo "
               "\\$! >lab; wait\" >start\n"
               "sh start >log & parent=$!\n"
               "for i in $(seq 100); do grep -q up log && break; "
               "kill -0 $parent || break; sleep 0.3; done\n"
               "grep up log && kill -KILL %s; cat log",
               victim)) {
        expect(output, "up\n");
        free(output);
        if (!clean) {
            status = test_shell(&output, "sleep 1; " LAB "--timeout 1 -- true");
            CU_ASSERT_EQUAL(status, LAB_FAILED);
            free(output);
        }
        check_nothing_left(folder);
    }
    unsetenv("TMPDIR");
    free(folder);
}

static void dies_with_its_parent(void)
{
    kill_one("$parent", true);
}

/* Its folder is the next lab's to remove. */
static void dies_hard(void)
{
    kill_one("$(cat lab)", false);
}

/* A machine that gives up says why. */
static void reports_a_panic(void)
{
    char *folder = test_folder(), *output;
    int status;

    if (in_lab(folder, &status, &output,
               LAB "-- 'echo c >/proc/sysrq-trigger'")) {
        CU_ASSERT_EQUAL(status, LAB_FAILED);
        expect(output, "did not get to the end");
        expect(output, "Kernel panic");
        free(output);
    }
    free(folder);
}

static void refuses_nonsense(void)
{
    static const struct {
        const char *arguments, *says;
    } cases[] = {
        {"", "no command"},
        {"true", "unknown"},
        {"--", "no command"},
        {"--bogus 1 -- true", "--bogus"},
        {"--machine mips -- true", "'mips'"},
        {"--memory 12 -- true", "--memory"},
        {"--memory 99999999999999999999 -- true", "--memory"},
        {"--timeout 1h -- true", "--timeout"},
        {"--file /etc/passwd -- true", "SRC:DST"},
        {"--file /none/such:/a -- true", "/none/such"},
        {"--trace t -- true", "--machine vmx"},
        {"--out /proc/none -- true", "/proc/none"},
        {"--out", "--out"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *output;
        int status = test_shell(&output, LAB "%s", cases[i].arguments);

        CU_ASSERT_EQUAL(status, LAB_FAILED);
        CU_ASSERT_EQUAL(strncmp(output, "lab: ", 5), 0);
        CU_ASSERT_EQUAL(strcspn(output, "\n") + 1, strlen(output));
        expect(output, cases[i].says);
        free(output);
    }
}

TEST_SUITE(lab_machine, {"status, output, files and /out come back", passes_on},
           {"arguments arrive as they were", keeps_arguments},
           {"two labs at once are the same to the bit", repeats_exactly},
           {"a time limit ends it", stops_in_time},
           {"it ends with whoever started it", dies_with_its_parent},
           {"killed hard, the next one cleans up", dies_hard},
           {"a panic is reported", reports_a_panic},
           {"wrong options are refused in a sentence", refuses_nonsense});

/* ---- Bochs ------------------------------------------------------------- */

static void intel_machine(void)
{
    char *folder = test_folder(), *output;
    int status;

    if (in_lab(folder, &status, &output,
               LAB "--machine vmx --out out -- 'cat "
                   "/sys/module/kvm_intel/parameters/ept; test -c /dev/kvm && "
                   "echo $MEMVIRT_LAB; head -c 50000 /bin/busybox >/out/file; "
                   "exit 3'")) {
        CU_ASSERT_EQUAL(status, 3);
        CU_ASSERT_STRING_EQUAL(output, "Y\nvmx\n");
        free(output);
        status = test_shell(
            &output, "head -c 50000 /bin/busybox | cmp - %s/out/file", folder);
        CU_ASSERT_EQUAL(status, 0);
        free(output);
    }
    free(folder);
}

/* Two windows: a nested load with its walk and a write of an accessed bit,
 * then two loads of which only one walks. What is outside does not count. */
static void counts_walks(void)
{
    static const char trace[] =
        "[CPU0 RD]: PHY 0x1000 (len=8, WB): 0x0 0x1\t; PTE\n"
        "Memory-Tracing enabled for CPU0\n"
        "[CPU0 RD]: PHY 0x1000 (len=8, WB): 0x0 0x1\t; EPT PML4E\n"
        "[CPU0 RD]: PHY 0x1000 (len=8, WB): 0x0 0x1\t; EPT PTE\n"
        "[CPU0 RD]: PHY 0x1000 (len=8, WB): 0x0 0x1\t; PDPTE\n"
        "[CPU0 WR]: PHY 0x1000 (len=8, WB): 0x0 0x1\t; PTE WR\n"
        "[CPU0 RD]: LIN 0xffff8000 PHY 0x2000 (len=1, WB): 0x1\n"
        "Memory-Tracing disabled for CPU0\n"
        "[CPU0 RD]: LIN 0xffff8000 PHY 0x2000 (len=1, WB): 0x1\n"
        "Memory-Tracing enabled for CPU0\n"
        "[CPU0 RD]: PHY 0x1000 (len=8, WB): 0x0 0x1\t; PDE\n"
        "[CPU0 RD]: LIN 0xffff8000 PHY 0x2000 (len=1, WB): 0x1\n"
        "[CPU0 WR]: LIN 0xffff8008 PHY 0x2008 (len=8, WB): 0x1\n"
        "[CPU0 RD]: LIN 0xffff8000 PHY 0x2000 (len=1, WB): 0x1\n"
        "Memory-Tracing disabled for CPU0\n";
    char *folder = test_folder(), path[256], *output;
    FILE *file;

    snprintf(path, sizeof path, "%s/trace", folder);
    file = fopen(path, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fputs(trace, file);
    fclose(file);
    CU_ASSERT_EQUAL(
        test_shell(&output, MEMVIRT_ROOT "/scripts/lab/walk-refs %s", path), 0);
    CU_ASSERT_STRING_EQUAL(output,
                           "window,loads,ept_refs,guest_refs,refs_per_load\n"
                           "1,1,2,1,3\n"
                           "2,2,0,1,0.5\n");
    free(output);
    free(folder);
}

TEST_SUITE(lab_vmx, {"status, output and /out come back", intel_machine},
           {"walk-refs counts reads by window and dimension", counts_walks});
