/*
 * The binary translator against this CPU: the same code run translated and as
 * it is, in this process, from the same registers and memory.
 *
 * BT_STREAMS is the number of random programs, BT_SEED the first.
 */
#include "tests/bt_run.h"
#include "tests/bt_stream.h"
#include "tests/test.h"
#include "vmm/decode.h"
#include "workloads/api.h"

#include <Zydis/Zydis.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#ifdef __SANITIZE_ADDRESS__
#define STREAMS 3000
#define STEPPED 200
#define ENCODED 3000
#define BYTES   1000
#else
#define STREAMS 20000
#define STEPPED 800
#define ENCODED 15000
#define BYTES   4000
#endif
#define AREA         0x300000000000ull
#define REPORTED     3                  /* failures in detail */
#define ENDLESS      20000              /* microseconds: a program in a loop */
#define ENTRIES_MAX  1000000            /* of a translation, each by a trap */
#define TIMEOUT      3000000            /* for its translation */
#define FLAGS_IGNORE (RUN_TF | 0x10000) /* and RF */

struct side {
    struct run_regs regs;
    struct run_trap trap;
    uint8_t memory[STREAM_MEMORY];
};

struct bench {
    struct run *run;
    struct translated t;
    unsigned places;
    struct stream stream;
    struct side direct, translated;
    uint64_t endless, failures, steps, ended[16];
};

typedef bool callback(const uint8_t *bytes, unsigned count);

static bool sensitive(const uint8_t *bytes, unsigned count)
{
    struct insn insn;

    return !decode_insn(bytes, count, &insn) && insn_is_sensitive(&insn);
}

static struct bench *set_up_with(uint32_t code_bytes, callback *is_sensitive)
{
    struct translated_config config = {
        .va = AREA, .code_bytes = code_bytes, .is_sensitive = is_sensitive};
    struct bench *b = calloc(1, sizeof *b);
    struct why why = {""};

    CU_ASSERT_PTR_NOT_NULL_FATAL(b);
    b->places = stream_map();
    if (!b->places) {
        test_skip("addresses from %#llx on are taken, or the GS base can't be "
                  "set; run it alone",
                  (unsigned long long)stream_places[STREAM_LOW].code);
        free(b);
        return NULL;
    }
    if (run_open(&b->run, &why) ||
        translated_open(&b->t, b->run, &config, &why))
        CU_FAIL_FATAL("no runner");
    for (unsigned i = 0; i < STREAM_PLACES; i++) {
        uint64_t code = stream_places[i].code;

        if (b->places >> i & 1)
            b->t.code[b->t.codes++] =
                (struct run_code){code, code + STREAM_BYTES};
    }
    return b;
}

static void set_alarm(unsigned microseconds)
{
    struct itimerval timer = {
        .it_interval = {.tv_usec = microseconds ? ENDLESS : 0},
        .it_value = {microseconds / 1000000, microseconds % 1000000}};

    setitimer(ITIMER_VIRTUAL, &timer, NULL);
}

static struct bench *set_up(uint32_t code_bytes)
{
    return set_up_with(code_bytes, sensitive);
}

static void tear_down(struct bench *b)
{
    set_alarm(0);
    translated_close(&b->t);
    run_close(b->run);
    stream_unmap(b->places);
    free(b);
}

/* ---- Sides -------------------------------------------------------------- */

static void begin_code(struct bench *b)
{
    const struct stream *s = &b->stream;
    uint64_t code = s->place->code;

    stream_load(s);
    if (s->seed & 1) {
        bt_invalidate_range(b->t.bt, code, STREAM_BYTES);
    } else {
        for (unsigned i = 0; i < STREAM_CODE_PAGES; i++)
            bt_invalidate_frame(b->t.bt, code + i * RUN_PAGE);
    }
    b->t.give_next = s->seed & 2;
    *(struct bt_flags *)(b->t.area + BT_FLAGS) =
        (struct bt_flags){.interrupts = 2};
}

/* False when it is one of the few that don't end. */
static bool run_direct(struct bench *b)
{
    stream_load(&b->stream);
    set_alarm(ENDLESS);
    b->direct.regs = b->stream.start;
    run_enter(b->run, &b->direct.regs, &b->direct.trap);
    set_alarm(TIMEOUT);
    stream_save(&b->stream, b->direct.memory);
    b->endless += b->direct.trap.vector == RUN_TIMEOUT;
    return b->direct.trap.vector != RUN_TIMEOUT;
}

