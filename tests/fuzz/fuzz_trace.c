/* A trace: as it is, and with its checksums made right, so that what they
 * guard is reached. What is accepted as a whole can be written again. */
#include "tests/fuzz/targets.h"
#include "trace/file.h"
#include "trace/format.h"

#include <stdlib.h>

#define ROOM 4096

struct again {
    struct event_source *source;
    struct trace_writer *writer;
    uint64_t words[ROOM];
};

/* Into nowhere; refusing what the reader accepted is a bug. */
static void write_again(struct again *again)
{
    struct trace_header header = {
        .guest = again->source->guest,
        .origin = (json_t *)trace_reader_origin(again->source),
    };
    struct why why;

    if (trace_writer_open("/dev/null", &header, &again->writer, &why))
        abort();
}

/* Whether all of it is accepted; then, asked to, it is written as well. */
static bool read_once(struct again *again, const uint8_t *bytes, size_t count,
                      bool write)
{
    FILE *file = fmemopen((void *)bytes, count, "r");
    struct why why;
    long got;

    if (!file || trace_reader_open_file(file, "fuzz", &again->source, &why))
        return false;
    if (write)
        write_again(again);
    while ((got = again->source->read(again->source, again->words, ROOM,
                                      &why)) > 0)
        if (write &&
            trace_writer_write(again->writer, again->words, (size_t)got, &why))
            abort();
    if (write && trace_writer_close(again->writer, &why))
        abort();
    again->source->close(again->source);
    return got == 0;
}

static void read_trace(const uint8_t *bytes, size_t count)
{
    struct again *again = malloc(sizeof *again);

    if (again && count && read_once(again, bytes, count, false))
        read_once(again, bytes, count, true);
    free(again);
}

static void set_crc(uint8_t *crc, const uint8_t *bytes, size_t count)
{
    uint32_t value = trace_crc(bytes, count);

    memcpy(crc, &value, sizeof value);
}

/* Follows lengths as far as they lead. */
static void mend(uint8_t *bytes, size_t count)
{
    struct trace_head head;
    struct trace_block block;
    size_t at = sizeof head, payload;

    if (count < sizeof head)
        return;
    memcpy(&head, bytes, sizeof head);
    set_crc(bytes + offsetof(struct trace_head, crc), bytes,
            offsetof(struct trace_head, crc));
    if (count - at < (size_t)head.origin_bytes + 4)
        return;
    set_crc(bytes + at + head.origin_bytes, bytes + at, head.origin_bytes);
    for (at += head.origin_bytes + 4; count - at >= sizeof block;
         at += sizeof block + payload) {
        memcpy(&block, bytes + at, sizeof block);
        if (block.tag != TRACE_TAG_BLOCK)
            break;
        payload = 0;
        for (unsigned i = 0; i < BLOCK_STREAMS; i++)
            payload += block.stream[i].stored;
        if (payload > count - at - sizeof block)
            return;
        set_crc(bytes + at + offsetof(struct trace_block, payload_crc),
                bytes + at + sizeof block, payload);
        set_crc(bytes + at + offsetof(struct trace_block, crc), bytes + at,
                offsetof(struct trace_block, crc));
    }
    if (count - at >= sizeof(struct trace_tail))
        set_crc(bytes + at + offsetof(struct trace_tail, crc), bytes + at,
                offsetof(struct trace_tail, crc));
}

int fuzz_trace(const uint8_t *bytes, size_t count)
{
    uint8_t *mended = malloc(count + 1);

    if (!mended)
        return 0;
    read_trace(bytes, count);
    memcpy(mended, bytes, count);
    mend(mended, count);
    read_trace(mended, count);
    free(mended);
    return 0;
}
