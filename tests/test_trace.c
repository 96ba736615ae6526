/* The trace format: what goes in comes out, and nothing damaged does. */
#include "tests/test.h"
#include "trace/check.h"
#include "trace/file.h"
#include "trace/format.h"
#include "workloads/api.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#ifdef __SANITIZE_ADDRESS__
#define RANDOM_EVENTS 300000u
#else
#define RANDOM_EVENTS 3000000u
#endif

static const struct event_guest guest4 = {
    .levels = 4,
    .physical_bits = 46,
    .pcid = true,
    .ram_bytes = 1ull << 32,
};

static const struct event_guest guest5 = {
    .levels = 5,
    .physical_bits = 52,
    .pages_1g = true,
    .ram_bytes = 1ull << 52,
};

/* A growing array of words. */
struct stream {
    uint64_t *words;
    size_t count, room;
    int phase;
};

static void add(struct stream *stream, uint64_t word)
{
    if (stream->count == stream->room) {
        stream->room = stream->room ? 2 * stream->room : 1024;
        stream->words =
            realloc(stream->words, stream->room * sizeof *stream->words);
    }
    stream->words[stream->count++] = word;
}

static uint64_t random_va(const struct event_guest *guest, uint64_t *random)
{
    unsigned shift = guest->levels == 5 ? 7 : 16;
    static const uint64_t near[] = {0x400000, 0x7ffc00001000,
                                    0xffff800012340000};
    uint64_t bits = wl_random(random);

    switch (bits & 3) {
    case 0: /* anywhere */
        return (uint64_t)((int64_t)(wl_random(random) << shift) >> shift);
    case 1: /* at one place */
        return near[bits >> 8 & 1 ? 1 : bits >> 9 & 2];
    default: /* around a few places, at every distance up to 4 GiB */
        return near[(bits >> 2) % 3] +
               (wl_random(random) >> (32 + (bits >> 16 & 31)));
    }
}

static void add_store(struct stream *stream, const struct event_guest *guest,
                      uint64_t *random)
{
    uint64_t va = random_va(guest, random) & ~7ull;
    uint64_t gpa = wl_random(random) % guest->ram_bytes & ~0xfffull;

    add(stream, event_word(EVENT_STORE, va));
    add(stream, gpa | (va & 0xfff));
    add(stream, wl_random(random) >> (wl_random(random) & 63));
}

static void add_phase(struct stream *stream, uint64_t *random)
{
    if (stream->phase < 0) {
        stream->phase = (int)wl_below(random, WL_PHASES);
        add(stream, event_word(EVENT_PHASE_BEGIN, (uint64_t)stream->phase));
        return;
    }
    add(stream, event_word(EVENT_PHASE_END, (uint64_t)stream->phase));
    add(stream, wl_random(random));
    add(stream, wl_random(random));
    stream->phase = -1;
}

static void add_other(struct stream *stream, const struct event_guest *guest,
                      uint64_t *random)
{
    static const uint64_t codes[] = {0, 2, 4, 6, 7, 0x14, 0x15, 0xd};

    switch (wl_below(random, 6)) {
    case 0:
        add(stream, event_word(EVENT_FAULT, random_va(guest, random)));
        add(stream, codes[wl_below(random, 8)]);
        break;
    case 1:
        add(stream,
            event_word(EVENT_CLEAR,
                       wl_random(random) % guest->ram_bytes & ~0xfffull));
        break;
    case 2:
        add(stream, event_word(EVENT_INVLPG, random_va(guest, random)));
        break;
    case 3:
        add(stream, event_word(EVENT_CR3, 0));
        add(stream, wl_random(random) % guest->ram_bytes |
                        (guest->pcid ? wl_random(random) & 1ull << 63 : 0));
        break;
    case 4:
        add_phase(stream, random);
        break;
    default:
        add(stream, event_word(EVENT_INSTRUCTIONS, wl_random(random)));
    }
}

