/*
 * Every workload as a process: the same result twice, phases as they should
 * be; and what each computes against a second, plain way to compute it.
 */
#include "tests/test.h"
#include "workloads/abi.h"
#include "workloads/catalog.h"
#include "workloads/linux/process.h"
#include "workloads/memory/bfs.h"
#include "workloads/memory/btree.h"
#include "workloads/memory/chase.h"
#include "workloads/memory/hashjoin.h"
#include "workloads/memory/pi.h"
#include "workloads/memory/zipf.h"

#include <errno.h>
#include <gsl/gsl_cdf.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct phase {
    enum wl_phase phase;
    uint64_t operations, checksum;
    bool ended, in_order;
};

struct record {
    struct phase phases[GUEST_PHASES_MAX];
    unsigned count;
    struct wl_linux_found found;
    struct why why;
};

static void phase_begin(void *arg, enum wl_phase phase)
{
    struct record *record = arg;

    if (record->count < GUEST_PHASES_MAX)
        record->phases[record->count++].phase = phase;
}

static void phase_end(void *arg, enum wl_phase phase, uint64_t operations,
                      uint64_t tsc_begin, uint64_t tsc_end, uint64_t checksum)
{
    struct record *record = arg;
    struct phase *last = &record->phases[record->count - 1];

    last->ended = last->phase == phase;
    last->operations = operations;
    last->checksum = checksum;
    last->in_order = tsc_begin < tsc_end;
}

static int run(const struct workload *workload, const struct wl_params *params,
               struct record *record)
{
    const struct wl_linux_hooks hooks = {phase_begin, phase_end, record};

    memset(record, 0, sizeof *record);
    return wl_linux_run(workload, params, &hooks, &record->found, &record->why);
}

static bool runs(const struct workload *workload,
                 const struct wl_params *params, struct record *record)
{
    int error = run(workload, params, record);

    if (error)
        printf("\n    %s: %s\n", workload->name, record->why.text);
    return !error;
}

static uint64_t sum_of(const char *name, const struct wl_params *params)
{
    struct record record;

    if (!runs(workload_find(name), params, &record) || !record.count)
        return 0;
    return record.phases[record.count - 1].checksum;
}

static bool same_results(const struct record *a, const struct record *b)
{
    bool same = a->count == b->count;

    for (unsigned i = 0; same && i < a->count; i++)
        same = a->phases[i].phase == b->phases[i].phase &&
               a->phases[i].operations == b->phases[i].operations &&
               a->phases[i].checksum == b->phases[i].checksum;
    return same;
}

static struct wl_params small(const struct workload *workload)
{
    struct wl_params params = {.operations = 1000, .seed = 7};

    if (workload->class == WL_MMU)
        params.operations = 20;
    if (workload->default_working_set_bytes)
        params.working_set_bytes = 1 << 20;
    CU_ASSERT_EQUAL(workload_check(workload, &params, NULL), 0);
    return params;
}

static void check_phases(const struct workload *workload,
                         const struct wl_params *params,
                         const struct record *record)
{
    const struct phase *last = &record->phases[record->count - 1];
    bool first_touch_only = !strcmp(workload->name, "firsttouch");
    bool in_memory =
        workload->class == WL_MEMORY && workload->default_working_set_bytes;

    CU_ASSERT_EQUAL_FATAL(record->count, in_memory ? 3 : 1);
    CU_ASSERT_EQUAL(last->phase, first_touch_only ? WL_FIRST_TOUCH : WL_STEADY);
    CU_ASSERT_EQUAL(last->operations, params->operations);
    for (unsigned i = 0; i < record->count; i++) {
        CU_ASSERT(record->phases[i].ended);
        CU_ASSERT(record->phases[i].in_order);
    }
    if (!in_memory)
        return;
    CU_ASSERT_EQUAL(record->phases[0].phase, WL_FIRST_TOUCH);
    CU_ASSERT_EQUAL(record->phases[0].operations,
                    params->working_set_bytes / params->page_bytes);
    CU_ASSERT_EQUAL(record->phases[1].phase, WL_INIT);
    CU_ASSERT(record->phases[1].operations > 0);
}

