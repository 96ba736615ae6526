/* What the targets of the imports share. */
#ifndef TESTS_FUZZ_IMPORT_H
#define TESTS_FUZZ_IMPORT_H

#include "mmu/walk.h"
#include "trace/import.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Reads the bytes as that kind; whatever comes out lies in the lower half. */
static inline void fuzz_read(const char *kind, const char *path,
                             const struct trace_import_options *options)
{
    uint64_t half = 1ull << (options->levels == 5 ? 56 : 47);
    struct raw_access accesses[64];
    struct raw_source *source;
    struct why why;
    long got;

    if (trace_import_open(kind, path, options, &source, &why))
        return;
    while ((got = source->read(source, accesses, 64, &why)) > 0)
        for (long i = 0; i < got; i++)
            if (accesses[i].va >= half || !accesses[i].bytes ||
                accesses[i].bytes > half - accesses[i].va ||
                accesses[i].access > (options->fetches ? MMU_FETCH : MMU_WRITE))
                abort();
    source->close(source);
}

static inline void fuzz_import(const char *kind, const uint8_t *bytes,
                               size_t count)
{
    static const struct trace_import_options options[] = {
        {.levels = 4}, {.fetches = true, .levels = 5}};
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    char path[64];

    if (fd < 0 || write(fd, bytes, count) != (ssize_t)count)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    fuzz_read(kind, path, &options[0]);
    fuzz_read(kind, path, &options[1]);
    close(fd);
}

#endif
