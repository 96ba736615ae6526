#include "tests/bt_stream.h"
#include "workloads/api.h"

#include <asm/prctl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RSP        4u
#define CODE_MAX   4096u
#define UNITS_MAX  20u
#define FUNCTIONS  3u
#define LABELS_MAX (UNITS_MAX + 1 + FUNCTIONS)
#define FIXUPS_MAX 128u
#define INSN_MAX   15u
#define PART_BYTES (2 * RUN_PAGE) /* of code, data and stack each */

const struct stream_place stream_places[STREAM_PLACES] = {
    [STREAM_LOW] = {"low", 0x40000000, 0x40010000, 0x40020000, 0x200200000000},
    [STREAM_HIGH] = {"high", 0x200000000000, 0x200000010000, 0x200000020000,
                     0x200100000000},
    [STREAM_BORDER] = {"border", 0x7ffff000, 0x80010000, 0x80020000,
                       0x200300000000},
};

struct fixup {
    unsigned at, bytes, label; /* bytes 8: the address, else relative */
};

struct gen {
    uint64_t random, fs;
    struct stream *s;
    uint64_t base; /* of code[0] */
    unsigned count;
    unsigned unit, units, functions; /* labels: units, their end, functions */
    unsigned label[LABELS_MAX];
    struct fixup fixup[FIXUPS_MAX];
    unsigned fixups, loops, slots, slot_label[STREAM_SLOTS];
    bool anything; /* any prefix, whatever becomes of the instruction */
    uint8_t code[CODE_MAX + 64];
};

static unsigned below(struct gen *g, unsigned n)
{
    return (unsigned)wl_below(&g->random, n);
}

static bool one_in(struct gen *g, unsigned n)
{
    return !below(g, n);
}

/* Edges of all sizes more often than chance has them. */
static uint64_t value(struct gen *g)
{
    static const uint64_t edges[] = {
        0,          1,          0x7f,           0x80,
        0xff,       0x7fff,     0x8000,         0xffff,
        0x7fffffff, 0x80000000, 0xffffffff,     INT64_MAX,
        INT64_MIN,  UINT64_MAX, UINT64_MAX - 1, 0x100000000,
    };
    uint64_t random = wl_random(&g->random);

    switch (below(g, 4)) {
    case 0:
        return edges[below(g, sizeof edges / sizeof edges[0])];
    case 1:
        return random >> below(g, 64);
    default:
        return random;
    }
}

/* ---- Bytes -------------------------------------------------------------- */

static void put(struct gen *g, uint64_t bits, unsigned bytes)
{
    memcpy(g->code + g->count, &bits, bytes);
    g->count += bytes;
}

#define PUT(g, ...)                                                  \
    do {                                                             \
        const uint8_t put_bytes[] = {__VA_ARGS__};                   \
        memcpy((g)->code + (g)->count, put_bytes, sizeof put_bytes); \
        (g)->count += sizeof put_bytes;                              \
    } while (0)

static uint64_t here(const struct gen *g)
{
    return g->base + g->count;
}

static void put_label(struct gen *g, unsigned label, unsigned bytes)
{
    g->fixup[g->fixups++] = (struct fixup){g->count, bytes, label};
    put(g, 0, bytes);
}

static bool fits_signed(uint64_t v)
{
    return (uint64_t)(int64_t)(int32_t)v == v;
}

static void load(struct gen *g, unsigned reg, uint64_t v)
{
    if (v >> 32 || one_in(g, 4)) {
        put(g, 0x48 | reg >> 3, 1);
        put(g, 0xb8 | (reg & 7), 1);
        put(g, v, 8);
    } else {
        put(g, 0x40 | reg >> 3, 1);
        put(g, 0xb8 | (reg & 7), 1);
        put(g, v, 4);
    }
}

static void load_label(struct gen *g, unsigned reg, unsigned label)
{
    put(g, 0x48 | reg >> 3, 1);
    if (one_in(g, 2)) {
        put(g, 0xb8 | (reg & 7), 1);
        put_label(g, label, 8);
    } else { /* lea label(%rip), reg */
        g->code[g->count - 1] = (uint8_t)(0x48 | reg >> 3 << 2);
        PUT(g, 0x8d, (uint8_t)((reg & 7) << 3 | 5));
        put_label(g, label, 4);
    }
}

static unsigned any_register(struct gen *g)
{
    return below(g, 16);
}

/* But for RSP, which the program must keep for a while. */
static unsigned general_register(struct gen *g)
{
    unsigned reg = below(g, 15);

    return reg < RSP ? reg : reg + 1;
}

/* ---- Memory operands ---------------------------------------------------- */

struct memory {
    unsigned mod, rm, sib, disp_bytes;
    uint64_t disp;
    bool has_sib, x, b, narrow, relative;
    uint8_t segment;
    uint64_t target; /* of what is relative, less the segment's base */
};

static uint64_t pick_disp(struct gen *g, struct memory *m, bool zero,
                          bool short_too)
{
    unsigned kind = below(g, 3);

    m->mod = 2;
    m->disp_bytes = 4;
    m->disp =
        (uint64_t)(int64_t)(int32_t)(one_in(g, 2) ? value(g)
                                                  : below(g, 8192) - 4096u);
    if (kind == 0 && zero) {
        m->mod = m->disp_bytes = 0;
        m->disp = 0;
    } else if (kind == 1 && short_too) {
        m->mod = m->disp_bytes = 1;
        m->disp = (uint64_t)(int64_t)(int8_t)value(g);
    }
    return m->disp;
}

static uint64_t widen(struct gen *g, const struct memory *m, uint64_t v)
{
    return m->narrow ? (uint32_t)v | value(g) << 32 : v;
}

static void by_base(struct gen *g, struct memory *m, uint64_t offset,
                    bool short_too)
{
    unsigned base = general_register(g);

    offset -= pick_disp(g, m, (base & 7) != 5, short_too);
    load(g, base, widen(g, m, offset));
    m->rm = base & 7;
    m->b = base >> 3;
    if (m->rm == 4) {
        m->has_sib = true;
        m->sib = below(g, 4) << 6 | 0x24;
    }
}

static void by_index(struct gen *g, struct memory *m, uint64_t offset,
                     bool short_too)
{
    unsigned base = general_register(g), index = general_register(g);
    unsigned scale = below(g, 4);
    uint64_t v = value(g);

    if (index == base)
        index = base == 1 ? 2 : 1;
    m->has_sib = true;
    m->rm = 4;
    m->x = index >> 3;
    if (one_in(g, 4)) { /* no base: disp32 alone */
        m->disp_bytes = 4;
        m->disp = offset & ((1u << scale) - 1);
        m->disp += (below(g, 4096) & ~7u);
        m->sib = scale << 6 | (index & 7) << 3 | 5;
        m->b = one_in(g, 2);
        v = (offset - m->disp) >> scale;
    } else {
        offset -= pick_disp(g, m, (base & 7) != 5, short_too);
        m->sib = scale << 6 | (index & 7) << 3 | (base & 7);
        m->b = base >> 3;
        load(g, base, widen(g, m, offset - (v << scale)));
    }
    load(g, index, v);
}