static void run_translated(struct bench *b)
{
    begin_code(b);
    b->translated.regs = b->stream.start;
    translated_run(&b->t, &b->translated.regs, &b->translated.trap);
    stream_save(&b->stream, b->translated.memory);
}

/* ---- Comparison ---------------------------------------------------------- */

static const char *other_trap(const struct run_trap *a,
                              const struct run_trap *b)
{
    /* Is the page there, on a fetch? The runner takes it for code or nothing.
     */
    uint64_t ignored = a->error & b->error & 0x10 ? 1 : 0;

    if (a->vector != b->vector)
        return "vector";
    if (a->vector < RUN_PROTECTION || a->vector > RUN_PAGE_FAULT)
        return NULL;
    if ((a->error ^ b->error) & ~ignored)
        return "error code";
    return a->vector == RUN_PAGE_FAULT && a->cr2 != b->cr2 ? "CR2" : NULL;
}

/* x87's own addresses in FXSAVE are those where it ran. */
static bool vectors_equal(const uint8_t *a, const uint8_t *b)
{
    return !memcmp(a + 24, b + 24, 4) && !memcmp(a + 160, b + 160, 256);
}

static const char *other_regs(const struct run_regs *a,
                              const struct run_regs *b)
{
    if (a->rip != b->rip)
        return "RIP";
    if (memcmp(a->gpr, b->gpr, sizeof a->gpr))
        return "registers";
    if ((a->rflags ^ b->rflags) & ~(uint64_t)FLAGS_IGNORE)
        return "flags";
    return vectors_equal(a->fx, b->fx) ? NULL : "vector registers";
}

static bool is_code(uint64_t va)
{
    for (unsigned i = 0; i < STREAM_PLACES; i++)
        if (va - stream_places[i].code < STREAM_BYTES)
            return true;
    return false;
}

static unsigned bytes_at(uint64_t rip)
{
    for (unsigned i = 0; i < STREAM_PLACES; i++) {
        uint64_t left = stream_places[i].code + STREAM_BYTES - rip;

        if (rip >= stream_places[i].code && left <= STREAM_BYTES)
            return left < INSN_BYTES_MAX ? (unsigned)left : INSN_BYTES_MAX;
    }
    return 0;
}

static bool decode_at(uint64_t rip, ZydisDecodedInstruction *insn)
{
    ZydisDecoder decoder;

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64,
                     ZYDIS_STACK_WIDTH_64);
    return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(
        &decoder, NULL, (const void *)rip, bytes_at(rip), insn));
}

/* In a process it isn't what it is in a kernel; or AMD and Intel differ: near
 * branches with 66, which are called out by nobody. */
static bool means_another(uint64_t rip)
{
    ZydisDecodedInstruction insn;

    if (!decode_at(rip, &insn))
        return false;
    return insn.mnemonic == ZYDIS_MNEMONIC_CLI ||
           insn.mnemonic == ZYDIS_MNEMONIC_STI ||
           (insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE &&
            insn.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE);
}

/* What was meant to be an operand, executed: CLI and STI, which this process
 * can't, or a POPF that sets TF. */
static bool is_refused(const struct side *direct)
{
    if (direct->trap.vector == RUN_DEBUG)
        return true;
    /* AMD's CPUs know that 0F B9 isn't one before they fetch its ModR/M. */
    if (direct->trap.vector == RUN_UNDEFINED)
        return bytes_at(direct->regs.rip) < INSN_BYTES_MAX;
    return direct->trap.vector == RUN_PROTECTION && is_code(direct->regs.rip) &&
           means_another(direct->regs.rip);
}

/* An indirect call to an address that isn't canonical faults before it pushes
 * anything; the translation has pushed and takes it back. */
static void unpush(struct side *side, const struct stream *s)
{
    uint64_t at = side->regs.gpr[4] - 8 - s->place->stack;
    const uint8_t *bytes = (const uint8_t *)side->regs.rip;

    if (side->trap.vector == RUN_PROTECTION &&
        memchr(bytes, 0xff, bytes_at(side->regs.rip)) && at < 2 * RUN_PAGE - 8)
        memset(side->memory + 2 * RUN_PAGE + at, 0, 8);
}

