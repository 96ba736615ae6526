#include "trace/formats.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BYTES_MAX 16384u /* XSAVE with AMX writes 11 KiB */

const char *const trace_import_kinds[] = {"lackey", "champsim", "memtrace",
                                          NULL};

static const struct import_format *const formats[] = {
    &import_lackey, &import_champsim, &import_memtrace};

int import_wrong(const struct import *import, struct why *why,
                 const char *cause)
{
    return why_set(why, EINVAL, "%s: %s %llu: %s", input_name(import->input),
                   import->format->unit, (unsigned long long)import->position,
                   cause);
}

static int wrong_address(const struct import *import, uint64_t va,
                         const char *cause, struct why *why)
{
    return why_set(why, EINVAL, "%s: %s %llu: address 0x%llx %s",
                   input_name(import->input), import->format->unit,
                   (unsigned long long)import->position, (unsigned long long)va,
                   cause);
}

int import_add(struct import *import, enum mmu_access access, uint64_t va,
               uint64_t bytes, struct why *why)
{
    uint64_t half = 1ull << (import->options.levels == 5 ? 56 : 47);

    if (!bytes || bytes > BYTES_MAX)
        return import_wrong(import, why,
                            bytes ? "an access of more than 16 KiB"
                                  : "an access of 0 bytes");
    if (va >= -half)
        return wrong_address(import, va, "is in the kernel's half", why);
    if (va >= half)
        return wrong_address(import, va, "is not canonical", why);
    if (bytes > half - va)
        return wrong_address(import, va, "reaches beyond the lower half", why);
    import->queue[import->queued++] = (struct raw_access){
        .va = va, .bytes = (uint32_t)bytes, .access = (uint8_t)access};
    return 0;
}

long import_refill(struct import *import, struct why *why)
{
    size_t left = import->end - import->at;
    long got;

    memmove(import->text, import->text + import->at, left);
    import->at = 0;
    import->end = left;
    got =
        input_read(import->input, import->text + left, IMPORT_TEXT - left, why);
    if (got > 0)
        import->end += (size_t)got;
    return got;
}

int import_record(struct import *import, size_t bytes, const uint8_t **record,
                  struct why *why)
{
    if (import->end - import->at < bytes) {
        long got = import_refill(import, why);

        if (got < 0)
            return (int)got;
    }
    if (import->end == import->at)
        return 0;
    import->position++;
    if (import->end - import->at < bytes)
        return import_wrong(import, why, "truncated");
    *record = import->text + import->at;
    import->at += bytes;
    return 1;
}

/* The next line or record that has accesses; 1, 0 at the end, or an errno. */
static int refill_queue(struct import *import, struct why *why)
{
    import->queued = import->taken = 0;
    while (!import->queued) {
        int more = import->format->next(import, why);

        if (more < 0)
            return more;
        if (more)
            continue;
        return import->given
                   ? 0
                   : why_set(why, EINVAL, "%s: no accesses: %s",
                             input_name(import->input), import->format->none);
    }
    return 1;
}

static long import_read(struct raw_source *source, struct raw_access *out,
                        size_t room, struct why *why)
{
    struct import *import = (struct import *)source; /* its first member */
    size_t done = 0;

    while (done < room) {
        if (import->taken == import->queued) {
            int more = refill_queue(import, why);

            if (more < 0)
                return more;
            if (!more)
                break;
        }
        out[done++] = import->queue[import->taken++];
        import->given++;
    }
    return (long)done;
}

static void import_close(struct raw_source *source)
{
    struct import *import = (struct import *)source;

    input_close(import->input);
    free(import);
}

static int import_new(const struct import_format *format, const char *path,
                      const struct trace_import_options *options,
                      struct import **out, struct why *why)
{
    struct import *import = malloc(sizeof *import);
    int err;

    if (!import)
        return why_set(why, ENOMEM, "%s: no memory", path);
    memset(import, 0, offsetof(struct import, text));
    import->source.read = import_read;
    import->source.close = import_close;
    import->format = format;
    import->options = *options;
    err = input_open(path, format->name, &import->input, why);
    if (err)
        free(import);
    else
        *out = import;
    return err;
}

int trace_import_open(const char *kind, const char *path,
                      const struct trace_import_options *options,
                      struct raw_source **source, struct why *why)
{
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        struct import *import;
        int err;

        if (strcmp(kind, formats[i]->name) != 0)
            continue;
        err = import_new(formats[i], path, options, &import, why);
        if (!err)
            *source = &import->source;
        return err;
    }
    return why_set(why, EINVAL,
                   "'%s' is no kind of trace: lackey, champsim, memtrace",
                   kind);
}
