/*
 * What the guest kernel's computing code computes, part by part, against
 * libraries, closed forms and a third interpreter.
 */
#include "tests/test.h"
#include "workloads/api.h"
#include "workloads/compute/compute.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

static void fill(uint32_t *words, unsigned count, uint64_t seed)
{
    uint64_t rng = seed;

    for (unsigned i = 0; i < count; i++)
        words[i] = (uint32_t)wl_random(&rng);
}

static void crc_is_zlibs(void)
{
    uint32_t table[256], words[COMPUTE_WORDS];

    compute_crc_table(table);
    for (unsigned bytes = 0; bytes <= sizeof words; bytes += 13) {
        fill(words, COMPUTE_WORDS, bytes + 1);
        CU_ASSERT_EQUAL(compute_crc(table, words, bytes),
                        crc32(0, (const Bytef *)words, bytes));
    }
}

/* ---- Sorting ------------------------------------------------------------ */

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void check_sort(void (*sort)(uint32_t *words, unsigned count))
{
    uint32_t words[COMPUTE_WORDS], expected[COMPUTE_WORDS];

    for (unsigned count = 0; count <= COMPUTE_WORDS; count++) {
        fill(words, COMPUTE_WORDS, count + 1);
        if (count & 1) /* many alike */
            for (unsigned i = 0; i < count; i++)
                words[i] &= 7;
        memcpy(expected, words, sizeof words);
        qsort(expected, count, sizeof *expected, by_value);
        sort(words, count);
        CU_ASSERT_EQUAL(memcmp(words, expected, sizeof words), 0);
    }
}

static void sorts_sort(void)
{
    check_sort(compute_insertion_sort);
    check_sort(compute_heap_sort);
}

static bool is_prime(unsigned n)
{
    for (unsigned i = 2; i * i <= n; i++)
        if (n % i == 0)
            return false;
    return n >= 2;
}

static void sieve_finds_primes(void)
{
    uint8_t composite[COMPUTE_SIEVE / 8];
    unsigned primes = 0;

    memset(composite, 0xff, sizeof composite);
    CU_ASSERT_EQUAL(compute_sieve(composite), 1028); /* below 8192 */
    for (unsigned i = 2; i < COMPUTE_SIEVE; i++) {
        primes += is_prime(i);
        CU_ASSERT_EQUAL(composite[i / 8] >> i % 8 & 1, !is_prime(i));
    }
    CU_ASSERT_EQUAL(primes, 1028);
}

/* ---- Calls -------------------------------------------------------------- */

static void recursion_ends_right(void)
{
    uint64_t one = 0, two = 1, sum = 0;
    uint32_t words[COMPUTE_WORDS];

    for (unsigned n = 0; n < 22; n++) {
        uint64_t next = one + two;

        CU_ASSERT_EQUAL(compute_fibonacci(n), one);
        one = two;
        two = next;
    }
    for (uint64_t n = 0; n < 6; n++) {
        CU_ASSERT_EQUAL(compute_ackermann(0, n), n + 1);
        CU_ASSERT_EQUAL(compute_ackermann(1, n), n + 2);
        CU_ASSERT_EQUAL(compute_ackermann(2, n), 2 * n + 3);
        CU_ASSERT_EQUAL(compute_ackermann(3, n), (8ull << n) - 3);
    }
    fill(words, COMPUTE_WORDS, 1);
    for (unsigned i = 1; i < COMPUTE_WORDS; i++)
        sum += words[i];
    CU_ASSERT_EQUAL(compute_tree_sum(words, 1, COMPUTE_WORDS), sum);
}

/* ---- Interpreters ------------------------------------------------------- */