static const char *other(struct bench *bench)
{
    struct side *a = &bench->direct, *b = &bench->translated;
    const char *what = other_trap(&a->trap, &b->trap);

    if (is_refused(a))
        return NULL;
    if (!what)
        what = other_regs(&a->regs, &b->regs);
    unpush(a, &bench->stream);
    unpush(b, &bench->stream);
    if (!what && memcmp(a->memory, b->memory, sizeof a->memory))
        what = "memory";
    return what;
}

/* ---- Reports --------------------------------------------------------------
 */

static void print_code(const struct stream *s)
{
    ZydisDisassembledInstruction line;
    unsigned at = 0;

    while (at < s->bytes) {
        uint64_t gva = s->place->code + s->at + at;
        bool ok = ZYAN_SUCCESS(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64,
                                                     gva, s->code + at,
                                                     s->bytes - at, &line));
        unsigned length = ok ? line.info.length : 1;

        printf("    %12llx ", (unsigned long long)gva);
        for (unsigned i = 0; i < length; i++)
            printf("%02x", s->code[at + i]);
        printf(" %s\n", ok ? line.text : "?");
        at += length;
    }
}

static void print_regs(const char *name, const struct side *side)
{
    printf("  %s: vector %u error %llx cr2 %llx rip %llx flags %llx\n   ", name,
           side->trap.vector, (unsigned long long)side->trap.error,
           (unsigned long long)side->trap.cr2,
           (unsigned long long)side->regs.rip,
           (unsigned long long)side->regs.rflags);
    for (unsigned i = 0; i < 16; i++)
        printf(" %llx", (unsigned long long)side->regs.gpr[i]);
    printf("\n");
}

static void report(struct bench *b, const char *what)
{
    if (b->failures++ >= REPORTED)
        return;
    printf("\nseed %llu: %s differ%s %s\n", (unsigned long long)b->stream.seed,
           what, b->translated.trap.vector == RUN_BROKEN ? ":" : "",
           b->translated.trap.vector == RUN_BROKEN ? b->t.broken : "");
    print_regs("direct", &b->direct);
    print_regs("translated", &b->translated);
    print_code(&b->stream);
}

static uint64_t setting(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text ? strtoull(text, NULL, 0) : otherwise;
}

/* What programs ended with, and what was translated: for the long runs. */
static void print_ends(const struct bench *b)
{
    if (!getenv("BT_STREAMS"))
        return;
    printf("\n  ");
    for (unsigned i = 0; i < 16; i++)
        if (b->ended[i])
            printf(" vector %u: %llu,", i, (unsigned long long)b->ended[i]);
    printf(" endless: %llu\n", (unsigned long long)b->endless);
    for (unsigned i = 0; i < BT_CLASSES; i++)
        printf(" %s %llu", bt_class_name(i),
               (unsigned long long)bt_stats(b->t.bt)->instructions[i]);
    printf("\n  entries %llu, misses %llu, flushes %llu, links %llu\n",
           (unsigned long long)b->t.entries, (unsigned long long)b->t.misses,
           (unsigned long long)bt_stats(b->t.bt)->flushes,
           (unsigned long long)bt_stats(b->t.bt)->links);
}

typedef void maker(struct stream *stream, uint64_t seed, unsigned places);

static void compare(struct bench *b, maker *make, uint64_t count)
{
    uint64_t first = setting("BT_SEED", 0);

    for (uint64_t i = 0; i < count && b->failures < 1000; i++) {
        const char *what;

        make(&b->stream, first + i, b->places);
        if (!run_direct(b) || is_refused(&b->direct))
            continue;
        b->t.entries_left = ENTRIES_MAX;
        run_translated(b);
        what = other(b);
        b->ended[b->direct.trap.vector & 15]++;
        if (what)
            report(b, what);
    }
    CU_ASSERT_EQUAL(b->failures, 0);
    CU_ASSERT(b->endless <= count / 1000 + 1);
}