/* `others` in 256 events are no accesses. */
static struct stream random_stream(const struct event_guest *guest,
                                   size_t events, unsigned others,
                                   uint64_t seed)
{
    struct stream stream = {.phase = -1};
    uint64_t random = seed;

    for (size_t i = 0; i < events; i++) {
        uint64_t pick = wl_below(&random, 256);

        if (pick >= others)
            add(&stream, event_word((enum event_kind)wl_below(&random, 6),
                                    random_va(guest, &random)));
        else if (pick & 1)
            add_store(&stream, guest, &random);
        else
            add_other(&stream, guest, &random);
    }
    if (stream.phase >= 0)
        add_phase(&stream, &random);
    add(&stream, event_word(EVENT_END, 0));
    return stream;
}

static int write_file(FILE *file, const struct event_guest *guest,
                      const uint64_t *words, size_t count, struct why *why)
{
    struct trace_header header = {
        .guest = *guest,
        .origin = trace_origin("test", json_pack("{s:i}", "size", 5), 7),
    };
    struct trace_writer *writer;
    int err = trace_writer_open_file(file, "test", &header, &writer, why);

    json_decref(header.origin);
    if (err)
        return err;
    err = trace_writer_write(writer, words, count, why);
    if (!err)
        return trace_writer_close(writer, why);
    trace_writer_abandon(writer);
    return err;
}

/* A file in memory with those bytes, from its start. */
static FILE *memory_file(const void *bytes, size_t count)
{
    FILE *file = fdopen(memfd_create("trace", MFD_CLOEXEC), "w+");

    fwrite(bytes, 1, count, file);
    rewind(file);
    return file;
}

struct image {
    uint8_t *bytes;
    size_t count;
};

static struct image image_of(const struct event_guest *guest,
                             const uint64_t *words, size_t count)
{
    struct image image = {0};
    FILE *file = open_memstream((char **)&image.bytes, &image.count);
    struct why why;

    CU_ASSERT_EQUAL(write_file(file, guest, words, count, &why), 0);
    return image;
}

/* Reads all that is given, in steps of at most `room`; 0 and the words, or
 * the error after them. */
static int read_all(struct event_source *source, size_t room,
                    struct stream *got, struct why *why)
{
    uint64_t *words = malloc(room * sizeof *words);
    long count;

    while ((count = source->read(source, words, room, why)) > 0)
        for (long i = 0; i < count; i++)
            add(got, words[i]);
    free(words);
    return (int)count;
}

static int read_file(FILE *file, size_t room, struct stream *got,
                     struct why *why)
{
    struct event_source *source;
    int err = trace_reader_open_file(file, "test", &source, why);

    *got = (struct stream){0};
    if (err)
        return err;
    err = read_all(source, room, got, why);
    source->close(source);
    return err;
}

static int read_image(const void *bytes, size_t count, struct why *why)
{
    struct stream got;
    int err = read_file(memory_file(bytes, count), 999, &got, why);

    free(got.words);
    return err;
}

static void comes_out(const struct event_guest *guest, size_t events,
                      unsigned others, uint64_t seed, size_t room)
{
    struct stream in = random_stream(guest, events, others, seed), out;
    struct image image = image_of(guest, in.words, in.count);
    struct why why = {""};

    CU_ASSERT_EQUAL(
        read_file(memory_file(image.bytes, image.count), room, &out, &why), 0);
    CU_ASSERT_STRING_EQUAL(why.text, "");
    CU_ASSERT_EQUAL(out.count, in.count);
    CU_ASSERT(out.count == in.count &&
              !memcmp(in.words, out.words, in.count * sizeof *in.words));
    free(in.words);
    free(out.words);
    free(image.bytes);
}

static void round_trip(void)
{
    comes_out(&guest4, RANDOM_EVENTS, 20, 1, 4096);
    comes_out(&guest5, RANDOM_EVENTS, 20, 2, 1 << 20);
    comes_out(&guest4, RANDOM_EVENTS / 4, 256, 3, EVENT_WORDS_MAX);
    for (uint64_t seed = 4; seed < 40; seed++)
        comes_out(seed & 1 ? &guest4 : &guest5, seed - 4, 128, seed,
                  EVENT_WORDS_MAX + seed % 3);
    comes_out(&guest4, BLOCK_EVENTS - 1, 0, 50, 4096);
    comes_out(&guest4, BLOCK_EVENTS, 0, 51, 4096);
}

