/*
 * Accesses a second of one modelled machine, by technique, on a core by
 * itself: the events are made before. "L1 hits" is a working set that the
 * first-level TLB holds; gups is 64 MiB of random updates, each a load and a
 * store. Aims: 100 million accesses a second, and 15 million with every
 * structure on under nested paging.
 *
 * Then whole runs of gups from start to end, instrumentation and everything
 * else included, on one core: as a process, and followed by one to four
 * machines, in turn. Aim: 25 times the process's time with one machine.
 */
#include "harness/costs.h"
#include "harness/profile.h"
#include "harness/stats.h"
#include "model/machine.h"
#include "tests/bench/bench.h"
#include "workloads/catalog.h"
#include "workloads/linux/process.h"
#include "workloads/model/source.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS   5
#define CHUNK    65536
#define AIM_HITS 100e6
#define AIM_GUPS 15e6
#define AIM_SLOW 25
#define MACHINES 4

/* A whole stream, and where its steady phase is. */
struct stream {
    struct event_guest guest;
    uint64_t *words;
    size_t count, begin, end;
};

static void find_steady(struct stream *s)
{
    for (size_t at = 0; at < s->count;
         at += event_words(event_kind(s->words[at]))) {
        unsigned kind = event_kind(s->words[at]);

        if (event_argument(s->words[at]) != WL_STEADY)
            continue;
        if (kind == EVENT_PHASE_BEGIN)
            s->begin = at;
        else if (kind == EVENT_PHASE_END)
            s->end = at;
    }
}

static struct stream record(const char *name, uint64_t bytes,
                            uint64_t operations)
{
    const struct wl_params params = {.working_set_bytes = bytes,
                                     .operations = operations,
                                     .page_bytes = PAGE_4K,
                                     .seed = 1,
                                     .vcpus = 1};
    struct stream s = {.words = NULL};
    struct event_source *source;
    struct why why;
    size_t room = 0;
    long got = 1;

    if (model_open(&source, name, &params, NULL, &why))
        give_up(&why);
    s.guest = source->guest;
    while (got > 0) {
        if (room - s.count < CHUNK) {
            room = 2 * room + CHUNK;
            s.words = realloc(s.words, room * sizeof *s.words);
            if (!s.words)
                abort();
        }
        got = source->read(source, s.words + s.count, CHUNK, &why);
        if (got < 0)
            give_up(&why);
        s.count += (size_t)got;
    }
    source->close(source);
    find_steady(&s);
    return s;
}

/* Seconds in the machine. A pass reads into one buffer again and again, which
 * the caches hold; so does this, and the copying is not in the time. */
static double run(struct machine *machine, const uint64_t *words, size_t count)
{
    static uint64_t buffer[CHUNK];
    double took = 0, begin;
    struct why why;

    for (size_t at = 0; at < count; at += CHUNK) {
        size_t now = count - at < CHUNK ? count - at : CHUNK;

        memcpy(buffer, words + at, now * sizeof *buffer);
        begin = seconds();
        if (machine_run(machine, buffer, now, &why))
            give_up(&why);
        took += seconds() - begin;
    }
    return took;
}

/* The steady phase holds accesses only, a word each. */
static double rate(const struct stream *s, const struct machine_config *config)
{
    struct machine *machine;
    struct why why;
    double took;

    if (machine_create(&machine, config, &s->guest, &why) ||
        machine_run(machine, s->words, s->begin, &why))
        give_up(&why);
    took = run(machine, s->words + s->begin + 1, s->end - s->begin - 1);
    machine_destroy(machine);
    return (double)(s->end - s->begin - 1) / took;
}

static const struct {
    const char *name;
    enum model_technique technique;
} techniques[] = {{"native", MODEL_NATIVE},
                  {"shadow", MODEL_SHADOW},
                  {"nested", MODEL_NESTED},
                  {"agile", MODEL_AGILE},
                  {"flat", MODEL_FLAT}};
#define TECHNIQUE_COUNT (sizeof techniques / sizeof techniques[0])

static void compare(const char *what, const struct stream *s,
                    struct machine_config config, double aim)
{
    double rates[TECHNIQUE_COUNT][ROUNDS];
    struct estimate median;

