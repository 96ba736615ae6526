/*
 * DynamoRIO's memtrace (drmemtrace, drcachesim) as its offline traces are
 * after post-processing: packed records of 12 bytes, type, size and address
 * (clients/drcachesim/common/trace_entry.h there), one file a thread.
 */
#include "trace/formats.h"

#include <errno.h>
#include <string.h>

#define RECORD_BYTES 12
#define VERSION_MIN  2
#define VERSION_MAX  6

enum type {
    TYPE_READ = 0,
    TYPE_WRITE = 1,
    TYPE_PREFETCH = 2,
    TYPE_PREFETCH_INSTR = 9,
    TYPE_INSTR = 10, /* and by kinds of branches up to RETURN */
    TYPE_INSTR_RETURN = 16,
    TYPE_INSTR_BUNDLE = 17,
    TYPE_INSTR_FLUSH = 18,
    TYPE_PID = 24,
    TYPE_HEADER = 25,
    TYPE_FOOTER = 26,
    TYPE_HARDWARE_PREFETCH = 27,
    TYPE_MARKER = 28,
    TYPE_INSTR_NO_FETCH = 29,
    TYPE_INSTR_SYSENTER = 31,
    TYPE_PREFETCH_READ_L1_NT = 32,
    TYPE_PREFETCH_WRITE_L3_NT = 46,
    TYPE_ENCODING = 47,
    TYPE_INSTR_TAKEN_JUMP = 48,
    TYPE_INSTR_UNTAKEN_JUMP = 49,
};

enum marker {
    MARKER_FILETYPE = 9,
    MARKER_VERSION = 12,
};

enum filetype {
    FILETYPE_INSTRUCTION_ONLY = 0x4,
    FILETYPE_FOREIGN = 0x8 | 0x10 | 0x20, /* AArch64, ARM, 32-bit x86 */
    FILETYPE_FILTERED = 0x1 | 0x80 | 0x100,
};

struct record {
    uint16_t type, size;
    uint64_t address;
};

static int check_version(const struct import *import, uint64_t version,
                         struct why *why)
{
    if (version >= VERSION_MIN && version <= VERSION_MAX)
        return 0;
    return import_wrong(import, why,
                        "a version other than 2 to 6, or records of a 32-bit "
                        "program, which are not supported");
}

static int check_filetype(const struct import *import, uint64_t filetype,
                          struct why *why)
{
    if (filetype & FILETYPE_FOREIGN)
        return import_wrong(import, why,
                            "recorded on something else than 64-bit x86, "
                            "which is not supported");
    if (filetype & FILETYPE_FILTERED)
        return import_wrong(import, why,
                            "filtered while it was recorded: accesses that "
                            "hit are missing, so that misses would be wrong; "
                            "record without -L0_filter");
    if (filetype & FILETYPE_INSTRUCTION_ONLY && !import->options.fetches)
        return import_wrong(import, why,
                            "has instructions only, and they are not asked "
                            "for");
    return 0;
}

static int add_instruction(struct import *import, const struct record *record,
                           struct why *why)
{
    import->pc = record->address + record->size;
    import->instructions = true;
    return import->options.fetches
               ? import_add(import, MMU_FETCH, record->address, record->size,
                            why)
               : 0;
}

/* Instructions behind the last one; the address holds their lengths. */
static int add_bundle(struct import *import, const struct record *record,
                      struct why *why)
{
    int err = 0;

    if (!record->size || record->size > sizeof record->address ||
        !import->instructions)
        return import_wrong(import, why,
                            "a bundle of instructions that "
                            "cannot be");
    for (unsigned i = 0; i < record->size && !err; i++) {
        struct record one = {.size = (uint8_t)(record->address >> 8 * i),
                             .address = import->pc};

        err = add_instruction(import, &one, why);
    }
    return err;
}

static bool is_instruction(unsigned type)
{
    return (type >= TYPE_INSTR && type <= TYPE_INSTR_RETURN) ||
           type == TYPE_INSTR_SYSENTER || type == TYPE_INSTR_TAKEN_JUMP ||
           type == TYPE_INSTR_UNTAKEN_JUMP;
}

/* Prefetches, flushes, threads, encodings, and instructions that were not
 * fetched: nothing that translates an address for sure. */
static bool is_other(unsigned type)
{
    return (type >= TYPE_PREFETCH && type <= TYPE_PREFETCH_INSTR) ||
           (type >= TYPE_INSTR_FLUSH && type <= TYPE_PID) ||
           (type >= TYPE_PREFETCH_READ_L1_NT &&
            type <= TYPE_PREFETCH_WRITE_L3_NT) ||
           type == TYPE_HARDWARE_PREFETCH || type == TYPE_INSTR_NO_FETCH ||
           type == TYPE_ENCODING;
}

/* A record between header and footer. */
static int take(struct import *import, const struct record *record,
                struct why *why)
{
    switch (record->type) {
    case TYPE_READ:
        return import_add(import, MMU_READ, record->address, record->size, why);
    case TYPE_WRITE:
        return import_add(import, MMU_WRITE, record->address, record->size,
                          why);
    case TYPE_INSTR_BUNDLE:
        return add_bundle(import, record, why);
    case TYPE_MARKER:
        if (record->size == MARKER_FILETYPE)
            return check_filetype(import, record->address, why);
        if (record->size == MARKER_VERSION)
            return check_version(import, record->address, why);
        return 0;
    case TYPE_FOOTER:
        import->open = false;
        return 0;
    default:
        if (is_instruction(record->type))
            return add_instruction(import, record, why);
        return is_other(record->type)
                   ? 0
                   : import_wrong(import, why, "a record of unknown type");
    }
}

static int begin(struct import *import, const struct record *record,
                 struct why *why)
{
    if (record->type != TYPE_HEADER)
        return import_wrong(import, why,
                            "not the header of a memtrace; DynamoRIO's "
                            "drraw2trace makes one of a raw trace");
    import->open = true;
    import->instructions = false;
    return check_version(import, record->address, why);
}

static int memtrace_next(struct import *import, struct why *why)
{
    const uint8_t *bytes;
    struct record record;
    int more = import_record(import, RECORD_BYTES, &bytes, why), err;

    if (more < 0 || (!more && !import->open))
        return more;
    if (!more)
        return import_wrong(import, why, "the last, but no footer: truncated");
    memcpy(&record.type, bytes, 2);
    memcpy(&record.size, bytes + 2, 2);
    memcpy(&record.address, bytes + 4, 8);
    err =
        import->open ? take(import, &record, why) : begin(import, &record, why);
    return err ? err : 1;
}

const struct import_format import_memtrace = {
    .name = "memtrace",
    .unit = "record",
    .next = memtrace_next,
    .none = "its records are no loads or stores",
};
