/*
 * The life of translated code: chained, thrown away, made again; the virtual
 * flags; the ends of pages. By hand, where random programs don't come or
 * don't see the difference.
 */
#include "tests/bt_run.h"
#include "tests/bt_stream.h"
#include "tests/test.h"
#include "vmm/decode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define AREA 0x300000000000ull

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };

struct life {
    struct run *run;
    struct translated t;
    unsigned places;
    const struct stream_place *place;
    struct bt_flags *flags;
    struct run_regs regs;
    struct run_trap trap;
};

static bool sensitive(const uint8_t *bytes, unsigned count)
{
    struct insn insn;

    return !decode_insn(bytes, count, &insn) && insn_is_sensitive(&insn);
}

static struct life *set_up(void)
{
    struct translated_config config = {.va = AREA, .is_sensitive = sensitive};
    struct life *l = calloc(1, sizeof *l);
    struct why why;

    CU_ASSERT_PTR_NOT_NULL_FATAL(l);
    l->places = stream_map();
    if (!l->places) {
        test_skip("addresses from %#llx on are taken, or the GS base can't be "
                  "set; run it alone",
                  (unsigned long long)stream_places[STREAM_LOW].code);
        free(l);
        return NULL;
    }
    if (run_open(&l->run, &why) ||
        translated_open(&l->t, l->run, &config, &why))
        CU_FAIL_FATAL("no runner");
    l->place = &stream_places[STREAM_LOW];
    l->t.codes = 1;
    l->t.code[0] =
        (struct run_code){l->place->code, l->place->code + STREAM_BYTES};
    l->flags = (struct bt_flags *)(l->t.area + BT_FLAGS);
    l->flags->interrupts = 2;
    return l;
}

static void tear_down(struct life *l)
{
    translated_close(&l->t);
    run_close(l->run);
    stream_unmap(l->places);
    free(l);
}

static void put(struct life *l, unsigned at, const void *code, unsigned count)
{
    memcpy((uint8_t *)l->place->alias + at, code, count);
}

#define PUT(l, at, ...)                        \
    put(l, at, (const uint8_t[]){__VA_ARGS__}, \
        sizeof((const uint8_t[]){__VA_ARGS__}))

/* From `at`, all registers 0 but RSP, until a trap. */
static void go(struct life *l, unsigned at)
{
    l->regs = (struct run_regs){.rip = l->place->code + at,
                                .rflags = RUN_RESERVED | RUN_IF};
    memcpy(l->regs.fx, (const uint16_t[]){0x37f}, 2);
    memcpy(l->regs.fx + 24, (const uint32_t[]){0x1f80}, 4);
    l->regs.gpr[RSP] = l->place->stack + RUN_PAGE;
    translated_run(&l->t, &l->regs, &l->trap);
}

static bool ended_at(const struct life *l, unsigned at)
{
    return l->trap.vector == RUN_PROTECTION &&
           l->regs.rip == l->place->code + at;
}

/* ---- Chains ----------------------------------------------------------------
 */

/* A loop that calls; warm, it is entered once and left for its HLT. */
static void chains(void)
{
    struct life *l = set_up();
    uint64_t before;

    if (!l)
        return;
    PUT(l, 0, 0xb9, 100, 0, 0, 0, 0xe8, 54, 0, 0, 0, 0xe2, 0xf9, 0xf4);
    PUT(l, 13, 0xeb, 0xfe);
    PUT(l, 64, 0xff, 0xc0, 0xc3); /* 64: inc %eax; ret */
    go(l, 0);
    CU_ASSERT(ended_at(l, 12));
    CU_ASSERT_EQUAL(l->regs.gpr[RAX], 100);
    CU_ASSERT(l->t.entries > 2 && l->t.entries < 12);
    for (unsigned i = 0; i < 2; i++) {
        before = l->t.entries;
        go(l, 0);
        CU_ASSERT_EQUAL(l->t.entries - before, 1);
        CU_ASSERT_EQUAL(l->regs.gpr[RAX], 100);
        /* Without the function's block its callers come to the monitor. */
        if (i)
            break;
        CU_ASSERT(bt_invalidate_range(l->t.bt, l->place->code + 64, 1) == 1);
        before = l->t.entries;
        go(l, 0);
        CU_ASSERT(l->t.entries - before > 1);
        CU_ASSERT_EQUAL(l->regs.gpr[RAX], 100);
    }
    tear_down(l);
}