/* Numbers so long that a block is full before it has all its events. */
static void long_numbers(void)
{
    struct stream in = {.phase = -1};
    uint64_t random = 1;
    struct image image;
    struct stream out;
    struct why why;

    for (size_t i = 0; i < 2 * BLOCK_EVENTS; i++) {
        add(&in, event_word(EVENT_STORE, random_va(&guest5, &random) & ~7ull));
        add(&in, (wl_random(&random) % guest5.ram_bytes & ~0xfffull) |
                     (in.words[in.count - 1] & 0xfff));
        add(&in, wl_random(&random));
    }
    add(&in, event_word(EVENT_END, 0));
    image = image_of(&guest5, in.words, in.count);
    CU_ASSERT_EQUAL(
        read_file(memory_file(image.bytes, image.count), 4096, &out, &why), 0);
    CU_ASSERT(out.count == in.count &&
              !memcmp(in.words, out.words, in.count * sizeof *in.words));
    free(in.words);
    free(out.words);
    free(image.bytes);
}

static void header_comes_out(void)
{
    uint64_t end = event_word(EVENT_END, 0);
    struct image image = image_of(&guest5, &end, 1);
    struct event_source *source = NULL;
    const json_t *origin;
    struct why why;

    CU_ASSERT_EQUAL_FATAL(
        trace_reader_open_file(memory_file(image.bytes, image.count), "test",
                               &source, &why),
        0);
    CU_ASSERT_EQUAL(source->guest.levels, 5);
    CU_ASSERT_EQUAL(source->guest.physical_bits, 52);
    CU_ASSERT_EQUAL(source->guest.ram_bytes, 1ull << 52);
    CU_ASSERT(source->guest.pages_1g && !source->guest.pcid);
    origin = trace_reader_origin(source);
    CU_ASSERT_STRING_EQUAL(
        json_string_value(json_object_get(origin, "workload")), "test");
    CU_ASSERT_EQUAL(json_integer_value(json_object_get(origin, "seed")), 7);
    source->close(source);
    free(image.bytes);
}

/* A few events of every kind. */
static struct image small_image(void)
{
    struct stream in = random_stream(&guest4, 60, 128, 9);
    struct image image = image_of(&guest4, in.words, in.count);

    free(in.words);
    return image;
}

static void truncations(void)
{
    struct image image = small_image();
    struct why why;

    CU_ASSERT_EQUAL(read_image(image.bytes, image.count, &why), 0);
    for (size_t count = 0; count < image.count; count++) {
        CU_ASSERT_EQUAL(read_image(image.bytes, count, &why), -EINVAL);
        CU_ASSERT_PTR_NOT_NULL(
            strstr(why.text, count < 8 ? "not a trace" : "truncated"));
    }
    free(image.bytes);
}

static void flipped_bits(void)
{
    struct image image = small_image();
    size_t accepted = 0;
    struct why why;

    for (size_t bit = 0; bit < image.count * 8; bit++) {
        image.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        accepted += !read_image(image.bytes, image.count, &why);
        image.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    CU_ASSERT_EQUAL(accepted, 0);
    free(image.bytes);
}

static void blocks_in_order(void)
{
    struct stream in = random_stream(&guest4, 3 * BLOCK_EVENTS, 0, 5);
    struct image image = image_of(&guest4, in.words, in.count);
    size_t origin = ((struct trace_head *)image.bytes)->origin_bytes;
    uint8_t *at = image.bytes + sizeof(struct trace_head) + origin + 4;
    const struct trace_block *head = (const struct trace_block *)at;
    size_t length = sizeof *head;
    struct why why;

    for (unsigned i = 0; i < BLOCK_STREAMS; i++)
        length += head->stream[i].stored;
    memmove(at, at + length, image.count - length - (size_t)(at - image.bytes));
    CU_ASSERT_EQUAL(read_image(image.bytes, image.count - length, &why),
                    -EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "missing or out of order"));
    free(in.words);
    free(image.bytes);
}

