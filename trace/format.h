/* The numbers of the trace format, for its writer and its reader; the text is
 * docs/traces.md. Everything is little-endian, as the hosts are. */
#ifndef TRACE_FORMAT_H
#define TRACE_FORMAT_H

#include "trace/block.h"
#include "trace/event.h"

#include <stdint.h>
#include <string.h>
#include <zlib.h>

#define TRACE_MAGIC      "\x89MVT\r\n\x1a\n"
#define TRACE_VERSION    1u
#define TRACE_TAG_BLOCK  0x4b434c42u /* "BLCK" */
#define TRACE_TAG_END    0x21444e45u /* "END!" */
#define TRACE_ORIGIN_MAX (60u << 10)

enum trace_flags {
    TRACE_PAGES_1G = 1 << 0,
    TRACE_PCID = 1 << 1,
    TRACE_FLAGS = TRACE_PAGES_1G | TRACE_PCID,
};

/* The checksum is crc32 (ISO 3309, zlib's) of all bytes before it. */
struct trace_head {
    char magic[8];
    uint32_t version;
    uint32_t origin_bytes; /* of JSON text, behind this; then its own crc */
    uint64_t ram_bytes;
    uint8_t levels, physical_bits, flags, zero;
    uint32_t crc;
};

struct trace_block {
    uint32_t tag;
    uint32_t events;
    uint64_t before; /* events in the blocks before */
    struct {
        uint32_t bytes, stored; /* of the stream; as zstd frame */
    } stream[BLOCK_STREAMS];
    uint32_t payload_crc;
    uint32_t crc;
};

struct trace_tail {
    uint32_t tag;
    uint32_t kinds;
    uint64_t blocks;
    uint64_t counts[EVENT_KINDS];
    uint32_t zero;
    uint32_t crc;
};

_Static_assert(sizeof(struct trace_head) == 32, "no padding");
_Static_assert(sizeof(struct trace_block) == 120, "no padding");
_Static_assert(sizeof(struct trace_tail) == 144, "no padding");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "as the format");

static inline uint32_t trace_crc(const void *bytes, size_t count)
{
    return (uint32_t)crc32_z(0, bytes, count);
}

#endif
