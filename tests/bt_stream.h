/*
 * Random programs for the binary translator: the integer instructions in all
 * encodings, SSE moves, branches of every kind, traps now and then. A program
 * is a number; it is the same on every machine.
 */
#ifndef TESTS_BT_STREAM_H
#define TESTS_BT_STREAM_H

#include "tests/bt_run.h"

#define STREAM_CODE_PAGES 2
#define STREAM_DATA_PAGES 2
#define STREAM_BYTES      (STREAM_CODE_PAGES * RUN_PAGE)
#define STREAM_SLOTS      32 /* code addresses, at the start of the data */
#define STREAM_LOOPS      16 /* 32-bit counters behind them */

/* A place for code, data and stack: two pages each, none around them. */
struct stream_place {
    const char *name;
    uint64_t code, data, stack;
    uint64_t alias; /* the same code, to be written */
};

/* Code below 2 GiB; beyond 32 bits; across 2 GiB. Data of the first is there
 * for all. */
enum { STREAM_LOW, STREAM_HIGH, STREAM_BORDER, STREAM_PLACES };

extern const struct stream_place stream_places[STREAM_PLACES];

/* The GS base of all programs; FS is the process's own. */
#define STREAM_GS 0x100000ull

struct stream {
    uint64_t seed;
    const struct stream_place *place;
    unsigned at, bytes; /* in the code pages */
    uint8_t code[STREAM_BYTES];
    struct run_regs start;
    uint64_t slot[STREAM_SLOTS];
    uint32_t loop[STREAM_LOOPS];
};

/* Maps the places that this process has room for: a bit for each; 0 when the
 * GS base can't be set. */
unsigned stream_map(void);
void stream_unmap(unsigned places);

/* `places` as stream_map gives them. */
void stream_make(struct stream *stream, uint64_t seed, unsigned places);
/* Puts code, data and stack there. */
void stream_load(const struct stream *stream);

/* One instruction with any prefixes up to 15 bytes, and HLT. */
void stream_make_prefixes(struct stream *stream, uint64_t seed,
                          unsigned places);
/* Bytes, and registers that mostly point to memory. */
void stream_make_bytes(struct stream *stream, uint64_t seed, unsigned places);

/* Data and stack of a program's place, and data of the first. */
#define STREAM_MEMORY ((2 * STREAM_DATA_PAGES + 2) * RUN_PAGE)
void stream_save(const struct stream *stream, uint8_t *memory);

#endif
