/* The guest's self-test: passes, with the same answers on every machine, and
 * fails when a check is spoiled. */
#include "tests/test.h"
#include "harness/image.h"
#include "harness/table.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TAG "spoil check no. " /* workloads/guest/selftest.c */

struct outcome {
    char status[16], message[400], checksum[32], operations[24];
};

static void take(const struct table *runs, const char *column, char *to,
                 size_t room)
{
    snprintf(to, room, "%s", table_cell(runs, 0, table_column(runs, column)));
}

/* False when the technique is not to be had. */
static bool run(const char *technique, const char *options, struct outcome *o)
{
    char *folder = test_folder(), *output, path[600];
    struct table *runs = NULL;
    struct why why;
    bool ran;

    test_shell(&output,
               "\"$MEMVIRT\" run --no-lab --no-figures --no-counters -t %s -w "
               "selftest %s -o %s/r",
               technique, options, folder);
    snprintf(path, sizeof path, "%s/r/runs.csv", folder);
    ran = !table_read(&runs, path, &why) && table_rows(runs) == 1;
    if (ran) {
        take(runs, "status", o->status, sizeof o->status);
        take(runs, "message", o->message, sizeof o->message);
        take(runs, "checksum", o->checksum, sizeof o->checksum);
        take(runs, "operations", o->operations, sizeof o->operations);
        ran = strcmp(o->status, "unsupported") != 0;
    }
    table_free(runs);
    free(output);
    free(folder);
    return ran;
}

static void expect_pass(const char *technique, const struct outcome *o)
{
    CU_ASSERT_STRING_EQUAL(o->status, "ok");
    CU_ASSERT_PTR_NOT_NULL(strstr(o->message, "none failed"));
    if (strcmp(o->status, "ok") != 0)
        printf("(%s: %s) ", technique, o->message);
}

static void same_answers(void)
{
    static const char *const techniques[] = {"shadow", "nested"};
    struct outcome bare, o;
    unsigned compared = 0;

    if (!run("emulation", "", &bare)) {
        test_skip("no qemu-system-x86_64: 'apt install qemu-system-x86'");
        return;
    }
    expect_pass("emulation", &bare);
    CU_ASSERT(atoi(bare.operations) > 500);
    for (unsigned i = 0; i < 2; i++) {
        if (!run(techniques[i], "", &o))
            continue;
        compared++;
        expect_pass(techniques[i], &o);
        CU_ASSERT_STRING_EQUAL(o.checksum, bare.checksum);
    }
    if (!compared)
        test_skip("no usable /dev/kvm: the lab's suite runs it under KVM");
}

/* More rounds are more checks, and others in the checksum. */
static void rounds_count(void)
{
    struct outcome once, twice;

    if (!run("emulation", "--ops 500", &once) ||
        !run("emulation", "--ops 501", &twice)) {
        test_skip("no qemu-system-x86_64: 'apt install qemu-system-x86'");
        return;
    }
    expect_pass("emulation", &twice);
    CU_ASSERT_EQUAL(atoi(twice.operations), 2 * atoi(once.operations));
    CU_ASSERT_STRING_NOT_EQUAL(twice.checksum, once.checksum);
}

/* A copy of the image in which check `number` expects what nothing gives. */
static void write_spoiled(const char *path, uint32_t number)
{
    const void *image;
    size_t bytes;
    struct why why;
    FILE *file;
    char *copy, *at;

    CU_ASSERT_FATAL(!image_open(image_default_path(), &image, &bytes, &why));
    copy = malloc(bytes);
    CU_ASSERT_PTR_NOT_NULL_FATAL(copy);
    memcpy(copy, image, bytes);
    image_close(image, bytes);
    at = memmem(copy, bytes, TAG, strlen(TAG));
    CU_ASSERT_PTR_NOT_NULL_FATAL(at);
    memcpy(at + strlen(TAG), &number, sizeof number);
    file = fopen(path, "we");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    CU_ASSERT_EQUAL(fwrite(copy, 1, bytes, file), bytes);
    fclose(file);
    free(copy);
}

/* The first, which is the kernel's, and the last, its user program's. */
static void spoiled_checks_fail(void)
{
    static const char *const names[] = {"CLI, IF at first", "TSC, steps back"};
    char *folder = test_folder(), path[600], option[700];
    struct outcome o;
    uint32_t last;

    snprintf(path, sizeof path, "%s/spoiled.elf", folder);
    snprintf(option, sizeof option, "--image %s", path);
    free(folder);
    if (!run("emulation", "", &o)) {
        test_skip("no qemu-system-x86_64: 'apt install qemu-system-x86'");
        return;
    }
    last = (uint32_t)strtoul(o.operations, NULL, 10);
    for (unsigned i = 0; i < 2; i++) {
        write_spoiled(path, i ? last : 1);
        CU_ASSERT_FATAL(run("emulation", option, &o));
        CU_ASSERT_STRING_EQUAL(o.status, "failed");
        CU_ASSERT_PTR_NOT_NULL(strstr(o.message, "1 failed; first: "));
        CU_ASSERT_PTR_NOT_NULL(strstr(o.message, names[i]));
    }
}

TEST_SUITE(selftest, {"passes, with the same answers everywhere", same_answers},
           {"rounds are counted", rounds_count},
           {"a spoiled check fails and is named", spoiled_checks_fail});
