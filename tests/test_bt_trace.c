/*
 * Traces of the real guest, translated: what its user code does to the
 * working set is what the instrumented workloads do, and a modelled machine
 * follows all of it.
 */
#include "harness/bt_source.h"
#include "tests/test.h"
#include "workloads/catalog.h"
#include "workloads/guest/layout.h"
#include "workloads/model/source.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORDS 16384

struct tally {
    uint64_t set[WL_PHASES][3]; /* in the working set, by enum mmu_access */
    uint64_t kinds[EVENT_KINDS];
    uint64_t checksum[WL_PHASES], instructions;
    bool ended;
};

struct tallying {
    struct tally *tally;
    int phase;
};

static void count(struct tallying *t, const uint64_t *event)
{
    unsigned kind = event_kind(event[0]);
    uint64_t va = event_va(event[0]);

    t->tally->kinds[kind]++;
    if (kind == EVENT_PHASE_BEGIN)
        t->phase = (int)va;
    if (kind == EVENT_PHASE_END) {
        t->tally->checksum[t->phase] = event[2];
        t->phase = -1;
    }
    if (kind == EVENT_INSTRUCTIONS)
        t->tally->instructions += event_argument(event[0]);
    t->tally->ended |= kind == EVENT_END;
    if (kind <= EVENT_FETCH && t->phase >= 0 && va >= USER_MAP &&
        va < USER_LIMIT)
        t->tally->set[t->phase][kind]++;
}

static int follow(struct event_source *source, struct tally *tally,
                  struct why *why)
{
    struct tallying t = {tally, -1};
    uint64_t *words = malloc(WORDS * sizeof *words);
    long got = 1;
    int err = words ? 0 : -ENOMEM;

    *tally = (struct tally){.ended = false};
    while (!err && (got = source->read(source, words, WORDS, why)) > 0)
        for (long i = 0; i < got; i += event_words(event_kind(words[i])))
            count(&t, &words[i]);
    free(words);
    return err ? err : (int)got;
}

struct given {
    const char *workload;
    uint64_t bytes, operations;
};

static int follow_guest(const struct given *given, bool fetches,
                        struct tally *tally, struct why *why)
{
    const struct workload *workload = workload_find(given->workload);
    struct wl_params params = {.working_set_bytes = given->bytes,
                               .operations = given->operations};
    struct run_spec spec = {
        .technique = TECH_BT, .vcpus = 1, .time_limit_s = 60};
    struct event_source *source;
    int err = workload_check(workload, &params, why);

    snprintf(spec.workload, sizeof spec.workload, "%s", given->workload);
    spec.working_set_bytes = params.working_set_bytes;
    spec.guest_page_bytes = params.page_bytes;
    spec.operations = params.operations;
    spec.seed = params.seed;
    if (!err)
        err = bt_source_open(&spec, fetches, &source, why);
    if (err)
        return err;
    err = follow(source, tally, why);
    source->close(source);
    return err;
}

static int follow_instrumented(const struct given *given, struct tally *tally,
                               struct why *why)
{
    const struct wl_params params = {.working_set_bytes = given->bytes,
                                     .operations = given->operations};
    struct event_source *source;
    int err = model_open(&source, given->workload, &params, NULL, why);

    if (err)
        return err;
    err = follow(source, tally, why);
    source->close(source);
    return err;
}

static bool skipped(int err, const struct why *why)
{
    if (err == -ENOTSUP || err == -ENOENT || err == -EACCES)
        test_skip("%s", why->text);
    return err == -ENOTSUP || err == -ENOENT || err == -EACCES;
}

