/* The architectural walker: against an oracle, by the manual's sections, and
 * as a neighbour of other CPUs. */
#include "mmu/walk.h"
#include "tests/test.h"
#include "tests/walk_oracle.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RANDOM_CASES 2000000

/* One path of tables; nothing else is in memory. */
struct scene {
    struct mmu_state state;
    struct mmu_request request;
    uint64_t pa[MMU_LEVELS_MAX + 1]; /* of the entry, [level] */
    struct oracle_entries entries;
    int fail_read[MMU_LEVELS_MAX + 1], fail_set[MMU_LEVELS_MAX + 1];
    unsigned reads, sets;
    /* Another CPU: before the set of this number, from 1, it changes an
     * entry; or it changes something all the time. */
    unsigned race_at, race_level;
    uint64_t race_entry;
    bool race_always;
};

static unsigned level_at(const struct scene *scene, uint64_t pa)
{
    for (unsigned level = scene->state.levels; level > 0; level--)
        if (scene->pa[level] == pa)
            return level;
    return 0;
}

static int scene_read(void *arg, uint64_t pa, uint64_t *entry)
{
    struct scene *scene = arg;
    unsigned level = level_at(scene, pa);

    scene->reads++;
    if (!level)
        return -EFAULT;
    *entry = scene->entries.at[level];
    return scene->fail_read[level];
}

/* Takes what the contract allows, and -EINVAL for anything else. */
static int scene_set(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    struct scene *scene = arg;
    unsigned level = level_at(scene, pa);

    scene->sets++;
    if (!level)
        return -EFAULT;
    if (scene->sets == scene->race_at)
        scene->entries.at[scene->race_level] = scene->race_entry;
    if (scene->race_always || scene->entries.at[level] != old)
        return -EAGAIN;
    if (!bits || bits & old || bits & ~0x60ull)
        return -EINVAL;
    if (!scene->fail_set[level])
        scene->entries.at[level] |= bits;
    return scene->fail_set[level];
}

static struct mmu_walk walked(struct scene *scene)
{
    const struct mmu_memory memory = {scene_read, scene_set, scene};
    struct mmu_walk walk;

    memset(&walk, 0xa5, sizeof walk);
    mmu_walk(&scene->state, &memory, &scene->request, &walk);
    return walk;
}

/* ---- Random cases against the oracle --------------------------------------
 */

static uint64_t next(uint64_t *seed)
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static bool one_in(uint64_t *seed, unsigned n)
{
    return next(seed) % n == 0;
}

static struct mmu_state random_state(uint64_t *seed)
{
    uint64_t r = next(seed);

    return (struct mmu_state){
        .levels = 4 + (r & 1),
        .physical_bits = 36 + (unsigned)(r >> 32) % 17,
        .wp = r & 2,
        .nxe = r & 0x300, /* three in four: or few walks get far */
        .smep = r & 8,
        .smap = r & 16,
        .pke = r & 32,
        .ac = r & 64,
        .pages_1g = r & 128,
        .g_reserved = !(r & 0x1c00),
        .pkru = (uint32_t)next(seed),
    };
}

static struct mmu_request random_request(uint64_t *seed, unsigned levels)
{
    unsigned unused = levels == 4 ? 16 : 7;
    uint64_t r = next(seed);
    uint64_t va = (uint64_t)((int64_t)(next(seed) << unused) >> unused);

    if (one_in(seed, 32))
        va ^= 1ull << (63 - next(seed) % (unused + 1));
    return (struct mmu_request){
        .va = va,
        .access = (enum mmu_access)(r % 3),
        .user = r & 1024,
        .implicit = !(r & 0x6000),
    };
}