static void by_rip(struct gen *g, struct memory *m, uint64_t offset)
{
    m->relative = true;
    m->rm = 5;
    m->disp_bytes = 4;
    m->target = offset;
    m->x = one_in(g, 4); /* that nothing asks for */
    m->b = one_in(g, 4);
}

static void by_address(struct gen *g, struct memory *m, uint64_t offset)
{
    m->has_sib = true;
    m->rm = 4;
    m->sib = below(g, 4) << 6 | 0x25;
    m->disp_bytes = 4;
    m->disp = offset;
    m->b = one_in(g, 4);
}

/* An operand at `target`, in any of the ways that reach it. */
static struct memory memory_at(struct gen *g, uint64_t target, bool short_too)
{
    struct memory m = {0};
    uint64_t offset = target;

    if (one_in(g, 8)) {
        m.segment = 0x65;
        offset -= STREAM_GS;
    } else if (one_in(g, 24)) {
        m.segment = 0x64;
        offset -= g->fs;
    }
    m.narrow = offset >> 32 == 0 && one_in(g, 6);
    switch (below(g, 8)) {
    case 0:
    case 1:
    case 2:
        if (m.narrow || fits_signed((offset - here(g)) * 2)) {
            by_rip(g, &m, offset);
            return m;
        }
        break;
    case 3:
        if (m.narrow || fits_signed(offset)) {
            by_address(g, &m, offset);
            return m;
        }
        break;
    case 4:
    case 5:
        by_index(g, &m, offset, short_too);
        return m;
    default:
        break;
    }
    by_base(g, &m, offset, short_too);
    return m;
}

static struct memory on_stack(struct gen *g)
{
    struct memory m = {.has_sib = true, .rm = 4, .sib = 0x24};

    m.mod = m.disp_bytes = one_in(g, 2);
    m.disp = m.mod ? below(g, 16) * 8 : 0;
    return m;
}

/* Some data, now and then not all of it mapped. */
static uint64_t some_address(struct gen *g, unsigned align)
{
    uint64_t data = g->s->place->data;
    unsigned bytes = STREAM_DATA_PAGES * RUN_PAGE;

    if (one_in(g, 4))
        data = stream_places[STREAM_LOW].data;
    if (one_in(g, 60))
        return data + bytes - below(g, 32);
    if (one_in(g, 200))
        return data - below(g, 32);
    if (one_in(g, 4))
        return data + RUN_PAGE - below(g, 32) / align * align;
    if (one_in(g, 8))
        align = 1;
    return data + 512 + below(g, bytes - 1024) / align * align;
}

static struct memory some_memory(struct gen *g, unsigned align, bool short_too)
{
    return one_in(g, 8) ? on_stack(g)
                        : memory_at(g, some_address(g, align), short_too);
}

/* ---- Encoding ----------------------------------------------------------- */

struct enc {
    unsigned map, opcode, prefix; /* 0, 0F, 0F38, 0F3A; 66, F2, F3 or none */
    unsigned size;                /* 2 and 8 have a prefix; 0: none */
    unsigned reg, rm;
    bool modrm, is_memory, lock, rep_too;
    struct memory m;
    unsigned imm_bytes;
    uint64_t imm;
};

struct prefixes {
    uint8_t byte[32];
    unsigned count;
};

static void add_prefix(struct gen *g, struct prefixes *p, uint8_t byte)
{
    unsigned at = below(g, p->count + 1);

    memmove(p->byte + at + 1, p->byte + at, p->count - at);
    p->byte[at] = byte;
    p->count++;
}

/* One that changes nothing. */
static uint8_t redundant(struct gen *g, const struct enc *e)
{
    static const uint8_t segments[] = {0x26, 0x2e, 0x36, 0x3e};

    switch (below(g, 6)) {
    case 0:
        if (e->rep_too && !e->lock)
            return one_in(g, 2) ? 0xf2 : 0xf3;
        break;
    case 1:
        if (!e->is_memory && e->modrm)
            return 0x67;
        break;
    case 2:
        if (e->size == 8 || e->size == 1)
            return e->map || e->size == 1 ? 0x3e : 0x66;
        break;
    default:
        break;
    }
    return segments[below(g, 4)];
}

static uint8_t any_prefix(struct gen *g, const struct enc *e)
{
    static const uint8_t all[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e,
                                  0x36, 0x3e, 0x26, 0x65, 0x64};

    return all[below(g, sizeof all - (e->is_memory ? 1 : 0))];
}

static unsigned core_bytes(const struct enc *e)
{
    unsigned bytes = 1 + (e->map ? 1 : 0) + (e->map > 1 ? 1 : 0);

    if (e->modrm)
        bytes++;
    if (e->modrm && e->is_memory)
        bytes += e->m.has_sib + e->m.disp_bytes;
    return bytes + e->imm_bytes;
}

static void needed_prefixes(struct gen *g, const struct enc *e,
                            struct prefixes *p)
{
    if (e->size == 2)
        add_prefix(g, p, 0x66);
    if (e->prefix)
        add_prefix(g, p, (uint8_t)e->prefix);
    if (e->lock)
        add_prefix(g, p, 0xf0);
    if (e->is_memory && e->m.narrow)
        add_prefix(g, p, 0x67);
    if (e->is_memory && e->m.segment)
        add_prefix(g, p, e->m.segment);
}

static void more_prefixes(struct gen *g, const struct enc *e,
                          struct prefixes *p, unsigned room)
{
    unsigned count = one_in(g, 4) ? below(g, 3) : 0;
    bool anything = g->anything;

    if (one_in(g, 50))
        count = room;
    if (anything)
        count = below(g, INSN_MAX + 1);
    while (count-- && (anything || p->count < room)) {
        if (anything && p->count > INSN_MAX)
            return;
        add_prefix(g, p, anything ? any_prefix(g, e) : redundant(g, e));
        /* A REX that isn't the last prefix means nothing. */
        if ((anything || p->count < room) && one_in(g, 8)) {
            memmove(p->byte + 1, p->byte, p->count++);
            p->byte[0] = (uint8_t)(0x40 + below(g, 16));
        }
    }
}

static void put_rex(struct gen *g, const struct enc *e, bool redundant_too)
{
    bool memory = e->modrm && e->is_memory;
    unsigned rex = (e->size == 8) << 3 | (e->modrm ? e->reg >> 3 << 2 : 0);

    rex |= memory ? (unsigned)(e->m.x << 1 | e->m.b) : e->rm >> 3;
    if (g->anything && redundant_too)
        rex |= below(g, 2) << 3;
    if (rex || redundant_too)
        put(g, 0x40 | rex, 1);
}

static void put_operands(struct gen *g, const struct enc *e)
{
    const struct memory *m = &e->m;
    uint64_t disp = m->disp;

    if (!e->modrm) {
        put(g, e->imm, e->imm_bytes);
        return;
    }
    if (!e->is_memory) {
        put(g, 0xc0 | (e->reg & 7) << 3 | (e->rm & 7), 1);
    } else {
        put(g, m->mod << 6 | (e->reg & 7) << 3 | m->rm, 1);
        if (m->has_sib)
            put(g, m->sib, 1);
        if (m->relative)
            disp = m->target - (here(g) + 4 + e->imm_bytes);
        put(g, disp, m->disp_bytes);
    }
    put(g, e->imm, e->imm_bytes);
}