static void other_versions(void)
{
    struct image image = small_image();
    struct trace_head *head = (struct trace_head *)image.bytes;
    struct why why;

    head->version = 2;
    head->crc = trace_crc(head, offsetof(struct trace_head, crc));
    CU_ASSERT_EQUAL(read_image(image.bytes, image.count, &why), -EINVAL);
    CU_ASSERT_STRING_EQUAL(
        why.text, "test: version 2 of the format, this memvirt reads 1");
    free(image.bytes);
}

/* A trace around one block that is as wrong as its maker wants, with every
 * checksum right. */
struct forged {
    struct trace_block head;
    uint8_t payload[4096];
    size_t payload_count;
};

/* Gives none of its events, or all `given` and then finds no more. */
static int read_forged(struct forged *forged, size_t given, struct why *why)
{
    uint64_t end = event_word(EVENT_END, 0);
    struct image image = image_of(&guest4, &end, 1);
    size_t before = sizeof(struct trace_head) + 4 +
                    ((struct trace_head *)image.bytes)->origin_bytes;
    FILE *file = memory_file(image.bytes, before);
    struct stream got;
    int err;

    fseek(file, 0, SEEK_END);
    forged->head.payload_crc =
        trace_crc(forged->payload, forged->payload_count);
    forged->head.crc =
        trace_crc(&forged->head, offsetof(struct trace_block, crc));
    fwrite(&forged->head, sizeof forged->head, 1, file);
    fwrite(forged->payload, forged->payload_count, 1, file);
    rewind(file);
    err = read_file(file, 4096, &got, why);
    CU_ASSERT_EQUAL(got.count, given);
    free(got.words);
    free(image.bytes);
    return err;
}

static void forge(struct forged *forged, struct block *block)
{
    forged->head =
        (struct trace_block){.tag = TRACE_TAG_BLOCK, .events = block->events};
    forged->payload_count = 0;
    for (unsigned i = 0; i < BLOCK_STREAMS; i++) {
        size_t got = 0;

        if (block->length[i])
            got = ZSTD_compress(forged->payload + forged->payload_count,
                                sizeof forged->payload - forged->payload_count,
                                block_stream(block, i), block->length[i], 1);
        CU_ASSERT_FALSE(ZSTD_isError(got));
        forged->head.stream[i].bytes = block->length[i];
        forged->head.stream[i].stored = (uint32_t)got;
        forged->payload_count += got;
    }
}

static void hostile_lengths(void)
{
    struct block *block = malloc(sizeof *block);
    uint64_t words[] = {event_word(EVENT_READ, 0x123456789000),
                        event_word(EVENT_READ, 0x123456789008),
                        event_word(EVENT_INVLPG, 0x1000)};
    struct forged good, bad;
    struct why why;

    block_begin(block);
    block_encode(block, words, 3);
    forge(&good, block);
    CU_ASSERT_EQUAL(read_forged(&good, 3, &why), -EINVAL);
    for (unsigned i = 0; i < BLOCK_STREAMS; i++)
        for (unsigned power = 0; power < 33; power++) {
            uint32_t delta = (uint32_t)((1ull << power) - (power == 32));

            bad = good;
            bad.head.stream[i].bytes += delta;
            CU_ASSERT_EQUAL(read_forged(&bad, 0, &why), -EINVAL);
            bad = good;
            bad.head.stream[i].stored += delta;
            CU_ASSERT_EQUAL(read_forged(&bad, 0, &why), -EINVAL);
            bad = good;
            bad.head.events += delta;
            CU_ASSERT_EQUAL(read_forged(&bad, 0, &why), -EINVAL);
        }
    free(block);
}

/* Streams that are longer than a block's, though their frames are small; ones
 * that nothing asks for; and a byte too many for the numbers. */
