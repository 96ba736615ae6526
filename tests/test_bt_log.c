/*
 * What translated code logs of its accesses. Expansion: logs made by hand.
 * Emission: random programs in this process, against the same programs in
 * single steps, each instruction decoded and its addresses computed by Zydis
 * from the registers as they are.
 */
#include "bt/trace.h"
#include "mmu/entry.h"
#include "tests/bt_run.h"
#include "tests/bt_stream.h"
#include "tests/test.h"
#include "vmm/decode.h"
#include "workloads/api.h"

#include <Zydis/Zydis.h>
#include <asm/prctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#define STREAMS 150
#else
#define STREAMS 1500
#endif
#define AREA     0x310000000000ull
#define ENDLESS  20000 /* microseconds */
#define STEPS    5000  /* a program with more is left out */
#define EVENTS   (1u << 20)
#define REPORTED 3

/* ---- Events, as told and as expected ------------------------------------ */

struct events {
    size_t count;
    struct event {
        unsigned kind;
        uint64_t va, value;
    } event[EVENTS];
};

static void add(struct events *events, unsigned kind, uint64_t va,
                uint64_t value)
{
    if (events->count < EVENTS)
        events->event[events->count++] = (struct event){kind, va, value};
}

static void take(void *arg, uint64_t *words, size_t count)
{
    for (size_t i = 0; i < count; i += event_words(event_kind(words[i])))
        add(arg, event_kind(words[i]), event_va(words[i]),
            event_kind(words[i]) == EVENT_STORE ? words[i + 2] : 0);
}

static void happened(void *arg, const uint64_t *event)
{
    (void)arg, (void)event;
}

static bool nowhere(void *arg, uint64_t gva, uint64_t *gpa)
{
    (void)arg, (void)gva, (void)gpa;
    return false;
}

/* ---- Expansion ---------------------------------------------------------- */

struct hand {
    struct bt_trace *trace;
    struct events *events;
    unsigned drains;
};

static void count_drain(void *arg)
{
    ((struct hand *)arg)->drains++;
}

static void take_hand(void *arg, uint64_t *words, size_t count)
{
    take(((struct hand *)arg)->events, words, count);
}

static bool at_low_half(void *arg, uint64_t gva, uint64_t *gpa)
{
    (void)arg;
    *gpa = gva & 0xfffffff;
    return gva >> 63;
}

static void set_up_hand(struct hand *h, bool fetches)
{
    const struct bt_trace_config config = {.fetches = fetches,
                                           .take = take_hand,
                                           .happened = happened,
                                           .locate = at_low_half,
                                           .drain = count_drain,
                                           .arg = h};

    *h = (struct hand){.events = calloc(1, sizeof *h->events)};
    h->trace = bt_trace_create(&config);
    CU_ASSERT_PTR_NOT_NULL_FATAL(h->trace);
}

static void tear_down_hand(struct hand *h)
{
    bt_trace_destroy(h->trace);
    free(h->events);
}

static void add_op(struct hand *h, struct bt_piece *piece, struct bt_op op)
{
    *bt_trace_op(h->trace, piece) = op;
}

static void add_insn(struct hand *h, struct bt_piece *piece, unsigned guest,
                     uint32_t begun)
{
    struct bt_piece_insn *insn = bt_trace_insn(h->trace, piece);

    insn->guest = (uint16_t)guest;
    insn->begun = begun;
    insn->logged = 0;
    insn->length = 4;
}

/* Three instructions at 0x1000, 0x1004 and 0x1008: a read of word 0, a write
 * of 16 bytes at words 0 and 1 * 8, a read beyond nowhere. */
