/*
 * A block's streams without compression around them: the first two bytes say
 * how many tags follow, the rest is what the tags ask for and, at the end,
 * the numbers. What is decoded comes out again when it is encoded.
 */
#include "tests/fuzz/targets.h"
#include "trace/block.h"

#include <stdlib.h>
#include <string.h>

#define WORDS ((size_t)4096 * EVENT_WORDS_MAX)

struct trial {
    struct block block;
    uint64_t first[WORDS], second[WORDS];
};

/* How long the streams have to be for the tags; docs/traces.md. */
static void ask(struct block *block)
{
    for (uint32_t i = 0; i < block->events; i++) {
        uint8_t tag = block_stream(block, BLOCK_TAGS)[i], code = tag & 31;

        if (tag >= 192)
            continue;
        for (unsigned byte = 0; code < 24 && byte < (code >> 3); byte++)
            block->length[BLOCK_NEAR + byte]++;
        for (unsigned byte = 0; code >= 24 && byte < (code == 24 ? 6 : 8);
             byte++)
            block->length[BLOCK_FAR + byte]++;
    }
}

static void fill(struct block *block, const uint8_t *bytes, size_t count)
{
    for (unsigned i = BLOCK_NEAR; i < BLOCK_EXTRA; i++) {
        size_t take = block->length[i] < count ? block->length[i] : count;

        memset(block_stream(block, i), 0, block->length[i]);
        memcpy(block_stream(block, i), bytes, take);
        bytes += take;
        count -= take;
    }
    block->length[BLOCK_EXTRA] = (uint32_t)count;
    memcpy(block_stream(block, BLOCK_EXTRA), bytes, count);
}

int fuzz_block(const uint8_t *bytes, size_t count)
{
    struct trial *trial;
    size_t tags;
    long words;

    if (count < 2 || count > BLOCK_EVENTS)
        return 0;
    tags = (bytes[0] | (size_t)bytes[1] << 8) & 0xfff;
    if (tags > count - 2 || !(trial = malloc(sizeof *trial)))
        return 0;
    block_begin(&trial->block);
    trial->block.events = trial->block.length[BLOCK_TAGS] = (uint32_t)tags;
    memcpy(block_stream(&trial->block, BLOCK_TAGS), bytes + 2, tags);
    ask(&trial->block);
    fill(&trial->block, bytes + 2 + tags, count - 2 - tags);
    words = block_decode(&trial->block, trial->first);
    if (words > 0) {
        block_begin(&trial->block);
        if (block_encode(&trial->block, trial->first, (size_t)words) !=
                (size_t)words ||
            block_decode(&trial->block, trial->second) != words ||
            memcmp(trial->first, trial->second,
                   (size_t)words * sizeof trial->first[0]) != 0)
            abort();
    }
    free(trial);
    return 0;
}
