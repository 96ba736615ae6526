/*
 * What instrumentation costs: updates of gups as a plain process and
 * instrumented, in turn, and how many events come out of runs that never miss
 * the software TLB. The reader throws the events away on a CPU of its own;
 * what a model does with them is not in here. Aims: 40 ns more an update, 100
 * million events a second.
 */
#include "harness/stats.h"
#include "tests/bench/bench.h"
#include "workloads/catalog.h"
#include "workloads/linux/process.h"
#include "workloads/model/source.h"

#include <stdio.h>
#include <stdlib.h>

#define ROUNDS     5
#define WORDS      16384
#define UPDATES    (16u << 20)
#define AIM_NS     40
#define AIM_EVENTS 100e6

/* One phase: how long, what it did and how many words it said. */
struct timing {
    enum wl_phase phase;
    double begin, seconds;
    uint64_t operations, words;
};

static void hook_begin(void *arg, enum wl_phase phase)
{
    struct timing *t = arg;

    if (phase == t->phase)
        t->begin = seconds();
}

static void hook_end(void *arg, enum wl_phase phase, uint64_t operations,
                     uint64_t tsc_begin, uint64_t tsc_end, uint64_t checksum)
{
    struct timing *t = arg;

    (void)tsc_begin;
    (void)tsc_end;
    (void)checksum;
    if (phase != t->phase)
        return;
    t->seconds = seconds() - t->begin;
    t->operations = operations;
}

static void plain(const char *name, const struct wl_params *params,
                  struct timing *t)
{
    const struct wl_linux_hooks hooks = {hook_begin, hook_end, t};
    struct why why;

    if (wl_linux_run(workload_find(name), params, &hooks, NULL, &why))
        give_up(&why);
}

static void look_at(const uint64_t *words, long count, struct timing *t)
{
    static const uint8_t sizes[] = {
        [EVENT_STORE] = 3,       [EVENT_FAULT] = 2,     [EVENT_CR3] = 2,
        [EVENT_PHASE_BEGIN] = 1, [EVENT_PHASE_END] = 3, [EVENT_END] = 1};

    for (long i = 0; i < count;) {
        unsigned kind = event_kind(words[i]);

        if (kind == EVENT_PHASE_BEGIN && event_argument(words[i]) == t->phase) {
            t->begin = seconds();
            t->words = 0;
        }
        if (kind == EVENT_PHASE_END && event_argument(words[i]) == t->phase) {
            t->seconds = seconds() - t->begin;
            t->operations = words[i + 1];
            return;
        }
        i += sizes[kind] ? sizes[kind] : 1;
    }
    t->words += (uint64_t)count;
}

static void instrumented(const char *name, const struct wl_params *params,
                         struct timing *t)
{
    static uint64_t words[WORDS];
    struct event_source *source;
    struct why why;
    long count;

    t->seconds = 0;
    if (model_open(&source, name, params, NULL, &why))
        give_up(&why);
    while ((count = source->read(source, words, WORDS, &why)) > 0)
        if (!t->seconds)
            look_at(words, count, t);
    if (count)
        give_up(&why);
    source->close(source);
}

static double median_of(const double *values)
{
    struct estimate median;

    if (stats_median(values, ROUNDS, &median))
        exit(1);
    return median.value;
}

static void cost_of_gups(void)
{
    const struct wl_params params = {.working_set_bytes = 64 << 20,
                                     .page_bytes = 4096,
                                     .operations = UPDATES,
                                     .seed = 1,
                                     .vcpus = 1};
    struct timing t = {.phase = WL_STEADY};
    double before[ROUNDS], after[ROUNDS], more[ROUNDS], median;

    for (unsigned i = 0; i < ROUNDS; i++) {
        plain("gups", &params, &t);
        before[i] = t.seconds / UPDATES * 1e9;
        instrumented("gups", &params, &t);
        after[i] = t.seconds / UPDATES * 1e9;
        more[i] = after[i] - before[i];
    }
    median = median_of(more);
    printf("gups, 64 MiB: %.1f ns an update as a process, %.1f instrumented: "
           "%.1f more%s\n",
           median_of(before), median_of(after), median,
           median > AIM_NS ? ", above 40" : "");
}

static void rate_of(const char *name, uint64_t operations)
{
    const struct wl_params params = {.working_set_bytes = 64 << 20,
                                     .operations = operations};
    struct timing t = {.phase = WL_STEADY};
    double rates[ROUNDS], median;

    for (unsigned i = 0; i < ROUNDS; i++) {
        instrumented(name, &params, &t);
        rates[i] = (double)t.words / t.seconds;
    }
    median = median_of(rates);
    printf("%-18s %6.1f million words/s%s\n", name, median / 1e6,
           median < AIM_EVENTS ? ", below 100" : "");
}

static void rate_of_faults(void)
{
    const struct wl_params params = {.working_set_bytes = 1 << 30,
                                     .operations = 1 << 18};
    struct timing t = {.phase = WL_FIRST_TOUCH};
    double each[ROUNDS];

    for (unsigned i = 0; i < ROUNDS; i++) {
        instrumented("pattern:cyclic", &params, &t);
        each[i] = t.seconds / (double)t.operations * 1e9;
    }
    printf("first touch        %6.1f ns a page\n", median_of(each));
}

int main(void)
{
    cost_of_gups();
    rate_of("seq", 64 << 20);
    rate_of("pattern:sequential", 64 << 20);
    rate_of("pattern:cyclic", 64 << 20);
    rate_of("pattern:uniform", 64 << 20);
    rate_of("pattern:zipf", 32 << 20);
    rate_of_faults();
    return 0;
}