static void streams(void)
{
    struct bench *b = set_up(0);

    if (!b)
        return;
    compare(b, stream_make, setting("BT_STREAMS", STREAMS));
    print_ends(b);
    for (unsigned class = 0; class < BT_CLASSES; class ++)
        CU_ASSERT(bt_stats(b->t.bt)->instructions[class]);
    CU_ASSERT(b->t.misses && b->t.call_outs);
    tear_down(b);
}

/* ---- Precision ------------------------------------------------------------
 */

#define STEPS_MAX 400

struct step {
    uint64_t gpr[16], rip, rflags;
    uint64_t memory,
        unpushed; /* hashes; the latter without 8 bytes below RSP */
};

struct trace {
    struct bench *b;
    struct step step[STEPS_MAX + 1];
    unsigned count, at;
    uint64_t random, points, resumed;
    bool lost, left; /* for an address that isn't canonical, and back */
    bool churn;
    bool pushed; /* resumed from the middle of a PUSHF */
};

static uint64_t hash_pages(uint64_t va, uint64_t hash)
{
    const uint64_t *words = (const uint64_t *)va;

    for (unsigned i = 0; i < 2 * RUN_PAGE / 8; i++)
        hash = hash * 0x9e3779b97f4a7c15 + words[i];
    return hash;
}

static uint64_t hash_memory(const struct stream_place *place)
{
    uint64_t hash = hash_pages(place->data, 1);

    hash = hash_pages(place->stack, hash);
    return hash_pages(stream_places[STREAM_LOW].data, hash);
}

static uint64_t hash_unpushed(const struct stream_place *place, uint64_t rsp)
{
    uint64_t at = rsp - 8, saved, hash;

    if (at - place->stack > 2 * RUN_PAGE - 8)
        return hash_memory(place);
    memcpy(&saved, (void *)at, 8);
    memset((void *)at, 0, 8);
    hash = hash_memory(place);
    memcpy((void *)at, &saved, 8);
    return hash;
}

static struct step step_of(const struct trace *trace,
                           const struct run_regs *regs)
{
    const struct stream_place *place = trace->b->stream.place;
    struct step step = {.rip = regs->rip,
                        .rflags = regs->rflags & ~(uint64_t)FLAGS_IGNORE,
                        .memory = hash_memory(place),
                        .unpushed = hash_unpushed(place, regs->gpr[4])};

    memcpy(step.gpr, regs->gpr, sizeof step.gpr);
    return step;
}

static bool is_step(const struct step *a, const struct step *b, bool pushed)
{
    return !memcmp(a, b, offsetof(struct step, memory)) &&
           (a->memory == b->memory || (pushed && a->unpushed == b->unpushed));
}

/* Its states, from the first on. False when it is too long, or ends where this
 * process and a translation differ. */
static bool trace_direct(struct trace *trace)
{
    struct bench *b = trace->b;
    struct run_regs *regs = &b->direct.regs;

    stream_load(&b->stream);
    *regs = b->stream.start;
    trace->count = 0;
    do {
        if (trace->count == STEPS_MAX)
            return false;
        trace->step[trace->count++] = step_of(trace, regs);
        run_step(b->run, regs, &b->direct.trap);
    } while (b->direct.trap.vector == RUN_DEBUG);
    trace->step[trace->count] = step_of(trace, regs);
    if (!is_step(&trace->step[trace->count], &trace->step[trace->count - 1], 0))
        trace->count++;
    stream_save(&b->stream, b->direct.memory);
    return !is_refused(&b->direct);
}

static bool is_canonical(uint64_t va)
{
    return (uint64_t)((int64_t)(va << 16) >> 16) == va;
}

/* The code that is running is gone, or is to be translated otherwise. */
static void churn(struct trace *trace, uint64_t rip)
{
    struct bt *bt = trace->b->t.bt;

    switch (wl_below(&trace->random, 32)) {
    case 0:
        bt_invalidate_frame(bt, rip);
        break;
    case 1:
        bt_invalidate_range(bt, rip & ~(uint64_t)(RUN_PAGE - 1), RUN_PAGE);
        break;
    case 2:
    case 3:
        bt_adapt(bt, rip, wl_below(&trace->random, 2));
        break;
    default:
        break;
    }
}