/* Mostly sound: every rule must be what ends some walks, not the first one. */
static uint64_t random_entry(uint64_t *seed, const struct mmu_state *state,
                             unsigned level, uint64_t table)
{
    uint64_t flags = next(seed) & 0x7ff0000000000f78;
    unsigned bits = state->physical_bits;
    bool large = level < 4 && level > 1 && one_in(seed, 4);
    uint64_t address = table;

    if (large || level == 1)
        address = next(seed) & ((1ull << bits) - 1) & ~0xfffull;
    if (large) {
        unsigned page_bits = level == 3 ? 30 : 21;

        address &= ~((1ull << page_bits) - 1);
        address |= (next(seed) & 1) << 12 | 0x80; /* PAT, PS */
        if (one_in(seed, 8))
            address |= 1ull << (13 + next(seed) % (page_bits - 13));
    } else if (level == 1 || (level > 3 && one_in(seed, 32))) {
        address |= next(seed) & 0x80;
    }
    if (bits < 52 && one_in(seed, 32))
        address |= 1ull << (bits + next(seed) % (52 - bits));
    flags |= one_in(seed, 24) ? 0 : 1;
    flags |= one_in(seed, 6) ? 0 : 2;
    flags |= one_in(seed, 6) ? 0 : 4;
    flags |= one_in(seed, state->nxe ? 8 : 64) ? 1ull << 63 : 0;
    return flags | address;
}

static void random_scene(struct scene *scene, uint64_t *seed)
{
    uint64_t table = 0;

    memset(scene, 0, sizeof *scene);
    scene->state = random_state(seed);
    scene->request = random_request(seed, scene->state.levels);
    for (unsigned level = 1; level <= scene->state.levels; level++) {
        uint64_t index = scene->request.va >> (3 + 9 * level) & 511;

        scene->entries.at[level] =
            random_entry(seed, &scene->state, level, table);
        /* Tables of their own: the level is part of the frame number. */
        table = next(seed) & ((1ull << scene->state.physical_bits) - 1);
        table = (table & ~0x7fffull) | level << 12;
        scene->pa[level] = table | index << 3;
    }
    /* CR3's other bits are the PCID, LAM and the like. */
    scene->state.cr3 = table | (next(seed) & 0xfff0000000000fff);
}

static bool same_page(const struct mmu_walk *a, const struct mmu_walk *b)
{
    return a->page_bytes == b->page_bytes &&
           (!a->page_bytes ||
            (a->writable == b->writable && a->user == b->user &&
             a->executable == b->executable && a->global == b->global &&
             a->dirty == b->dirty && a->key == b->key));
}

static bool same_references(const struct scene *scene,
                            const struct mmu_walk *walk,
                            const struct mmu_walk *expected)
{
    if (walk->references != expected->references ||
        scene->reads != expected->references)
        return false;
    for (unsigned i = 0; i < walk->references; i++) {
        const struct mmu_reference *r = &walk->reference[i];

        if (r->level != expected->reference[i].level ||
            r->entry != expected->reference[i].entry ||
            r->pa != scene->pa[r->level])
            return false;
    }
    return true;
}

static void print_disagreement(const struct scene *before,
                               const struct mmu_walk *walk,
                               const struct mmu_walk *expected)
{
    const struct mmu_state *s = &before->state;

    printf("\n    va %#lx access %d user %d implicit %d; levels %u bits %u "
           "wp %d nxe %d smep %d smap %d ac %d pke %d 1g %d g %d pkru %#x\n",
           before->request.va, before->request.access, before->request.user,
           before->request.implicit, s->levels, s->physical_bits, s->wp, s->nxe,
           s->smep, s->smap, s->ac, s->pke, s->pages_1g, s->g_reserved,
           s->pkru);
    for (unsigned level = s->levels; level > 0; level--)
        printf("    level %u: %#018lx\n", level, before->entries.at[level]);
    printf("    walker: outcome %d error %#x pa %#lx, %u references\n"
           "    oracle: outcome %d error %#x pa %#lx, %u references\n",
           walk->outcome, walk->error, walk->pa, walk->references,
           expected->outcome, expected->error, expected->pa,
           expected->references);
}

/* How often each end was seen: a rule no case reaches is not tested. */
struct tally {
    unsigned ok[3]; /* by page size */
    unsigned not_canonical;
    unsigned fault[64];
};

