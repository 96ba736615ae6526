#include "trace/check.h"
#include "trace/file.h"
#include "trace/format.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

struct reader {
    struct event_source source;
    FILE *file;
    char *name;
    json_t *origin;
    ZSTD_DCtx *zstd;
    struct event_check check;
    uint64_t blocks; /* read so far */
    bool ended;      /* the trailer was read */
    /* Of the block; a small trace needs little. */
    size_t count, given; /* words decoded and given out */
    uint64_t *words;
    uint32_t words_events; /* events it has room for */
    uint8_t *stored;
    size_t stored_room;
    struct block *block;
};

static struct reader *reader_of(struct event_source *source)
{
    return (struct reader *)source; /* its first member */
}

const json_t *trace_reader_origin(const struct event_source *source)
{
    return ((const struct reader *)source)->origin;
}

static int truncated(const struct reader *reader, struct why *why)
{
    if (ferror(reader->file))
        return why_set(why, EIO,
                       "%s: reading failed after event %llu, in "
                       "block %llu",
                       reader->name, (unsigned long long)reader->check.events,
                       (unsigned long long)reader->blocks);
    return why_set(why, EINVAL,
                   "%s: ends after event %llu, in block %llu: truncated",
                   reader->name, (unsigned long long)reader->check.events,
                   (unsigned long long)reader->blocks);
}

static int damaged(const struct reader *reader, struct why *why,
                   const char *cause)
{
    return why_set(why, EINVAL, "%s: after event %llu, in block %llu: %s",
                   reader->name, (unsigned long long)reader->check.events,
                   (unsigned long long)reader->blocks, cause);
}

static bool get(struct reader *reader, void *bytes, size_t count)
{
    return fread(bytes, 1, count, reader->file) == count;
}

static int bad_header(const struct reader *reader, struct why *why,
                      const char *cause)
{
    return why_set(why, EINVAL, "%s: header: %s", reader->name, cause);
}

/* The text that says where the trace comes from. */
static int read_origin(struct reader *reader, uint32_t count, struct why *why)
{
    char *text = malloc(count + 1);
    json_error_t error;
    uint32_t crc;
    int err = 0;

    if (!text)
        return why_set(why, ENOMEM, "%s: no memory", reader->name);
    if (!get(reader, text, count) || !get(reader, &crc, sizeof crc))
        err = bad_header(reader, why, "truncated");
    else if (crc != trace_crc(text, count))
        err = bad_header(reader, why, "damaged, its checksum differs");
    else
        reader->origin =
            json_loadb(text, count, JSON_REJECT_DUPLICATES, &error);
    free(text);
    if (!err && !json_is_object(reader->origin))
        err = bad_header(reader, why, "the origin is no JSON object");
    return err;
}

static int check_head(const struct reader *reader,
                      const struct trace_head *head, struct why *why)
{
    if (memcmp(head->magic, TRACE_MAGIC, sizeof head->magic))
        return why_set(why, EINVAL, "%s: not a trace of memvirt", reader->name);
    if (head->version != TRACE_VERSION)
        return why_set(why, EINVAL,
                       "%s: version %u of the format, this memvirt reads %u",
                       reader->name, head->version, TRACE_VERSION);
    if (head->crc != trace_crc(head, offsetof(struct trace_head, crc)))
        return bad_header(reader, why, "damaged, its checksum differs");
    if (head->flags & ~TRACE_FLAGS || head->zero)
        return bad_header(reader, why, "unknown flags");
    if (head->origin_bytes > TRACE_ORIGIN_MAX)
        return bad_header(reader, why, "too long an origin");
    return 0;
}

static int read_header(struct reader *reader, struct why *why)
{
    struct event_guest *guest = &reader->source.guest;
    struct trace_head head = {0};
    size_t got = fread(&head, 1, sizeof head, reader->file);
    const char *wrong;
    int err;

    if (ferror(reader->file))
        return why_set(why, errno ? errno : EIO, "%s: %s", reader->name,
                       strerror(errno ? errno : EIO));
    if (got < sizeof head && !memcmp(&head, TRACE_MAGIC, sizeof head.magic))
        return bad_header(reader, why, "truncated");
    err = check_head(reader, &head, why);
    if (err)
        return err;
    *guest = (struct event_guest){
        .levels = head.levels,
        .physical_bits = head.physical_bits,
        .pages_1g = head.flags & TRACE_PAGES_1G,
        .pcid = head.flags & TRACE_PCID,
        .ram_bytes = head.ram_bytes,
    };
    wrong = event_guest_wrong(guest);
    if (wrong)
        return why_set(why, EINVAL, "%s: header: a guest with %s", reader->name,
                       wrong);
    event_check_begin(&reader->check, guest);
    return read_origin(reader, head.origin_bytes, why);
}

