/*
 * The binary translator: code of a guest kernel becomes code that does the
 * same at CPL 3, as VMware's did (Adams and Agesen, ASPLOS 2006, section 3).
 * Most instructions are copied; addresses relative to RIP and branches are
 * rewritten; CLI, STI, PUSHF, POPF and most IRETs work on a virtual flag in
 * line; what needs the monitor becomes a call-out. Blocks are chained as soon
 * as both ends are translated; indirect branches and returns go through a table
 * (bt/cache.h).
 *
 * Hosted: it decodes with Zydis, and runs in the VMM's process. One
 * `struct bt` for each vCPU; the caller locks. The bytes are the guest's and
 * not trusted: what can't be decoded is a call-out, for whoever handles it to
 * raise what the CPU would.
 */
#ifndef BT_BT_H
#define BT_BT_H

#include "base/why.h"
#include "bt/cache.h"
#include "bt/trace.h"

struct bt_config {
    uint64_t va;            /* of the area, where translated code runs */
    uint8_t *area;          /* the same memory as this process writes it */
    struct bt_cache *cache; /* zeroed */
    uint32_t code_bytes;    /* of BT_CODE to use; 0: BT_CODE_MAX */
    /* Must the monitor do it? May be NULL: only what raises #GP by itself and
     * what can't be decoded are then called out. */
    bool (*is_sensitive)(const uint8_t *bytes, unsigned count);
    /* User code: it is what it is, but for far branches, which are called
     * out for somebody to step over where they are. */
    bool user;
    struct bt_trace *trace; /* its accesses are logged (bt/trace.h), or NULL */
};

/* What was translated as what. */
enum bt_class {
    BT_IDENTITY,
    BT_RIP_RELATIVE,
    BT_IN_LINE, /* CLI, STI, PUSHF, POPF, IRET */
    BT_JUMP,
    BT_CONDITIONAL,
    BT_CALL,
    BT_RETURN,
    BT_INDIRECT, /* jumps and calls */
    BT_CALLED_OUT,
    BT_UNDECODED,
    BT_CLASSES,
};

struct bt_stats {
    uint64_t blocks, instructions[BT_CLASSES];
    uint64_t guest_bytes, code_bytes;
    uint64_t links;         /* branches that go straight to a block */
    uint64_t landings;      /* blocks that indirect branches can reach */
    uint64_t invalidated;   /* blocks */
    uint64_t flushes;       /* of the full cache */
    uint64_t lookups, hits; /* of whoever comes back to translated code */
    uint64_t adapted[2];    /* instructions made copies again, call-outs */
};

struct bt;

/* 0, or -ENOMEM. */
int bt_create(struct bt **bt, const struct bt_config *config, struct why *why);
void bt_destroy(struct bt *bt);

struct bt_request {
    uint64_t gva;
    const uint8_t *bytes; /* at gva, to the end of its page */
    unsigned count;
    uint64_t pa;
    const uint8_t *next; /* the page behind it; NULL: not known yet */
    uint64_t next_pa;
    bool indirect; /* an indirect branch goes there */
};

/*
 * Translates the block that begins at `gva`, or finds it, and with `indirect`
 * makes the table know it. 0; or -ENODATA: its first instruction goes on in
 * the next page, without which nothing can be done. A full cache is flushed
 * first: addresses of translated code from before are void then.
 */
int bt_translate(struct bt *bt, const struct bt_request *request);

/* Code in the guest-physical page at `pa` was written, or addresses from `gva`
 * on are mapped elsewhere: blocks with bytes there are gone. What is in one of
 * them can still be recovered. The number of blocks. */
unsigned bt_invalidate_frame(struct bt *bt, uint64_t pa);
unsigned bt_invalidate_range(struct bt *bt, uint64_t gva, uint64_t bytes);
void bt_flush(struct bt *bt);

/* The instruction at `gva` becomes a call-out, or a copy again. */
void bt_adapt(struct bt *bt, uint64_t gva, bool call_out);

const struct bt_stats *bt_stats(struct bt *bt);
const char *bt_class_name(enum bt_class class); /* "rip_relative" */

#endif
