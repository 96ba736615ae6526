#include "trace/block.h"

#include <string.h>

/* A tag: of an access its kind, from bit 5, and below it how its address is
 * coded: near, bytes << 3 | which recent address; or far, whole, in 6 or 8
 * bytes. Of any other event its kind, above TAG_OTHER. */
#define TAG_OTHER  192u
#define TAG_OTHERS (EVENT_KINDS - EVENT_STORE)
#define TAG_FAR_6  24u
#define TAG_FAR_8  25u
#define NEAR_MAX   0xffffu /* 2 bytes */

_Static_assert(EVENT_STORE == 6, "accesses come first and fill 192 tags");
_Static_assert(TAG_OTHER + TAG_OTHERS <= 256, "a tag is a byte");

static uint64_t zigzag(uint64_t difference)
{
    return difference << 1 ^ -(difference >> 63);
}

static uint64_t unzigzag(uint64_t code)
{
    return code >> 1 ^ -(code & 1);
}

void block_begin(struct block *block)
{
    block->events = 0;
    memset(block->length, 0, sizeof block->length);
    memset(block->recent, 0, sizeof block->recent);
    memset(block->last, 0, sizeof block->last);
}

/* The newest of the recent addresses that is nearest, and the difference. */
static unsigned nearest(const uint64_t *recent, uint64_t va, uint64_t *number)
{
    uint64_t best = zigzag(va - recent[0]);
    unsigned base = 0;

    for (unsigned i = 1; i < BLOCK_RECENT; i++) {
        uint64_t other = zigzag(va - recent[i]);

        base = other < best ? i : base;
        best = other < best ? other : best;
    }
    *number = best;
    return base;
}

/* `va` is the newest now; `dropped` is what it replaces. */
static inline void remember(uint64_t *recent, unsigned dropped, uint64_t va)
{
    for (; dropped; dropped--)
        recent[dropped] = recent[dropped - 1];
    recent[0] = va;
}

static inline void put_byte(struct block *block, unsigned stream, uint64_t byte)
{
    block_stream(block, stream)[block->length[stream]++] = (uint8_t)byte;
}

/* Far from everything: the address itself, which compresses better than a
 * difference when it is random. Returns the tag. */
static unsigned put_far(struct block *block, uint64_t address)
{
    unsigned bytes = address >> 48 ? 8 : 6;

    for (unsigned i = 0; i < bytes; i++)
        put_byte(block, BLOCK_FAR + i, address >> 8 * i);
    return bytes == 6 ? TAG_FAR_6 : TAG_FAR_8;
}

static unsigned put_near(struct block *block, unsigned base, uint64_t number)
{
    unsigned bytes = (number > 0) + (number > 0xff);

    for (unsigned i = 0; i < bytes; i++)
        put_byte(block, BLOCK_NEAR + i, number >> 8 * i);
    return bytes << 3 | base;
}

static void put_access(struct block *block, uint64_t word)
{
    uint64_t va = event_va(word), number;
    unsigned base = nearest(block->recent, va, &number), tag;

    if (number <= NEAR_MAX) {
        tag = put_near(block, base, number);
    } else {
        tag = put_far(block, event_argument(word));
        base = BLOCK_RECENT - 1;
    }
    remember(block->recent, base, va);
    block_stream(block, BLOCK_TAGS)[block->events++] =
        (uint8_t)(event_kind(word) << 5 | tag);
}

static void put_other(struct block *block, const uint64_t *words,
                      unsigned length)
{
    unsigned kind = event_kind(words[0]);
    uint8_t *extra = block_stream(block, BLOCK_EXTRA);

    block_stream(block, BLOCK_TAGS)[block->events++] =
        (uint8_t)(TAG_OTHER + kind - EVENT_STORE);
    for (unsigned i = 0; i < length; i++) {
        uint64_t value = i ? words[i] : event_va(words[0]);
        uint64_t number = zigzag(value - block->last[kind][i]);

        block->last[kind][i] = value;
        for (; number > 0x7f; number >>= 7)
            extra[block->length[BLOCK_EXTRA]++] = (uint8_t)(number | 0x80);
        extra[block->length[BLOCK_EXTRA]++] = (uint8_t)number;
    }
}

size_t block_encode(struct block *block, const uint64_t *words, size_t count)
{
    size_t done = 0;

    while (done < count && block->events < BLOCK_EVENTS) {
        unsigned kind = event_kind(words[done]), length = 1;

        if (kind < EVENT_STORE) {
            put_access(block, words[done]);
        } else {
            if (block->length[BLOCK_EXTRA] >
                BLOCK_EXTRA_MAX - BLOCK_EVENT_BYTES_MAX)
                break;
            length = event_words(kind);
            put_other(block, words + done, length);
        }
        done += length;
    }
    block->length[BLOCK_TAGS] = block->events;
    return done;
}

/* How many events, of `seen` by tag, have a tag of those 6 that differ in
 * the kind of access only. */