    for (unsigned round = 0; round < ROUNDS; round++)
        for (unsigned t = 0; t < TECHNIQUE_COUNT; t++) {
            config.technique = techniques[t].technique;
            rates[t][round] = rate(s, &config);
        }
    for (unsigned t = 0; t < TECHNIQUE_COUNT; t++) {
        if (stats_median(rates[t], ROUNDS, &median))
            abort();
        printf("  %-8s %-7s %7.1f million accesses a second (%.1f to %.1f), "
               "%5.1f ns each%s\n",
               what, techniques[t].name, median.value / 1e6, median.low / 1e6,
               median.high / 1e6, 1e9 / median.value,
               techniques[t].technique != MODEL_NESTED ? ""
               : median.value >= aim                   ? ": reached"
                                                       : ": below the aim");
    }
}

/* ---- Whole runs ---------------------------------------------------------- */

static const struct wl_params whole_params = {.working_set_bytes = 64u << 20,
                                              .operations = 4u << 20,
                                              .page_bytes = PAGE_4K,
                                              .seed = 1,
                                              .vcpus = 1};

static void ignore_begin(void *arg, enum wl_phase phase)
{
    (void)arg;
    (void)phase;
}

static void ignore_end(void *arg, enum wl_phase phase, uint64_t operations,
                       uint64_t begin, uint64_t end, uint64_t checksum)
{
    (void)arg, (void)phase, (void)operations;
    (void)begin, (void)end, (void)checksum;
}

static double as_process(void)
{
    const struct wl_linux_hooks hooks = {ignore_begin, ignore_end, NULL};
    double begin = seconds();
    struct why why;

    if (wl_linux_run(workload_find("gups"), &whole_params, &hooks, NULL, &why))
        give_up(&why);
    return seconds() - begin;
}

static double followed(const struct machine_config *config, unsigned count)
{
    struct machine *machines[MACHINES];
    double begin = seconds();
    uint64_t *words = malloc(CHUNK * sizeof *words);
    struct event_source *source;
    struct why why;
    long got;

    if (!words)
        abort();
    if (model_open(&source, "gups", &whole_params, NULL, &why))
        give_up(&why);
    for (unsigned i = 0; i < count; i++)
        if (machine_create(&machines[i], config, &source->guest, &why))
            give_up(&why);
    while ((got = source->read(source, words, CHUNK, &why)) > 0)
        for (unsigned i = 0; i < count; i++)
            if (machine_run(machines[i], words, (size_t)got, &why))
                give_up(&why);
    if (got < 0)
        give_up(&why);
    source->close(source);
    for (unsigned i = 0; i < count; i++)
        machine_destroy(machines[i]);
    free(words);
    return seconds() - begin;
}

static void whole_runs(struct machine_config config)
{
    double process[ROUNDS], model[MACHINES][ROUNDS];
    struct estimate ratio;
    cpu_set_t one;

    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    config.technique = MODEL_NESTED;
    for (unsigned round = 0; round < ROUNDS; round++) {
        process[round] = as_process();
        for (unsigned i = 0; i < MACHINES; i++)
            model[i][round] = followed(&config, i + 1);
    }
    for (unsigned i = 0; i < MACHINES; i++) {
        if (stats_ratio(model[i], ROUNDS, process, ROUNDS, &ratio))
            abort();
        printf("  gups with %u nested machine%s %5.1f times the process's time "
               "(%.1f to %.1f)%s\n",
               i + 1, i ? "s:" : ": ", ratio.value, ratio.low, ratio.high,
               i                         ? ""
               : ratio.value <= AIM_SLOW ? ": reached"
                                         : ": above the aim");
    }
}

int main(void)
{
    struct mmu_profile profile;
    struct model_costs costs;
    struct machine_config config = {
        .profile = &profile,
        .costs = &costs,
        .shadow_policy = SHADOW_UNSYNC,
        .nested_levels = 4,
        .host_page_bytes = PAGE_4K,
        .host_large_ppm = 1000000,
        .seed = 1,
    };
    struct stream hits, gups;
    struct why why;

    if (profile_load("skylake-sp", &profile, &why) ||
        costs_load("default", &costs, &why))
        give_up(&why);
    hits = record("pattern:cyclic", 32 * PAGE_4K, 8u << 20);
    gups = record("gups", 64u << 20, 2u << 20);
    compare("L1 hits", &hits, config, AIM_HITS);
    compare("gups", &gups, config, AIM_GUPS);
    free(hits.words);
    free(gups.words);
    whole_runs(config);
    return 0;
}