/* The trailer, whose tag was read, and nothing behind it. */
static int read_tail(struct reader *reader, struct why *why)
{
    struct trace_tail tail = {.tag = TRACE_TAG_END};

    if (!get(reader, (char *)&tail + sizeof tail.tag,
             sizeof tail - sizeof tail.tag))
        return truncated(reader, why);
    if (tail.crc != trace_crc(&tail, offsetof(struct trace_tail, crc)))
        return damaged(reader, why, "the trailer's checksum differs");
    if (tail.kinds != EVENT_KINDS || tail.zero ||
        tail.blocks != reader->blocks ||
        memcmp(tail.counts, reader->check.counts, sizeof tail.counts))
        return damaged(reader, why, "the trailer counts other events");
    if (!reader->check.ended)
        return damaged(reader, why, "the last event is no end");
    if (fgetc(reader->file) != EOF)
        return damaged(reader, why, "there are bytes behind the trailer");
    if (ferror(reader->file))
        return truncated(reader, why);
    reader->ended = true;
    return 0;
}

/* Bytes of the payload; -EINVAL when a length is beyond what can be. */
static long payload_bytes(const struct reader *reader,
                          const struct trace_block *head, struct why *why)
{
    size_t sum = 0;

    if (!head->events || head->events > BLOCK_EVENTS ||
        head->stream[BLOCK_TAGS].bytes != head->events)
        return damaged(reader, why, "an impossible number of events");
    for (unsigned i = 0; i < BLOCK_STREAMS; i++) {
        if (head->stream[i].bytes > block_stream_max(i) ||
            head->stream[i].stored > ZSTD_compressBound(block_stream_max(i)) ||
            !head->stream[i].bytes != !head->stream[i].stored)
            return damaged(reader, why, "an impossible length");
        sum += head->stream[i].stored;
    }
    return (long)sum;
}

static int no_memory(const struct reader *reader, struct why *why)
{
    return why_set(why, ENOMEM, "%s: no memory for a trace", reader->name);
}

/* Room for a payload whose length is below the maximum. */
static int reserve_payload(struct reader *reader, size_t bytes, struct why *why)
{
    if (bytes <= reader->stored_room)
        return 0;
    free(reader->stored);
    reader->stored = malloc(bytes);
    reader->stored_room = reader->stored ? bytes : 0;
    return reader->stored ? 0 : no_memory(reader, why);
}

/* Room for what a block's payload becomes. */
static int reserve_events(struct reader *reader, uint32_t events,
                          struct why *why)
{
    if (events > reader->words_events) {
        free(reader->words);
        reader->words =
            malloc(sizeof *reader->words * EVENT_WORDS_MAX * events);
        reader->words_events = reader->words ? events : 0;
    }
    if (!reader->zstd)
        reader->zstd = ZSTD_createDCtx();
    if (!reader->block)
        reader->block = malloc(sizeof *reader->block);
    return reader->words && reader->zstd && reader->block
               ? 0
               : no_memory(reader, why);
}

/* The head of the block whose tag was read, and its payload. */
static int read_payload(struct reader *reader, struct trace_block *head,
                        struct why *why)
{
    long bytes;
    int err;

    if (!get(reader, (char *)head + sizeof head->tag,
             sizeof *head - sizeof head->tag))
        return truncated(reader, why);
    if (head->crc != trace_crc(head, offsetof(struct trace_block, crc)))
        return damaged(reader, why,
                       "damaged, the checksum of its head "
                       "differs");
    if (head->before != reader->check.events)
        return damaged(reader, why, "a block is missing or out of order");
    bytes = payload_bytes(reader, head, why);
    if (bytes < 0)
        return (int)bytes;
    err = reserve_payload(reader, (size_t)bytes, why);
    if (err)
        return err;
    if (!get(reader, reader->stored, (size_t)bytes))
        return truncated(reader, why);
    if (head->payload_crc != trace_crc(reader->stored, (size_t)bytes))
        return damaged(reader, why, "damaged, its checksum differs");
    return 0;
}