static void count(struct tally *tally, const struct mmu_walk *walk)
{
    if (walk->outcome == MMU_OK)
        tally->ok[pt_leaf_level(walk->page_bytes) - 1]++;
    else if (walk->outcome == MMU_NOT_CANONICAL)
        tally->not_canonical++;
    else
        tally->fault[walk->error & 63]++;
}

static bool agrees(uint64_t *seed, struct tally *tally)
{
    struct scene scene, before;
    struct oracle_entries after;
    struct mmu_walk walk, expected;

    random_scene(&scene, seed);
    before = scene;
    after = scene.entries;
    oracle_walk(&scene.state, &scene.request, &after, &expected);
    walk = walked(&scene);
    count(tally, &expected);
    if (walk.outcome == expected.outcome && walk.error == expected.error &&
        walk.pa == expected.pa && same_page(&walk, &expected) &&
        same_references(&scene, &walk, &expected) &&
        !memcmp(&scene.entries, &after, sizeof after))
        return true;
    print_disagreement(&before, &walk, &expected);
    return false;
}

/* Every error code the manual can give without PKS, CET and SGX. */
static bool code_exists(unsigned code)
{
    unsigned cause = code & (PF_P | PF_RS | PF_PK);
    bool fetch = code & PF_I;

    if (fetch && code & (PF_W | PF_PK))
        return false;
    return cause == 0 || cause == PF_P || cause == (PF_P | PF_RS) ||
           cause == (PF_P | PF_PK);
}

static void agrees_with_oracle(void)
{
    struct tally tally = {0};
    uint64_t seed = 20260101;
    unsigned disagreements = 0;

    for (unsigned i = 0; i < RANDOM_CASES && disagreements < 3; i++)
        disagreements += !agrees(&seed, &tally);
    CU_ASSERT_EQUAL(disagreements, 0);
    if (disagreements)
        return;
    CU_ASSERT(tally.not_canonical > RANDOM_CASES / 1000);
    for (unsigned i = 0; i < 3; i++)
        CU_ASSERT(tally.ok[i] > RANDOM_CASES / 1000);
    for (unsigned code = 0; code < 64; code++) {
        unsigned least = code_exists(code) ? RANDOM_CASES / 1000 : 0;

        CU_ASSERT(least ? tally.fault[code] > least : !tally.fault[code]);
    }
}

/* ---- By the manual's sections ----------------------------------------------
 */

/* Every entry is P, R/W and U/S; `flip` changes bits of it. Four levels, 46
 * physical address bits and EFER.NXE where nothing else is said. */
struct hand_case {
    const char *manual;
    struct mmu_state state;
    struct mmu_request request;
    uint64_t flip[MMU_LEVELS_MAX + 1];
    bool no_nxe;
    enum mmu_outcome outcome;
    unsigned error;
    uint64_t pa;
};

#define VA    0x00007123456789abull
#define SMALL 0x0000123456789000ull /* what the PTE maps */
#define LARGE 0x0000123440000000ull /* what a PDPTE or PDE maps */
#define MAPS  (PTE_PS | LARGE)
#define CODE  MMU_PAGE_FAULT, .error
/* A user page becomes a supervisor page by the U/S of any one level. */
#define SUPERVISOR_PAGE \
    {                   \
        [1] = PTE_US    \
    }