static void encode(struct gen *g, const struct enc *e)
{
    struct prefixes p = {.count = 0};
    unsigned room = INSN_MAX - 1 - core_bytes(e);

    needed_prefixes(g, e, &p);
    more_prefixes(g, e, &p, room);
    memcpy(g->code + g->count, p.byte, p.count);
    g->count += p.count;
    put_rex(g, e, one_in(g, 6));
    if (e->map)
        put(g, 0x0f, 1);
    if (e->map > 1)
        put(g, e->map == 2 ? 0x38 : 0x3a, 1);
    put(g, e->opcode, 1);
    put_operands(g, e);
}

/* ---- Instructions with ModR/M ------------------------------------------- */

enum {
    MEM = 1,     /* memory only */
    REG = 2,     /* a register only */
    LOCKS = 4,   /* may have LOCK in memory */
    ALIGNED = 8, /* 16 bytes */
    BIT = 16,    /* a register counts bits from the operand */
    VECTOR = 32, /* no size prefix */
    REPS = 64,   /* F2 and F3 mean nothing */
};

#define B    1
#define WDQ  (2 | 4 | 8)
#define BWDQ (B | WDQ)
#define DQ   (4 | 8)
#define IMM8 1
#define IMMZ 4

struct form {
    uint8_t map, opcode;
    int8_t group; /* -1: reg is one */
    uint8_t sizes, imm, prefix, flags;
};

static const struct form integer_forms[] = {
    {0, 0x80, 8, B, IMM8, 0, LOCKS | REPS},
    {0, 0x81, 8, WDQ, IMMZ, 0, LOCKS | REPS},
    {0, 0x83, 8, WDQ, IMM8, 0, LOCKS | REPS},
    {0, 0x84, -1, B, 0, 0, REPS},
    {0, 0x85, -1, WDQ, 0, 0, REPS},
    {0, 0x86, -1, B, 0, 0, LOCKS | REPS},
    {0, 0x87, -1, WDQ, 0, 0, LOCKS | REPS},
    {0, 0x88, -1, B, 0, 0, REPS},
    {0, 0x89, -1, WDQ, 0, 0, REPS},
    {0, 0x8a, -1, B, 0, 0, REPS},
    {0, 0x8b, -1, WDQ, 0, 0, REPS},
    {0, 0x8d, -1, WDQ, 0, 0, MEM},
    {0, 0x8d, -1, WDQ, 0, 0, MEM},
    {0, 0x63, -1, WDQ, 0, 0, 0},
    {0, 0x69, -1, WDQ, IMMZ, 0, 0},
    {0, 0x6b, -1, WDQ, IMM8, 0, 0},
    {0, 0xc0, 8, B, IMM8, 0, 0},
    {0, 0xc1, 8, WDQ, IMM8, 0, 0},
    {0, 0xd0, 8, B, 0, 0, 0},
    {0, 0xd1, 8, WDQ, 0, 0, 0},
    {0, 0xd2, 8, B, 0, 0, 0},
    {0, 0xd3, 8, WDQ, 0, 0, 0},
    {0, 0xc6, 0, B, IMM8, 0, REPS},
    {0, 0xc7, 0, WDQ, IMMZ, 0, REPS},
    {0, 0xf6, 0, B, IMM8, 0, 0},
    {0, 0xf7, 0, WDQ, IMMZ, 0, 0},
    {0, 0xf7, 1, WDQ, IMMZ, 0, 0},
    {0, 0xf6, 2, B, 0, 0, LOCKS},
    {0, 0xf7, 2, WDQ, 0, 0, LOCKS},
    {0, 0xf6, 3, B, 0, 0, LOCKS},
    {0, 0xf7, 3, WDQ, 0, 0, LOCKS},
    {0, 0xf6, 4, B, 0, 0, 0},
    {0, 0xf7, 4, WDQ, 0, 0, 0},
    {0, 0xf6, 5, B, 0, 0, 0},
    {0, 0xf7, 5, WDQ, 0, 0, 0},
    {0, 0xf6, 6, B, 0, 0, 0},
    {0, 0xf7, 6, WDQ, 0, 0, 0},
    {0, 0xf6, 7, B, 0, 0, 0},
    {0, 0xf7, 7, WDQ, 0, 0, 0},
    {0, 0xfe, 0, B, 0, 0, LOCKS},
    {0, 0xfe, 1, B, 0, 0, LOCKS},
    {0, 0xff, 0, WDQ, 0, 0, LOCKS},
    {0, 0xff, 1, WDQ, 0, 0, LOCKS},
    {1, 0xa3, -1, WDQ, 0, 0, BIT},
    {1, 0xab, -1, WDQ, 0, 0, BIT | LOCKS},
    {1, 0xb3, -1, WDQ, 0, 0, BIT | LOCKS},
    {1, 0xbb, -1, WDQ, 0, 0, BIT | LOCKS},
    {1, 0xba, 4, WDQ, IMM8, 0, 0},
    {1, 0xba, 5, WDQ, IMM8, 0, LOCKS},
    {1, 0xba, 6, WDQ, IMM8, 0, LOCKS},
    {1, 0xba, 7, WDQ, IMM8, 0, LOCKS},
    {1, 0xa4, -1, WDQ, IMM8, 0, 0},
    {1, 0xa5, -1, WDQ, 0, 0, 0},
    {1, 0xac, -1, WDQ, IMM8, 0, 0},
    {1, 0xad, -1, WDQ, 0, 0, 0},
    {1, 0xaf, -1, WDQ, 0, 0, 0},
    {1, 0xb0, -1, B, 0, 0, LOCKS},
    {1, 0xb1, -1, WDQ, 0, 0, LOCKS},
    {1, 0xc0, -1, B, 0, 0, LOCKS},
    {1, 0xc1, -1, WDQ, 0, 0, LOCKS},
    {1, 0xc7, 1, DQ, 0, 0, MEM | LOCKS | ALIGNED},
    {1, 0xb6, -1, WDQ, 0, 0, 0},
    {1, 0xb7, -1, WDQ, 0, 0, 0},
    {1, 0xbe, -1, WDQ, 0, 0, 0},
    {1, 0xbf, -1, WDQ, 0, 0, 0},
    {1, 0xbc, -1, WDQ, 0, 0, 0},
    {1, 0xbd, -1, WDQ, 0, 0, 0},
    {1, 0xb8, -1, WDQ, 0, 0xf3, 0},
    {1, 0xbc, -1, WDQ, 0, 0xf3, 0},
    {1, 0xbd, -1, WDQ, 0, 0xf3, 0},
    {1, 0xc3, -1, DQ, 0, 0, MEM},
    {1, 0x1f, 0, WDQ, 0, 0, 0},
    {1, 0x18, 1, 4, 0, 0, MEM},
    {2, 0xf0, -1, B, 0, 0xf2, 0},
    {2, 0xf1, -1, WDQ, 0, 0xf2, 0},
    {2, 0xf0, -1, WDQ, 0, 0, MEM},
    {2, 0xf1, -1, WDQ, 0, 0, MEM},
    {2, 0xf6, -1, DQ, 0, 0x66, 0},
    {2, 0xf6, -1, DQ, 0, 0xf3, 0},
};

