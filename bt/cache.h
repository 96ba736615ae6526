/*
 * The translation cache of one vCPU, as translated code and whoever takes its
 * traps see it. Freestanding: the monitor reads it at CPL 0; the translator
 * (bt/bt.h) writes it.
 *
 * Guest registers are in the real ones all the time. What a translation needs
 * besides it spills into the area, which it reaches relative to RIP; it never
 * changes a flag that the guest didn't. Every address of translated code is
 * exact: bt_recover tells what the guest's state is there, at the start of an
 * instruction that has not done anything yet. So exceptions are precise, and
 * an interrupt can be taken wherever it comes.
 *
 * An indirect branch looks up its target's low 16 bits in BT_TABLE and goes to
 * a landing, which compares the whole target (in RCX) with its own; RDX says
 * which branch it was.
 */
#ifndef BT_CACHE_H
#define BT_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- The area: user pages --------------------------------------------- */

/* Offsets. It starts at a multiple of 2 MiB. */
#define BT_STATE      0x0     /* struct bt_state, read and write */
#define BT_FLAGS      0x1000  /* struct bt_flags, read and write; see below */
#define BT_POPF       0x2000  /* struct bt_popf, read */
#define BT_TABLE      0x80000 /* uint64_t[BT_TABLE_SIZE], read */
#define BT_TABLE_SIZE 65536
#define BT_CODE       0x200000 /* read and execute */
#define BT_CODE_MAX   0x200000
#define BT_AREA       0x400000

/* With a trace (bt/trace.h), from the same start: an area of user code's
 * translations, and the log of both, uint64_t[], read and write. */
#define BT_USER_AREA  BT_AREA
#define BT_LOG        (2 * BT_AREA)
#define BT_LOG_END    (3 * BT_AREA - 0x1000) /* a page not to be written */
#define BT_TRACE_AREA (3 * BT_AREA)

/* Offsets in BT_CODE of what is always there. */
#define BT_MISS_CODE  0x0 /* the table has no landing for RCX */
#define BT_CODE_FIRST 0x40

struct bt_state {
    uint64_t spill[16]; /* by register number, RAX 0 .. R15 15 */
    /* -CS and -SS: an IRET to the same ones is done in line. */
    uint64_t minus_cs, minus_ss;
    uint64_t log; /* the address of the next word (bt/trace.h) */
};

/* Written by CLI, STI and POPF in line. Whoever wants to know when the guest
 * allows interrupts makes the page read-only: those then fault. */
struct bt_flags {
    uint8_t interrupts; /* RFLAGS.IF >> 8: 0 or 2 */
    uint8_t others;     /* IOPL and NT, RFLAGS >> 8 */
};

/* By bits 8 to 15 of the flags that POPF and IRET load. */
struct bt_popf {
    uint8_t slow[256];       /* nonzero: TF, IOPL or NT, the monitor's */
    uint8_t interrupts[256]; /* for bt_flags */
    uint8_t slow_iret[256];  /* by bits 16 to 23: nonzero but for RF */
};

/* ---- What is known of it: supervisor pages, or a process's ------------- */

enum bt_kind {
    /* The guest's instruction; a trap is its own. */
    BT_INSTRUCTION,
    /* HLT in place of an instruction that the monitor does. */
    BT_CALL_OUT,
    /* HLT in place of a branch to what isn't translated: RIP is the target. */
    BT_EXIT,
    /* HLT where BT_TABLE has nothing, or another, for the target: RIP is it. */
    BT_MISS,
};

enum bt_record_flags {
    BT_START = 1 << 0,    /* the translation of the instruction begins here */
    BT_RIP_RCX = 1 << 1,  /* the branch is done: RIP is in RCX, spilled */
    BT_RIP_GVA = 1 << 2,  /* the same, less the address of the block */
    BT_RIP_EXIT = 1 << 3, /* the branch is done: RIP is a bt_exit's target */
    BT_PUSHED = 1 << 4,   /* RSP is 8 too low */
    BT_POPPED = 1 << 5,   /* RSP is 16 too high */
};