static void check_twice(const struct workload *workload,
                        const struct wl_params *params)
{
    struct record one, two;

    CU_ASSERT_FATAL(runs(workload, params, &one));
    CU_ASSERT_FATAL(runs(workload, params, &two));
    check_phases(workload, params, &one);
    if (!same_results(&one, &two))
        printf("\n    %s: two runs differ\n", workload->name);
    CU_ASSERT(same_results(&one, &two));
}

static void all_run_alike_twice(void)
{
    for (const struct workload *const *w = workload_catalog(); *w; w++) {
        if ((*w)->run) {
            struct wl_params params = small(*w);

            check_twice(*w, &params);
            CU_ASSERT_NOT_EQUAL(sum_of((*w)->name, &params), 0);
        }
    }
}

static void all_run_alike_on_three_cpus(void)
{
    for (const struct workload *const *w = workload_catalog(); *w; w++) {
        if ((*w)->run && !(*w)->max_vcpus) {
            struct wl_params params = small(*w);

            params.vcpus = 3;
            params.operations++;
            check_twice(*w, &params);
        }
    }
}

static void all_run_at_their_least(void)
{
    for (const struct workload *const *w = workload_catalog(); *w; w++) {
        struct wl_params params = small(*w);

        if (!(*w)->run)
            continue;
        if (params.working_set_bytes)
            params.working_set_bytes = 4096;
        params.operations = 1;
        check_twice(*w, &params);
    }
}

static void odd_working_sets_run(void)
{
    for (const struct workload *const *w = workload_catalog(); *w; w++) {
        struct wl_params params = small(*w);
        struct record record;

        if (!(*w)->run || !params.working_set_bytes)
            continue;
        params.working_set_bytes = 123457;
        CU_ASSERT(runs(*w, &params, &record));
    }
}

static void results_depend_on_seed(void)
{
    static const char *const names[] = {"seq",   "stride",   "random",
                                        "chase", "gups",     "zipf",
                                        "btree", "hashjoin", "bfs"};

    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct wl_params params = small(workload_find(names[i]));
        uint64_t sum = sum_of(names[i], &params);

        params.seed++;
        CU_ASSERT_NOT_EQUAL(sum, sum_of(names[i], &params));
    }
}

/* From the definition: words are seed + golden * (i + 1), each pass adds 1. */
static void seq_sums_its_words(void)
{
    struct wl_params params = small(workload_find("seq"));
    uint64_t words = 4096 / 8, sum = 0;

    params.working_set_bytes = 4096;
    params.operations = words;
    for (uint64_t i = 0; i < words; i++) {
        uint64_t warm_ups = i < words / 4 + 1;

        sum += params.seed + WL_GOLDEN * (i + 1) + warm_ups + 1;
    }
    CU_ASSERT_EQUAL(sum_of("seq", &params), sum);
}

static void chase_visits_each_page_once(void)
{
    const uint64_t pages = 1000;
    unsigned char *base = aligned_alloc(4096, pages * 4096);
    bool *seen = calloc(pages, sizeof *seen);
    unsigned lines[64] = {0}, most = 0;
    union chase_node *node;

    chase_build(base, pages, 3);
    node = chase_node(base, 0);
    for (uint64_t i = 0; i < pages; i++, node = node->next) {
        uint64_t at = (unsigned char *)node - base;

        CU_ASSERT_FATAL(at < pages * 4096);
        CU_ASSERT_EQUAL(at % 64, 0);
        CU_ASSERT_FALSE(seen[at / 4096]);
        seen[at / 4096] = true;
        lines[at / 64 % 64]++;
    }
    CU_ASSERT_PTR_EQUAL(node, chase_node(base, 0));
    for (unsigned i = 0; i < 64; i++)
        most = lines[i] > most ? lines[i] : most;
    CU_ASSERT(most <= 2 * pages / 64); /* no set is crowded */
    free(seen);
    free(base);
}