static uint32_t make_piece(struct hand *h)
{
    uint32_t number;
    struct bt_piece *piece = bt_trace_begin(h->trace, true, &number);

    piece->gva = 0x1000;
    piece->logged = 0x100;
    piece->end = 0x200;
    piece->words = 2;
    add_insn(h, piece, 0, 0x110);
    add_op(h, piece,
           (struct bt_op){.address = 8,
                          .bytes = 8,
                          .kind = EVENT_READ,
                          .index = BT_NO_WORD,
                          .value = BT_NO_WORD});
    add_insn(h, piece, 4, 0x120);
    add_op(h, piece,
           (struct bt_op){.bytes = 16,
                          .kind = EVENT_WRITE,
                          .index = 1,
                          .shift = 3,
                          .value = BT_NO_WORD});
    add_insn(h, piece, 8, 0x130);
    add_op(h, piece,
           (struct bt_op){.address = 0x7000,
                          .bytes = 4,
                          .kind = EVENT_READ,
                          .base = BT_NO_WORD,
                          .index = BT_NO_WORD,
                          .value = BT_NO_WORD});
    return number;
}

#define EXPECT(h, n, k, v)                                          \
    do {                                                            \
        CU_ASSERT_EQUAL_FATAL((h)->events->count > (n), true);      \
        CU_ASSERT_EQUAL((h)->events->event[n].kind, (unsigned)(k)); \
        CU_ASSERT_EQUAL((h)->events->event[n].va, (uint64_t)(v));   \
    } while (0)

static void expand(struct hand *h, const uint64_t *words, size_t count, int err)
{
    h->events->count = 0;
    CU_ASSERT_EQUAL(bt_trace_expand(h->trace, words, count), err);
    bt_trace_submit(h->trace);
}

static void whole_pieces(void)
{
    struct hand h;
    uint64_t number, words[6];

    set_up_hand(&h, false);
    number = make_piece(&h);
    words[0] = words[3] = ~number;
    words[1] = 0x2000;
    words[2] = 0x10;
    words[4] = 0x2f78; /* + 16 * 8: the write crosses */
    words[5] = 0x10;
    expand(&h, words, 6, 0);
    CU_ASSERT_EQUAL(h.events->count, 7);
    EXPECT(&h, 0, EVENT_READ, 0x2008);
    EXPECT(&h, 1, EVENT_WRITE, 0x2080);
    EXPECT(&h, 2, EVENT_READ, 0x7000);
    EXPECT(&h, 3, EVENT_READ, 0x2f80);
    EXPECT(&h, 4, EVENT_WRITE, 0x2ff8);
    EXPECT(&h, 5, EVENT_WRITE, 0x3000);
    CU_ASSERT_EQUAL(bt_trace_stats(h.trace)->instructions, 6);
    tear_down_hand(&h);
}

/* A trap at 0x1004: one instruction is done; the words of the other don't
 * count. Behind the piece, and in the next beginning, all is done. */
static void stops(void)
{
    struct hand h;
    uint64_t words[] = {
        0, 0x2000, 0xdead, bt_log_word(BT_LOG_STOP, 0x120 | BT_LOG_USER),
        0, 0,      0x1004};

    set_up_hand(&h, false);
    words[0] = ~(uint64_t)make_piece(&h);
    expand(&h, words, 7, 0);
    CU_ASSERT_EQUAL(h.events->count, 1);
    words[3] = bt_log_word(BT_LOG_STOP, 0x200 | BT_LOG_USER);
    expand(&h, words, 7, 0);
    CU_ASSERT_EQUAL(h.events->count, 3);
    words[3] = bt_log_word(BT_LOG_STOP, 0xff | BT_LOG_USER);
    expand(&h, words, 7, 0);
    CU_ASSERT_EQUAL(h.events->count, 3);
    words[3] = bt_log_word(BT_LOG_STOP, 0x120); /* the kernel's code */
    expand(&h, words, 7, 0);
    CU_ASSERT_EQUAL(h.events->count, 3);
    tear_down_hand(&h);
}

/* What the monitor appends comes between; the fetch of an instruction that
 * faults, or is called out, comes before what is done in its stead. */