static const struct form vector_forms[] = {
    {1, 0x10, -1, 0, 0, 0, VECTOR},
    {1, 0x11, -1, 0, 0, 0x66, VECTOR},
    {1, 0x10, -1, 0, 0, 0xf3, VECTOR},
    {1, 0x11, -1, 0, 0, 0xf2, VECTOR},
    {1, 0x28, -1, 0, 0, 0, VECTOR | ALIGNED},
    {1, 0x29, -1, 0, 0, 0x66, VECTOR | ALIGNED},
    {1, 0x12, -1, 0, 0, 0, VECTOR},
    {1, 0x13, -1, 0, 0, 0x66, VECTOR | MEM},
    {1, 0x16, -1, 0, 0, 0, VECTOR},
    {1, 0x17, -1, 0, 0, 0, VECTOR | MEM},
    {1, 0x6f, -1, 0, 0, 0x66, VECTOR | ALIGNED},
    {1, 0x7f, -1, 0, 0, 0x66, VECTOR | ALIGNED},
    {1, 0x6f, -1, 0, 0, 0xf3, VECTOR},
    {1, 0x7f, -1, 0, 0, 0xf3, VECTOR},
    {1, 0x6e, -1, DQ, 0, 0x66, VECTOR},
    {1, 0x7e, -1, DQ, 0, 0x66, VECTOR},
    {1, 0x7e, -1, 0, 0, 0xf3, VECTOR},
    {1, 0xd6, -1, 0, 0, 0x66, VECTOR},
    {1, 0xe7, -1, 0, 0, 0x66, VECTOR | MEM | ALIGNED},
    {1, 0x2b, -1, 0, 0, 0, VECTOR | MEM | ALIGNED},
    {1, 0xf0, -1, 0, 0, 0xf2, VECTOR | MEM},
    {1, 0xd7, -1, 0, 0, 0x66, VECTOR | REG},
    {1, 0x50, -1, 0, 0, 0, VECTOR | REG},
    {1, 0xc6, -1, 0, IMM8, 0, VECTOR | ALIGNED},
    {1, 0x70, -1, 0, IMM8, 0x66, VECTOR | ALIGNED},
    {1, 0xc4, -1, 0, IMM8, 0x66, VECTOR},
    {1, 0xc5, -1, 0, IMM8, 0x66, VECTOR | REG},
    {1, 0xef, -1, 0, 0, 0x66, VECTOR | ALIGNED},
    {1, 0xd4, -1, 0, 0, 0x66, VECTOR | ALIGNED},
    {1, 0x14, -1, 0, 0, 0, VECTOR | ALIGNED},
    {1, 0x58, -1, 0, 0, 0xf2, VECTOR},
    {1, 0x2a, -1, DQ, 0, 0xf2, VECTOR},
    {1, 0x2c, -1, DQ, 0, 0xf2, VECTOR},
    {1, 0xae, 3, 0, 0, 0, VECTOR | MEM},
    {2, 0x00, -1, 0, 0, 0x66, VECTOR | ALIGNED},
    {2, 0x2a, -1, 0, 0, 0x66, VECTOR | MEM | ALIGNED},
    {3, 0x0f, -1, 0, IMM8, 0x66, VECTOR | ALIGNED},
    {3, 0x16, -1, DQ, IMM8, 0x66, VECTOR},
    {3, 0x22, -1, DQ, IMM8, 0x66, VECTOR},
};

static unsigned pick_size(struct gen *g, unsigned sizes)
{
    unsigned size;

    if (!sizes)
        return one_in(g, 8) ? 8 : 0;
    do
        size = 1u << below(g, 4);
    while (!(sizes & size));
    return size;
}

static unsigned imm_bytes(const struct form *f, unsigned size)
{
    return f->imm == IMMZ && size == 2 ? 2 : f->imm;
}

/* Dividends that fit more often than chance has them. */
static void prepare(struct gen *g, const struct form *f, const struct enc *e)
{
    bool divides = (f->opcode | 1) == 0xf7 && f->map == 0 && f->group >= 6;

    if (divides && !one_in(g, 4))
        load(g, e->size == 1 ? 0 : 2, 0);
    if (f->flags & BIT)
        load(g, e->reg, (uint64_t)below(g, 4096) - 2048);
}

static void put_form(struct gen *g, const struct form *f, bool memory)
{
    struct enc e = {
        .map = f->map,
        .opcode = f->opcode,
        .prefix = f->prefix,
        .size = pick_size(g, f->sizes),
        .modrm = true,
        .is_memory = memory,
        .rep_too = f->flags & REPS,
        /* Prefixes may make less of it an immediate: the rest is NOP. */
        .imm = g->anything ? 0x9090909090909000 | below(g, 256) : value(g),
    };

    e.imm_bytes = imm_bytes(f, e.size);
    e.reg = f->group < 0    ? any_register(g)
            : f->group == 8 ? below(g, 8)
                            : (unsigned)f->group;
    e.rm = any_register(g);
    if (f->group < 0 && e.reg == RSP && !one_in(g, 50))
        e.reg = 0;
    if (e.rm == RSP && !(f->flags & VECTOR) && !one_in(g, 50))
        e.rm = 2;
    if (memory) {
        unsigned align = f->flags & ALIGNED ? 16 : e.size ? e.size : 4;

        if (f->flags & BIT && e.reg == RSP)
            e.reg = 0;
        prepare(g, f, &e);
        e.m = some_memory(g, align, true);
        e.lock = f->flags & LOCKS && one_in(g, 3);
    } else {
        prepare(g, f, &e);
    }
    encode(g, &e);
}

static bool in_memory(struct gen *g, const struct form *f)
{
    if (f->flags & MEM)
        return true;
    return !(f->flags & REG) && one_in(g, 2);
}

static struct form arithmetic(struct gen *g)
{
    unsigned direction = below(g, 4);

    return (struct form){
        .opcode = (uint8_t)(below(g, 8) << 3 | direction),
        .group = -1,
        .sizes = direction & 1 ? WDQ : B,
        .flags = REPS,
    };
}

static void unit_integer(struct gen *g)
{
    struct form f =
        integer_forms[below(g, sizeof integer_forms / sizeof integer_forms[0])];

    if (one_in(g, 4))
        f = arithmetic(g);
    put_form(g, &f, in_memory(g, &f));
}

static void unit_vector(struct gen *g)
{
    const struct form *f =
        &vector_forms[below(g, sizeof vector_forms / sizeof vector_forms[0])];

    put_form(g, f, in_memory(g, f));
}

/* SETcc and CMOVcc. */
static void unit_condition(struct gen *g)
{
    bool set = one_in(g, 2);
    struct form f = {1,
                     (uint8_t)((set ? 0x90 : 0x40) | below(g, 16)),
                     (int8_t)(set ? 0 : -1),
                     set ? B : WDQ,
                     0,
                     0,
                     0};

    put_form(g, &f, one_in(g, 2));
}