static const struct hand_case hand_cases[] = {
    {"4.5.4: a PTE maps bits 51:12", .request = {VA}, .pa = SMALL | 0x9ab},
    {"4.5.4: a PDE with PS maps bits 51:21", .request = {VA},
     .flip = {[2] = MAPS}, .pa = LARGE | (VA & 0x1fffff)},
    {"4.5.4: a PDPTE with PS maps bits 51:30", .state = {.pages_1g = true},
     .request = {VA}, .flip = {[3] = MAPS}, .pa = LARGE | (VA & 0x3fffffff)},
    {"4.5.4: bits 56:48 of the address select the PML5E",
     .state = {.levels = 5}, .request = {0x00ab7123456789ab},
     .pa = SMALL | 0x9ab},
    {"4.9.2: bit 12 of a 2-MByte page is PAT, not address", .request = {VA},
     .flip = {[2] = MAPS | PTE_PAT_LARGE}, .pa = LARGE | (VA & 0x1fffff)},
    {"4.9.2: bit 12 of a 1-GByte page is PAT, not address",
     .state = {.pages_1g = true}, .request = {VA},
     .flip = {[3] = MAPS | PTE_PAT_LARGE}, .pa = LARGE | (VA & 0x3fffffff)},
    {"4.9.2: bit 7 of a PTE is PAT", .request = {VA}, .flip = {[1] = PTE_PAT},
     .pa = SMALL | 0x9ab},
    {"vol. 1, 3.3.7.1: canonical with 48 bits", .request = {0x0000800000000000},
     .outcome = MMU_NOT_CANONICAL},
    {"vol. 1, 3.3.7.1: canonical with 57 bits", .state = {.levels = 5},
     .request = {0xfe00000000000000}, .outcome = MMU_NOT_CANONICAL},
    {"4.7: P clear, whatever else the entry has", .request = {VA, .user = true},
     .flip = {[3] = PTE_P | PTE_PS | 1ull << 51}, .outcome = CODE = PF_U},
    {"4.5.4: PS of a PML4E is reserved", .request = {VA},
     .flip = {[4] = PTE_PS}, .outcome = CODE = PF_P | PF_RS},
    {"4.5.4: PS of a PML5E is reserved", .state = {.levels = 5},
     .request = {VA}, .flip = {[5] = PTE_PS}, .outcome = CODE = PF_P | PF_RS},
    {"4.1.4: PS of a PDPTE is reserved without 1-GByte pages",
     .request = {VA, MMU_WRITE}, .flip = {[3] = MAPS},
     .outcome = CODE = PF_P | PF_RS | PF_W},
    {"4.5.4: bit 20 of a 2-MByte page is reserved", .request = {VA},
     .flip = {[2] = MAPS | 1 << 20}, .outcome = CODE = PF_P | PF_RS},
    {"4.5.4: bit 13 of a 1-GByte page is reserved", .state = {.pages_1g = true},
     .request = {VA}, .flip = {[3] = MAPS | 1 << 13},
     .outcome = CODE = PF_P | PF_RS},
    {"4.5.4: bits 51:MAXPHYADDR are reserved",
     .request = {VA, MMU_FETCH, .user = true}, .flip = {[2] = 1ull << 46},
     .outcome = CODE = PF_P | PF_RS | PF_U | PF_I},
    {"4.1.4: MAXPHYADDR 52 leaves none", .state = {.physical_bits = 52},
     .request = {VA}, .flip = {[1] = 1ull << 51},
     .pa = SMALL | 1ull << 51 | 0x9ab},
    {"4.5.4: XD is reserved without NXE, for reads too", .request = {VA},
     .flip = {[4] = PTE_XD}, .no_nxe = true, .outcome = CODE = PF_P | PF_RS},
    {"4.7: reserved bits above come before P clear below", .request = {VA},
     .flip = {[3] = 1ull << 50, [2] = PTE_P}, .outcome = CODE = PF_P | PF_RS},
    {"4.5.4: an Intel CPU ignores G in a PML4E", .request = {VA},
     .flip = {[4] = PTE_G}, .pa = SMALL | 0x9ab},
    {"APM vol. 2, 5.3.3: an AMD CPU reserves it there",
     .state = {.g_reserved = true}, .request = {VA}, .flip = {[4] = PTE_G},
     .outcome = CODE = PF_P | PF_RS},
    {"APM vol. 2, 5.3.3: but not in a PDPTE", .state = {.g_reserved = true},
     .request = {VA}, .flip = {[3] = PTE_G}, .pa = SMALL | 0x9ab},
    {"4.6.1: a user's access to a supervisor-mode address",
     .request = {VA, .user = true}, .flip = SUPERVISOR_PAGE,
     .outcome = CODE = PF_P | PF_U},
    {"4.6.1: U/S of the PML4E makes the address a supervisor's",
     .request = {VA, .user = true}, .flip = {[4] = PTE_US},
     .outcome = CODE = PF_P | PF_U},
    {"4.6.1: a user's write needs R/W everywhere, CR0.WP or not",
     .request = {VA, MMU_WRITE, .user = true}, .flip = {[3] = PTE_RW},
     .outcome = CODE = PF_P | PF_W | PF_U},
    {"4.6.1: a supervisor's write needs no R/W without CR0.WP",
     .request = {VA, MMU_WRITE}, .flip = {[1] = PTE_RW}, .pa = SMALL | 0x9ab},
    {"4.6.1: and needs it with CR0.WP", .state = {.wp = true},
     .request = {VA, MMU_WRITE}, .flip = {[1] = PTE_RW},
     .outcome = CODE = PF_P | PF_W},
    {"4.6.1: XD anywhere denies the fetch", .request = {VA, MMU_FETCH},
     .flip = {[3] = PTE_XD}, .outcome = CODE = PF_P | PF_I},
    {"4.6.1: XD does not bind data", .request = {VA, MMU_WRITE},
     .flip = {[3] = PTE_XD}, .pa = SMALL | 0x9ab},
    {"4.6.1: SMEP denies the supervisor's fetch from a user page",
     .state = {.smep = true}, .request = {VA, MMU_FETCH},
     .outcome = CODE = PF_P | PF_I},
    {"4.6.1: SMEP leaves supervisor pages alone", .state = {.smep = true},
     .request = {VA, MMU_FETCH}, .flip = SUPERVISOR_PAGE, .pa = SMALL | 0x9ab},
    {"4.6.1: SMAP denies the supervisor's data in a user page",
     .state = {.smap = true}, .request = {VA}, .outcome = CODE = PF_P},
    {"4.6.1: SMAP is off while EFLAGS.AC is set",
     .state = {.smap = true, .ac = true}, .request = {VA, MMU_WRITE},
     .pa = SMALL | 0x9ab},
    {"4.6.1: but not for implicit accesses",
     .state = {.smap = true, .ac = true}, .request = {VA, .implicit = true},
     .outcome = CODE = PF_P},
    {"4.6.1: SMAP does not bind fetches", .state = {.smap = true},
     .request = {VA, MMU_FETCH}, .pa = SMALL | 0x9ab},
    {"4.6: an implicit access at CPL 3 is a supervisor's",
     .request = {VA, .user = true, .implicit = true}, .flip = SUPERVISOR_PAGE,
     .pa = SMALL | 0x9ab},
    {"4.7: and U/S of its error code is clear",
     .request = {VA, .user = true, .implicit = true}, .flip = {[1] = PTE_P},
     .outcome = CODE = 0},
    {"4.7: I/D is clear without NXE and SMEP", .request = {VA, MMU_FETCH},
     .flip = {[1] = PTE_P}, .no_nxe = true, .outcome = CODE = 0},
    {"4.7: I/D is set with SMEP alone", .state = {.smep = true},
     .request = {VA, MMU_FETCH}, .flip = {[1] = PTE_P}, .no_nxe = true,
     .outcome = CODE = PF_I},
    {"4.6.2: ADi denies reads, the supervisor's too",
     .state = {.pke = true, .pkru = 1u << 10}, .request = {VA},
     .flip = {[1] = 5ull << 59}, .outcome = CODE = PF_P | PF_PK},
    {"4.6.2: of the key's own page only",
     .state = {.pke = true, .pkru = ~(3u << 10)},
     .request = {VA, MMU_WRITE, .user = true}, .flip = {[1] = 5ull << 59},
     .pa = SMALL | 0x9ab},
    {"4.6.2: WDi denies a user's write",
     .state = {.pke = true, .pkru = 2u << 30},
     .request = {VA, MMU_WRITE, .user = true}, .flip = {[1] = 15ull << 59},
     .outcome = CODE = PF_P | PF_W | PF_U | PF_PK},
    {"4.6.2: WDi denies no read", .state = {.pke = true, .pkru = 2u << 30},
     .request = {VA, .user = true}, .flip = {[1] = 15ull << 59},
     .pa = SMALL | 0x9ab},
    {"4.6.2: WDi denies no supervisor's write without CR0.WP",
     .state = {.pke = true, .pkru = 2}, .request = {VA, MMU_WRITE},
     .pa = SMALL | 0x9ab},
    {"4.6.2: WDi denies a supervisor's write with CR0.WP",
     .state = {.pke = true, .pkru = 2, .wp = true}, .request = {VA, MMU_WRITE},
     .outcome = CODE = PF_P | PF_W | PF_PK},
    {"4.6.2: keys do not bind fetches", .state = {.pke = true, .pkru = 1},
     .request = {VA, MMU_FETCH, .user = true}, .pa = SMALL | 0x9ab},
    {"4.6.2: PKRU does not bind supervisor-mode addresses",
     .state = {.pke = true, .pkru = ~0u}, .request = {VA, MMU_WRITE},
     .flip = SUPERVISOR_PAGE, .pa = SMALL | 0x9ab},
    {"4.6.2: without CR4.PKE there are no keys", .state = {.pkru = ~0u},
     .request = {VA, MMU_WRITE, .user = true}, .pa = SMALL | 0x9ab},
    {"4.7: PK is set with SMAP's denial too",
     .state = {.pke = true, .pkru = 1, .smap = true}, .request = {VA},
     .outcome = CODE = PF_P | PF_PK},
};