static uint32_t accesses(const uint32_t *seen, unsigned tag)
{
    uint32_t sum = 0;

    for (unsigned kind = 0; kind < EVENT_STORE; kind++)
        sum += seen[kind << 5 | tag];
    return sum;
}

/* Whether all tags of accesses exist and the streams hold what they ask for.
 */
static bool streams_fit(const struct block *block, const uint32_t *seen)
{
    uint32_t near[2] = {0}, far6 = accesses(seen, TAG_FAR_6),
             far8 = accesses(seen, TAG_FAR_8);

    for (unsigned tag = TAG_FAR_8 + 1; tag < 32; tag++)
        if (accesses(seen, tag))
            return false;
    for (unsigned base = 0; base < BLOCK_RECENT; base++) {
        near[1] += accesses(seen, 2 << 3 | base);
        near[0] += accesses(seen, 1 << 3 | base);
    }
    for (unsigned i = 0; i < 8; i++)
        if (block->length[BLOCK_FAR + i] != far8 + (i < 6 ? far6 : 0))
            return false;
    return block->length[BLOCK_NEAR] == near[0] + near[1] &&
           block->length[BLOCK_NEAR + 1] == near[1];
}

/* The same from the block, so that decoding accesses needs no checks. */
static bool block_fits(struct block *block)
{
    const uint8_t *tags = block_stream(block, BLOCK_TAGS);
    uint32_t seen[256] = {0};

    if (block->events > BLOCK_EVENTS ||
        block->length[BLOCK_TAGS] != block->events ||
        block->length[BLOCK_EXTRA] > BLOCK_EXTRA_MAX)
        return false;
    for (uint32_t i = 0; i < block->events; i++)
        seen[tags[i]]++;
    return streams_fit(block, seen);
}

/* Where decoding stands in each stream. */
struct cursor {
    const uint8_t *near[2], *far[8], *extra, *extra_end;
};

static struct cursor cursor_begin(struct block *block)
{
    struct cursor at;

    for (unsigned i = 0; i < 2; i++)
        at.near[i] = block_stream(block, BLOCK_NEAR + i);
    for (unsigned i = 0; i < 8; i++)
        at.far[i] = block_stream(block, BLOCK_FAR + i);
    at.extra = block_stream(block, BLOCK_EXTRA);
    at.extra_end = at.extra + block->length[BLOCK_EXTRA];
    return at;
}

static inline uint64_t get_bytes(const uint8_t **streams, unsigned count)
{
    uint64_t number = 0;

    for (unsigned i = 0; i < count; i++)
        number |= (uint64_t)*streams[i]++ << 8 * i;
    return number;
}

static uint64_t get_access(struct block *block, struct cursor *at, uint8_t tag)
{
    unsigned code = tag & 31, base = code & 7;
    uint64_t va;

    if (code < TAG_FAR_6) {
        va = block->recent[base] + unzigzag(get_bytes(at->near, code >> 3));
    } else {
        va = event_va(get_bytes(at->far, code == TAG_FAR_6 ? 6 : 8));
        base = BLOCK_RECENT - 1;
    }
    remember(block->recent, base, va);
    return event_word((enum event_kind)(tag >> 5), va);
}

/* A variable-length number: 7 bits a byte, low ones first; bit 7: more. */
static bool get_extra(struct cursor *at, uint64_t *number)
{
    *number = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte;

        if (at->extra == at->extra_end)
            return false;
        byte = *at->extra++;
        *number |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return shift < 63 || byte <= 1;
    }
    return false;
}

/* The words of the event, 0 when the stream is wrong or there is no such kind.
 */
static unsigned get_other(struct block *block, struct cursor *at, uint8_t tag,
                          uint64_t *words)
{
    unsigned kind = EVENT_STORE + tag - TAG_OTHER;
    unsigned length = event_words(kind);
    uint64_t number;

    for (unsigned i = 0; i < length; i++) {
        if (!get_extra(at, &number))
            return 0;
        words[i] = block->last[kind][i] += unzigzag(number);
    }
    /* event_word, but that clang-analyzer 14 takes its shift for 32 bits */
    words[0] = event_argument(words[0]) | kind * (1ull << EVENT_SHIFT);
    return length;
}

long block_decode(struct block *block, uint64_t *words)
{
    const uint8_t *tags = block_stream(block, BLOCK_TAGS);
    struct cursor at = cursor_begin(block);
    uint64_t *out = words;

    if (!block_fits(block))
        return -1;
    memset(block->recent, 0, sizeof block->recent);
    memset(block->last, 0, sizeof block->last);
    for (uint32_t i = 0; i < block->events; i++) {
        unsigned length = 1;

        if (tags[i] < TAG_OTHER)
            *out = get_access(block, &at, tags[i]);
        else if (!(length = get_other(block, &at, tags[i], out)))
            return -1;
        out += length;
    }
    return at.extra == at.extra_end ? out - words : -1;
}