static void others(void)
{
    struct hand h;
    uint64_t words[] = {0,      0x2000,
                        1,      bt_log_word(BT_LOG_STOP, 0x120 | BT_LOG_USER),
                        0,      0,
                        0x1004, event_word(EVENT_FAULT, 0x2008),
                        6,      event_word(EVENT_CR3, 0),
                        0x5000};

    set_up_hand(&h, true);
    words[0] = ~(uint64_t)make_piece(&h);
    expand(&h, words, 11, 0);
    CU_ASSERT_EQUAL(h.events->count, 4);
    EXPECT(&h, 1, EVENT_FETCH, 0x1004);
    EXPECT(&h, 2, EVENT_FAULT, 0x2008);
    EXPECT(&h, 3, EVENT_CR3, 0);
    expand(&h, words, 7, 0); /* a hidden fault: it is done again */
    CU_ASSERT_EQUAL(h.events->count, 1);
    words[3] |= BT_LOG_CALL;
    expand(&h, words, 7, 0);
    CU_ASSERT_EQUAL(h.events->count, 2);
    tear_down_hand(&h);
}

/* REP STOSD of 0 over a page and a half of the kernel's, stopped in the last
 * double word. */
static void repetitions(void)
{
    const uint64_t at = 0xffff888000001000ull;
    struct hand h;
    uint32_t number;
    uint64_t words[9];
    struct bt_piece *piece;

    set_up_hand(&h, false);
    piece = bt_trace_begin(h.trace, false, &number);
    piece->gva = 0x1000;
    piece->logged = 0x100;
    piece->end = 0x200;
    piece->words = 3; /* RDI, RAX, RDI then */
    add_insn(&h, piece, 0, 0x110);
    add_op(&h, piece,
           (struct bt_op){.bytes = 4,
                          .kind = EVENT_KERNEL_WRITE,
                          .flags = BT_OP_STRING | BT_OP_STORE,
                          .index = 2,
                          .value = 1});
    words[0] = ~(uint64_t)number;
    words[1] = at;
    words[2] = 0;
    words[3] = at + 0x1800;
    expand(&h, words, 4, 0);
    CU_ASSERT_EQUAL(h.events->count, 1 + 0x1800 / 8);
    EXPECT(&h, 0, EVENT_CLEAR, (at & 0xfffffff));
    EXPECT(&h, 1, EVENT_KERNEL_WRITE, at);
    EXPECT(&h, 512, EVENT_KERNEL_WRITE, at + 0xff8);
    EXPECT(&h, 513, EVENT_STORE, at + 0x1000);
    words[3] = 0xdead;
    words[4] = bt_log_word(BT_LOG_STOP, 0x110);
    words[5] = 0;
    words[6] = at + 0x17fc;
    words[7] = 0x1000;
    expand(&h, words, 8, 0);
    CU_ASSERT_EQUAL(h.events->count, 1 + 0x1800 / 8);
    EXPECT(&h, 768, EVENT_KERNEL_WRITE, at + 0x17f8);
    words[3] = at - 8; /* with DF: eight bytes that cross */
    words[2] = 0x12345678;
    expand(&h, words, 4, 0);
    CU_ASSERT_EQUAL(h.events->count, 2);
    EXPECT(&h, 0, EVENT_KERNEL_WRITE, at - 4);
    EXPECT(&h, 1, EVENT_KERNEL_WRITE, at);
    tear_down_hand(&h);
}

static void nonsense(void)
{
    struct hand h;
    uint64_t words[] = {~0ull << 20, 0, 0};

    set_up_hand(&h, false);
    expand(&h, words, 3, -22);
    words[0] = ~(uint64_t)make_piece(&h);
    expand(&h, words, 2, -22);
    words[0] = 0x7bull << EVENT_SHIFT;
    expand(&h, words, 3, -22);
    words[0] = bt_log_word(BT_LOG_STOP, 0);
    expand(&h, words, 3, -22);
    words[0] = event_word(EVENT_STORE, 0);
    expand(&h, words, 2, -22);
    bt_trace_forget(h.trace, true);
    CU_ASSERT_EQUAL(h.drains, 1);
    words[0] = ~1ull;
    expand(&h, words, 3, -22);
    tear_down_hand(&h);
}

/* The guest can write to the log: whatever is there, it is read to its end or
 * refused. */