/* Tables at 0x5000 (the root's at four levels is 0x4000) and down. */
static struct scene hand_scene(const struct hand_case *hand)
{
    struct scene scene = {.state = hand->state, .request = hand->request};
    struct mmu_state *state = &scene.state;

    state->levels = state->levels ? state->levels : 4;
    state->physical_bits = state->physical_bits ? state->physical_bits : 46;
    state->nxe = !hand->no_nxe;
    state->cr3 = state->levels * 0x1000;
    for (unsigned level = 1; level <= state->levels; level++) {
        uint64_t maps = level == 1 ? SMALL : (level - 1) * 0x1000;

        if (level > 1 && level < 4 && hand->flip[level] & PTE_PS)
            maps = 0;
        scene.entries.at[level] =
            (maps | PTE_P | PTE_RW | PTE_US) ^ hand->flip[level];
        scene.pa[level] =
            level * 0x1000 + (hand->request.va >> (3 + 9 * level) & 511) * 8;
    }
    return scene;
}

static void follows_the_manual(void)
{
    for (size_t i = 0; i < sizeof hand_cases / sizeof hand_cases[0]; i++) {
        const struct hand_case *hand = &hand_cases[i];
        struct scene scene = hand_scene(hand);
        struct mmu_walk walk = walked(&scene);
        bool right = walk.outcome == hand->outcome &&
                     walk.error == (int)hand->error && walk.pa == hand->pa;

        CU_ASSERT(right);
        if (!right)
            printf("\n    %s: outcome %d error %#x pa %#lx", hand->manual,
                   walk.outcome, walk.error, walk.pa);
    }
}