/* Sattolo: each of the (n - 1)! cycles equally likely; for 4 pages, 6. */
static void chase_cycles_are_uniform(void)
{
    unsigned counts[4][4] = {{0}}, runs_made = 6000;
    unsigned char *base = aligned_alloc(4096, 4 * 4096);
    double chi2 = 0;

    for (unsigned seed = 0; seed < runs_made; seed++) {
        const union chase_node *second, *third;

        chase_build(base, 4, seed);
        second = chase_node(base, 0)->next;
        third = second->next;
        counts[((unsigned char *)second - base) / 4096]
              [((unsigned char *)third - base) / 4096]++;
    }
    for (unsigned i = 1; i < 4; i++)
        for (unsigned j = 1; j < 4; j++)
            if (i != j) {
                double off = counts[i][j] - runs_made / 6.0;

                chi2 += off * off / (runs_made / 6.0);
            }
    CU_ASSERT(gsl_cdf_chisq_Q(chi2, 5) > 1e-4);
    free(base);
}

/* Ranks that are too rare for the test to hold are counted together. */
static double zipf_p_value(uint64_t count, unsigned draws)
{
    struct zipf zipf;
    unsigned *counts = calloc(count + 1, sizeof *counts), cells = 0;
    double harmonic = 0, chi2 = 0, expected = 0, seen = 0;
    uint64_t rng = wl_stream(11, 0);

    zipf_init(&zipf, count);
    for (unsigned i = 0; i < draws; i++) {
        uint64_t rank = zipf_rank(&zipf, &rng);

        CU_ASSERT_FATAL(rank >= 1 && rank <= count);
        counts[rank]++;
    }
    for (uint64_t r = 1; r <= count; r++)
        harmonic += 1.0 / r;
    for (uint64_t r = 1; r <= count; r++) {
        expected += draws / (r * harmonic);
        seen += counts[r];
        if (expected >= 20 || r == count) {
            chi2 += (seen - expected) * (seen - expected) / expected;
            cells++;
            expected = seen = 0;
        }
    }
    free(counts);
    return cells > 1 ? gsl_cdf_chisq_Q(chi2, cells - 1) : 1;
}

static void zipf_frequencies_are_zipf(void)
{
    static const uint64_t counts[] = {1, 2, 3, 64, 100, 1 << 14, 100000};

    for (unsigned i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        double p = zipf_p_value(counts[i], 400000);

        if (p < 1e-4)
            printf("\n    of %lu: p = %g\n", (unsigned long)counts[i], p);
        CU_ASSERT(p >= 1e-4);
    }
}

/* Above 2^12 ranks a bucket's weight is approximated; 2^32 - 1 of them against
 * the harmonic numbers by Euler and Maclaurin: rank 1 has 1 / H. */
static void zipf_holds_at_its_largest(void)
{
    const double h = 32 * 0.69314718055994531 + 0.57721566490153286;
    const unsigned draws = 400000;
    uint64_t rng = wl_stream(5, 0);
    struct zipf zipf;
    double ones = 0, upper = 0;

    zipf_init(&zipf, ZIPF_COUNT_MAX);
    for (unsigned i = 0; i < draws; i++) {
        uint64_t rank = zipf_rank(&zipf, &rng);

        CU_ASSERT_FATAL(rank >= 1 && rank <= ZIPF_COUNT_MAX);
        ones += rank == 1;
        upper += rank > ZIPF_COUNT_MAX / 2 + 1;
    }
    CU_ASSERT_DOUBLE_EQUAL(ones / draws, 1 / h, 5 * sqrt(1 / h / draws));
    CU_ASSERT_DOUBLE_EQUAL(upper / draws, 0.69314718 / h,
                           5 * sqrt(0.7 / h / draws));
}