static void random_words(void)
{
    static uint64_t words[64];
    struct hand h;
    uint64_t random = 1, number;
    unsigned refused = 0, taken = 0;

    set_up_hand(&h, true);
    number = make_piece(&h);
    for (unsigned i = 0; i < 20000; i++) {
        for (unsigned k = 0; k < 64; k++) {
            uint64_t any = wl_random(&random);

            words[k] = any % 4 == 0   ? ~number
                       : any % 4 == 1 ? bt_log_word(BT_LOG_STOP, any >> 55)
                       : any % 4 == 2
                           ? event_word((any >> 8) % EVENT_KINDS, any >> 16)
                           : any;
        }
        h.events->count = 0;
        if (bt_trace_expand(h.trace, words, wl_random(&random) % 65))
            refused++;
        else
            taken++;
    }
    CU_ASSERT(refused > 100 && taken > 100);
    tear_down_hand(&h);
}

/* ---- The oracle ---------------------------------------------------------- */

struct bench {
    struct run *run;
    struct translated t;
    unsigned places;
    bool user;
    struct stream stream;
    struct events told, expected;
    uint64_t fs, failures, compared, stores, drains;
    ZydisDecoder decoder;
    /* The instruction that is stepped. */
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    /* A repetition, from its first iteration. */
    bool repeating;
    struct run_regs first;
};

static unsigned bytes_at(uint64_t rip)
{
    for (unsigned i = 0; i < STREAM_PLACES; i++) {
        uint64_t left = stream_places[i].code + STREAM_BYTES - rip;

        if (rip >= stream_places[i].code && left <= STREAM_BYTES)
            return left < 15 ? (unsigned)left : 15;
    }
    return 0;
}

static bool decode(struct bench *b, uint64_t rip)
{
    unsigned bytes = bytes_at(rip);

    if (!bytes ||
        ZYAN_FAILED(ZydisDecoderDecodeFull(&b->decoder, (const void *)rip,
                                           bytes, &b->insn, b->operand)))
        return false;
    /* Zydis 4.0 has a base here where there is none. */
    for (unsigned i = 0; i < b->insn.operand_count; i++)
        if (b->insn.raw.modrm.mod == 0 && b->insn.raw.modrm.rm == 4 &&
            b->insn.raw.sib.base == 5 && b->insn.raw.disp.size == 32 &&
            b->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            b->operand[i].visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN) {
            b->operand[i].mem.base = ZYDIS_REGISTER_NONE;
            b->operand[i].mem.disp.has_displacement = true;
            b->operand[i].mem.disp.value = b->insn.raw.disp.value;
        }
    return true;
}

static uint64_t address(const struct bench *b, const ZydisDecodedOperand *o,
                        const struct run_regs *before,
                        const struct run_regs *after)
{
    bool hidden = o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;
    bool stack =
        ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
                                         o->mem.base) == ZYDIS_REGISTER_RSP;
    bool write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    ZydisRegisterContext context = {{0}};
    ZyanU64 at = 0;

    if (hidden && !write && stack)
        return before->gpr[4];
    if (hidden && b->insn.mnemonic == ZYDIS_MNEMONIC_LEAVE)
        return before->gpr[5];
    if (stack && hidden && write)
        return b->insn.mnemonic == ZYDIS_MNEMONIC_ENTER ? before->gpr[4] - 8
                                                        : after->gpr[4];
    for (unsigned i = 0; i < 16; i++) {
        const struct run_regs *regs =
            i == 4 && stack && !hidden &&
                    b->insn.meta.category == ZYDIS_CATEGORY_POP
                ? after
                : before;

        context.values[ZYDIS_REGISTER_RAX + i] = regs->gpr[i];
        context.values[ZYDIS_REGISTER_EAX + i] = (uint32_t)regs->gpr[i];
    }
    ZydisCalcAbsoluteAddressEx(&b->insn, o, before->rip, &context, &at);
    if (o->mem.segment == ZYDIS_REGISTER_FS)
        at += b->fs;
    if (o->mem.segment == ZYDIS_REGISTER_GS)
        at += STREAM_GS;
    return at;
}