static void hostile_streams(void)
{
    static const uint8_t zeros[8u << 20];
    struct block *block = malloc(sizeof *block);
    uint64_t word = event_word(EVENT_INVLPG, 0x1000);
    struct forged good, bad;
    struct why why;

    block_begin(block);
    block_encode(block, &word, 1);
    forge(&good, block);
    for (unsigned i = 1; i < BLOCK_STREAMS; i++) {
        size_t tags = good.head.stream[BLOCK_TAGS].stored;
        size_t frame =
            ZSTD_compress(good.payload + tags, sizeof good.payload - tags,
                          zeros, sizeof zeros, 1);

        bad = good;
        bad.head.stream[BLOCK_EXTRA].bytes = 0;
        bad.head.stream[BLOCK_EXTRA].stored = 0;
        bad.head.stream[i].bytes = sizeof zeros;
        bad.head.stream[i].stored = (uint32_t)frame;
        bad.payload_count = tags + frame;
        CU_ASSERT_EQUAL(read_forged(&bad, 0, &why), -EINVAL);
        CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "an impossible length"));
    }
    bad.head = (struct trace_block){.tag = TRACE_TAG_BLOCK, .events = 1};
    bad.payload_count = 0;
    CU_ASSERT_EQUAL(read_forged(&bad, 0, &why), -EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "an impossible number of events"));
    forge(&bad, block);
    bad.head.stream[BLOCK_FAR].stored = 7;
    bad.payload_count += 7;
    CU_ASSERT_EQUAL(read_forged(&bad, 0, &why), -EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "an impossible length"));
    block_stream(block, BLOCK_EXTRA)[block->length[BLOCK_EXTRA]++] = 0;
    forge(&bad, block);
    CU_ASSERT_EQUAL(read_forged(&bad, 0, &why), -EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "streams that no events have"));
    free(block);
}

/* Every tag in a block of one event, with no byte in any other stream. */
static void hostile_tags(void)
{
    struct block *block = malloc(sizeof *block);
    uint64_t words[BLOCK_RECENT];
    unsigned accepted = 0;

    for (unsigned tag = 0; tag < 256; tag++) {
        block_begin(block);
        block->events = block->length[BLOCK_TAGS] = 1;
        block_stream(block, BLOCK_TAGS)[0] = (uint8_t)tag;
        accepted += block_decode(block, words) >= 0;
    }
    /* 6 kinds that equal one of the recent addresses */
    CU_ASSERT_EQUAL(accepted, 6 * BLOCK_RECENT);
    free(block);
}

struct bad_event {
    const char *cause;
    uint64_t words[8];
    size_t count;
};

