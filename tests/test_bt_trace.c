/*
 * Traces of the real guest, translated: what its user code does to the
 * working set is what the instrumented workloads do, and a modelled machine
 * follows all of it.
 */
#include "harness/bt_source.h"
#include "harness/costs.h"
#include "model/machine.h"
#include "tests/test.h"
#include "workloads/catalog.h"
#include "workloads/guest/layout.h"
#include "workloads/model/source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORDS 16384

struct tally {
    uint64_t set[WL_PHASES][3]; /* in the working set, by enum mmu_access */
    uint64_t kinds[EVENT_KINDS];
    uint64_t checksum[WL_PHASES];
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
    t->tally->ended |= kind == EVENT_END;
    if (kind <= EVENT_FETCH && t->phase >= 0 && va >= USER_MAP &&
        va < USER_LIMIT)
        t->tally->set[t->phase][kind]++;
}

/* All of a stream; `machine` (may be NULL) follows it. */
static int follow(struct event_source *source, struct machine *machine,
                  struct tally *tally, struct why *why)
{
    struct tallying t = {tally, -1};
    uint64_t *words = malloc(WORDS * sizeof *words);
    long got = 1;
    int err = words ? 0 : -ENOMEM;

    *tally = (struct tally){.ended = false};
    while (!err && (got = source->read(source, words, WORDS, why)) > 0) {
        for (long i = 0; i < got; i += event_words(event_kind(words[i])))
            count(&t, &words[i]);
        if (machine)
            err = machine_run(machine, words, (size_t)got, why);
    }
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
    struct run_spec spec = {.technique = TECH_BT, .vcpus = 1,
                            .time_limit_s = 60};
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
    err = follow(source, NULL, tally, why);
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
    err = follow(source, NULL, tally, why);
    source->close(source);
    return err;
}

static void same_as_instrumented(void)
{
    static const struct given all[] = {
{"protect", 16 << 10, 20}, {"forkwait", 16 << 10, 2}, {"process", 16<<10, 2}, {"firsttouch", 16 << 10, 2},
        {"mapunmap", 16 << 10, 20},     {"ctxsw", 16 << 10, 20},
        {"segv", 16 << 10, 20},
    };

    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct tally guest, instrumented;
        struct why why = {""};
        int err = follow_guest(&all[i], false, &guest, &why);
        if (err) printf("%s guest: %s\n", all[i].workload, why.text);
        err = follow_instrumented(&all[i], &instrumented, &why);
        if (err) printf("%s instr: %s\n", all[i].workload, why.text);
        for (int p = 0; p < WL_PHASES; p++)
            printf("%-10s %d  %8lu %8lu  | %8lu %8lu %s\n", all[i].workload, p,
                   guest.set[p][0], guest.set[p][1], instrumented.set[p][0],
                   instrumented.set[p][1], guest.checksum[p]==instrumented.checksum[p]?"":"checksum");
        fflush(stdout);
    }
}

TEST_SUITE(bt_trace, {"same as instrumented", same_as_instrumented});