static bool is_access(const struct bench *b, const ZydisDecodedOperand *o)
{
    bool bits = b->insn.mnemonic == ZYDIS_MNEMONIC_BT ||
                b->insn.mnemonic == ZYDIS_MNEMONIC_BTS ||
                b->insn.mnemonic == ZYDIS_MNEMONIC_BTR ||
                b->insn.mnemonic == ZYDIS_MNEMONIC_BTC;

    if (o->type != ZYDIS_OPERAND_TYPE_MEMORY ||
        o->mem.type != ZYDIS_MEMOP_TYPE_MEM ||
        (bits && b->operand[1].type == ZYDIS_OPERAND_TYPE_REGISTER))
        return false;
    return b->insn.mnemonic != ZYDIS_MNEMONIC_XLAT &&
           b->insn.meta.category != ZYDIS_CATEGORY_WIDENOP &&
           b->insn.meta.category != ZYDIS_CATEGORY_NOP &&
           b->insn.meta.category != ZYDIS_CATEGORY_PREFETCH;
}

static void expect(struct bench *b, unsigned access, uint64_t va,
                   unsigned bytes)
{
    unsigned kind = access + (b->user ? EVENT_READ : EVENT_KERNEL_READ);

    add(&b->expected, kind, va,
        access == MMU_WRITE && bytes == 8 && va % 8 == 0 ? *(const uint64_t *)va
                                                         : 0);
    if (va % PAGE_4K + bytes > PAGE_4K)
        add(&b->expected, kind, (va | (PAGE_4K - 1)) + 1, 0);
}

static void expect_access(struct bench *b, const ZydisDecodedOperand *o,
                          unsigned access, const struct run_regs *before,
                          const struct run_regs *after, uint64_t moved,
                          uint64_t done)
{
    bool down = before->rflags & 0x400;
    unsigned size = o->size / 8;
    uint64_t at = address(b, o, before, after);
    unsigned bytes = moved - done < 8 ? (unsigned)(moved - done) : 8;

    if (!moved)
        expect(b, access, at, size);
    else
        expect(b, access, down ? at + size - done - bytes : at + done, bytes);
}

static void expect_all(struct bench *b, const struct run_regs *before,
                       const struct run_regs *after, uint64_t moved,
                       uint64_t done)
{
    bool locked = b->insn.attributes & ZYDIS_ATTRIB_HAS_LOCK ||
                  b->insn.mnemonic == ZYDIS_MNEMONIC_XCHG;

    for (unsigned access = MMU_READ; access <= MMU_WRITE; access++)
        for (unsigned i = 0; i < b->insn.operand_count; i++) {
            const ZydisDecodedOperand *o = &b->operand[i];
            bool read = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
            bool write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;

            if (is_access(b, o) &&
                (access == MMU_WRITE ? write : read && !(write && locked)))
                expect_access(b, o, access, before, after, moved, done);
        }
}

static bool repeats(const struct bench *b)
{
    return b->insn.meta.category == ZYDIS_CATEGORY_STRINGOP &&
           b->insn.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE |
                                 ZYDIS_ATTRIB_HAS_REPNE);
}

static void fetch(struct bench *b, uint64_t rip)
{
    unsigned kind = b->user ? EVENT_FETCH : EVENT_KERNEL_FETCH;

    add(&b->expected, kind, rip, 0);
    if (rip % PAGE_4K + b->insn.length > PAGE_4K)
        add(&b->expected, kind, (rip | (PAGE_4K - 1)) + 1, 0);
}

/* All iterations of a repetition that were done. Also called with its fetch
 * still to come: it is told of when it is over. */
static void end_repetition(struct bench *b, const struct run_regs *now,
                           bool over)
{
    bool by_rsi = b->insn.mnemonic == ZYDIS_MNEMONIC_LODSB ||
                  b->insn.mnemonic == ZYDIS_MNEMONIC_LODSW ||
                  b->insn.mnemonic == ZYDIS_MNEMONIC_LODSD ||
                  b->insn.mnemonic == ZYDIS_MNEMONIC_LODSQ;
    int64_t moved =
        (int64_t)(now->gpr[by_rsi ? 6 : 7] - b->first.gpr[by_rsi ? 6 : 7]);

    if (b->insn.address_width == 32)
        moved = (int32_t)moved;
    if (moved < 0)
        moved = -moved;
    b->repeating = false;
    if (over)
        fetch(b, b->first.rip);
    for (uint64_t done = 0; done < (uint64_t)moved; done += 8)
        expect_all(b, &b->first, now, (uint64_t)moved, done);
}