static int unpack_streams(struct reader *reader, const struct trace_block *head,
                          struct why *why)
{
    struct block *block = reader->block;
    const uint8_t *from = reader->stored;

    block->events = head->events;
    for (unsigned i = 0; i < BLOCK_STREAMS; i++) {
        size_t want = block->length[i] = head->stream[i].bytes;

        if (want &&
            ZSTD_decompressDCtx(reader->zstd, block_stream(block, i), want,
                                from, head->stream[i].stored) != want)
            return damaged(reader, why, "a stream does not decompress");
        from += head->stream[i].stored;
    }
    return 0;
}

/* The events of the payload, checked. */
static int unpack(struct reader *reader, const struct trace_block *head,
                  struct why *why)
{
    int err = reserve_events(reader, head->events, why);
    const char *cause = NULL;
    size_t valid;
    long count;

    if (!err)
        err = unpack_streams(reader, head, why);
    if (err)
        return err;
    count = block_decode(reader->block, reader->words);
    if (count < 0)
        return damaged(reader, why, "streams that no events have");
    valid =
        event_check_run(&reader->check, reader->words, (size_t)count, &cause);
    if (valid < (size_t)count)
        return damaged(reader, why, cause);
    reader->count = valid;
    reader->given = 0;
    reader->blocks++;
    return 0;
}

static int read_next(struct reader *reader, struct why *why)
{
    struct trace_block head = {0};
    int err;

    if (!get(reader, &head.tag, sizeof head.tag))
        return truncated(reader, why);
    if (head.tag == TRACE_TAG_END)
        return read_tail(reader, why);
    if (head.tag != TRACE_TAG_BLOCK)
        return damaged(reader, why, "damaged, this is no block");
    err = read_payload(reader, &head, why);
    return err ? err : unpack(reader, &head, why);
}

/* The longest run of whole events that fits. */
static size_t fitting(const uint64_t *words, size_t count, size_t room)
{
    size_t fits = 0;

    if (count <= room)
        return count;
    for (;;) {
        size_t next = fits + event_words(event_kind(words[fits]));

        if (next > room)
            return fits;
        fits = next;
    }
}

static long reader_read(struct event_source *source, uint64_t *words,
                        size_t room, struct why *why)
{
    struct reader *reader = reader_of(source);
    size_t count;

    while (reader->given == reader->count) {
        int err;

        if (reader->ended)
            return 0;
        err = read_next(reader, why);
        if (err)
            return err;
    }
    count = fitting(reader->words + reader->given,
                    reader->count - reader->given, room);
    memcpy(words, reader->words + reader->given, count * sizeof *words);
    reader->given += count;
    return (long)count;
}

static void reader_close(struct event_source *source)
{
    struct reader *reader = reader_of(source);

    fclose(reader->file);
    json_decref(reader->origin);
    ZSTD_freeDCtx(reader->zstd);
    free(reader->words);
    free(reader->stored);
    free(reader->block);
    free(reader->name);
    free(reader);
}

static struct reader *reader_new(FILE *file, const char *name)
{
    struct reader *reader = calloc(1, sizeof *reader);

    if (!reader) {
        fclose(file);
        return NULL;
    }
    reader->source.read = reader_read;
    reader->source.close = reader_close;
    reader->file = file;
    reader->name = strdup(name);
    if (reader->name)
        return reader;
    reader_close(&reader->source);
    return NULL;
}

int trace_reader_open_file(FILE *file, const char *name,
                           struct event_source **source, struct why *why)
{
    struct reader *reader = reader_new(file, name);
    int err;

    if (!reader)
        return why_set(why, ENOMEM, "%s: no memory for a trace", name);
    err = read_header(reader, why);
    if (err)
        reader_close(&reader->source);
    else
        *source = &reader->source;
    return err;
}

int trace_reader_open(const char *path, struct event_source **source,
                      struct why *why)
{
    bool standard = !strcmp(path, "-");
    int fd = standard ? dup(STDIN_FILENO) : -1;
    FILE *file = standard ? fd < 0 ? NULL : fdopen(fd, "r") : fopen(path, "re");

    if (!file)
        return why_set(why, errno, "%s: %s", standard ? "standard input" : path,
                       strerror(errno));
    return trace_reader_open_file(file, standard ? "standard input" : path,
                                  source, why);
}