/* ---- VEX and EVEX -------------------------------------------------------- */

struct vex_form {
    uint8_t map, pp, opcode, imm;
    int8_t group;
    bool general, source; /* registers; VEX.vvvv names one */
};

static const struct vex_form vex_forms[] = {
    {1, 2, 0x6f, 0, -1, false, false}, {1, 2, 0x7f, 0, -1, false, false},
    {1, 0, 0x10, 0, -1, false, false}, {1, 1, 0xfe, 0, -1, false, true},
    {1, 1, 0x70, 1, -1, false, false}, {1, 1, 0xef, 0, -1, false, true},
    {3, 1, 0x0f, 1, -1, false, true},  {2, 0, 0xf2, 0, -1, true, true},
    {2, 0, 0xf7, 0, -1, true, true},   {2, 1, 0xf7, 0, -1, true, true},
    {2, 2, 0xf7, 0, -1, true, true},   {2, 3, 0xf7, 0, -1, true, true},
    {2, 3, 0xf6, 0, -1, true, true},   {2, 2, 0xf5, 0, -1, true, true},
    {2, 3, 0xf5, 0, -1, true, true},   {2, 0, 0xf5, 0, -1, true, true},
    {3, 3, 0xf0, 1, -1, true, false},  {2, 0, 0xf3, 0, 1, true, true},
    {2, 0, 0xf3, 0, 2, true, true},    {2, 0, 0xf3, 0, 3, true, true},
};

static void put_vex(struct gen *g, const struct vex_form *f,
                    const struct enc *e, unsigned source)
{
    unsigned w = f->general && one_in(g, 2);
    bool x = e->is_memory && e->m.x;
    bool b = e->is_memory ? e->m.b : e->rm >> 3;
    unsigned vvvv = ~source & 15;

    if (f->map == 1 && !x && !b && !w && one_in(g, 2)) {
        PUT(g, 0xc5, (uint8_t)(!(e->reg >> 3) << 7 | vvvv << 3 | f->pp));
        return;
    }
    PUT(g, 0xc4, (uint8_t)(!(e->reg >> 3) << 7 | !x << 6 | !b << 5 | f->map),
        (uint8_t)(w << 7 | vvvv << 3 | f->pp));
}

/* 128 bits, no mask. */
static void put_evex(struct gen *g, const struct vex_form *f,
                     const struct enc *e, unsigned source)
{
    bool x = e->is_memory && e->m.x;
    bool b = e->is_memory ? e->m.b : e->rm >> 3;

    PUT(g, 0x62,
        (uint8_t)(!(e->reg >> 3) << 7 | !x << 6 | !b << 5 | 0x10 | f->map),
        (uint8_t)((~source & 15) << 3 | 4 | f->pp), 0x08);
}

static void unit_vex(struct gen *g)
{
    const struct vex_form *f =
        &vex_forms[below(g, sizeof vex_forms / sizeof vex_forms[0])];
    bool evex = !f->general && one_in(g, 3);
    struct enc e = {
        .opcode = f->opcode,
        .reg = f->group < 0 ? general_register(g) : (unsigned)f->group,
        .rm = general_register(g),
        .modrm = true,
        .is_memory = one_in(g, 2),
        .imm_bytes = f->imm,
        .imm = value(g),
    };
    unsigned source = f->source ? general_register(g) : 0;

    if (e.is_memory)
        e.m = some_memory(g, 16, !evex);
    if (e.is_memory && e.m.segment)
        put(g, e.m.segment, 1);
    if (e.is_memory && e.m.narrow)
        put(g, 0x67, 1);
    if (evex)
        put_evex(g, f, &e, source);
    else
        put_vex(g, f, &e, source);
    put(g, f->opcode, 1);
    put_operands(g, &e);
}

/* ---- Without ModR/M ------------------------------------------------------ */

static void plain(struct gen *g, unsigned map, unsigned opcode, unsigned size,
                  unsigned reg, unsigned imm)
{
    struct enc e = {
        .map = map,
        .opcode = opcode | (reg & 7),
        .size = size,
        .rm = reg,
        .imm_bytes = imm,
        .imm = value(g),
    };

    encode(g, &e);
}

static void unit_accumulator(struct gen *g)
{
    unsigned size = 1u << below(g, 4);
    unsigned imm = size == 1 ? 1 : size == 2 ? 2 : 4;

    switch (below(g, 4)) {
    case 0:
        plain(g, 0, size == 1 ? 0xa8 : 0xa9, size, 0, imm);
        break;
    case 1:
        plain(g, 0, size == 1 ? 0xb0 : 0xb8, size, general_register(g), size);
        break;
    default:
        plain(g, 0, (below(g, 8) << 3) | (size == 1 ? 4 : 5), size, 0, imm);
        break;
    }
}

static void unit_short(struct gen *g)
{
    static const uint8_t flags[] = {0x9e, 0x9f, 0xf5, 0xf8,
                                    0xf9, 0xfc, 0xfd, 0x90};
    unsigned size = 2u << below(g, 3);

    switch (below(g, 4)) {
    case 0:
        plain(g, 0, flags[below(g, 8)], 0, 0, 0);
        break;
    case 1:
        plain(g, 0, 0x98 + below(g, 2), size, 0, 0);
        break;
    case 2:
        plain(g, 0, 0x90, size, general_register(g), 0);
        break;
    default:
        plain(g, 1, 0xc8, size == 2 ? 4 : size, general_register(g), 0);
        break;
    }
}

/* MOV between the accumulator and an address of 64 or 32 bits. */
static void unit_offset(struct gen *g)
{
    uint64_t address = some_address(g, 8);
    bool narrow = address >> 32 == 0 && one_in(g, 2), byte = one_in(g, 2);
    unsigned size = 2u << below(g, 3);

    if (narrow)
        put(g, 0x67, 1);
    if (!byte && size == 2)
        put(g, 0x66, 1);
    if (!byte && size == 8)
        put(g, 0x48, 1);
    put(g, 0xa0 + 2 * below(g, 2) + !byte, 1);
    put(g, address, narrow ? 4 : 8);
}

static void unit_xlat(struct gen *g)
{
    load(g, 3, some_address(g, 1));
    PUT(g, 0xd7);
}

static void unit_fence(struct gen *g)
{
    PUT(g, 0x0f, 0xae, (uint8_t)(0xe8 + 8 * below(g, 3)));
    PUT(g, 0xf3, 0x90);
}

/* ---- Strings --------------------------------------------------------------
 */

static uint64_t string_address(struct gen *g)
{
    uint64_t data = g->s->place->data;

    if (one_in(g, 24))
        return data + STREAM_DATA_PAGES * RUN_PAGE - below(g, 256);
    return data + 1024 + below(g, STREAM_DATA_PAGES * RUN_PAGE - 2048);
}

