/*
 * What binary translation costs where no monitor is needed: the same compiled
 * code, run as it is and translated, in turn, in this process. At an address
 * of 31 bits, where a return address is an operand of PUSH as in a kernel, and
 * beyond 32 bits. Aims: a compute loop takes 1.15 times as long at most, calls
 * and indirect branches 2.5 times.
 */
#include "harness/stats.h"
#include "tests/bench/bench.h"
#include "tests/bt_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ROUNDS      9
#define AREA        0x300000000000ull
#define CODE_BYTES  0x10000u
#define STACK_BYTES 0x40000u
#define WORDS       4096u
#define HLT         0xf4

/* Copied as a whole: its functions call each other, and nothing else. */
#define GUEST __attribute__((section("bt_guest"), noipa))

extern const uint8_t __start_bt_guest[], __stop_bt_guest[];

struct work;

typedef uint64_t step(struct work *work, uint64_t value);

struct work {
    uint64_t count;
    step *steps[8];   /* by which `pointers` calls */
    void *labels[8];  /* by which `dispatch` goes on */
    uint8_t ops[256]; /* what it interprets */
    uint32_t words[WORDS];
};

/* ---- The guest ----------------------------------------------------------- */

/* Bubble passes and a checksum: loads, stores, branches both ways. */
GUEST static uint64_t compute(struct work *work)
{
    uint64_t sum = 0;

    for (uint64_t n = 0; n < work->count; n++) {
        uint32_t x = (uint32_t)n * 2654435761u;

        for (unsigned i = 1; i < WORDS; i++) {
            uint32_t a = work->words[i - 1], b = work->words[i];

            x = (x << 5 | x >> 27) ^ b;
            if (a > b) {
                work->words[i - 1] = b;
                work->words[i] = a ^ (x & 1);
            }
            sum += x;
        }
    }
    return sum;
}