static void zipf_places_are_a_permutation(void)
{
    static const uint64_t counts[] = {1, 2, 3, 64, 100, 4097, 65536};

    for (unsigned i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        bool *seen = calloc(counts[i], sizeof *seen);
        struct zipf zipf;

        zipf_init(&zipf, counts[i]);
        for (uint64_t rank = 1; rank <= counts[i]; rank++) {
            uint64_t place = zipf_place(&zipf, rank);

            CU_ASSERT_FATAL(place < counts[i]);
            CU_ASSERT_FALSE(seen[place]);
            seen[place] = true;
        }
        free(seen);
    }
}

static uint64_t find_linearly(uint64_t seed, uint64_t count, uint64_t key)
{
    for (uint64_t i = 0; i < count; i++)
        if (btree_key(seed, i) == key)
            return btree_value(key);
    return 0;
}

static void check_tree(uint64_t bytes, uint64_t count)
{
    unsigned char *memory = malloc(bytes);
    uint64_t rng = wl_stream(1, 0);
    struct btree tree;

    btree_build(&tree, memory, count, 9);
    for (uint64_t i = 0; i < 300; i++) {
        uint64_t key = btree_key(9, wl_pick(&rng, count)) + i % 3 - 1;

        CU_ASSERT_EQUAL(btree_find(&tree, key), find_linearly(9, count, key));
    }
    CU_ASSERT_EQUAL(btree_find(&tree, UINT64_MAX), 0);
    CU_ASSERT_NOT_EQUAL(btree_find(&tree, btree_key(9, 0)), 0);
    CU_ASSERT_NOT_EQUAL(btree_find(&tree, btree_key(9, count - 1)), 0);
    free(memory);
}

/* Under AddressSanitizer this also shows that a full tree fits its memory. */
static void btree_finds_what_a_linear_search_finds(void)
{
    static const uint64_t sizes[] = {4096, 5000, 65536, 69632, 300000};

    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        check_tree(sizes[i], btree_capacity(sizes[i]));
        check_tree(sizes[i], btree_capacity(sizes[i]) - 7);
        check_tree(sizes[i], 1);
    }
}

static void btree_keys_ascend(void)
{
    for (uint64_t i = 0; i < 10000; i++)
        CU_ASSERT_FATAL(btree_key(3, i) < btree_key(3, i + 1));
}

static void hashjoin_matches_brute_force(void)
{
    const uint64_t count = 700;
    void *memory = calloc(count, HASHJOIN_TUPLE_BYTES);
    uint64_t matched = 0, repeated = 0;
    struct hashjoin join;

    hashjoin_build(&join, memory, count, 5);
    for (uint64_t key = 0; key < 2 * count; key++) {
        struct hashjoin_matches found = {0, 0}, expected = {0, 0};

        hashjoin_probe(&join, key, &found);
        for (uint64_t i = 0; i < count; i++)
            if (join.tuples[i].key == key) {
                expected.count++;
                expected.payload += join.tuples[i].payload;
            }
        CU_ASSERT_EQUAL(found.count, expected.count);
        CU_ASSERT_EQUAL(found.payload, expected.payload);
        matched += found.count;
        repeated += found.count > 1;
    }
    CU_ASSERT_EQUAL(matched, count);
    CU_ASSERT(repeated > 0);
    free(memory);
}

/* Relaxes all edges until nothing changes. */
static void levels_by_relaxation(const struct bfs_graph *graph, uint64_t source,
                                 uint64_t *levels)
{
    bool changed = true;

    for (uint64_t v = 0; v < graph->vertices; v++)
        levels[v] = v == source ? 0 : UINT32_MAX;
    while (changed) {
        changed = false;
        for (uint64_t v = 0; v < graph->vertices; v++)
            for (uint64_t e = graph->offsets[v]; e < graph->offsets[v + 1];
                 e++) {
                uint32_t target = graph->targets[e];

                if (levels[v] + 1 < levels[target]) {
                    levels[target] = levels[v] + 1;
                    changed = true;
                }
            }
    }
}