static bool on_step(void *context, const struct run_regs *regs,
                    const struct bt_point *point)
{
    struct trace *trace = context;
    struct step step = step_of(trace, regs);
    bool pushed = point->add_rsp || trace->pushed;

    trace->points++;
    trace->left |= !is_canonical(regs->rip);
    if (trace->at + 1 < trace->count &&
        !is_step(&trace->step[trace->at], &step, pushed)) {
        trace->at++;
        trace->pushed = false;
    }
    trace->lost |= !is_step(&trace->step[trace->at], &step, pushed);
    if (trace->churn)
        churn(trace, regs->rip);
    if (trace->lost || wl_below(&trace->random, 16))
        return false;
    trace->resumed++;
    trace->pushed = pushed; /* what is below RSP stays */
    return true;
}

static void check_precise(struct trace *trace)
{
    struct bench *b = trace->b;
    const char *what = "states";

    set_alarm(TIMEOUT);
    if (!trace_direct(trace))
        return;
    set_alarm(TIMEOUT);
    trace->at = 0;
    b->t.entries_left = 1 + 1000 * trace->count;
    trace->lost = trace->left = trace->pushed = false;
    run_translated(b);
    if (trace->left)
        return;
    if (!trace->lost)
        what = trace->at + 1 < trace->count ? "numbers of states" : other(b);
    if (what)
        report(b, what);
}

/* At each instruction of the translation the state is one that the program is
 * in between two of its own: in their order, all of them, none twice. Going on
 * from that state alone is right. */
static void step_programs(bool with_churn, uint64_t count)
{
    struct trace *trace = calloc(1, sizeof *trace);
    uint64_t first = setting("BT_SEED", 0);

    CU_ASSERT_PTR_NOT_NULL_FATAL(trace);
    trace->churn = with_churn;
    trace->b = set_up(0);
    trace->random = 1;
    if (trace->b) {
        trace->b->t.on_step = on_step;
        trace->b->t.context = trace;
        for (uint64_t i = 0; i < count && trace->b->failures < 1000; i++) {
            stream_make(&trace->b->stream, first + i, trace->b->places);
            check_precise(trace);
        }
        CU_ASSERT_EQUAL(trace->b->failures, 0);
        CU_ASSERT(trace->points >= 10 * count && trace->resumed >= count / 2);
        tear_down(trace->b);
    }
    free(trace);
}

static void precise(void)
{
    step_programs(false, setting("BT_STEPPED", STEPPED));
}

static void thrown_away(void)
{
    step_programs(true, setting("BT_STEPPED", STEPPED) / 2);
}

/* ---- Encodings --------------------------------------------------------------
 */

static void prefixes(void)
{
    struct bench *b = set_up(0);

    if (!b)
        return;
    compare(b, stream_make_prefixes, setting("BT_ENCODED", ENCODED));
    tear_down(b);
}

/* A cache that holds one block or two: each translation may flush it. */
static void tiny_cache(void)
{
    struct bench *b = set_up(1);
    uint64_t count = setting("BT_ENCODED", ENCODED) / 8;

    if (!b)
        return;
    compare(b, stream_make, count);
    CU_ASSERT(bt_stats(b->t.bt)->flushes >= count / 2);
    tear_down(b);
}

/* ---- Bytes ------------------------------------------------------------------
 */

#define BYTES_STEPS 100

/* The ISA sets whose instructions do the same each time and need no system. */
static bool is_repeatable_set(ZydisISASet set)
{
    static const ZydisISASet sets[] = {
        ZYDIS_ISA_SET_I86,      ZYDIS_ISA_SET_I186,
        ZYDIS_ISA_SET_I386,     ZYDIS_ISA_SET_I486,
        ZYDIS_ISA_SET_I486REAL, ZYDIS_ISA_SET_PENTIUMREAL,
        ZYDIS_ISA_SET_LONGMODE, ZYDIS_ISA_SET_LAHF,
        ZYDIS_ISA_SET_CMOV,     ZYDIS_ISA_SET_CMPXCHG16B,
        ZYDIS_ISA_SET_SSE,      ZYDIS_ISA_SET_SSE2,
        ZYDIS_ISA_SET_SSE3,     ZYDIS_ISA_SET_SSSE3,
        ZYDIS_ISA_SET_SSE4,     ZYDIS_ISA_SET_SSE42,
        ZYDIS_ISA_SET_BMI1,     ZYDIS_ISA_SET_BMI2,
        ZYDIS_ISA_SET_POPCNT,   ZYDIS_ISA_SET_LZCNT,
        ZYDIS_ISA_SET_MOVBE,    ZYDIS_ISA_SET_ADOX_ADCX,
        ZYDIS_ISA_SET_FAT_NOP,  ZYDIS_ISA_SET_PREFETCH_NOP,
        ZYDIS_ISA_SET_PAUSE,
    };

    for (unsigned i = 0; i < sizeof sets / sizeof sets[0]; i++)
        if (sets[i] == set)
            return true;
    return false;
}