static void unit_string(struct gen *g)
{
    static const uint8_t opcodes[] = {0xa4, 0xa6, 0xaa, 0xac, 0xae};
    static const uint8_t repeats[] = {0, 0xf3, 0xf3, 0xf2};
    struct enc e = {
        .opcode = opcodes[below(g, 5)],
        .prefix = repeats[below(g, 4)],
        .size = 1u << below(g, 4),
    };
    uint64_t rsi = string_address(g), rdi = string_address(g);

    if (one_in(g, 8)) {
        e.is_memory = true; /* its prefixes */
        e.m.segment = 0x65;
        rsi -= STREAM_GS;
    }
    e.m.narrow = (rsi | rdi) >> 32 == 0 && one_in(g, 4);
    e.is_memory |= e.m.narrow;
    e.opcode |= e.size > 1;
    if (one_in(g, 3))
        PUT(g, (uint8_t)(0xfc + below(g, 2)));
    load(g, 6, widen(g, &e.m, rsi));
    load(g, 7, widen(g, &e.m, rdi));
    load(g, 1, widen(g, &e.m, one_in(g, 8) ? 64 : below(g, 12)));
    if (one_in(g, 3)) /* so that a comparison goes on */
        PUT(g, 0x48, 0x89, 0xf7);
    encode(g, &e);
}

/* ---- The stack ------------------------------------------------------------
 */

static void put_pushed(struct gen *g)
{
    static const struct form push = {0, 0xff, 6, 4, 0, 0, 0};

    switch (below(g, 6)) {
    case 0:
        plain(g, 0, 0x6a, 0, 0, 1);
        break;
    case 1:
        plain(g, 0, 0x68, 0, 0, 4);
        break;
    case 2:
        put_form(g, &push, true);
        break;
    case 3:
        plain(g, 0, 0x9c, 0, 0, 0);
        break;
    default:
        plain(g, 0, 0x50, 0, any_register(g), 0);
        break;
    }
}

/* What is on the stack becomes flags that a process may set: the arithmetic
 * ones, DF and ID; always IF. */
static void put_flags_mask(struct gen *g, unsigned more)
{
    PUT(g, 0x48, 0x81, 0x24, 0x24);
    put(g, 0xcd5 | (one_in(g, 4) ? 0x200000 : 0), 4);
    PUT(g, 0x48, 0x81, 0x0c, 0x24);
    put(g, RUN_IF | more, 4);
}

static void put_popped(struct gen *g)
{
    static const struct form pop = {0, 0x8f, 0, 4, 0, 0, 0};

    switch (below(g, 4)) {
    case 0:
        put_form(g, &pop, true);
        break;
    case 1:
        put_flags_mask(g, 0);
        plain(g, 0, 0x9d, 0, 0, 0);
        break;
    default:
        plain(g, 0, 0x58, 0, general_register(g), 0);
        break;
    }
}

/* 16 bits, which leave RSP where it was. */
static void put_narrow(struct gen *g)
{
    plain(g, 0, 0x50, 2, any_register(g), 0);
    if (one_in(g, 3)) {
        PUT(g, 0x66, 0x81, 0x24, 0x24);
        put(g, 0xcd5, 2);
        PUT(g, 0x66, 0x81, 0x0c, 0x24);
        put(g, RUN_IF, 2);
        PUT(g, 0x66, 0x9d);
    } else {
        plain(g, 0, 0x58, 2, general_register(g), 0);
    }
}

static void unit_stack(struct gen *g)
{
    switch (below(g, 8)) {
    case 0: /* ENTER and LEAVE */
        PUT(g, 0x48, 0x89, 0xe5, 0xc8);
        put(g, below(g, 64), 2);
        put(g, one_in(g, 4) ? below(g, 32) : 0, 1);
        PUT(g, 0xc9);
        break;
    case 1:
        put_narrow(g);
        break;
    default:
        put_pushed(g);
        put_popped(g);
        break;
    }
}

/* ---- Branches --------------------------------------------------------------
 */

static unsigned later_label(struct gen *g)
{
    unsigned left = g->units - g->unit;

    return g->unit + 1 + below(g, left < 4 ? left : 4);
}

static unsigned function_label(struct gen *g)
{
    return g->units + 1 + below(g, g->functions);
}

static bool in_function(const struct gen *g)
{
    return g->unit > g->units;
}

static void put_branch_prefix(struct gen *g)
{
    static const uint8_t prefixes[] = {0x2e, 0x3e, 0xf2, 0xf3,
                                       0x36, 0x67, 0x40, 0x48};

    if (one_in(g, 6))
        put(g, prefixes[below(g, sizeof prefixes)], 1);
}

static void unit_conditional(struct gen *g)
{
    unsigned condition = below(g, 16);

    put_branch_prefix(g);
    if (one_in(g, 2)) {
        PUT(g, (uint8_t)(0x70 | condition));
        put_label(g, later_label(g), 1);
    } else {
        PUT(g, 0x0f, (uint8_t)(0x80 | condition));
        put_label(g, later_label(g), 4);
    }
}

static void unit_jump(struct gen *g)
{
    put_branch_prefix(g);
    if (one_in(g, 2)) {
        PUT(g, 0xeb);
        put_label(g, later_label(g), 1);
    } else {
        PUT(g, 0xe9);
        put_label(g, later_label(g), 4);
    }
}

/* Forwards; or back to one instruction, as long as RCX allows. */
static void unit_loop(struct gen *g)
{
    unsigned opcode = 0xe0 + below(g, 4);
    bool narrow = one_in(g, 4);

    if (one_in(g, 2))
        load(g, 1, narrow ? value(g) << 32 | below(g, 3) : below(g, 3));
    if (opcode != 0xe3 && one_in(g, 2)) {
        load(g, 1, below(g, 6) + 1);
        PUT(g, 0x83, 0xc0, (uint8_t)value(g)); /* add $n, %eax */
        if (narrow)
            PUT(g, 0x67, (uint8_t)opcode, 0xfa);
        else
            PUT(g, (uint8_t)opcode, 0xfb);
        return;
    }
    if (narrow)
        PUT(g, 0x67);
    PUT(g, (uint8_t)opcode);
    put_label(g, later_label(g), 1);
}

/* Back to an earlier unit, as long as a counter allows. */
static void unit_back(struct gen *g)
{
    uint64_t counter = g->s->place->data + sizeof g->s->slot + 4 * g->loops;
    struct enc e = {.opcode = 0x83,
                    .size = 4,
                    .modrm = true,
                    .reg = 5,
                    .is_memory = true,
                    .imm_bytes = 1,
                    .imm = 1};

    if (in_function(g) || g->loops == STREAM_LOOPS)
        return;
    g->s->loop[g->loops++] = below(g, 5);
    e.m = memory_at(g, counter, true);
    encode(g, &e);
    PUT(g, 0x0f, 0x89);
    put_label(g, below(g, g->unit + 1), 4);
}

/* FF /2 or /4 to a label, by a register or a slot in memory. */
static void put_indirect(struct gen *g, bool call, unsigned label)
{
    struct enc e = {.opcode = 0xff,
                    .size = one_in(g, 6) ? 8 : 0,
                    .modrm = true,
                    .reg = call ? 2 : 4,
                    .rep_too = true};
    unsigned slot = g->slots;

    if (g->slots < STREAM_SLOTS && one_in(g, 2)) {
        g->slot_label[g->slots++] = label;
        e.is_memory = true;
        e.m = memory_at(g, g->s->place->data + 8 * slot, true);
    } else {
        e.rm = general_register(g);
        load_label(g, e.rm, label);
    }
    encode(g, &e);
}