/* Two addresses with the same low 16 bits take the table from each other, and
 * the landing tells them apart. */
static void collisions(void)
{
    struct life *l = set_up();
    const struct stream_place *other = &stream_places[STREAM_HIGH];

    if (l && l->places >> STREAM_HIGH & 1) {
        uint64_t targets[] = {l->place->code + 64, other->code + 64};

        CU_ASSERT_EQUAL((uint16_t)targets[0], (uint16_t)targets[1]);
        l->t.code[l->t.codes++] =
            (struct run_code){other->code, other->code + STREAM_BYTES};
        PUT(l, 64, 0xff, 0xc0, 0xc3);                   /* inc %eax */
        PUT(l, 0, 0xb9, 20, 0, 0, 0, 0x48, 0x8b, 0x3e); /* mov (%rsi), %rdi */
        PUT(l, 8, 0xff, 0xd7, 0x48, 0x8b, 0x7e, 8, 0xff, 0xd7, 0xe2, 0xf3,
            0xf4);
        memcpy((void *)(other->alias + 64),
               (const uint8_t[]){0x83, 0xc0, 0x10, 0xc3}, 4);
        memcpy((void *)l->place->data, targets, sizeof targets);
        /* mov $data, %esi; jmp 0 */
        PUT(l, 128, 0xbe, 0, 0, 0, 0, 0xe9, 0x76, 0xff, 0xff, 0xff);
        memcpy((uint8_t *)l->place->alias + 129, &l->place->data, 4);
        go(l, 128);
        CU_ASSERT(ended_at(l, 18));
        CU_ASSERT_EQUAL(l->regs.gpr[RAX], 20 * 0x11);
        CU_ASSERT(l->t.misses >= 2);
    }
    if (l)
        tear_down(l);
}

/* ---- Code that changes ------------------------------------------------------
 */

static void changes(void)
{
    struct life *l = set_up();

    if (!l)
        return;
    PUT(l, 0, 0xb8, 1, 0, 0, 0, 0xf4);
    go(l, 0);
    CU_ASSERT_EQUAL(l->regs.gpr[RAX], 1);
    PUT(l, 1, 2);
    go(l, 0);
    CU_ASSERT_EQUAL(l->regs.gpr[RAX], 1); /* nobody has told it */
    CU_ASSERT_EQUAL(bt_invalidate_frame(l->t.bt, l->place->code + RUN_PAGE), 0);
    CU_ASSERT_EQUAL(bt_invalidate_frame(l->t.bt, l->place->code + 100), 1);
    go(l, 0);
    CU_ASSERT_EQUAL(l->regs.gpr[RAX], 2);
    PUT(l, 1, 3);
    CU_ASSERT_EQUAL(bt_invalidate_range(l->t.bt, l->place->code + 600, 99), 0);
    CU_ASSERT_EQUAL(bt_invalidate_range(l->t.bt, l->place->code + 4, 1), 1);
    go(l, 0);
    CU_ASSERT_EQUAL(l->regs.gpr[RAX], 3);
    PUT(l, 1, 4);
    bt_flush(l->t.bt);
    go(l, 0);
    CU_ASSERT_EQUAL(l->regs.gpr[RAX], 4);
    tear_down(l);
}

/* An instruction in two pages: either one's change is its own. */
static void changes_across(void)
{
    struct life *l = set_up();
    unsigned at = RUN_PAGE - 3;

    if (!l)
        return;
    PUT(l, at, 0xb8, 1, 0, 0, 0, 0xf4); /* mov $1, %eax */
    for (unsigned page = 0; page < 2; page++) {
        uint64_t frame = l->place->code + page * RUN_PAGE;

        go(l, at);
        CU_ASSERT(ended_at(l, at + 5));
        PUT(l, at + 1 + 2 * page, 5 + page);
        CU_ASSERT(bt_invalidate_frame(l->t.bt, frame) > 0);
    }
    go(l, at);
    CU_ASSERT_EQUAL(l->regs.gpr[RAX], 0x60005);
    tear_down(l);
}

/* ---- Adaptive ---------------------------------------------------------------
 */