/* event_word as a constant, for tables. */
#define E(kind, argument) \
    ((uint64_t)EVENT_##kind << EVENT_SHIFT | ((argument)&EVENT_ARGUMENT))

static const struct bad_event bad_events[] = {
    {"not canonical", {E(READ, 1ull << 47)}, 1},
    {"not canonical", {E(KERNEL_FETCH, 1ull << 56)}, 1},
    {"not canonical", {E(INVLPG, 1ull << 50)}, 1},
    {"not canonical", {E(FAULT, 1ull << 50), 0}, 2},
    {"8-byte", {E(STORE, 0x1004), 0x1004, 0}, 3},
    {"8-byte", {E(STORE, 0x1000), 0x1001, 0}, 3},
    {"beyond RAM", {E(STORE, 0x1000), 1ull << 32, 0}, 3},
    {"within the page", {E(STORE, 0x1000), 0x2008, 0}, 3},
    {"error code", {E(FAULT, 0), 0x20}, 2},
    {"error code", {E(FAULT, 0), 0x12}, 2},
    {"error code", {E(FAULT, 0), 0x8}, 2},
    {"not RAM", {E(CLEAR, 1ull << 32)}, 1},
    {"not RAM", {E(CLEAR, 8)}, 1},
    {"CR3 beyond RAM", {E(CR3, 0), 1ull << 32}, 2},
    {"reserved", {E(CR3, 0), 1ull << 52}, 2},
    {"argument", {E(CR3, 1), 0}, 2},
    {"does not exist", {E(PHASE_BEGIN, WL_PHASES)}, 1},
    {"inside another", {E(PHASE_BEGIN, 0), E(PHASE_BEGIN, 1)}, 2},
    {"not open", {E(PHASE_END, 0), 0, 0}, 3},
    {"not open", {E(PHASE_BEGIN, 0), E(PHASE_END, 1), 0, 0}, 4},
    {"end inside", {E(PHASE_BEGIN, 0), E(END, 0)}, 2},
    {"end with", {E(END, 1)}, 1},
    {"after the end", {E(END, 0), E(READ, 0)}, 2},
    {"after the end", {E(END, 0), E(END, 0)}, 2},
};

static void bad_events_read(void)
{
    struct block *block = malloc(sizeof *block);
    struct forged forged;
    struct why why;

    for (size_t i = 0; i < sizeof bad_events / sizeof bad_events[0]; i++) {
        const struct bad_event *bad = &bad_events[i];

        block_begin(block);
        CU_ASSERT_EQUAL(block_encode(block, bad->words, bad->count),
                        bad->count);
        forge(&forged, block);
        CU_ASSERT_EQUAL(read_forged(&forged, 0, &why), -EINVAL);
        if (!strstr(why.text, bad->cause))
            CU_FAIL(why.text);
    }
    free(block);
}

static void bad_events_written(void)
{
    static const struct bad_event unwritten[] = {
        {"no known kind", {E(KINDS, 0)}, 1},
        {"no known kind", {~0ull}, 1},
        {"last words", {E(STORE, 0), 0}, 2},
        {"without its end", {E(READ, 0)}, 1},
    };
    size_t bads = sizeof bad_events / sizeof bad_events[0];
    char sink[4096];
    struct why why;

    for (size_t i = 0; i < bads + 4; i++) {
        const struct bad_event *bad =
            i < bads ? &bad_events[i] : &unwritten[i - bads];
        FILE *file = fmemopen(sink, sizeof sink, "w");

        CU_ASSERT_EQUAL(write_file(file, &guest4, bad->words, bad->count, &why),
                        -EINVAL);
        if (!strstr(why.text, bad->cause))
            CU_FAIL(why.text);
    }
}

static void bit63_needs_pcids(void)
{
    const uint64_t words[] = {E(CR3, 0), 1ull << 63, E(END, 0)};
    struct image image = image_of(&guest4, words, 3);
    char sink[4096];
    struct why why;

    CU_ASSERT_EQUAL(
        write_file(fmemopen(sink, sizeof sink, "w"), &guest5, words, 3, &why),
        -EINVAL);
    free(image.bytes);
}

static void impossible_guests(void)
{
    static const struct event_guest guests[] = {
        {.levels = 3, .physical_bits = 46, .ram_bytes = 4096},
        {.levels = 6, .physical_bits = 46, .ram_bytes = 4096},
        {.levels = 4, .physical_bits = 35, .ram_bytes = 4096},
        {.levels = 4, .physical_bits = 53, .ram_bytes = 4096},
        {.levels = 4, .physical_bits = 46},
        {.levels = 4, .physical_bits = 46, .ram_bytes = 4097},
        {.levels = 4, .physical_bits = 36, .ram_bytes = 1ull << 37},
    };
    uint64_t end = E(END, 0);
    char sink[4096];
    struct why why;

    for (size_t i = 0; i < sizeof guests / sizeof guests[0]; i++) {
        struct image image = small_image();
        struct trace_head *head = (struct trace_head *)image.bytes;

        CU_ASSERT_EQUAL(write_file(fmemopen(sink, sizeof sink, "w"), &guests[i],
                                   &end, 1, &why),
                        -EINVAL);
        head->levels = (uint8_t)guests[i].levels;
        head->physical_bits = (uint8_t)guests[i].physical_bits;
        head->ram_bytes = guests[i].ram_bytes;
        head->crc = trace_crc(head, offsetof(struct trace_head, crc));
        CU_ASSERT_EQUAL(read_image(image.bytes, image.count, &why), -EINVAL);
        CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "guest"));
        free(image.bytes);
    }
}

struct pipe_end {
    int fd;
    struct stream *stream;
    int err;
};

static void *write_pipe(void *arg)
{
    struct pipe_end *end = arg;
    struct why why;

    end->err = write_file(fdopen(end->fd, "w"), &guest4, end->stream->words,
                          end->stream->count, &why);
    return NULL;
}