GUEST static uint64_t fibonacci(uint64_t n)
{
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

GUEST static uint64_t recursion(struct work *work)
{
    return fibonacci(work->count);
}

GUEST static uint64_t leaf(uint64_t value, uint64_t n)
{
    return (value ^ n) * 3 + (value >> 7);
}

GUEST static uint64_t leaves(struct work *work)
{
    uint64_t value = 1;

    for (uint64_t n = 0; n < work->count; n++)
        value = leaf(value, n) + leaf(n, value);
    return value;
}

GUEST static uint64_t step_add(struct work *work, uint64_t value)
{
    return value + work->words[value % WORDS];
}

GUEST static uint64_t step_mix(struct work *work, uint64_t value)
{
    return (value << 7 | value >> 57) ^ work->count;
}

GUEST static uint64_t step_multiply(struct work *work, uint64_t value)
{
    (void)work;
    return value * 0x9e3779b97f4a7c15;
}

GUEST static uint64_t step_store(struct work *work, uint64_t value)
{
    work->words[value % WORDS] ^= 1;
    return value + 1;
}

/* Through a table, by what the value happens to be. */
GUEST static uint64_t pointers(struct work *work)
{
    uint64_t value = 1;

    for (uint64_t n = 0; n < work->count; n++)
        value = work->steps[work->ops[n % 256]](work, value);
    return value;
}

/* An interpreter: one indirect jump an instruction. Asked with nothing to do,
 * it says where its instructions are. */
GUEST static uint64_t dispatch(struct work *work)
{
    uint64_t value = 1, n = work->count;

    if (!n) {
        /* cppcheck-suppress internalAstError */
        work->labels[0] = &&add;
        work->labels[1] = &&rotate;
        work->labels[2] = &&multiply;
        work->labels[3] = &&store;
        return 0;
    }
#define NEXT                                     \
    do {                                         \
        if (!--n)                                \
            return value;                        \
        goto * work->labels[work->ops[n % 256]]; \
    } while (0)
    NEXT;
add:
    value += work->words[value % WORDS];
    NEXT;
rotate:
    value = (value << 7 | value >> 57) ^ n;
    NEXT;
multiply:
    value *= 0x9e3779b97f4a7c15;
    NEXT;
store:
    work->words[value % WORDS] ^= 1;
    NEXT;
}

/* ---- The measurement ------------------------------------------------------
 */

static const struct {
    const char *name;
    uint64_t (*guest)(struct work *work);
    uint64_t count;
    double aim;
} loads[] = {
    {"compute loop", compute, 16000, 1.15},
    {"recursion (Fibonacci)", recursion, 34, 2.5},
    {"leaf calls", leaves, 30000000, 2.5},
    {"dispatch (indirect jumps)", dispatch, 50000000, 2.5},
    {"function pointers", pointers, 30000000, 2.5},
};

struct bench {
    struct run *run;
    struct translated t;
    uint8_t *code, *stack;
    uint64_t end; /* where guests return to */
    struct work work;
};

static uint64_t moved(const struct bench *b, const void *function)
{
    return (uint64_t)(b->code + ((const uint8_t *)function - __start_bt_guest));
}

static void prepare(struct bench *b, uint64_t count)
{
    static step *const steps[] = {step_add, step_mix, step_multiply,
                                  step_store};
    uint32_t x = 1;

    for (unsigned i = 0; i < 4; i++)
        b->work.steps[i] = (step *)moved(b, steps[i]);
    for (unsigned i = 0; i < WORDS; i++)
        b->work.words[i] = x = x * 1664525 + 1013904223;
    for (unsigned i = 0; i < sizeof b->work.ops; i++)
        b->work.ops[i] = (uint8_t)((x = x * 1664525 + 1013904223) >> 30);
    b->work.count = count;
}

static uint64_t run(struct bench *b, const void *guest, bool translated)
{
    uint64_t *top = (uint64_t *)(b->stack + STACK_BYTES) - 2;
    struct run_regs regs = {.rip = moved(b, guest), .rflags = RUN_IF};
    struct run_trap trap;

    *--top = b->end;
    regs.gpr[4] = (uint64_t)top;
    regs.gpr[7] = (uint64_t)&b->work;
    memcpy(regs.fx, (const uint16_t[]){0x37f}, 2);
    memcpy(regs.fx + 24, (const uint32_t[]){0x1f80}, 4);
    if (translated)
        translated_run(&b->t, &regs, &trap);
    else
        run_enter(b->run, &regs, &trap);
    if (regs.rip != b->end || trap.vector != RUN_PROTECTION) {
        fprintf(stderr, "trap %u at %#llx%s\n", trap.vector,
                (unsigned long long)regs.rip, b->t.broken);
        exit(1);
    }
    return regs.gpr[0];
}

/* Of this process alone: others are no part of a ratio. */
static double busy_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double timed(struct bench *b, unsigned i, bool translated,
                    uint64_t *value)
{
    double begin;

    prepare(b, loads[i].count);
    begin = busy_seconds();
    *value = run(b, loads[i].guest, translated);
    return busy_seconds() - begin;
}

static bool measure(struct bench *b, unsigned i)
{
    double direct[ROUNDS], translated[ROUNDS];
    uint64_t value, other, entries;
    struct estimate ratio, plain;

    for (unsigned round = 0; round <= ROUNDS; round++) {
        unsigned to = round ? round - 1 : 0; /* the first warms up */

        direct[to] = timed(b, i, false, &value);
        entries = b->t.entries;
        translated[to] = timed(b, i, true, &other);
        if (value != other) {
            fprintf(stderr, "%s: other results\n", loads[i].name);
            exit(1);
        }
    }
    if (stats_ratio(translated, ROUNDS, direct, ROUNDS, &ratio) ||
        stats_median(direct, ROUNDS, &plain))
        exit(1);
    printf("%-27s %8.1f ms  %5.2f (%.2f to %.2f)  aim %.2f  %s; %llu entries\n",
           loads[i].name, plain.value * 1e3, ratio.value, ratio.low, ratio.high,
           loads[i].aim, ratio.value <= loads[i].aim ? "met" : "missed",
           (unsigned long long)(b->t.entries - entries));
    return ratio.value <= loads[i].aim;
}

static void *map(uint64_t at, size_t bytes)
{
    void *memory = mmap(
        at ? (void *)at : NULL, bytes, PROT_READ | PROT_WRITE | PROT_EXEC,
        MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED_NOREPLACE : 0), -1, 0);

    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return memory;
}

static bool measure_at(uint64_t address)
{
    struct translated_config config = {.va = AREA};
    struct bench *b = calloc(1, sizeof *b);
    size_t bytes = (size_t)(__stop_bt_guest - __start_bt_guest);
    bool met = true;
    struct why why;

    if (!b || bytes >= CODE_BYTES)
        exit(1);
    b->code = map(address, CODE_BYTES);
    b->stack = map(0, STACK_BYTES);
    memcpy(b->code, __start_bt_guest, bytes);
    b->end = (uint64_t)b->code + CODE_BYTES - 1;
    *(uint8_t *)b->end = HLT;
    if (run_open(&b->run, &why) ||
        translated_open(&b->t, b->run, &config, &why))
        give_up(&why);
    b->t.codes = 1;
    b->t.code[0] = (struct run_code){address, address + CODE_BYTES};
    prepare(b, 0);
    run(b, dispatch, false);
    printf("code at %#llx: direct, translated / direct\n",
           (unsigned long long)address);
    for (unsigned i = 0; i < sizeof loads / sizeof loads[0]; i++)
        met &= measure(b, i);
    translated_close(&b->t);
    run_close(b->run);
    munmap(b->stack, STACK_BYTES);
    munmap(b->code, CODE_BYTES);
    free(b);
    return met;
}

int main(void)
{
    bool low = measure_at(0x60000000), high = measure_at(0x210000000000);

    return low && high ? 0 : 1;
}