static bool is_system(const ZydisDecodedInstruction *insn)
{
    switch (insn->meta.category) {
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_SEGOP:
    case ZYDIS_CATEGORY_SYSTEM:
        return true;
    default:
        return insn->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS;
    }
}

/* What a process can't run twice with one result is called out, and ends. */
static bool unrepeatable(const uint8_t *bytes, unsigned count)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction insn;

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64,
                     ZYDIS_STACK_WIDTH_64);
    if (!ZYAN_SUCCESS(
            ZydisDecoderDecodeInstruction(&decoder, NULL, bytes, count, &insn)))
        return false;
    if (insn.mnemonic == ZYDIS_MNEMONIC_PUSHFQ)
        return false;
    return !is_repeatable_set(insn.meta.isa_set) || is_system(&insn) ||
           sensitive(bytes, count);
}

static bool stop_at(uint64_t rip)
{
    return unrepeatable((const uint8_t *)rip, bytes_at(rip));
}

/* Any flags: TF and NT, too. */
static bool loads_flags(uint64_t rip)
{
    ZydisDecodedInstruction insn;

    return decode_at(rip, &insn) && (insn.mnemonic == ZYDIS_MNEMONIC_POPFQ ||
                                     insn.mnemonic == ZYDIS_MNEMONIC_IRETQ);
}

/* As long as instructions are repeatable. False for what can't be compared. */
static bool step_bytes(struct bench *b)
{
    struct run_regs *regs = &b->direct.regs;
    unsigned steps = 0;

    stream_load(&b->stream);
    *regs = b->stream.start;
    do {
        if (steps++ == BYTES_STEPS ||
            (is_code(regs->rip) &&
             (means_another(regs->rip) || loads_flags(regs->rip))))
            return false;
        if (is_code(regs->rip) && stop_at(regs->rip)) {
            b->direct.trap = (struct run_trap){.vector = RUN_STOPPED};
            break;
        }
        run_step(b->run, regs, &b->direct.trap);
    } while (b->direct.trap.vector == RUN_DEBUG);
    stream_save(&b->stream, b->direct.memory);
    b->steps += steps;
    return !is_refused(&b->direct);
}

static void any_bytes(void)
{
    struct bench *b = set_up_with(0, unrepeatable);
    uint64_t count = setting("BT_BYTES", BYTES), first = setting("BT_SEED", 0);
    uint64_t compared = 0;
    unsigned places = 1u << STREAM_HIGH; /* sums of pointers are nowhere */

    if (!b)
        return;
    places = b->places & places ? places : b->places;
    b->t.stop = stop_at;
    for (uint64_t i = 0; i < count && b->failures < 1000; i++) {
        const char *what;

        stream_make_bytes(&b->stream, first + i, places);
        set_alarm(TIMEOUT);
        if (!step_bytes(b))
            continue;
        run_translated(b);
        what = other(b);
        if (what)
            report(b, what);
        compared++;
    }
    CU_ASSERT_EQUAL(b->failures, 0);
    CU_ASSERT(compared > count / 2 && b->steps > count);
    tear_down(b);
}

TEST_SUITE(bt, {"random bytes do the same translated", any_bytes},
           {"any prefixes, up to 15 bytes and more", prefixes},
           {"a cache of one block", tiny_cache},
           {"every point of a translation is a state of the program", precise},
           {"the same while its code is thrown away", thrown_away},
           {"random programs do the same translated", streams});