/* ---- Accessed and dirty (4.8) ----------------------------------------------
 */

static const struct hand_case plain_write = {.request = {VA, MMU_WRITE}};
static const struct hand_case plain_read = {.request = {VA}};

static void a_read_sets_accessed_on_the_path(void)
{
    struct scene scene = hand_scene(&plain_read);
    struct mmu_walk walk = walked(&scene);

    CU_ASSERT_EQUAL(walk.outcome, MMU_OK);
    CU_ASSERT_FALSE(walk.dirty);
    CU_ASSERT_EQUAL(scene.sets, 4);
    for (unsigned level = 1; level <= 4; level++)
        CU_ASSERT_EQUAL(scene.entries.at[level] & (PTE_A | PTE_D), PTE_A);
    for (unsigned i = 0; i < 4; i++)
        CU_ASSERT_EQUAL(walk.reference[i].entry & PTE_A, 0);
}

static void a_write_sets_dirty_in_the_leaf(void)
{
    const struct hand_case large = {.request = {VA, MMU_WRITE},
                                    .flip = {[2] = MAPS}};
    struct scene small_page = hand_scene(&plain_write);
    struct scene large_page = hand_scene(&large);

    CU_ASSERT_TRUE(walked(&small_page).dirty);
    CU_ASSERT_EQUAL(small_page.entries.at[1] & PTE_D, PTE_D);
    CU_ASSERT_EQUAL(small_page.entries.at[2] & PTE_D, 0);
    CU_ASSERT_TRUE(walked(&large_page).dirty);
    CU_ASSERT_EQUAL(large_page.entries.at[2] & PTE_D, PTE_D);
    CU_ASSERT_EQUAL(large_page.entries.at[3] & PTE_D, 0);
}

