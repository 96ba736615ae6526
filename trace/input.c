#include "trace/input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define BUFFER_BYTES (128u << 10)

struct input {
    char *name;
    gzFile gz;          /* passes on what is not gzip */
    ZSTD_DStream *zstd; /* over it, when that is zstd */
    bool inside;        /* a zstd frame */
    size_t used, count; /* of the buffer */
    uint8_t buffer[BUFFER_BYTES];
};

static const struct packing {
    const char *magic;
    size_t count;
    const char *name, *unpack;
} packings[] = {
    {"\xfd"
     "7zXZ",
     6, "xz", "xz -dc"},
    {"\x04\x22\x4d\x18", 4, "lz4", "lz4 -dc"},
    {"PK\x03\x04", 4, "zip", "unzip -p"},
    {"BZh", 3, "bzip2", "bzip2 -dc"},
};

static const char zstd_magic[] = "\x28\xb5\x2f\xfd";

const char *input_name(const struct input *input)
{
    return input->name;
}

void input_close(struct input *input)
{
    if (!input)
        return;
    if (input->gz)
        gzclose_r(input->gz);
    ZSTD_freeDStream(input->zstd);
    free(input->name);
    free(input);
}

/* Fills the buffer with what gzip, if any, leaves. */
static int fill(struct input *input, struct why *why)
{
    int got = gzread(input->gz, input->buffer, BUFFER_BYTES), error = Z_OK;
    const char *text;

    input->used = 0;
    input->count = got < 0 ? 0 : (size_t)got;
    if (got == (int)BUFFER_BYTES)
        return 0;
    text = gzerror(input->gz, &error);
    if (error == Z_OK || error == Z_STREAM_END)
        return 0;
    if (error == Z_ERRNO)
        return why_set(why, errno ? errno : EIO, "%s: %s", input->name,
                       strerror(errno ? errno : EIO));
    if (error == Z_BUF_ERROR)
        return why_set(why, EINVAL, "%s: the gzip file is truncated",
                       input->name);
    return why_set(why, EINVAL, "%s: the gzip file is damaged (%s)",
                   input->name, text);
}

/* Looks at the first bytes for something that needs unpacking. */
static int recognize(struct input *input, const char *path, const char *kind,
                     struct why *why)
{
    for (size_t i = 0; i < sizeof packings / sizeof packings[0]; i++) {
        const struct packing *packing = &packings[i];

        if (input->count >= packing->count &&
            !memcmp(input->buffer, packing->magic, packing->count))
            return why_set(why, EINVAL,
                           "%s: packed with %s; use %s %s | memvirt model -w "
                           "%s:-",
                           input->name, packing->name, packing->unpack,
                           strcmp(path, "-") ? path : "FILE", kind);
    }
    if (input->count < 4 || memcmp(input->buffer, zstd_magic, 4))
        return 0;
    input->zstd = ZSTD_createDStream();
    return input->zstd ? 0 : why_set(why, ENOMEM, "%s: no memory", input->name);
}

int input_open(const char *path, const char *kind, struct input **out,
               struct why *why)
{
    bool standard = !strcmp(path, "-");
    struct input *input = malloc(sizeof *input);
    int fd, err;

    if (!input)
        return why_set(why, ENOMEM, "%s: no memory", path);
    memset(input, 0, offsetof(struct input, buffer));
    input->name = strdup(standard ? "standard input" : path);
    fd = standard ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    input->gz = fd < 0 ? NULL : gzdopen(fd, "rb");
    if (!input->gz || !input->name) {
        err = why_set(why, errno ? errno : ENOMEM, "%s: %s", path,
                      strerror(errno ? errno : ENOMEM));
        if (fd >= 0 && !input->gz)
            close(fd);
    } else {
        gzbuffer(input->gz, BUFFER_BYTES);
        err = fill(input, why);
        if (!err)
            err = recognize(input, path, kind, why);
    }
    if (err)
        input_close(input);
    else
        *out = input;
    return err;
}

/* One step of unpacking; how many bytes it gave. */
static long unpack(struct input *input, void *bytes, size_t room,
                   struct why *why)
{
    ZSTD_outBuffer out = {bytes, room, 0};
    ZSTD_inBuffer in = {input->buffer, input->count, input->used};
    size_t left = ZSTD_decompressStream(input->zstd, &out, &in);

    if (ZSTD_isError(left))
        return why_set(why, EINVAL, "%s: the zstd file is damaged (%s)",
                       input->name, ZSTD_getErrorName(left));
    if (in.pos > input->used || out.pos)
        input->inside = left != 0;
    input->used = in.pos;
    return (long)out.pos;
}

/* One step: some bytes, or 0 and nothing is left in the buffer. */
static long step(struct input *input, void *bytes, size_t room, struct why *why)
{
    size_t count = input->count - input->used;

    if (input->zstd)
        return unpack(input, bytes, room, why);
    count = count < room ? count : room;
    memcpy(bytes, input->buffer + input->used, count);
    input->used += count;
    return (long)count;
}

long input_read(struct input *input, void *bytes, size_t room, struct why *why)
{
    size_t done = 0;

    while (done < room) {
        long got = step(input, (uint8_t *)bytes + done, room - done, why);
        int err;

        if (got < 0)
            return got;
        done += (size_t)got;
        if (got || input->used < input->count)
            continue;
        err = fill(input, why);
        if (err)
            return err;
        if (!input->count) {
            if (input->inside)
                return why_set(why, EINVAL, "%s: the zstd file is truncated",
                               input->name);
            break;
        }
    }
    return (long)done;
}
