/*
 * A block of a trace: up to BLOCK_EVENTS events, coded small before they are
 * compressed. docs/traces.md describes the coding. Freestanding.
 */
#ifndef TRACE_BLOCK_H
#define TRACE_BLOCK_H

#include "trace/event.h"

#define BLOCK_EVENTS    65536u
#define BLOCK_WORDS_MAX ((size_t)BLOCK_EVENTS * EVENT_WORDS_MAX)
#define BLOCK_EXTRA_MAX (1u << 20)
#define BLOCK_RECENT    8
/* An event that is no access: EVENT_WORDS_MAX numbers of 10 bytes. */
#define BLOCK_EVENT_BYTES_MAX 30

enum block_stream {
    BLOCK_TAGS,       /* a byte an event */
    BLOCK_NEAR,       /* 2: bytes 0 and 1 of small differences */
    BLOCK_FAR = 3,    /* 8: bytes 0 to 7 of other addresses */
    BLOCK_EXTRA = 11, /* variable-length numbers of all but accesses */
    BLOCK_STREAMS,
};

struct block {
    uint32_t events;
    uint32_t length[BLOCK_STREAMS]; /* bytes used of each stream */
    /* What differences are taken to: the newest accesses, and by kind. */
    uint64_t recent[BLOCK_RECENT];
    uint64_t last[EVENT_KINDS][EVENT_WORDS_MAX];
    uint8_t bytes[(size_t)BLOCK_EXTRA * BLOCK_EVENTS + BLOCK_EXTRA_MAX];
};

static inline uint8_t *block_stream(struct block *block, unsigned stream)
{
    return block->bytes + (size_t)stream * BLOCK_EVENTS;
}

static inline uint32_t block_stream_max(unsigned stream)
{
    return stream == BLOCK_EXTRA ? BLOCK_EXTRA_MAX : BLOCK_EVENTS;
}

/* An empty block. `bytes` need no value. */
void block_begin(struct block *block);

/* Appends whole, valid events until the block is full; returns how many of
 * the `count` words it took. */
size_t block_encode(struct block *block, const uint64_t *words, size_t count);

/* The words of a block whose `events`, `length` and streams are set, any
 * values in them; `words` has room for BLOCK_WORDS_MAX. Returns how many, or
 * -1 when the streams are not what an encoder writes: unknown tags, streams
 * too short or too long. */
long block_decode(struct block *block, uint64_t *words);

#endif