/* One step; false when a trap ended it. */
static bool step(struct bench *b, struct run_regs *regs, struct run_trap *trap)
{
    struct run_regs before = *regs;
    bool decoded = decode(b, before.rip);

    if (decoded && repeats(b) && !b->repeating) {
        b->repeating = true;
        b->first = before;
    }
    run_step(b->run, regs, trap);
    if (trap->vector != RUN_DEBUG) {
        if (b->repeating)
            end_repetition(b, regs, false);
        return false;
    }
    if (b->repeating) {
        if (regs->rip != before.rip)
            end_repetition(b, regs, true);
        return true;
    }
    fetch(b, before.rip);
    expect_all(b, &before, regs, 0, 0);
    return true;
}

/* False: it doesn't end soon. */
static bool run_steps(struct bench *b)
{
    struct run_regs regs = b->stream.start;
    struct run_trap trap;
    unsigned i = 0;

    b->expected.count = 0;
    b->repeating = false;
    stream_load(&b->stream);
    regs.rflags &= ~(uint64_t)RUN_TF;
    while (i < STEPS && step(b, &regs, &trap))
        i++;
    return i < STEPS && trap.vector != RUN_TIMEOUT;
}

/* ---- Emission ------------------------------------------------------------ */

static void take_told(void *arg, uint64_t *words, size_t count)
{
    take(&((struct bench *)arg)->told, words, count);
}

static void drain(void *arg)
{
    translated_drain(&((struct bench *)arg)->t);
}

static bool anywhere(void *arg, uint64_t gva, uint64_t *gpa)
{
    (void)arg;
    *gpa = gva;
    return true;
}

/* What would leave the cache; the rest of the sensitive ones do something. */
static bool sensitive(const uint8_t *bytes, unsigned count)
{
    struct insn insn;

    return !decode_insn(bytes, count, &insn) && insn.op >= INSN_CALL_FAR &&
           insn.op <= INSN_IRET;
}

static struct bench *set_up(bool user, uint32_t code_bytes)
{
    struct bench *b = calloc(1, sizeof *b);
    struct bt_trace_config trace = {.fetches = true,
                                    .take = take_told,
                                    .happened = happened,
                                    .locate = user ? nowhere : anywhere,
                                    .drain = drain};
    struct translated_config config = {
        .va = AREA,
        .code_bytes = code_bytes,
        .is_sensitive = sensitive,
        .user = user,
    };
    struct why why = {""};

    CU_ASSERT_PTR_NOT_NULL_FATAL(b);
    b->user = user;
    b->places = stream_map();
    if (!b->places) {
        test_skip("addresses from %#llx on are taken, or the GS base can't be "
                  "set; run it alone",
                  (unsigned long long)stream_places[STREAM_LOW].code);
        free(b);
        return NULL;
    }
    trace.arg = b;
    config.trace = bt_trace_create(&trace);
    ZydisDecoderInit(&b->decoder, ZYDIS_MACHINE_MODE_LONG_64,
                     ZYDIS_STACK_WIDTH_64);
    if (!config.trace || run_open(&b->run, &why) ||
        translated_open(&b->t, b->run, &config, &why))
        CU_FAIL_FATAL("no runner");
    ((struct bt_flags *)(b->t.area + BT_FLAGS))->interrupts = 2;
    syscall(SYS_arch_prctl, ARCH_GET_FS, &b->fs);
    for (unsigned i = 0; i < STREAM_PLACES; i++)
        if (b->places >> i & 1)
            b->t.code[b->t.codes++] = (struct run_code){
                stream_places[i].code, stream_places[i].code + STREAM_BYTES};
    return b;
}

static void set_alarm(unsigned microseconds)
{
    struct itimerval timer = {
        .it_value = {microseconds / 1000000, microseconds % 1000000}};

    setitimer(ITIMER_VIRTUAL, &timer, NULL);
}