/* What an indirect branch did to RSP. */
enum bt_branch {
    BT_BRANCH_NOTHING,
    BT_BRANCH_PUSHED,
    BT_BRANCH_POPPED,
    BT_BRANCH_SAVED, /* what it was is in RBP's place */
};

/* From `code` to the next record's. */
struct bt_record {
    uint16_t code;    /* offset in the block's code */
    uint16_t guest;   /* of the instruction, in the block */
    uint16_t spilled; /* registers whose value is in bt_state */
    uint8_t kind : 2; /* enum bt_kind */
    uint8_t flags : 6;
    uint8_t exit; /* of the block's, with BT_RIP_EXIT; with BT_RIP_RCX of a
                     branch enum bt_branch */
};

struct bt_block {
    uint64_t gva;
    uint32_t code, code_end; /* offsets in BT_CODE */
    uint32_t entry;          /* for branches: offset in BT_CODE */
    uint32_t landing;        /* for indirect ones; 0: none */
    uint32_t first_record, first_exit;
    uint32_t next;             /* in the hash chain, + 1 */
    uint16_t records, ordered; /* all, and those in the order of `guest` */
    uint16_t guest_bytes;
    bool valid; /* else only for who is in it still */
};

struct bt_exit {
    uint64_t target;
};

#define BT_BLOCKS_MAX  16384u
#define BT_RECORDS_MAX 131072u
#define BT_EXITS_MAX   32768u
#define BT_HASH        16384u

struct bt_cache {
    uint64_t va; /* of the area, where translated code runs */
    uint32_t blocks, records, exits;
    uint32_t code_bytes;                  /* used */
    uint32_t recent;                      /* block that was recovered last */
    uint64_t lookups, hits;               /* of bt_resume */
    uint32_t hash[BT_HASH];               /* by bt_hash: block + 1 */
    struct bt_block block[BT_BLOCKS_MAX]; /* in the order of their code */
    struct bt_record record[BT_RECORDS_MAX];
    struct bt_exit exit[BT_EXITS_MAX];
};

static inline uint32_t bt_hash(uint64_t gva)
{
    return (uint32_t)(gva ^ gva >> 14) & (BT_HASH - 1);
}

/* The block that begins at `gva`, or NULL. */
struct bt_block *bt_find(struct bt_cache *cache, uint64_t gva);

/* The state of the guest at an address of translated code. */
struct bt_point {
    uint64_t rip;
    enum bt_kind kind;
    /* Registers whose value isn't in the CPU but here. */
    uint16_t restored;
    const uint64_t *value; /* by register number */
    uint64_t add_rsp;
    struct bt_block *block; /* NULL for BT_MISS_CODE */
    bool start; /* where the translation of the instruction begins */
};

/* Real registers that it depends on. */
struct bt_registers {
    uint64_t rcx, rdx, rsp;
};

/* `address` is translated code's: where a trap came, before the instruction
 * there. False when there is no such code. An indirect branch to an address
 * that isn't canonical (of 48 bits) is seen before it, as an instruction that
 * raises #GP. */
bool bt_recover(struct bt_cache *cache, const struct bt_state *state,
                uint64_t address, const struct bt_registers *regs,
                struct bt_point *point);

static inline bool bt_contains(const struct bt_cache *cache, uint64_t address)
{
    return address - (cache->va + BT_CODE) < BT_CODE_MAX;
}

/* Where to go on at `rip`, the registers being the guest's: in `block` (may be
 * NULL), or in the one that begins there. 0: it must be translated. */
uint64_t bt_resume(struct bt_cache *cache, const struct bt_block *block,
                   uint64_t rip);

/* What an indirect branch to `rip` finds from now on; false when no block with
 * a landing begins there. */
bool bt_remember(struct bt_cache *cache, uint64_t *table, uint64_t rip);

#endif