/* The value of every operator, of which one is kept. */
static uint64_t operate(unsigned opcode, uint64_t a, uint64_t b,
                        unsigned constant, uint32_t word)
{
    unsigned count = constant % 64;
    const uint64_t values[COMPUTE_OPCODES] = {
        [COMPUTE_ADD] = a + b,
        [COMPUTE_SUB] = a - b,
        [COMPUTE_MUL] = a * (b | 1),
        [COMPUTE_AND] = a & b,
        [COMPUTE_OR] = a | b,
        [COMPUTE_XOR] = a ^ b,
        [COMPUTE_NOT] = ~b,
        [COMPUTE_SHIFT_LEFT] = a << b % 64,
        [COMPUTE_SHIFT_RIGHT] = a >> b % 64,
        [COMPUTE_ROTATE] = count ? a << count | a >> (64 - count) : a,
        [COMPUTE_MOVE] = b,
        [COMPUTE_LOAD] = word,
        [COMPUTE_STORE] = a,
        [COMPUTE_MINIMUM] = b < a ? b : a,
        [COMPUTE_SKIP_IF_ODD] = a,
        [COMPUTE_CONSTANT] = constant * UINT64_C(0x0101010101010101),
    };

    return values[opcode];
}

static uint64_t interpret(struct compute_page *page, unsigned steps)
{
    uint64_t sum = 0;
    unsigned pc = 0;

    while (steps--) {
        const struct compute_instruction *i = &page->program[pc];
        uint64_t *a = &page->registers[i->a];
        uint32_t *word = &page->words[i->constant];

        *a = operate(i->opcode, *a, page->registers[i->b], i->constant, *word);
        if (i->opcode == COMPUTE_STORE)
            *word = (uint32_t)*a;
        pc += 1 + (i->opcode == COMPUTE_SKIP_IF_ODD && *a % 2);
        pc %= COMPUTE_PROGRAM;
    }
    for (unsigned i = 0; i < COMPUTE_REGISTERS; i++)
        sum = compute_mix(sum, page->registers[i]);
    return sum;
}

static void interpreters_agree(void)
{
    struct compute_page page, other, third;
    uint64_t rng = 1;

    for (unsigned i = 0; i < 200; i++) {
        memset(&page, 0, sizeof page);
        fill(page.words, COMPUTE_WORDS, i + 1);
        compute_make_program(&page, &rng);
        other = third = page;
        CU_ASSERT_EQUAL(compute_by_switch(&page, 5 * i),
                        interpret(&third, 5 * i));
        CU_ASSERT_EQUAL(compute_by_pointers(&other, 5 * i),
                        interpret(&page, 0));
        CU_ASSERT_EQUAL(memcmp(&page, &third, sizeof page), 0);
        CU_ASSERT_EQUAL(memcmp(&other, &third, sizeof page), 0);
    }
}

/* ---- The workloads ------------------------------------------------------ */

static const struct {
    const char *name;
    compute_function *run;
} all[] = {
#define COMPUTE(id, summary, operation, operations) {#id, id},
#include "workloads/compute/compute.def"
#undef COMPUTE
};

/* They find in the page what they have put there, whatever it held. */
static void nothing_is_left_behind(void)
{
    struct compute_page page;

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        uint64_t first, second;

        memset(&page, 0, sizeof page);
        first = all[i].run(&page, 5, 1);
        second = all[i].run(&page, 5, 2);
        CU_ASSERT_NOT_EQUAL(first, second);
        CU_ASSERT_NOT_EQUAL(first, all[i].run(&page, 6, 1));
        memset(&page, 0xa5, sizeof page);
        CU_ASSERT_EQUAL(first, all[i].run(&page, 5, 1));
    }
}

/* Their point is code that the kernel could be built with. */
static void no_vector_registers(void)
{
    char *output;
    int status = test_shell(&output,
                            "objdump -d %s/obj/workloads/compute/*.o | "
                            "grep -c -E '%%([xyz]mm|st|mm)[0-9(]'",
                            MEMVIRT_BUILD);

    CU_ASSERT_EQUAL(status, 1); /* grep found none */
    CU_ASSERT_STRING_EQUAL(output, "0\n");
    free(output);
}

TEST_SUITE(compute, {"the CRC is zlib's", crc_is_zlibs},
           {"the sorts sort", sorts_sort},
           {"the sieve finds primes", sieve_finds_primes},
           {"recursion ends right", recursion_ends_right},
           {"three interpreters agree", interpreters_agree},
           {"nothing is left behind", nothing_is_left_behind},
           {"no vector registers", no_vector_registers});