static void compare(const struct given *given, const struct tally *guest,
                    const struct tally *instrumented)
{
    CU_ASSERT(guest->ended && instrumented->ended);
    for (unsigned phase = 0; phase < WL_PHASES; phase++) {
        const uint64_t *a = guest->set[phase], *b = instrumented->set[phase];

        if (a[MMU_READ] == b[MMU_READ] && a[MMU_WRITE] == b[MMU_WRITE] &&
            guest->checksum[phase] == instrumented->checksum[phase])
            continue;
        printf("\n%s, phase %u: %" PRIu64 " reads and %" PRIu64
               " writes, instrumented %" PRIu64 " and %" PRIu64
               "; checksum %#" PRIx64 " and %#" PRIx64 "\n",
               given->workload, phase, a[MMU_READ], a[MMU_WRITE], b[MMU_READ],
               b[MMU_WRITE], guest->checksum[phase],
               instrumented->checksum[phase]);
        CU_FAIL("another count");
    }
    CU_ASSERT(instrumented->set[WL_STEADY][MMU_READ] +
                  instrumented->set[WL_STEADY][MMU_WRITE] >
              0);
}

/* The working set's loads and stores, in every phase, and what was computed. */
static void same_as_instrumented(void)
{
    static const struct given all[] = {
        {"gups", 64 << 10, 2000},   {"chase", 64 << 10, 2000},
        {"stride", 64 << 10, 2000}, {"btree", 64 << 10, 200},
        {"forkwait", 16 << 10, 2},
    };

    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct tally guest, instrumented;
        struct why why = {""};
        int err = follow_guest(&all[i], false, &guest, &why);

        if (skipped(err, &why))
            return;
        if (!err)
            err = follow_instrumented(&all[i], &instrumented, &why);
        if (err)
            printf("\n%s: %s\n", all[i].workload, why.text);
        CU_ASSERT_EQUAL_FATAL(err, 0);
        compare(&all[i], &guest, &instrumented);
    }
}

/* What only the whole system has. Each instruction is fetched once, a few
 * across pages. */
static void whole_system(void)
{
    const struct given given = {
        .workload = "process", .bytes = 16 << 10, .operations = 2};
    struct why why = {""};
    struct tally t;
    int err = follow_guest(&given, true, &t, &why);

    if (skipped(err, &why))
        return;
    if (err)
        printf("\n%s\n", why.text);
    CU_ASSERT_EQUAL_FATAL(err, 0);
    CU_ASSERT(t.kinds[EVENT_FETCH] > 100);
    CU_ASSERT(t.kinds[EVENT_KERNEL_FETCH] > 10000);
    CU_ASSERT(t.kinds[EVENT_KERNEL_READ] > 1000);
    CU_ASSERT(t.kinds[EVENT_STORE] > 100);
    CU_ASSERT(t.kinds[EVENT_CLEAR] > 0);
    CU_ASSERT(t.kinds[EVENT_FAULT] > 4);
    CU_ASSERT(t.kinds[EVENT_CR3] > 4);
    CU_ASSERT(t.instructions > 10000);
    CU_ASSERT(t.kinds[EVENT_FETCH] + t.kinds[EVENT_KERNEL_FETCH] >=
              t.instructions);
    CU_ASSERT(t.kinds[EVENT_FETCH] + t.kinds[EVENT_KERNEL_FETCH] <
              t.instructions + t.instructions / 50);
}

/* Every store arrives where the stream's tables say, every fault happens, no
 * other does: or the model says so. */
static void machines_follow(void)
{
    static const char *const workloads[] = {"protect --size 16K", "remap"};
    char *folder = test_folder();

    for (unsigned i = 0; i < sizeof workloads / sizeof workloads[0]; i++) {
        char *output;
        int status = test_shell(
            &output,
            "$MEMVIRT trace -t bt -w %s --ops 10 --fetches -o %s/trace && "
            "$MEMVIRT model -w trace:%s/trace -t native,shadow,nested,agile "
            "-o %s/%u",
            workloads[i], folder, folder, folder, i);
        bool none = strstr(output, "no usable /dev/kvm");

        if (none)
            test_skip("%s", output);
        else if (status)
            printf("\n%s: %s\n", workloads[i], output);
        free(output);
        if (none)
            break;
        CU_ASSERT_EQUAL(status, 0);
    }
    free(folder);
}

TEST_SUITE(bt_trace, {"same accesses as instrumented", same_as_instrumented},
           {"a whole system", whole_system},
           {"modelled machines follow", machines_follow});