static void check_search(const struct bfs_graph *graph,
                         struct bfs_search *search, uint64_t source)
{
    uint64_t *expected = calloc(graph->vertices, sizeof *expected);
    uint64_t budget = UINT64_MAX, sum = source, reached = 0;
    uint64_t result = bfs_run_search(graph, search, source, &budget);
    uint32_t base = search->levels[source];

    levels_by_relaxation(graph, source, expected);
    for (uint64_t v = 0; v < graph->vertices; v++) {
        bool found = search->levels[v] >= base;

        CU_ASSERT_EQUAL(found, expected[v] != UINT32_MAX);
        if (!found)
            continue;
        CU_ASSERT_EQUAL(search->levels[v] - base, expected[v]);
        reached += graph->offsets[v + 1] - graph->offsets[v];
        sum += v == source ? 0 : v * (expected[v] + 1);
    }
    CU_ASSERT_EQUAL(UINT64_MAX - budget, reached);
    CU_ASSERT_EQUAL(result, sum);
    free(expected);
}

static void bfs_levels_match_relaxation(void)
{
    const uint64_t bytes = 40001;
    unsigned char *memory = calloc(1, bytes);
    struct bfs_search searches[2];
    struct bfs_graph graph;

    bfs_build(&graph, memory, bytes, 2, 21);
    CU_ASSERT_EQUAL(graph.vertices, bfs_vertices(bytes, 2));
    CU_ASSERT(graph.edges > 8 * graph.vertices);
    for (unsigned i = 0; i < 2; i++)
        bfs_search_init(&searches[i], &graph, memory, bytes, i);
    for (uint64_t source = 0; source < graph.vertices; source += 37)
        check_search(&graph, &searches[source % 2], source);
    searches[0].base = UINT32_MAX - BFS_VERTICES_MAX - 2;
    for (unsigned i = 0; i < 4; i++)
        check_search(&graph, &searches[0], i);
    CU_ASSERT(searches[0].base < 1000);
    free(memory);
}

static void bfs_stops_at_its_budget(void)
{
    unsigned char *memory = calloc(1, 65536);
    struct bfs_search search;
    struct bfs_graph graph;
    uint64_t budget = 100;

    bfs_build(&graph, memory, 65536, 1, 2);
    bfs_search_init(&search, &graph, memory, 65536, 0);
    bfs_run_search(&graph, &search, 0, &budget);
    CU_ASSERT_EQUAL(budget, 0);
    free(memory);
}

/* Fixed point with `words` words of 9 digits, the first before the point. */
static void big_divide(uint32_t *n, unsigned words, uint32_t divisor)
{
    uint64_t rest = 0;

    for (unsigned i = 0; i < words; i++) {
        uint64_t x = rest * 1000000000 + n[i];

        n[i] = x / divisor;
        rest = x % divisor;
    }
}

static void big_add(uint32_t *n, const uint32_t *m, unsigned words, int sign)
{
    int64_t carry = 0;

    for (unsigned i = words; i-- > 0;) {
        int64_t x = (int64_t)n[i] + sign * (int64_t)m[i] + carry;

        carry = x < 0 ? -1 : x >= 1000000000;
        n[i] = x - carry * 1000000000;
    }
}

/* Adds factor * arctan(1 / x) to `sum`. */
static void add_arctan(uint32_t *sum, unsigned words, uint32_t factor,
                       uint32_t x, int sign)
{
    uint32_t *power = calloc(words, sizeof *power);
    uint32_t *term = calloc(words, sizeof *term);

    power[0] = factor;
    big_divide(power, words, x);
    for (uint32_t k = 1; k < 2000; k += 2, sign = -sign) {
        memcpy(term, power, words * sizeof *term);
        big_divide(term, words, k);
        big_add(sum, term, words, sign);
        big_divide(power, words, x * x);
    }
    free(power);
    free(term);
}

