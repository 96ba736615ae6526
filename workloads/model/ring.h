/*
 * Events on their way from the process that makes them to the one that reads
 * them: batches in shared memory, futexes only when there is nothing to do.
 * One writes, one reads.
 */
#ifndef WORKLOADS_MODEL_RING_H
#define WORKLOADS_MODEL_RING_H

#include "base/why.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RING_BATCHES     16u   /* so few stay in a core's cache */
#define RING_BATCHES_MAX 256u  /* for who makes many at once */
#define RING_WORDS       4096u /* of a batch */

enum ring_state { RING_OPEN, RING_DONE, RING_FAILED };

/* A number that never stops growing, and somebody who waits for it to. */
struct ring_bell {
    _Alignas(64) uint32_t rung;
    uint32_t sleeps;
};

struct ring {
    struct ring_bell data, room;
    _Alignas(64) uint32_t produced; /* batches, modulo 2^32 */
    _Alignas(64) uint32_t consumed;
    uint32_t state; /* enum ring_state, set when all is produced */
    int32_t error;  /* RING_FAILED: a negative errno, and why */
    struct why why;
    uint32_t batches;
    uint32_t words[RING_BATCHES_MAX];
    _Alignas(64) uint64_t batch[][RING_WORDS];
};

/* `batches` is a power of two; NULL: no memory. */
struct ring *ring_create(unsigned batches);
void ring_destroy(struct ring *ring);

/* The writer: the batch to fill; waits until there is one. */
uint64_t *ring_room(struct ring *ring);
/* Hands it over with that many words. */
void ring_submit(struct ring *ring, size_t words);
/* The last word: nothing follows. */
void ring_finish(struct ring *ring, enum ring_state state);

/* The reader: the oldest batch and its words; NULL when there is none yet
 * after a while, or ever. */
const uint64_t *ring_data(struct ring *ring, size_t *words);
/* Hands it back. */
void ring_release(struct ring *ring);
/* Whether all that was produced has been read, and no more comes. */
bool ring_ended(const struct ring *ring);

#endif
