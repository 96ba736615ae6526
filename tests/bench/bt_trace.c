/*
 * Accesses a second that `memvirt trace -t bt` records: user code of the real
 * guest, in its steady phase, to a trace on /dev/null. The guest with its log
 * and the expansion are one thread, the trace writer another; beside the wall
 * clock's rate stands the one by the busier thread's CPU time, which is what a
 * host with two idle cores has. The aim is 20 million a second.
 */
#include "harness/bt_source.h"
#include "harness/stats.h"
#include "tests/bench/bench.h"
#include "trace/file.h"
#include "workloads/catalog.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ROUNDS 3
#define WORDS  16384
#define AIM    20e6

struct moment {
    double wall, process, thread;
};

struct measured {
    struct moment begin, end;
    double data, fetches; /* in the steady phase */
    bool steady;
};

static double clock_of(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static struct moment moment(void)
{
    return (struct moment){clock_of(CLOCK_MONOTONIC),
                           clock_of(CLOCK_PROCESS_CPUTIME_ID),
                           clock_of(CLOCK_THREAD_CPUTIME_ID)};
}

static void die(const struct why *why)
{
    fprintf(stderr, "%s\n", why->text);
    exit(1);
}

static void look_at(struct measured *m, const uint64_t *words, long count)
{
    for (long i = 0; i < count; i += event_words(event_kind(words[i]))) {
        unsigned kind = event_kind(words[i]);
        bool steady = event_argument(words[i]) == WL_STEADY;

        if (kind == EVENT_PHASE_BEGIN && steady) {
            m->steady = true;
            m->begin = moment();
        } else if (kind == EVENT_PHASE_END && steady) {
            m->steady = false;
            m->end = moment();
        } else if (m->steady) {
            bool fetch = kind == EVENT_FETCH || kind == EVENT_KERNEL_FETCH;

            m->fetches += fetch;
            m->data += !fetch && kind <= EVENT_STORE;
        }
    }
}

static void record(const char *name, uint64_t operations, bool fetches,
                   struct measured *m)
{
    static uint64_t words[WORDS];
    const struct workload *workload = workload_find(name);
    struct wl_params params = {.working_set_bytes = 8 << 20,
                               .page_bytes = 2 << 20,
                               .operations = operations};
    struct run_spec spec = {.technique = TECH_BT, .vcpus = 1};
    struct trace_header header = {.origin = trace_origin(name, NULL, 1)};
    struct trace_writer *writer;
    struct event_source *source;
    struct why why;
    long count;

    *m = (struct measured){.data = 0};
    if (workload_check(workload, &params, &why))
        die(&why);
    snprintf(spec.workload, sizeof spec.workload, "%s", name);
    spec.working_set_bytes = params.working_set_bytes;
    spec.guest_page_bytes = params.page_bytes;
    spec.operations = params.operations;
    spec.seed = params.seed;
    if (bt_source_open(&spec, fetches, &source, &why))
        die(&why);
    header.guest = source->guest;
    if (trace_writer_open("/dev/null", &header, &writer, &why))
        die(&why);
    while ((count = source->read(source, words, WORDS, &why)) > 0) {
        look_at(m, words, count);
        if (trace_writer_write(writer, words, (size_t)count, &why))
            die(&why);
    }
    if (count < 0 || trace_writer_close(writer, &why))
        die(&why);
    source->close(source);
    json_decref(header.origin);
}

static void run(const char *name, uint64_t operations, bool fetches)
{
    double wall[ROUNDS], busy[ROUNDS], guest = 0, writer = 0;
    struct estimate wall_median, busy_median;
    struct measured m = {.data = 0};

    for (unsigned i = 0; i < ROUNDS; i++) {
        double all;

        record(name, operations, fetches, &m);
        all = m.data + m.fetches;
        writer = m.end.thread - m.begin.thread;
        guest = m.end.process - m.begin.process - writer;
        wall[i] = all / (m.end.wall - m.begin.wall);
        busy[i] = all / (guest > writer ? guest : writer);
    }
    if (stats_median(wall, ROUNDS, &wall_median) ||
        stats_median(busy, ROUNDS, &busy_median))
        exit(1);
    printf("%-7s %-12s %6.1f million accesses/s%s, %6.1f by CPU time of the "
           "busier thread (guest %.2f s, writer %.2f s; %.0f million data, "
           "%.0f million fetches)\n",
           name, fetches ? "with fetches" : "", wall_median.value / 1e6,
           wall_median.value < AIM ? " (below 20)" : "",
           busy_median.value / 1e6, guest, writer, m.data / 1e6,
           m.fetches / 1e6);
}

int main(void)
{
    run("gups", 10000000, false);
    run("stride", 20000000, false);
    run("chase", 20000000, false);
    run("seq", 10000000, false);
    run("gups", 4000000, true);
    return 0;
}