static void nothing_is_set_twice_or_cleared(void)
{
    struct scene scene = hand_scene(&plain_write);

    walked(&scene);
    scene.sets = 0;
    walked(&scene);
    CU_ASSERT_EQUAL(scene.sets, 0);
    scene.request.access = MMU_READ;
    CU_ASSERT_TRUE(walked(&scene).dirty);
    CU_ASSERT_EQUAL(scene.sets, 0);
    CU_ASSERT_EQUAL(scene.entries.at[1] & (PTE_A | PTE_D), PTE_A | PTE_D);
}

static void a_denied_access_sets_nothing(void)
{
    for (size_t i = 0; i < sizeof hand_cases / sizeof hand_cases[0]; i++) {
        struct scene scene = hand_scene(&hand_cases[i]);

        walked(&scene);
        CU_ASSERT_EQUAL(scene.sets != 0, hand_cases[i].outcome == MMU_OK);
    }
}

static void the_leaf_is_described(void)
{
    const struct hand_case global = {
        .request = {VA}, .flip = {[1] = PTE_G | PTE_RW | 9ull << 59}};
    const struct hand_case upper = {
        .request = {VA}, .flip = {[2] = PTE_G | PTE_XD | 9ull << 59}};
    struct scene scene = hand_scene(&global);
    struct mmu_walk walk = walked(&scene);

    CU_ASSERT(walk.global && !walk.writable && walk.user && walk.executable);
    CU_ASSERT_EQUAL(walk.key, 9);
    CU_ASSERT_EQUAL(walk.page_bytes, 4096);
    scene = hand_scene(&upper);
    walk = walked(&scene);
    CU_ASSERT(!walk.global && walk.writable && walk.user && !walk.executable);
    CU_ASSERT_EQUAL(walk.key, 0);
}

/* ---- Memory that changes or fails ------------------------------------------
 */

static void a_race_starts_the_walk_over(void)
{
    struct scene moved = hand_scene(&plain_write);
    struct scene denied = hand_scene(&plain_write);
    struct mmu_walk walk;

    moved.race_at = 4; /* the PTE's, after the three tables' */
    moved.race_level = 1;
    moved.race_entry = 0x777000 | PTE_P | PTE_RW;
    walk = walked(&moved);
    CU_ASSERT_EQUAL(walk.outcome, MMU_OK);
    CU_ASSERT_EQUAL(walk.pa, 0x7779ab);
    CU_ASSERT_FALSE(walk.user);
    CU_ASSERT_EQUAL(walk.references, 4);
    CU_ASSERT_EQUAL(walk.reference[3].entry, moved.race_entry);
    CU_ASSERT_EQUAL(moved.reads, 8);
    CU_ASSERT_EQUAL(moved.entries.at[1], moved.race_entry | PTE_A | PTE_D);

    denied.state.wp = true;
    denied.race_at = 2;
    denied.race_level = 3;
    denied.race_entry = 0x2000 | PTE_P;
    walk = walked(&denied);
    CU_ASSERT_EQUAL(walk.outcome, MMU_PAGE_FAULT);
    CU_ASSERT_EQUAL(walk.error, PF_P | PF_W);
    CU_ASSERT_EQUAL(denied.entries.at[3], denied.race_entry);
    CU_ASSERT_EQUAL(denied.entries.at[1] & (PTE_A | PTE_D), 0);
}

