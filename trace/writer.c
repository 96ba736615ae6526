#include "trace/check.h"
#include "trace/file.h"
#include "trace/format.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#define LEVEL 1 /* of zstd: what is left after the coding is mostly noise */

struct trace_writer {
    FILE *file;
    char *name;    /* in sentences */
    char *path;    /* the regular file that it becomes, or NULL */
    char *partial; /* what it is called until then */
    ZSTD_CCtx *zstd;
    struct event_check check;
    uint64_t blocks, before;
    uint8_t *stored; /* room for the largest payload */
    size_t stored_room;
    struct block block;
};

json_t *trace_origin(const char *workload, json_t *parameters, uint64_t seed)
{
    json_t *origin =
        json_pack("{s:s, s:o*, s:I}", "workload", workload, "parameters",
                  parameters, "seed", (json_int_t)seed);

#ifdef MEMVIRT_VERSION
    if (origin)
        json_object_set_new(origin, "memvirt", json_string(MEMVIRT_VERSION));
#endif
    return origin;
}

static int put(struct trace_writer *writer, const void *bytes, size_t count,
               struct why *why)
{
    if (fwrite(bytes, 1, count, writer->file) == count)
        return 0;
    return why_set(why, errno ? errno : EIO, "%s: %s", writer->name,
                   strerror(errno ? errno : EIO));
}

static int put_header(struct trace_writer *writer,
                      const struct trace_header *header, const char *origin,
                      struct why *why)
{
    const struct event_guest *guest = &header->guest;
    uint32_t crc = trace_crc(origin, strlen(origin));
    struct trace_head head = {
        .magic = TRACE_MAGIC,
        .version = TRACE_VERSION,
        .origin_bytes = (uint32_t)strlen(origin),
        .ram_bytes = guest->ram_bytes,
        .levels = (uint8_t)guest->levels,
        .physical_bits = (uint8_t)guest->physical_bits,
        .flags = (uint8_t)((guest->pages_1g ? TRACE_PAGES_1G : 0) |
                           (guest->pcid ? TRACE_PCID : 0)),
    };
    int err;

    head.crc = trace_crc(&head, offsetof(struct trace_head, crc));
    err = put(writer, &head, sizeof head, why);
    if (!err)
        err = put(writer, origin, head.origin_bytes, why);
    return err ? err : put(writer, &crc, sizeof crc, why);
}

/* Checks the header and writes it. */
static int begin(struct trace_writer *writer, const struct trace_header *header,
                 struct why *why)
{
    const char *wrong = event_guest_wrong(&header->guest);
    char *origin;
    int err;

    if (wrong)
        return why_set(why, EINVAL, "%s: a guest with %s", writer->name, wrong);
    origin = json_is_object(header->origin)
                 ? json_dumps(header->origin, JSON_COMPACT | JSON_SORT_KEYS)
                 : NULL;
    if (!origin)
        return why_set(why, EINVAL, "%s: the origin is no JSON object",
                       writer->name);
    if (strlen(origin) > TRACE_ORIGIN_MAX)
        err = why_set(why, E2BIG, "%s: the origin has over %u bytes",
                      writer->name, TRACE_ORIGIN_MAX);
    else
        err = put_header(writer, header, origin, why);
    free(origin);
    event_check_begin(&writer->check, &header->guest);
    block_begin(&writer->block);
    return err;
}

static void writer_free(struct trace_writer *writer)
{
    if (writer->file)
        fclose(writer->file);
    if (writer->partial)
        unlink(writer->partial);
    ZSTD_freeCCtx(writer->zstd);
    free(writer->stored);
    free(writer->partial);
    free(writer->path);
    free(writer->name);
    free(writer);
}

void trace_writer_abandon(struct trace_writer *writer)
{
    if (writer)
        writer_free(writer);
}

static size_t payload_max(void)
{
    size_t sum = 0;

    for (unsigned i = 0; i < BLOCK_STREAMS; i++)
        sum += ZSTD_compressBound(block_stream_max(i));
    return sum;
}

static struct trace_writer *writer_new(const char *name)
{
    struct trace_writer *writer = malloc(sizeof *writer);

    if (!writer)
        return NULL;
    memset(writer, 0, offsetof(struct trace_writer, block));
    writer->stored_room = payload_max();
    writer->stored = malloc(writer->stored_room);
    writer->name = strdup(name);
    writer->zstd = ZSTD_createCCtx();
    if (writer->stored && writer->name && writer->zstd &&
        !ZSTD_isError(ZSTD_CCtx_setParameter(writer->zstd,
                                             ZSTD_c_compressionLevel, LEVEL)))
        return writer;
    writer_free(writer);
    return NULL;
}

int trace_writer_open_file(FILE *file, const char *name,
                           const struct trace_header *header,
                           struct trace_writer **out, struct why *why)
{
    struct trace_writer *writer = writer_new(name);
    int err;

    if (!writer) {
        fclose(file);
        return why_set(why, ENOMEM, "%s: no memory for a trace", name);
    }
    writer->file = file;
    err = begin(writer, header, why);
    if (err)
        writer_free(writer);
    else
        *out = writer;
    return err;
}