/* pi = 16 arctan(1/5) - 4 arctan(1/239) (Machin, 1706). */
static void pi_matches_machin(void)
{
    struct pi_spigot *spigot = calloc(1, sizeof *spigot);
    uint32_t sum[116] = {0};
    char text[116 * 9 + 10], *at = text;
    unsigned digits = pi_digits(spigot, PI_DIGITS);

    add_arctan(sum, 116, 16, 5, 1);
    add_arctan(sum, 116, 4, 239, -1);
    at += sprintf(at, "%u", sum[0]);
    for (unsigned i = 1; i < 116; i++)
        at += sprintf(at, "%09u", sum[i]);
    CU_ASSERT(strstr(text, "31415926535897932384626433832795028841") == text);
    CU_ASSERT(digits >= PI_DIGITS - 10 && digits < PI_DIGITS);
    for (unsigned i = 0; i < digits; i++)
        CU_ASSERT_EQUAL(spigot->digits[i], text[i] - '0');
    free(spigot);
}

static void catalog_is_sound(void)
{
    unsigned nano = 0, compute = 0, user = 0;

    for (const struct workload *const *w = workload_catalog(); *w; w++) {
        CU_ASSERT_PTR_EQUAL(workload_find((*w)->name), *w);
        CU_ASSERT(strlen((*w)->name) < GUEST_NAME_MAX);
        CU_ASSERT((*w)->summary[0] && (*w)->operation[0]);
        CU_ASSERT((*w)->default_operations > 0);
        CU_ASSERT_EQUAL((*w)->class == WL_NANO || (*w)->class == WL_TEST,
                        !(*w)->run);
        *((*w)->class == WL_COMPUTE ? &compute
          : (*w)->run               ? &user
                                    : &nano) += 1;
    }
    CU_ASSERT(nano >= 7);
    CU_ASSERT(compute >= 3);
    for (unsigned i = 0; i < user; i++)
        CU_ASSERT_PTR_EQUAL(workload_find(wl_user_workloads[i]->name),
                            wl_user_workloads[i]);
    CU_ASSERT_PTR_NULL(wl_user_workloads[user]->name);
    CU_ASSERT_PTR_NULL(workload_find("nonesuch"));
    CU_ASSERT_PTR_NULL(workload_find(""));
}

static void defaults_fill_zeros(void)
{
    const struct workload *chase = workload_find("chase");
    struct wl_params params = {.seed = 0};

    CU_ASSERT_EQUAL(workload_check(chase, &params, NULL), 0);
    CU_ASSERT_EQUAL(params.working_set_bytes, chase->default_working_set_bytes);
    CU_ASSERT_EQUAL(params.operations, chase->default_operations);
    CU_ASSERT_EQUAL(params.page_bytes, 4096);
    CU_ASSERT_EQUAL(params.vcpus, 1);
    CU_ASSERT_NOT_EQUAL(params.seed, 0);
    params.working_set_bytes = 1 << 20;
    CU_ASSERT_EQUAL(workload_check(workload_find("pi"), &params, NULL), 0);
    CU_ASSERT_EQUAL(params.working_set_bytes, 0);
}

struct bad {
    const char *workload;
    struct wl_params params;
    const char *says;
};

static const struct bad bad[] = {
    {"chase", {4095, 4096, 1, 1, 1}, "less than a page"},
    {"chase", {UINT64_MAX, 4096, 1, 1, 1}, "half of the address space"},
    {"chase", {(UINT64_C(1) << 46) + 1, 4096, 1, 1, 1}, "half of the address"},
    {"chase", {4096, 8192, 1, 1, 1}, "pages of 8K"},
    {"chase", {4096, UINT64_MAX, 1, 1, 1}, "ask for 4K, 2M or 1G"},
    {"chase", {4096, 4096, 1, 1, 513}, "at most 512 vCPUs"},
    {"segv", {4096, 4096, 1, 1, 2}, "at most 1 vCPU:"},
    {"cpuid", {0, 4096, 1, 1, 2}, "at most 1 vCPU:"},
};

