/*
 * Accesses per second written to and read from a trace, one core, and bytes
 * per access, by the kind of stream. The file is in memory: no disk is
 * measured, nor what makes or consumes the accesses. The aim is 20 million a
 * second written, more read.
 */
#include "harness/stats.h"
#include "tests/bench/bench.h"
#include "trace/file.h"
#include "workloads/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROUNDS   5
#define CHUNK    4096
#define ACCESSES (1u << 24)
#define AIM      20e6
#define HEAP     0x555555560000ull
#define STACK    0x7ffffffde000ull

/* Access number `i` of a stream. */
typedef uint64_t pattern(uint64_t i, uint64_t *random);

static uint64_t sequential(uint64_t i, uint64_t *random)
{
    (void)random;
    return event_word(EVENT_READ, HEAP + i * 8 % (64u << 20));
}

/* Read and write of one of 2^27 words. */
static uint64_t gups(uint64_t i, uint64_t *random)
{
    static const enum event_kind kinds[] = {EVENT_READ, EVENT_WRITE};
    uint64_t before = *random, word = wl_random(random) >> 37;

    if (!(i & 1))
        *random = before; /* the write goes where the read went */
    return event_word(kinds[i & 1], HEAP + word * 8);
}

/* One of 2^18 pages. */
static uint64_t uniform(uint64_t i, uint64_t *random)
{
    (void)i;
    return event_word(EVENT_READ, HEAP + (wl_random(random) >> 46 << 12));
}

/* y[i] += a[i] * x[index[i]], an instrumented loop's five accesses. */
static uint64_t sparse(uint64_t i, uint64_t *random)
{
    uint64_t row = i / 5;

    switch (i % 5) {
    case 0:
        return event_word(EVENT_READ, HEAP + row * 4 % (64u << 20));
    case 1:
        return event_word(EVENT_READ,
                          HEAP + (1u << 30) + (wl_random(random) >> 40) * 8);
    case 2:
        return event_word(EVENT_READ, HEAP + (2ull << 30) + row * 8);
    case 3:
        return event_word(EVENT_READ, STACK + 16);
    default:
        return event_word(EVENT_WRITE, HEAP + (3ull << 30) + row * 8);
    }
}

static void die(const struct why *why)
{
    fprintf(stderr, "%s\n", why->text);
    exit(1);
}

static double write_trace(int fd, const uint64_t *words, double *bytes)
{
    struct trace_header header = {
        .guest = {.levels = 4, .physical_bits = 46, .ram_bytes = 1ull << 32},
        .origin = trace_origin("bench", NULL, 1),
    };
    uint64_t end = event_word(EVENT_END, 0);
    struct trace_writer *writer;
    FILE *file = fdopen(dup(fd), "w");
    struct why why;
    double begin = seconds();

    if (ftruncate(fd, 0) || lseek(fd, 0, SEEK_SET) || !file ||
        trace_writer_open_file(file, "bench", &header, &writer, &why))
        die(&why);
    for (size_t i = 0; i < ACCESSES; i += CHUNK)
        if (trace_writer_write(writer, words + i, CHUNK, &why))
            die(&why);
    if (trace_writer_write(writer, &end, 1, &why) ||
        trace_writer_close(writer, &why))
        die(&why);
    begin = seconds() - begin;
    json_decref(header.origin);
    *bytes = (double)lseek(fd, 0, SEEK_END) / ACCESSES;
    return ACCESSES / begin;
}

static double read_trace(int fd, const uint64_t *words)
{
    static uint64_t got[CHUNK];
    struct event_source *source;
    struct why why;
    FILE *file = fdopen(dup(fd), "r");
    size_t done = 0;
    long count;
    double begin = seconds();

    if (lseek(fd, 0, SEEK_SET) || !file ||
        trace_reader_open_file(file, "bench", &source, &why))
        die(&why);
    while ((count = source->read(source, got, CHUNK, &why)) > 0) {
        if (done < ACCESSES && got[0] != words[done])
            exit(1);
        done += (size_t)count;
    }
    if (count < 0)
        die(&why);
    source->close(source);
    return done == ACCESSES + 1 ? ACCESSES / (seconds() - begin) : 0;
}

static void run(const char *name, pattern *access, uint64_t *words, int fd)
{
    double written[ROUNDS], read[ROUNDS], bytes = 0;
    struct estimate write_median, read_median;
    uint64_t random = 1;

    for (uint64_t i = 0; i < ACCESSES; i++)
        words[i] = access(i, &random);
    for (unsigned round = 0; round < ROUNDS; round++) {
        written[round] = write_trace(fd, words, &bytes);
        read[round] = read_trace(fd, words);
    }
    if (stats_median(written, ROUNDS, &write_median) ||
        stats_median(read, ROUNDS, &read_median))
        exit(1);
    printf("%-10s %6.1f million accesses/s written%s, %6.1f read, "
           "%.3f bytes an access\n",
           name, write_median.value / 1e6,
           write_median.value < AIM ? " (below 20)" : "",
           read_median.value / 1e6, bytes);
}

int main(void)
{
    uint64_t *words = malloc(ACCESSES * sizeof *words);
    int fd = memfd_create("trace", MFD_CLOEXEC);

    if (!words || fd < 0)
        return 1;
    run("sequential", sequential, words, fd);
    run("gups", gups, words, fd);
    run("uniform", uniform, words, fd);
    run("sparse", sparse, words, fd);
    free(words);
    close(fd);
    return 0;
}