/* The file that `path` leads to, through links, so that a rename does not
 * replace the link; NULL when it is to be written as it is: a pipe, a device.
 */
static char *regular_target(const char *path)
{
    struct stat stat_of;

    if (stat(path, &stat_of))
        return strdup(path);
    return S_ISREG(stat_of.st_mode) ? realpath(path, NULL) : NULL;
}

static int create(struct trace_writer *writer, const char *path,
                  struct why *why)
{
    int fd;

    writer->path = regular_target(path);
    if (!writer->path) {
        fd = open(path, O_WRONLY | O_CLOEXEC);
    } else {
        if (asprintf(&writer->partial, "%s.%ld.part", writer->path,
                     (long)getpid()) < 0) {
            writer->partial = NULL;
            return why_set(why, ENOMEM, "%s: no memory for a trace", path);
        }
        fd = open(writer->partial,
                  O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    }
    writer->file = fd < 0 ? NULL : fdopen(fd, "w");
    return writer->file ? 0
                        : why_set(why, errno, "%s: %s", path, strerror(errno));
}

int trace_writer_open(const char *path, const struct trace_header *header,
                      struct trace_writer **out, struct why *why)
{
    struct trace_writer *writer;
    int err;

    if (!strcmp(path, "-")) {
        int fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
        FILE *file = fd < 0 ? NULL : fdopen(fd, "w");

        if (!file)
            return why_set(why, errno, "standard output: %s", strerror(errno));
        return trace_writer_open_file(file, "standard output", header, out,
                                      why);
    }
    writer = writer_new(path);
    if (!writer)
        return why_set(why, ENOMEM, "%s: no memory for a trace", path);
    err = create(writer, path, why);
    if (!err)
        err = begin(writer, header, why);
    if (err)
        writer_free(writer);
    else
        *out = writer;
    return err;
}

/* Compresses the streams into `stored` and describes them in `head`; returns
 * the bytes of the payload, 0 when zstd fails. */
static size_t pack(struct trace_writer *writer, struct trace_block *head)
{
    struct block *block = &writer->block;
    size_t used = 0;

    for (unsigned i = 0; i < BLOCK_STREAMS; i++) {
        size_t got = 0;

        if (block->length[i])
            got = ZSTD_compress2(writer->zstd, writer->stored + used,
                                 writer->stored_room - used,
                                 block_stream(block, i), block->length[i]);
        if (ZSTD_isError(got))
            return 0;
        head->stream[i].bytes = block->length[i];
        head->stream[i].stored = (uint32_t)got;
        used += got;
    }
    return used;
}

static int put_block(struct trace_writer *writer, struct why *why)
{
    struct trace_block head = {
        .tag = TRACE_TAG_BLOCK,
        .events = writer->block.events,
        .before = writer->before,
    };
    size_t used;
    int err;

    if (!head.events)
        return 0;
    used = pack(writer, &head);
    if (!used)
        return why_set(why, ENOMEM, "%s: zstd does not compress block %llu",
                       writer->name, (unsigned long long)writer->blocks);
    head.payload_crc = trace_crc(writer->stored, used);
    head.crc = trace_crc(&head, offsetof(struct trace_block, crc));
    writer->before += head.events;
    writer->blocks++;
    block_begin(&writer->block);
    err = put(writer, &head, sizeof head, why);
    return err ? err : put(writer, writer->stored, used, why);
}

int trace_writer_write(struct trace_writer *writer, const uint64_t *words,
                       size_t count, struct why *why)
{
    const char *cause = NULL;
    size_t valid = event_check_run(&writer->check, words, count, &cause);

    if (valid < count)
        return why_set(why, EINVAL, "%s: event %llu is not written: %s",
                       writer->name, (unsigned long long)writer->check.events,
                       cause);
    while (valid) {
        size_t taken = block_encode(&writer->block, words, valid);
        int err = taken < valid ? put_block(writer, why) : 0;

        if (err)
            return err;
        words += taken;
        valid -= taken;
    }
    return 0;
}

static int put_tail(struct trace_writer *writer, struct why *why)
{
    struct trace_tail tail = {
        .tag = TRACE_TAG_END,
        .kinds = EVENT_KINDS,
        .blocks = writer->blocks,
    };

    memcpy(tail.counts, writer->check.counts, sizeof tail.counts);
    tail.crc = trace_crc(&tail, offsetof(struct trace_tail, crc));
    return put(writer, &tail, sizeof tail, why);
}

/* Everything is in the file system, under its name. */
static int settle(struct trace_writer *writer, struct why *why)
{
    FILE *file = writer->file;

    writer->file = NULL;
    if (fclose(file) ||
        (writer->partial && rename(writer->partial, writer->path)))
        return why_set(why, errno, "%s: %s", writer->name, strerror(errno));
    free(writer->partial);
    writer->partial = NULL;
    return 0;
}

int trace_writer_close(struct trace_writer *writer, struct why *why)
{
    int err = 0;

    if (!writer->check.ended)
        err = why_set(why, EINVAL, "%s: the stream ends without its end",
                      writer->name);
    if (!err)
        err = put_block(writer, why);
    if (!err)
        err = put_tail(writer, why);
    if (!err)
        err = settle(writer, why);
    writer_free(writer);
    return err;
}