static void adapts(void)
{
    struct life *l = set_up();

    if (!l)
        return;
    PUT(l, 0, 0x90, 0xff, 0xc0, 0x90, 0xf4); /* nop; inc %eax; nop */
    go(l, 0);
    CU_ASSERT_EQUAL(l->t.call_outs, 1); /* the HLT */
    for (unsigned i = 0; i < 3; i++) {
        bool called = i != 1;
        uint64_t before = l->t.call_outs;

        bt_adapt(l->t.bt, l->place->code + 1, called);
        bt_adapt(l->t.bt, l->place->code + 1, called);
        go(l, 0);
        CU_ASSERT(ended_at(l, 4));
        CU_ASSERT_EQUAL(l->regs.gpr[RAX], 1);
        CU_ASSERT_EQUAL(l->t.call_outs - before, 1 + called);
    }
    CU_ASSERT_EQUAL(bt_stats(l->t.bt)->adapted[1], 2);
    CU_ASSERT_EQUAL(bt_stats(l->t.bt)->adapted[0], 1);
    tear_down(l);
}

/* ---- Virtual flags
 * ----------------------------------------------------------- */

#define ARITHMETIC 0x8d5

/* What PUSHF shows after `code`, which ends with one, POP RAX and HLT. */
static void shows(struct life *l, const void *code, unsigned count,
                  uint64_t flags)
{
    put(l, 0, code, count);
    put(l, count, "\x9c\x58\xf4", 3);
    bt_invalidate_frame(l->t.bt, l->place->code);
    go(l, 0);
    CU_ASSERT(ended_at(l, count + 2));
    CU_ASSERT_EQUAL(l->regs.gpr[RAX], flags | RUN_RESERVED);
    CU_ASSERT_EQUAL(l->regs.rflags & ARITHMETIC, flags & ARITHMETIC);
}

static void interrupt_flag(void)
{
    struct life *l = set_up();

    if (!l)
        return;
    shows(l, "\xfa", 1, 0);
    CU_ASSERT_EQUAL(l->flags->interrupts, 0);
    shows(l, "\xfa\xfb", 2, RUN_IF);
    CU_ASSERT_EQUAL(l->flags->interrupts, 2);
    shows(l, "\xf9\xfa", 2, 1);                 /* stc; cli */
    shows(l, "\x31\xc0\xfb", 3, RUN_IF | 0x44); /* xor: ZF and PF */
    shows(l, "\x6a\x01\x9d", 3, 1);             /* push $1; popf: CF alone */
    shows(l, "\x68\xd5\x0a\x00\x00\x9d", 6, 0xad5); /* ... OF and IF */
    l->flags->others = 0x30; /* IOPL 3: PUSHF shows it, CLI leaves it */
    shows(l, "\xfa", 1, 0x3000);
    shows(l, "\x68\x00\x02\x00\x00\x9d", 6, RUN_IF); /* POPF, IOPL 0 */
    CU_ASSERT_EQUAL(l->flags->others, 0);
    tear_down(l);
}

static bool stop_always(uint64_t rip)
{
    (void)rip;
    return true;
}

/* What else POPF can load is the monitor's, before anything has changed. */
static void slow_flags(void)
{
    static const uint32_t slow[] = {0x100,   0x1000,  0x3000,  0x4000,
                                    0x10000, 0x40000, 0x200000};
    struct life *l = set_up();

    if (!l)
        return;
    l->t.stop = stop_always;
    for (unsigned i = 0; i < sizeof slow / sizeof slow[0]; i++) {
        PUT(l, 0, 0xf9, 0x68, 0, 0, 0, 0, 0x9d, 0xf4);
        put(l, 2, &slow[i], 4);
        bt_invalidate_frame(l->t.bt, l->place->code);
        l->flags->interrupts = 2;
        go(l, 0);
        CU_ASSERT_EQUAL(l->trap.vector, RUN_STOPPED);
        CU_ASSERT_EQUAL(l->regs.rip, l->place->code + 6);
        CU_ASSERT_EQUAL(l->regs.gpr[RSP], l->place->stack + RUN_PAGE - 8);
        CU_ASSERT_EQUAL(l->regs.gpr[RAX] | l->regs.gpr[RCX], 0);
        CU_ASSERT_EQUAL(l->regs.rflags & ARITHMETIC, 1);
        CU_ASSERT_EQUAL(l->flags->interrupts, 2);
    }
    tear_down(l);
}