static void tear_down(struct bench *b)
{
    struct bt_trace *trace = b->t.trace;

    set_alarm(0);
    translated_close(&b->t);
    bt_trace_destroy(trace);
    run_close(b->run);
    stream_unmap(b->places);
    free(b);
}

/* False: it doesn't end, or the runner did some of it, which isn't logged; but
 * the last HLT. */
static bool run_logged(struct bench *b)
{
    const uint64_t bases[] = {bt_log_word(BT_LOG_BASE, 0), b->fs,
                              bt_log_word(BT_LOG_BASE, 1), STREAM_GS};
    struct run_regs regs = b->stream.start;
    struct run_trap trap;

    stream_load(&b->stream);
    bt_invalidate_range(b->t.bt, b->stream.place->code, STREAM_BYTES);
    b->told.count = 0;
    b->t.broken[0] = 0;
    b->t.call_outs = 0;
    bt_trace_expand(b->t.trace, bases, 4);
    set_alarm(3000000);
    translated_run(&b->t, &regs, &trap);
    set_alarm(0);
    translated_drain(&b->t);
    bt_trace_submit(b->t.trace);
    return trap.vector != RUN_TIMEOUT &&
           b->t.call_outs <= (trap.vector == RUN_PROTECTION && !b->user &&
                              *(const uint8_t *)regs.rip == 0xf4);
}

/* A store is a write with a value. */
static bool same_event(struct bench *b, const struct event *told,
                       const struct event *expected)
{
    if (told->kind == EVENT_STORE) {
        b->stores++;
        return expected->kind == EVENT_KERNEL_WRITE &&
               expected->va == told->va && expected->value == told->value;
    }
    return told->kind == expected->kind && told->va == expected->va;
}

/* Of the last instruction, whose trap the runner raised by itself, its fetch
 * and what it pushed may be told of too. */
static void compare(struct bench *b)
{
    size_t i = 0, told = b->told.count, expected = b->expected.count;

    while (i < told && i < expected &&
           same_event(b, &b->told.event[i], &b->expected.event[i]))
        i++;
    b->compared += i;
    if (i == expected && told - i <= 3 && !b->t.broken[0])
        return;
    if (b->failures++ >= REPORTED)
        return;
    printf("\nseed %llu, %s: event %zu of %zu, expected %zu %s\n",
           (unsigned long long)b->stream.seed, b->user ? "user" : "kernel", i,
           told, expected, b->t.broken);
    for (size_t k = i > 3 ? i - 3 : 0; k < i + 3; k++)
        printf("  told %u %#llx %#llx, expected %u %#llx %#llx\n",
               b->told.event[k].kind, (unsigned long long)b->told.event[k].va,
               (unsigned long long)b->told.event[k].value,
               b->expected.event[k].kind,
               (unsigned long long)b->expected.event[k].va,
               (unsigned long long)b->expected.event[k].value);
}

static uint64_t setting(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text ? strtoull(text, NULL, 0) : otherwise;
}

static void programs(bool user)
{
    /* So little that it is flushed now and then, and pieces with it. */
    struct bench *b = set_up(user, 32 << 10);
    uint64_t first = setting("BT_SEED", 0);
    uint64_t count = setting("BT_STREAMS", STREAMS);

    if (!b)
        return;
    for (uint64_t i = 0; i < count; i++) {
        stream_make(&b->stream, first + i, b->places);
        if (run_steps(b) && run_logged(b))
            compare(b);
    }
    CU_ASSERT_EQUAL(b->failures, 0);
    CU_ASSERT(b->compared > 10 * count);
    CU_ASSERT(user || b->stores > count / 10);
    CU_ASSERT(bt_stats(b->t.bt)->flushes > 0);
    tear_down(b);
}

static void user_programs(void)
{
    programs(true);
}

static void kernel_programs(void)
{
    programs(false);
}

TEST_SUITE(bt_log, {"whole pieces", whole_pieces}, {"stops", stops},
           {"what the monitor appends", others}, {"repetitions", repetitions},
           {"nonsense", nonsense}, {"random words", random_words},
           {"random user programs' accesses", user_programs},
           {"random kernel programs' accesses", kernel_programs});