static void through_a_pipe(void)
{
    struct stream in = random_stream(&guest4, 200000, 10, 77), out;
    struct pipe_end end = {.stream = &in};
    pthread_t thread;
    struct why why;
    int fds[2];

    CU_ASSERT_EQUAL_FATAL(pipe(fds), 0);
    end.fd = fds[1];
    pthread_create(&thread, NULL, write_pipe, &end);
    CU_ASSERT_EQUAL(read_file(fdopen(fds[0], "r"), 4096, &out, &why), 0);
    pthread_join(thread, NULL);
    CU_ASSERT_EQUAL(end.err, 0);
    CU_ASSERT(out.count == in.count &&
              !memcmp(in.words, out.words, in.count * sizeof *in.words));
    free(in.words);
    free(out.words);
}

static unsigned entries_of(const char *folder)
{
    char *output;
    unsigned count;

    test_shell(&output, "ls -A %s | wc -l", folder);
    count = (unsigned)atoi(output);
    free(output);
    return count;
}

static void appears_when_whole(void)
{
    struct trace_header header = {.guest = guest4,
                                  .origin = trace_origin("test", NULL, 1)};
    uint64_t words[] = {E(READ, 0x1000), E(END, 0)};
    char *folder = test_folder(), path[512];
    struct event_source *source;
    struct trace_writer *writer;
    struct why why;

    snprintf(path, sizeof path, "%s/a.mvt", folder);
    CU_ASSERT_EQUAL_FATAL(trace_writer_open(path, &header, &writer, &why), 0);
    CU_ASSERT_EQUAL(trace_writer_write(writer, words, 1, &why), 0);
    CU_ASSERT_NOT_EQUAL(access(path, F_OK), 0);
    trace_writer_abandon(writer);
    CU_ASSERT_EQUAL(entries_of(folder), 0);
    CU_ASSERT_EQUAL_FATAL(trace_writer_open(path, &header, &writer, &why), 0);
    CU_ASSERT_EQUAL(trace_writer_write(writer, words, 1, &why), 0);
    CU_ASSERT_EQUAL(trace_writer_close(writer, &why), -EINVAL);
    CU_ASSERT_EQUAL(entries_of(folder), 0);
    CU_ASSERT_EQUAL_FATAL(trace_writer_open(path, &header, &writer, &why), 0);
    CU_ASSERT_EQUAL(trace_writer_write(writer, words, 2, &why), 0);
    CU_ASSERT_EQUAL(trace_writer_close(writer, &why), 0);
    CU_ASSERT_EQUAL(entries_of(folder), 1);
    CU_ASSERT_EQUAL_FATAL(trace_reader_open(path, &source, &why), 0);
    source->close(source);
    json_decref(header.origin);
    free(folder);
}

static void full_disk(void)
{
    struct trace_header header = {.guest = guest4,
                                  .origin = trace_origin("test", NULL, 1)};
    uint64_t end = E(END, 0);
    struct trace_writer *writer;
    struct why why;

    CU_ASSERT_EQUAL_FATAL(
        trace_writer_open("/dev/full", &header, &writer, &why), 0);
    CU_ASSERT_EQUAL(trace_writer_write(writer, &end, 1, &why), 0);
    CU_ASSERT_EQUAL(trace_writer_close(writer, &why), -ENOSPC);
    CU_ASSERT_STRING_EQUAL(why.text, "/dev/full: No space left on device");
    json_decref(header.origin);
}

TEST_SUITE(trace, {"what goes in comes out", round_trip},
           {"long numbers", long_numbers},
           {"header comes out", header_comes_out},
           {"truncation at every byte", truncations},
           {"every flipped bit is noticed", flipped_bits},
           {"blocks are in order", blocks_in_order},
           {"other versions are refused", other_versions},
           {"hostile lengths", hostile_lengths},
           {"hostile streams", hostile_streams}, {"hostile tags", hostile_tags},
           {"bad events are not read", bad_events_read},
           {"bad events are not written", bad_events_written},
           {"bit 63 of CR3 needs PCIDs", bit63_needs_pcids},
           {"impossible guests", impossible_guests},
           {"through a pipe", through_a_pipe},
           {"a file appears when it is whole", appears_when_whole},
           {"full disk", full_disk});