/* With the flags' page read-only, whoever changes IF is seen before it has. */
static void watched_flags(void)
{
    static const struct {
        const char *code;
        unsigned count, at;
    } cases[] = {{"\xf9\xfa\xf4", 3, 1},
                 {"\xf9\xfb\xf4", 3, 1},
                 {"\xf9\x6a\x00\x9d\xf4", 5, 3}};
    struct life *l = set_up();

    if (!l)
        return;
    for (unsigned i = 0; i < 3; i++) {
        put(l, 0, cases[i].code, cases[i].count);
        bt_invalidate_frame(l->t.bt, l->place->code);
        mprotect(l->flags, RUN_PAGE, PROT_READ);
        go(l, 0);
        mprotect(l->flags, RUN_PAGE, PROT_READ | PROT_WRITE);
        CU_ASSERT_EQUAL(l->trap.vector, RUN_PAGE_FAULT);
        CU_ASSERT_EQUAL(l->trap.cr2 & ~(RUN_PAGE - 1ull), AREA + BT_FLAGS);
        CU_ASSERT_EQUAL(l->regs.rip, l->place->code + cases[i].at);
        CU_ASSERT_EQUAL(l->regs.gpr[RAX] | l->regs.gpr[RCX], 0);
        CU_ASSERT_EQUAL(l->regs.rflags & ARITHMETIC, 1);
    }
    tear_down(l);
}

/* ---- Ends of pages
 * ------------------------------------------------------------ */

/* Every part of an instruction of 11 bytes in the first page: without the
 * second nothing can be said of it, and what comes before it is no matter. */
static void page_ends(void)
{
    static const uint8_t store[] = {0x48, 0xc7, 0x84, 0x24, 0xf8, 0xff,
                                    0xff, 0xff, 1,    2,    3,    4};
    struct life *l = set_up();

    if (!l)
        return;
    for (unsigned first = 1; first <= sizeof store; first++) {
        unsigned at = RUN_PAGE - first;
        struct bt_request request = {
            .gva = l->place->code + at,
            .bytes = (const uint8_t *)l->place->code + at,
            .count = first,
            .pa = l->place->code,
            .next_pa = l->place->code + RUN_PAGE,
        };
        bool whole = first == sizeof store;

        PUT(l, at - 1, 0x90);
        put(l, at, store, sizeof store);
        PUT(l, at + sizeof store, 0xf4);
        bt_invalidate_range(l->t.bt, l->place->code, STREAM_BYTES);
        CU_ASSERT_EQUAL(bt_translate(l->t.bt, &request), whole ? 0 : -ENODATA);
        request.gva--;
        request.bytes--;
        request.count++;
        CU_ASSERT_EQUAL(bt_translate(l->t.bt, &request), 0);
        CU_ASSERT_EQUAL(bt_find(l->t.cache, request.gva)->guest_bytes,
                        whole ? 1 + sizeof store : 1);
        go(l, at - 1);
        CU_ASSERT(ended_at(l, at + sizeof store));
        CU_ASSERT_EQUAL(((uint64_t *)l->regs.gpr[RSP])[-1], 0x04030201);
    }
    tear_down(l);
}

/* The second page isn't there: the fault is its own, with all done before. */
static void no_next_page(void)
{
    struct life *l = set_up();
    unsigned at = STREAM_BYTES - 4;

    if (!l)
        return;
    PUT(l, at, 0xff, 0xc0, 0x48, 0xc7); /* inc %eax; the rest is missing */
    go(l, at);
    CU_ASSERT_EQUAL(l->trap.vector, RUN_PAGE_FAULT);
    CU_ASSERT_EQUAL(l->trap.cr2, l->place->code + STREAM_BYTES);
    CU_ASSERT_EQUAL(l->regs.rip, l->place->code + at + 2);
    CU_ASSERT_EQUAL(l->regs.gpr[RAX], 1);
    PUT(l, at + 2, 0x90, 0x90); /* and where it runs off between two */
    bt_invalidate_frame(l->t.bt, l->place->code + RUN_PAGE);
    go(l, at);
    CU_ASSERT_EQUAL(l->trap.vector, RUN_PAGE_FAULT);
    CU_ASSERT_EQUAL(l->regs.rip, l->place->code + STREAM_BYTES);
    tear_down(l);
}

TEST_SUITE(bt_life, {"branches are chained", chains},
           {"landings tell targets apart", collisions},
           {"changed code", changes},
           {"changed code in two pages", changes_across},
           {"call-outs there and back", adapts},
           {"the virtual IF", interrupt_flag},
           {"POPF of what is the monitor's", slow_flags},
           {"a watched IF", watched_flags}, {"ends of pages", page_ends},
           {"a page that isn't there", no_next_page});