static void bad_parameters_get_sentences(void)
{
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct wl_params params = bad[i].params;
        struct why why = {""};

        CU_ASSERT_EQUAL(
            workload_check(workload_find(bad[i].workload), &params, &why),
            -EINVAL);
        CU_ASSERT_PTR_NOT_NULL(strstr(why.text, bad[i].says));
    }
}

/* Whoever did not call workload_check: the guest, say, handed a hostile
 * configuration. Zeros are not defaults there. */
static void workloads_reject_what_was_not_checked(void)
{
    static const struct wl_params hostile[] = {
        {0, 4096, 1, 1, 1},
        {1 << 20, 0, 1, 1, 1},
        {1 << 20, 4096, 0, 1, 1},
        {1 << 20, 4096, 1, 1, 0},
        {1 << 20, 4095, 1, 1, 1},
        {UINT64_MAX, 4096, 1, 1, 1},
        {1 << 20, 4096, 1, 1, 513},
        {1 << 20, 4096, 1, 1, UINT32_MAX},
        {UINT64_MAX - 1, 1 << 30, UINT64_MAX, UINT64_MAX, UINT32_MAX},
        {UINT64_C(1) << 45, 4096, 1, 1, 1},
    };

    for (const struct workload *const *w = workload_catalog(); *w; w++)
        for (unsigned i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
            struct record record;

            if (!(*w)->run || (!(*w)->default_working_set_bytes && i == 0) ||
                (!(*w)->default_working_set_bytes && i == 9))
                continue;
            CU_ASSERT(run(*w, &hostile[i], &record) < 0);
            CU_ASSERT(strlen(record.why.text) > 10);
            CU_ASSERT_EQUAL(record.count, 0);
        }
}

/* They link into a program that has no C library. */
static void objects_need_nothing_else(void)
{
    char *folder = test_folder(), *output;
    int status =
        test_shell(&output,
                   "cd %s/obj/workloads && ld -r -o %s/all.o *.o memory/*.o "
                   "os/*.o compute/*.o && nm -u %s/all.o",
                   MEMVIRT_BUILD, folder, folder);

    CU_ASSERT_EQUAL(status, 0);
    if (output[0])
        printf("\n    %s", output);
    CU_ASSERT_STRING_EQUAL(output, "");
    free(output);
    free(folder);
}

TEST_SUITE(workloads, {"all run, alike twice", all_run_alike_twice},
           {"all run on three CPUs, alike twice", all_run_alike_on_three_cpus},
           {"all run at their least", all_run_at_their_least},
           {"odd working sets run", odd_working_sets_run},
           {"results depend on the seed", results_depend_on_seed},
           {"seq sums its words", seq_sums_its_words},
           {"chase visits each page once", chase_visits_each_page_once},
           {"chase's cycles are uniform", chase_cycles_are_uniform},
           {"zipf's frequencies are Zipf's", zipf_frequencies_are_zipf},
           {"zipf holds at its largest", zipf_holds_at_its_largest},
           {"zipf's places are a permutation", zipf_places_are_a_permutation},
           {"btree finds what a linear search finds",
            btree_finds_what_a_linear_search_finds},
           {"btree's keys ascend", btree_keys_ascend},
           {"hashjoin matches brute force", hashjoin_matches_brute_force},
           {"bfs levels match relaxation", bfs_levels_match_relaxation},
           {"bfs stops at its budget", bfs_stops_at_its_budget},
           {"pi matches Machin's formula", pi_matches_machin},
           {"catalog is sound", catalog_is_sound},
           {"defaults fill zeros", defaults_fill_zeros},
           {"bad parameters get sentences", bad_parameters_get_sentences},
           {"workloads reject what was not checked",
            workloads_reject_what_was_not_checked},
           {"objects need nothing else", objects_need_nothing_else});
