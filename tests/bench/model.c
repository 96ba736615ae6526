/*
 * Accesses a second of one modelled machine, by technique, on a core by
 * itself: the events are made before and lie in memory. "L1 hits" is a working
 * set that the first-level TLB holds; gups is 64 MiB of random updates, each a
 * load and a store. Aims: 100 million accesses a second, and 15 million with
 * every structure on under nested paging. What one more machine costs a run
 * that several follow is its time alone: they take turns.
 */
#include "harness/costs.h"
#include "harness/profile.h"
#include "harness/stats.h"
#include "model/machine.h"
#include "workloads/model/source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS   5
#define CHUNK    65536
#define AIM_HITS 100e6
#define AIM_GUPS 15e6

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void give_up(const struct why *why)
{
    fprintf(stderr, "%s\n", why->text);
    exit(1);
}

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

static void run(struct machine *machine, const uint64_t *words, size_t count)
{
    struct why why;

    for (size_t at = 0; at < count; at += CHUNK)
        if (machine_run(machine, words + at,
                        count - at < CHUNK ? count - at : CHUNK, &why))
            give_up(&why);
}

/* The steady phase holds accesses only, a word each. */
static double rate(const struct stream *s, const struct machine_config *config)
{
    struct machine *machine;
    struct why why;
    double begin, took;

    if (machine_create(&machine, config, &s->guest, &why) ||
        machine_run(machine, s->words, s->begin, &why))
        give_up(&why);
    begin = seconds();
    run(machine, s->words + s->begin + 1, s->end - s->begin - 1);
    took = seconds() - begin;
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
    return 0;
}