static void unit_indirect(struct gen *g)
{
    unsigned label = later_label(g), reg = general_register(g);

    if (!one_in(g, 4)) {
        put_indirect(g, false, label);
        return;
    }
    load_label(g, reg, label);
    plain(g, 0, 0x50, 0, reg, 0);
    if (one_in(g, 2))
        PUT(g, 0xc3);
    else
        PUT(g, 0xc2, 8, 0);
}

static void unit_call(struct gen *g)
{
    unsigned reg = general_register(g);

    if (in_function(g) || !g->functions)
        return;
    switch (below(g, 5)) {
    case 0:
    case 1:
        put_branch_prefix(g);
        PUT(g, 0xe8);
        put_label(g, function_label(g), 4);
        break;
    case 2: /* call (%rsp) */
        load_label(g, reg, function_label(g));
        plain(g, 0, 0x50, 0, reg, 0);
        PUT(g, 0xff, 0x14, 0x24);
        PUT(g, 0x48, 0x8d, 0x64, 0x24, 8);
        break;
    default:
        put_indirect(g, true, function_label(g));
        break;
    }
}

/* To a later unit, now and then with a selector that can't be. */
static void unit_return_from_interrupt(struct gen *g)
{
    unsigned reg = general_register(g);

    PUT(g, (uint8_t)(0x48 | reg >> 3), 0x89, (uint8_t)(0xe0 | (reg & 7)));
    PUT(g, 0x6a, (uint8_t)(one_in(g, 30) ? 0 : RUN_SS));
    plain(g, 0, 0x50, 0, reg, 0);
    PUT(g, 0x9c);
    put_flags_mask(g, one_in(g, 4) ? 0x10000 : 0);
    PUT(g, 0x6a, (uint8_t)(one_in(g, 30) ? 0 : RUN_CS));
    load_label(g, reg, later_label(g));
    plain(g, 0, 0x50, 0, reg, 0);
    PUT(g, 0x48, 0xcf);
}

/* An instruction that is jumped into: what its immediate holds is one too. */
static void unit_overlap(struct gen *g)
{
    PUT(g, (uint8_t)(0x70 | below(g, 16)), 1);
    PUT(g, 0x05, 0x48, 0xff, 0xc0, 0x90); /* add $imm, %eax; inc %rax, nop */
}

static void put_return(struct gen *g)
{
    static const uint8_t prefixes[] = {0xf3, 0xf2, 0x48, 0x40};

    if (one_in(g, 4))
        put(g, prefixes[below(g, 4)], 1);
    if (one_in(g, 4))
        PUT(g, 0xc2, (uint8_t)(8 * below(g, 4)), 0);
    else
        PUT(g, 0xc3);
}

/* ---- Traps ------------------------------------------------------------------
 */

static void put_bad_stack(struct gen *g)
{
    bool canonical = one_in(g, 2);

    load(g, RSP, canonical ? g->s->place->stack - 64 : 0x8000ull << 45);
    switch (below(g, 4)) {
    case 0:
        PUT(g, 0xc3);
        break;
    case 1:
        PUT(g, 0xe8);
        put(g, 0, 4);
        break;
    case 2:
        PUT(g, 0xff, 0xd0);
        break;
    default:
        plain(g, 0, 0x50, 0, 0, 0);
        break;
    }
}

static void put_bad_target(struct gen *g)
{
    uint64_t nowhere = g->s->place->code + 0x8000 + below(g, 0x2000);

    switch (below(g, 4)) {
    case 0:
        PUT(g, (uint8_t)(0xe8 + below(g, 2)));
        put(g, nowhere - (here(g) + 4), 4);
        break;
    case 1:
        load(g, 1, nowhere);
        PUT(g, 0x51, 0xc3);
        break;
    default:
        load(g, 2, nowhere);
        PUT(g, 0xff, (uint8_t)(one_in(g, 2) ? 0xd2 : 0xe2));
        break;
    }
}

static void unit_trap(struct gen *g)
{
    static const uint8_t ports[] = {0xec, 0xed, 0xee, 0xef,
                                    0x6c, 0x6d, 0x6e, 0x6f};

    switch (below(g, 9)) {
    case 0:
        PUT(g, 0x0f, 0x0b);
        break;
    case 1:
        PUT(g, 0x0f, 0xb9, 0xc0);
        break;
    case 2: /* LOCK with a register */
        PUT(g, 0xf0, 0x01, (uint8_t)(0xc0 | below(g, 64)));
        break;
    case 3:
        PUT(g, 0x31, 0xd2, 0x31, 0xc9, 0xf7, 0xf1);
        break;
    case 4:
        put(g, ports[below(g, 8)], 1);
        break;
    case 5:
        load(g, 5, 0x8000ull << 45);
        PUT(g, 0x48, 0x8b, 0x45, 0x00);
        break;
    case 6:
        put_bad_stack(g);
        break;
    case 7:
        put_bad_target(g);
        break;
    default:
        PUT(g, 0xf4);
        break;
    }
}

/* ---- Programs ----------------------------------------------------------- */

static const struct {
    void (*make)(struct gen *g);
    unsigned weight;
} kinds[] = {
    {unit_integer, 90},     {unit_vector, 20},
    {unit_vex, 8},          {unit_condition, 8},
    {unit_accumulator, 10}, {unit_short, 12},
    {unit_offset, 3},       {unit_xlat, 2},
    {unit_fence, 1},        {unit_string, 12},
    {unit_stack, 18},       {unit_conditional, 14},
    {unit_jump, 4},         {unit_loop, 6},
    {unit_back, 6},         {unit_indirect, 8},
    {unit_call, 12},        {unit_overlap, 3},
    {unit_trap, 2},         {unit_return_from_interrupt, 3},
};