static void races_without_end_are_given_up(void)
{
    struct scene scene = hand_scene(&plain_read);
    struct mmu_walk walk;

    scene.race_always = true;
    walk = walked(&scene);
    CU_ASSERT_EQUAL(walk.outcome, MMU_NO_MEMORY);
    CU_ASSERT_EQUAL(walk.error, -EAGAIN);
    CU_ASSERT_EQUAL(scene.sets, MMU_ATTEMPTS_MAX);
}

/* A PML4E that maps its own table is the entry of all four levels. */
static void a_recursive_mapping_ends(void)
{
    struct scene scene = {
        .state = {.levels = 4, .physical_bits = 40, .cr3 = 0x4000},
        .request = {0xffffffffffffffb8, MMU_WRITE},
        .pa = {[4] = 0x4ff8},
        .entries = {{[4] = 0x4000 | PTE_P | PTE_RW}},
    };
    struct mmu_walk walk = walked(&scene);

    CU_ASSERT_EQUAL(walk.outcome, MMU_OK);
    CU_ASSERT_EQUAL(walk.pa, 0x4fb8);
    CU_ASSERT_EQUAL(walk.references, 4);
    CU_ASSERT_EQUAL(scene.entries.at[4],
                    0x4000 | PTE_P | PTE_RW | PTE_A | PTE_D);
}

static void memory_errors_end_the_walk(void)
{
    for (unsigned level = 1; level <= 4; level++) {
        struct scene scene = hand_scene(&plain_write);
        struct mmu_walk walk;

        scene.fail_read[level] = -EFAULT;
        walk = walked(&scene);
        CU_ASSERT_EQUAL(walk.outcome, MMU_NO_MEMORY);
        CU_ASSERT_EQUAL(walk.error, -EFAULT);
        CU_ASSERT_EQUAL(walk.references, 4 - level);
        CU_ASSERT_EQUAL(scene.reads, 5 - level);
        CU_ASSERT_EQUAL(scene.sets, 0);

        scene = hand_scene(&plain_write);
        scene.fail_set[level] = -EIO;
        walk = walked(&scene);
        CU_ASSERT_EQUAL(walk.outcome, MMU_NO_MEMORY);
        CU_ASSERT_EQUAL(walk.error, -EIO);
        CU_ASSERT_EQUAL(walk.pa, 0);
        CU_ASSERT_EQUAL(scene.sets, 5 - level);
    }
}

/* ---- Freestanding ----------------------------------------------------------
 */

/* Unoptimized too: what the compiler calls for by itself (memset) differs. */
static void needs_nothing(void)
{
    static const char *const optimize[] = {"-O0", "-O2", "-Os"};
    char *folder = test_folder();

    for (unsigned i = 0; i < 3; i++) {
        char *output;
        int status = test_shell(
            &output,
            "gcc -std=gnu17 %s -ffreestanding -mgeneral-regs-only "
            "-fno-stack-protector -I'%s' -c -o '%s/walk.o' '%s/mmu/walk.c' && "
            "nm '%s/walk.o' | grep -v ' [tT] ' | grep -v ' r '",
            optimize[i], MEMVIRT_ROOT, folder, MEMVIRT_ROOT, folder);

        CU_ASSERT_EQUAL(status, 1); /* grep found nothing else */
        CU_ASSERT_STRING_EQUAL(output, "");
        free(output);
    }
    free(folder);
}

TEST_SUITE(walk, {"agrees with the oracle on random cases", agrees_with_oracle},
           {"follows the manual's sections", follows_the_manual},
           {"a read sets accessed on the whole path",
            a_read_sets_accessed_on_the_path},
           {"a write sets dirty in the leaf", a_write_sets_dirty_in_the_leaf},
           {"nothing is set twice or cleared", nothing_is_set_twice_or_cleared},
           {"a denied access sets nothing", a_denied_access_sets_nothing},
           {"the leaf is described", the_leaf_is_described},
           {"a race starts the walk over", a_race_starts_the_walk_over},
           {"races without end are given up", races_without_end_are_given_up},
           {"a recursive mapping ends", a_recursive_mapping_ends},
           {"memory errors end the walk", memory_errors_end_the_walk},
           {"the freestanding object needs nothing", needs_nothing});