static void put_unit(struct gen *g)
{
    unsigned total = 0, pick, i = 0;

    for (unsigned k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
        total += kinds[k].weight;
    pick = below(g, total);
    while (pick >= kinds[i].weight)
        pick -= kinds[i++].weight;
    kinds[i].make(g);
}

/* What a function does leaves RSP and no label behind. */
static void put_function(struct gen *g)
{
    unsigned units = below(g, 4);

    while (units--)
        switch (below(g, 4)) {
        case 0:
            unit_stack(g);
            break;
        case 1:
            unit_vector(g);
            break;
        default:
            unit_integer(g);
        }
    put_return(g);
}

static void fix(struct gen *g)
{
    for (unsigned i = 0; i < g->fixups; i++) {
        const struct fixup *f = &g->fixup[i];
        uint64_t to = g->label[f->label];
        uint64_t bits = to - (f->at + f->bytes);

        if (f->bytes == 8)
            bits = g->base + to;
        if (f->bytes == 1 && (uint64_t)(int64_t)(int8_t)bits != bits)
            bits = 0;
        memcpy(g->code + f->at, &bits, f->bytes);
    }
    for (unsigned i = 0; i < g->slots; i++)
        g->s->slot[i] = g->base + g->label[g->slot_label[i]];
}

static void pick_registers(struct gen *g, struct run_regs *regs)
{
    uint64_t stack = g->s->place->stack;
    uint16_t fcw = 0x37f;
    uint32_t mxcsr = 0x1f80;

    *regs = (struct run_regs){.rip = g->base};
    for (unsigned i = 0; i < 16; i++)
        regs->gpr[i] = value(g);
    regs->gpr[RSP] = stack + RUN_PAGE + 8 * below(g, 64);
    if (one_in(g, 16))
        regs->gpr[RSP] += below(g, 8);
    regs->rflags = RUN_RESERVED | RUN_IF | (wl_random(&g->random) & 0x8d5);
    for (unsigned i = 160; i < 416; i++)
        regs->fx[i] = (uint8_t)below(g, 256);
    memcpy(regs->fx, &fcw, sizeof fcw);
    memcpy(regs->fx + 24, &mxcsr, sizeof mxcsr);
}

static void begin(struct gen *g, struct stream *s, uint64_t seed,
                  unsigned places)
{
    unsigned place;

    memset(g, 0, offsetof(struct gen, code));
    g->random = (seed + 1) * 0x9e3779b97f4a7c15ull;
    g->s = s;
    syscall(SYS_arch_prctl, ARCH_GET_FS, &g->fs);
    memset(s->slot, 0, sizeof s->slot);
    memset(s->loop, 0, sizeof s->loop);
    do
        place = below(g, STREAM_PLACES);
    while (!(places >> place & 1));
    s->seed = seed;
    s->place = &stream_places[place];
    s->at = one_in(g, 2) ? RUN_PAGE - below(g, 400) : below(g, RUN_PAGE);
    if (one_in(g, 30))
        s->at = STREAM_BYTES - 1 - below(g, 200);
    g->base = s->place->code + s->at;
}

/* What is beyond the code pages isn't there. */
static void end(struct gen *g)
{
    struct stream *s = g->s;

    s->bytes = g->count;
    if (s->bytes > STREAM_BYTES - s->at)
        s->bytes = STREAM_BYTES - s->at;
    memcpy(s->code, g->code, s->bytes);
    pick_registers(g, &s->start);
}

void stream_make(struct stream *stream, uint64_t seed, unsigned places)
{
    struct gen g;

    begin(&g, stream, seed, places);
    g.units = 1 + below(&g, UNITS_MAX - 1);
    g.functions = below(&g, FUNCTIONS + 1);
    for (; g.unit < g.units; g.unit++) {
        g.label[g.unit] = g.count;
        put_unit(&g);
    }
    g.label[g.unit++] = g.count;
    PUT(&g, 0xf4);
    for (unsigned i = 0; i < g.functions; i++) {
        g.label[g.unit++] = g.count;
        put_function(&g);
    }
    fix(&g);
    end(&g);
}

void stream_make_prefixes(struct stream *stream, uint64_t seed, unsigned places)
{
    struct gen g;

    begin(&g, stream, seed, places);
    g.anything = true;
    if (one_in(&g, 4))
        unit_vector(&g);
    else
        unit_integer(&g);
    PUT(&g, 0xf4);
    end(&g);
}

/* ---- Random bytes ----------------------------------------------------------
 */

void stream_make_bytes(struct stream *stream, uint64_t seed, unsigned places)
{
    struct gen g;
    unsigned count;

    begin(&g, stream, seed, places);
    for (count = 2 + below(&g, 30); count; count--) {
        if (one_in(&g, 3))
            put(&g, 0x0f, 1);
        put(&g, below(&g, 256), 1);
    }
    end(&g);
    for (unsigned i = 0; i < 16; i++)
        if (i != RSP && !one_in(&g, 4))
            stream->start.gpr[i] = stream->place->data + 1024 + below(&g, 4096);
    if (one_in(&g, 2))
        stream->start.gpr[1] &= 15;
}

/* ---- Memory -----------------------------------------------------------------
 */

#define PARTS 4

static const struct {
    size_t offset;
    int protection;
    bool shared;
} parts[PARTS] = {
    {offsetof(struct stream_place, code), PROT_READ | PROT_EXEC, true},
    {offsetof(struct stream_place, alias), PROT_READ | PROT_WRITE, true},
    {offsetof(struct stream_place, data), PROT_READ | PROT_WRITE, false},
    {offsetof(struct stream_place, stack), PROT_READ | PROT_WRITE, false},
};

static uint64_t part_of(const struct stream_place *place, unsigned part)
{
    return *(const uint64_t *)((const char *)place + parts[part].offset);
}

static void unmap(const struct stream_place *place, unsigned count)
{
    while (count--)
        munmap((void *)part_of(place, count), PART_BYTES);
}

/* Guests can't write to code: nobody would notice. */
static bool map(const struct stream_place *place)
{
    int fd = memfd_create("code", MFD_CLOEXEC);
    unsigned i = 0;

    for (; fd >= 0 && !ftruncate(fd, PART_BYTES) && i < PARTS; i++) {
        int flags = parts[i].shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;

        if (mmap((void *)part_of(place, i), PART_BYTES, parts[i].protection,
                 flags | MAP_FIXED_NOREPLACE, parts[i].shared ? fd : -1,
                 0) == MAP_FAILED)
            break;
    }
    if (fd >= 0)
        close(fd);
    if (i < PARTS)
        unmap(place, i);
    return i == PARTS;
}

unsigned stream_map(void)
{
    unsigned places = 0;

    if (syscall(SYS_arch_prctl, ARCH_SET_GS, STREAM_GS) ||
        !map(&stream_places[STREAM_LOW]))
        return 0;
    for (unsigned i = 0; i < STREAM_PLACES; i++)
        if (i == STREAM_LOW || map(&stream_places[i]))
            places |= 1u << i;
    return places;
}

void stream_unmap(unsigned places)
{
    for (unsigned i = 0; i < STREAM_PLACES; i++)
        if (places >> i & 1)
            unmap(&stream_places[i], PARTS);
    syscall(SYS_arch_prctl, ARCH_SET_GS, 0ull);
}

static void fill(uint64_t *words, unsigned pages, uint64_t *random)
{
    for (unsigned i = 0; i < pages * RUN_PAGE / 8; i++)
        words[i] = wl_random(random);
}

void stream_load(const struct stream *s)
{
    const struct stream_place *place = s->place;
    uint64_t random = s->seed + 1;

    memset((void *)place->alias, 0xf4, STREAM_BYTES);
    memcpy((void *)(place->alias + s->at), s->code, s->bytes);
    fill((void *)stream_places[STREAM_LOW].data, STREAM_DATA_PAGES, &random);
    fill((void *)place->data, STREAM_DATA_PAGES, &random);
    fill((void *)place->stack, 2, &random);
    memcpy((void *)place->data, s->slot, sizeof s->slot);
    memcpy((void *)(place->data + sizeof s->slot), s->loop, sizeof s->loop);
}

void stream_save(const struct stream *s, uint8_t *memory)
{
    const uint64_t parts_of[] = {s->place->data, s->place->stack,
                                 stream_places[STREAM_LOW].data};

    for (unsigned i = 0; i < 3; i++)
        memcpy(memory + i * 2 * RUN_PAGE, (const void *)parts_of[i],
               2 * RUN_PAGE);
}
