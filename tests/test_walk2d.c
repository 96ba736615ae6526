/* The 2-D walk case by case: references, violations, misconfigurations, nested
 * faults, flags and the page-modification log, as the manuals have them. */
#include "ept/map.h"
#include "ept/walk2d.h"
#include "tests/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The guest's tables lie at gpa 0, its page at 512 GiB (so that it shares no
 * entry with them but a PML5E), and gpa = pa; the host's tables lie at 4 GiB.
 * The page itself is never read. */
#define FRAMES    16u
#define VA        (1ull << 39)
#define OFFSET    0x123456u
#define HOST_BASE (4 * PAGE_1G)

struct machine {
    uint64_t guest_frames[FRAMES][PT_ENTRIES];
    uint64_t host_frames[FRAMES][PT_ENTRIES];
    struct mmu_state guest;
    struct ept_state nested;
    struct mmu_memory memory;
    unsigned disturb;    /* so many sets find the entry changed */
    unsigned reads_left; /* then the memory is gone; 0: never */
    struct ept_pml pml;
    uint64_t log[EPT_PML_ENTRIES];
};

static uint64_t *entry_at(struct machine *m, uint64_t pa)
{
    const size_t bytes = FRAMES * PAGE_4K;

    if (pa < bytes)
        return &m->guest_frames[0][0] + pa / 8;
    if (pa >= HOST_BASE && pa < HOST_BASE + bytes)
        return &m->host_frames[0][0] + (pa - HOST_BASE) / 8;
    return NULL;
}

static int read_memory(void *arg, uint64_t pa, uint64_t *entry)
{
    struct machine *m = arg;
    const uint64_t *at = entry_at(m, pa);

    if (!at || (m->reads_left && !--m->reads_left))
        return -EIO;
    *entry = *at;
    return 0;
}

static int set_memory(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    struct machine *m = arg;
    uint64_t *at = entry_at(m, pa);

    if (!at)
        return -EIO;
    if (m->disturb) {
        m->disturb--;
        return -EAGAIN;
    }
    if (*at != old)
        return -EAGAIN;
    *at |= bits;
    return 0;
}

static void map_at(const struct ept_state *state, struct ept_arena *arena,
                   uint64_t at, uint64_t page_bytes)
{
    const struct ept_range range = {
        at, at, page_bytes == PAGE_1G ? PAGE_1G : 4 * PAGE_2M};
    const struct ept_policy policy = {.page_bytes = page_bytes,
                                      .large_ppm = 1000000,
                                      .rights = EPT_RWX,
                                      .memory_type = EPT_TYPE_WB};

    CU_ASSERT_EQUAL_FATAL(ept_map(state, arena, &range, &policy), 0);
}

/* Guest tables are ordinary ones, as NPT's are. */
static void build_guest(struct machine *m, uint64_t page_bytes)
{
    struct ept_state as_npt = {.format = EPT_FORMAT_NPT,
                               .levels = m->guest.levels,
                               .physical_bits = 46,
                               .pages_1g = true};
    struct ept_arena arena = {&m->guest_frames[0][0], 0, FRAMES, 0};

    CU_ASSERT_EQUAL_FATAL(ept_map_root(&as_npt, &arena), 0);
    map_at(&as_npt, &arena, VA, page_bytes);
    m->guest.cr3 = as_npt.root;
}

static void build_nested(struct machine *m, uint64_t page_bytes)
{
    struct ept_arena arena = {&m->host_frames[0][0], HOST_BASE, FRAMES, 0};

    CU_ASSERT_EQUAL_FATAL(ept_map_root(&m->nested, &arena), 0);
    map_at(&m->nested, &arena, 0, page_bytes);
    map_at(&m->nested, &arena, VA, page_bytes);
}

struct shape {
    enum ept_format format;
    unsigned guest_levels, nested_levels;
    uint64_t guest_page, nested_page;
};

static const struct shape small_ept = {EPT_FORMAT_EPT, 4, 4, PAGE_4K, PAGE_4K};
static const struct shape small_npt = {EPT_FORMAT_NPT, 4, 4, PAGE_4K, PAGE_4K};

static struct machine *machine(const struct shape *shape)
{
    struct machine *m = calloc(1, sizeof *m);

    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    m->guest = (struct mmu_state){.levels = shape->guest_levels,
                                  .physical_bits = 46,
                                  .wp = true,
                                  .nxe = true,
                                  .pages_1g = true};
    m->nested = (struct ept_state){.format = shape->format,
                                   .levels = shape->nested_levels,
                                   .physical_bits = 46,
                                   .pages_1g = true,
                                   .nxe = true,
                                   .accessed_dirty = true};
    m->memory = (struct mmu_memory){read_memory, set_memory, m};
    m->pml = (struct ept_pml){m->log, EPT_PML_ENTRIES - 1};
    build_guest(m, shape->guest_page);
    build_nested(m, shape->nested_page);
    return m;
}

static void walk(struct machine *m, enum mmu_access access, struct walk2d *out)
{
    const struct mmu_request request = {
        .va = VA + OFFSET, .access = access, .user = true};

    memset(out, 0xee, sizeof *out);
    walk2d(&m->guest, &m->nested, &m->memory, &request, out);
}

/* ---- References -----------------------------------------------------------
 */

static unsigned leaf_of(uint64_t page_bytes)
{
    return page_bytes == PAGE_4K ? 1 : page_bytes == PAGE_2M ? 2 : 3;
}

static void check_shape(const struct shape *s)
{
    const unsigned n = s->guest_levels - leaf_of(s->guest_page) + 1;
    const unsigned k = s->nested_levels - leaf_of(s->nested_page) + 1;
    struct machine *m = machine(s);
    struct walk2d w;
    unsigned at = 0;

    walk(m, MMU_WRITE, &w);
    CU_ASSERT_EQUAL(w.outcome, EPT_OK);
    CU_ASSERT_EQUAL(w.pa, VA + OFFSET);
    CU_ASSERT_EQUAL(w.gpa, VA + OFFSET);
    CU_ASSERT_EQUAL(w.guest_page_bytes, s->guest_page);
    CU_ASSERT_EQUAL(w.nested_page_bytes, s->nested_page);
    CU_ASSERT_EQUAL_FATAL(w.references, (n + 1) * (k + 1) - 1);
    for (unsigned i = 0; i <= n; i++) {
        const unsigned guest_level = i < n ? s->guest_levels - i : 0;

        for (unsigned j = 0; j < k; j++, at++) {
            CU_ASSERT_EQUAL(w.reference[at].dimension, WALK2D_NESTED);
            CU_ASSERT_EQUAL(w.reference[at].level, s->nested_levels - j);
            CU_ASSERT_EQUAL(w.reference[at].guest_level, guest_level);
        }
        if (i == n)
            break;
        CU_ASSERT_EQUAL(w.reference[at].dimension, WALK2D_GUEST);
        CU_ASSERT_EQUAL(w.reference[at].level, guest_level);
        CU_ASSERT_EQUAL(w.reference[at].gpa, w.reference[at].pa);
        at++;
    }
    free(m);
}

static void counts_by_formula(void)
{
    static const uint64_t pages[] = {PAGE_4K, PAGE_2M, PAGE_1G};
    unsigned checked = 0;

    for (unsigned i = 0; i < 2 * 2 * 2 * 9; i++) {
        const struct shape s = {i & 1 ? EPT_FORMAT_NPT : EPT_FORMAT_EPT,
                                4 + (i >> 1 & 1), 4 + (i >> 2 & 1),
                                pages[(i >> 3) % 3], pages[(i >> 3) / 3]};

        check_shape(&s);
        checked++;
    }
    CU_ASSERT_EQUAL(checked, 72);
}

/* As printed by Bochs under a real KVM, and in the literature. */
static void counts_as_published(void)
{
    static const struct {
        unsigned levels;
        uint64_t guest_page, nested_page;
        unsigned references;
    } known[] = {
        {4, PAGE_4K, PAGE_4K, 24}, {5, PAGE_4K, PAGE_4K, 35},
        {4, PAGE_4K, PAGE_2M, 19}, {4, PAGE_2M, PAGE_4K, 19},
        {4, PAGE_2M, PAGE_2M, 15}, {4, PAGE_1G, PAGE_1G, 8},
    };

    for (unsigned i = 0; i < sizeof known / sizeof *known; i++) {
        const struct shape s = {EPT_FORMAT_EPT, known[i].levels,
                                known[i].levels, known[i].guest_page,
                                known[i].nested_page};
        struct machine *m = machine(&s);
        struct walk2d w;

        walk(m, MMU_READ, &w);
        CU_ASSERT_EQUAL(w.references, known[i].references);
        free(m);
    }
}

/* ---- EPT events -----------------------------------------------------------
 */

/* A way to break one entry of the path, by its place among the 24 references
 * of a cold walk: 3 is the EPT leaf behind the guest's PML4E, 18 that behind
 * the guest's PTE, 20 to 23 the EPT path of the access itself. */
struct broken {
    unsigned reference;
    uint64_t clear, set;
    enum mmu_access access;
    uint64_t qualification;
    unsigned references; /* read until then */
    const char *what;
};

#define BY_PML4E 3
#define BY_PTE   18
#define LAST     23
#define RWX_OK   (EPTQ_READABLE | EPTQ_WRITABLE | EPTQ_EXECUTABLE)
#define FINAL    (EPTQ_GLA_VALID | EPTQ_TRANSLATED)

static void break_entry(struct machine *m, unsigned reference, uint64_t clear,
                        uint64_t set)
{
    const bool ad = m->nested.accessed_dirty;
    struct machine *cold = malloc(sizeof *cold);
    struct walk2d w;
    uint64_t *entry;

    /* Where the entry is, asked without leaving a trace. */
    CU_ASSERT_PTR_NOT_NULL_FATAL(cold);
    *cold = *m;
    cold->memory.arg = cold;
    cold->nested.accessed_dirty = false;
    cold->nested.pml = NULL;
    walk(cold, MMU_READ, &w);
    CU_ASSERT_FATAL(w.outcome == EPT_OK && reference < w.references);
    free(cold);
    CU_ASSERT_EQUAL(m->nested.accessed_dirty, ad);
    entry = entry_at(m, w.reference[reference].pa);
    *entry = (*entry & ~clear) | set;
}

static void check_violation(const struct shape *shape, const struct broken *b,
                            bool ad, bool execute_only)
{
    struct machine *m = machine(shape);
    struct walk2d w;

    m->nested.accessed_dirty = ad;
    m->nested.execute_only = execute_only;
    break_entry(m, b->reference, b->clear, b->set);
    walk(m, b->access, &w);
    if (w.outcome != EPT_VIOLATION || w.qualification != b->qualification ||
        w.references != b->references)
        printf("\n    %s: outcome %d, qualification %llx, %u references\n",
               b->what, w.outcome, (unsigned long long)w.qualification,
               w.references);
    CU_ASSERT_EQUAL(w.outcome, EPT_VIOLATION);
    CU_ASSERT_EQUAL(w.qualification, b->qualification);
    CU_ASSERT_EQUAL(w.references, b->references);
    CU_ASSERT_FALSE(w.suppress_ve);
    free(m);
}

/* SDM vol. 3C, 29.3.3.2, and 28.2.1 for the qualification. */
static const struct broken violations[] = {
    {LAST, EPT_RWX, 0, MMU_READ, EPTQ_READ | FINAL, 24, "leaf not present"},
    {LAST, EPT_RWX, 0, MMU_WRITE, EPTQ_WRITE | FINAL, 24, "same, written"},
    {LAST, EPT_RWX, 0, MMU_FETCH, EPTQ_FETCH | FINAL, 24, "same, fetched"},
    {20, EPT_RWX, 0, MMU_READ, EPTQ_READ | FINAL, 21, "PML4E not present"},
    {LAST, EPT_W, 0, MMU_WRITE,
     EPTQ_WRITE | EPTQ_READABLE | EPTQ_EXECUTABLE | FINAL, 24, "read-only"},
    {21, EPT_W, 0, MMU_WRITE,
     EPTQ_WRITE | EPTQ_READABLE | EPTQ_EXECUTABLE | FINAL, 24,
     "read-only by the PDPTE"},
    {LAST, EPT_X, 0, MMU_FETCH,
     EPTQ_FETCH | EPTQ_READABLE | EPTQ_WRITABLE | FINAL, 24, "no execute"},
    {LAST, EPT_R | EPT_W, 0, MMU_READ, EPTQ_READ | EPTQ_EXECUTABLE | FINAL, 24,
     "execute-only, read"},
};

static void ept_violations(void)
{
    for (unsigned i = 0; i < sizeof violations / sizeof *violations; i++)
        for (unsigned ad = 0; ad < 2; ad++)
            check_violation(&small_ept, &violations[i], ad, true);
}

/* Of the guest's tables: a read, and a write where flags are on, in 28.2.1's
 * words with both bits set. */
static void ept_violations_of_tables(void)
{
    static const struct broken plain[] = {
        {BY_PML4E, EPT_RWX, 0, MMU_WRITE, EPTQ_READ | EPTQ_GLA_VALID, 4,
         "PML4E's page not present"},
        {BY_PTE, EPT_RWX, 0, MMU_FETCH, EPTQ_READ | EPTQ_GLA_VALID, 19,
         "PTE's page not present"},
        {BY_PTE, EPT_W, 0, MMU_READ,
         EPTQ_READ | EPTQ_WRITE | EPTQ_READABLE | EPTQ_EXECUTABLE |
             EPTQ_GLA_VALID,
         20, "accessed flag can't be set"},
    };
    static const struct broken counted[] = {
        {BY_PML4E, EPT_RWX, 0, MMU_READ,
         EPTQ_READ | EPTQ_WRITE | EPTQ_GLA_VALID, 4, "not present"},
        {BY_PTE, EPT_W, 0, MMU_READ,
         EPTQ_READ | EPTQ_WRITE | EPTQ_READABLE | EPTQ_EXECUTABLE |
             EPTQ_GLA_VALID,
         19, "read-only page of tables"},
    };

    for (unsigned i = 0; i < sizeof plain / sizeof *plain; i++)
        check_violation(&small_ept, &plain[i], false, false);
    for (unsigned i = 0; i < sizeof counted / sizeof *counted; i++)
        check_violation(&small_ept, &counted[i], true, false);
}

/* Without EPT's flags read-only guest tables do, as long as their own flags
 * need no setting. */
static void read_only_tables(void)
{
    struct machine *m = machine(&small_ept);
    struct walk2d w;

    walk(m, MMU_WRITE, &w);
    CU_ASSERT_EQUAL(w.outcome, EPT_OK);
    m->nested.accessed_dirty = false;
    for (unsigned i = 0; i < 4; i++)
        break_entry(m, 3 + 5 * i, EPT_W, 0);
    walk(m, MMU_WRITE, &w);
    CU_ASSERT_EQUAL(w.outcome, EPT_OK);
    m->nested.accessed_dirty = true;
    walk(m, MMU_READ, &w);
    CU_ASSERT_EQUAL(w.outcome, EPT_VIOLATION);
    CU_ASSERT_EQUAL(w.references, 4);
    free(m);
}

/* SDM vol. 3C, 29.3.3.2: 4 levels translate 48 bits. */
static void beyond_four_levels(void)
{
    struct machine *m = machine(&small_ept);
    struct walk2d w;

    m->guest.physical_bits = m->nested.physical_bits = 52;
    m->guest.cr3 = 1ull << 48;
    walk(m, MMU_READ, &w);
    CU_ASSERT_EQUAL(w.outcome, EPT_VIOLATION);
    CU_ASSERT_EQUAL(w.qualification, EPTQ_READ | EPTQ_WRITE | EPTQ_GLA_VALID);
    CU_ASSERT_EQUAL(w.references, 0);
    CU_ASSERT_EQUAL(w.gpa, (1ull << 48) + 8 * pt_index(VA, 4));
    free(m);
    m = machine(&small_npt);
    m->guest.physical_bits = m->nested.physical_bits = 52;
    m->guest.cr3 = 1ull << 48;
    walk(m, MMU_READ, &w);
    CU_ASSERT_EQUAL(w.outcome, EPT_NESTED_FAULT);
    CU_ASSERT_EQUAL(w.exit_info1, NPF_TABLE | PF_U | PF_W);
    free(m);
}

/* Bits 11:9, and only of the access itself (28.2.1). */
static void advanced_information(void)
{
    struct machine *m = machine(&small_ept);
    struct walk2d w;

    m->nested.advanced = true;
    break_entry(m, 19, 0, PTE_XD);
    break_entry(m, LAST, EPT_W, 0);
    walk(m, MMU_WRITE, &w);
    CU_ASSERT_EQUAL(w.qualification,
                    EPTQ_WRITE | EPTQ_READABLE | EPTQ_EXECUTABLE | FINAL |
                        EPTQ_GLA_USER | EPTQ_GLA_WRITE | EPTQ_GLA_XD);
    free(m);
    m = machine(&small_ept);
    m->nested.advanced = true;
    break_entry(m, BY_PTE, EPT_RWX, 0);
    walk(m, MMU_WRITE, &w);
    CU_ASSERT_EQUAL(w.qualification, EPTQ_READ | EPTQ_WRITE | EPTQ_GLA_VALID);
    free(m);
}

/* SDM vol. 3C, 26.5.7.1: bit 63 of the entry the walk ended at. */
static void suppressed_ve(void)
{
    static const unsigned references[] = {20, LAST, BY_PML4E};

    for (unsigned i = 0; i < 3; i++) {
        struct machine *m = machine(&small_ept);
        struct walk2d w;

        break_entry(m, references[i], EPT_RWX, EPT_SUPPRESS_VE);
        walk(m, MMU_READ, &w);
        CU_ASSERT_EQUAL(w.outcome, EPT_VIOLATION);
        CU_ASSERT(w.suppress_ve);
        free(m);
    }
}

/* Mode-based execute control: the linear address's mode picks the bit. */
static void mode_based_execute(void)
{
    for (unsigned i = 0; i < 8; i++) {
        const bool user = i & 1, x = i & 2, xu = i & 4;
        struct machine *m = machine(&small_ept);
        struct walk2d w;

        m->nested.mbec = true;
        /* Built without the control: the tables above lack bit 10. */
        for (unsigned f = 0; f < FRAMES; f++)
            for (unsigned e = 0; e < PT_ENTRIES; e++)
                if (m->host_frames[f][e])
                    m->host_frames[f][e] |= EPT_XU;
        break_entry(m, LAST, EPT_X | EPT_XU,
                    (x ? EPT_X : 0) | (xu ? EPT_XU : 0));
        if (!user)
            break_entry(m, 4, PTE_US, 0);
        walk2d(&m->guest, &m->nested, &m->memory,
               &(struct mmu_request){
                   .va = VA + OFFSET, .access = MMU_FETCH, .user = user},
               &w);
        if (user ? xu : x) {
            CU_ASSERT_EQUAL(w.outcome, EPT_OK);
            CU_ASSERT(w.executable);
        } else {
            CU_ASSERT_EQUAL(w.outcome, EPT_VIOLATION);
            CU_ASSERT_EQUAL(w.qualification,
                            EPTQ_FETCH | EPTQ_READABLE | EPTQ_WRITABLE |
                                (x ? EPTQ_EXECUTABLE : 0) |
                                (xu ? EPTQ_USER_EXEC : 0) | FINAL);
        }
        free(m);
    }
}

/* SDM vol. 3C, 29.3.3.1. */
static const struct misconfiguration {
    unsigned reference;
    uint64_t clear, set;
    bool execute_only;
    const char *what;
} misconfigurations[] = {
    {LAST, EPT_R, 0, true, "written, not read"},
    {LAST, EPT_R | EPT_X, 0, true, "write-only"},
    {21, EPT_R, 0, true, "table written, not read"},
    {LAST, EPT_R | EPT_W, 0, false, "execute-only, not supported"},
    {20, EPT_R | EPT_W, 0, false, "table execute-only, not supported"},
    {LAST, EPT_TYPE(7), EPT_TYPE(2), true, "memory type 2"},
    {LAST, EPT_TYPE(7), EPT_TYPE(3), true, "memory type 3"},
    {LAST, 0, EPT_TYPE(7), true, "memory type 7"},
    {LAST, 0, 1ull << 46, true, "leaf beyond MAXPHYADDR"},
    {20, 0, 1ull << 51, true, "table beyond MAXPHYADDR"},
    {20, 0, EPT_PS, true, "PML4E that maps a page"},
    {20, 0, EPT_TYPE(1), true, "PML4E's bit 3"},
    {21, 0, EPT_TYPE(4), true, "PDPTE's bit 5"},
    {22, 0, EPT_IPAT, true, "PDE's bit 6"},
    {22, 0, EPT_PS | PAGE_4K, true, "2 MiB page not aligned"},
    {21, 0, EPT_PS | PAGE_2M, true, "1 GiB page not aligned"},
    {BY_PML4E, 0, EPT_TYPE(7), true, "of a guest's table"},
};

static void ept_misconfigurations(void)
{
    const unsigned count = sizeof misconfigurations / sizeof *misconfigurations;

    for (unsigned i = 0; i < count; i++) {
        const struct misconfiguration *c = &misconfigurations[i];
        struct machine *m = machine(&small_ept);
        struct walk2d w;

        m->nested.execute_only = c->execute_only;
        break_entry(m, c->reference, c->clear, c->set);
        walk(m, MMU_READ, &w);
        if (w.outcome != EPT_MISCONFIGURATION)
            printf("\n    %s: outcome %d\n", c->what, w.outcome);
        CU_ASSERT_EQUAL(w.outcome, EPT_MISCONFIGURATION);
        CU_ASSERT_EQUAL(w.references, c->reference + 1);
        CU_ASSERT_EQUAL(w.gpa, c->reference == BY_PML4E
                                   ? m->guest.cr3 + 8 * pt_index(VA, 4)
                                   : VA + OFFSET);
        free(m);
    }
}

/* What is ignored stays ignored: bits 11, 62:52, and in tables 8 and 9. */
static void ignored_bits(void)
{
    struct machine *m = machine(&small_ept);
    struct walk2d w;

    m->nested.accessed_dirty = false;
    for (unsigned i = 20; i < 24; i++)
        break_entry(m, i, 0,
                    0x7ff0000000000000ull | 1ull << 11 | EPT_XU | EPT_A |
                        EPT_D);
    break_entry(m, LAST, 0, EPT_PS | EPT_IPAT);
    walk(m, MMU_READ, &w);
    CU_ASSERT_EQUAL(w.outcome, EPT_OK);
    CU_ASSERT_EQUAL(w.memory_type, EPT_TYPE_WB);
    CU_ASSERT(w.ignore_pat);
    free(m);
}

/* A misconfiguration below counts before the rights above it; what is not
 * present counts before any reserved bit in the same entry (29.3.3.3). */
static void order_of_events(void)
{
    struct machine *m = machine(&small_ept);
    struct walk2d w;

    break_entry(m, 21, EPT_W, 0);
    break_entry(m, LAST, 0, EPT_TYPE(7));
    walk(m, MMU_WRITE, &w);
    CU_ASSERT_EQUAL(w.outcome, EPT_MISCONFIGURATION);
    free(m);
    m = machine(&small_ept);
    break_entry(m, LAST, EPT_RWX, EPT_TYPE(7) | 1ull << 50);
    walk(m, MMU_WRITE, &w);
    CU_ASSERT_EQUAL(w.outcome, EPT_VIOLATION);
    free(m);
}

/* SDM vol. 3C, 27.2.1.1. */
static void pointers(void)
{
    struct ept_state s = {.physical_bits = 46};

    CU_ASSERT_EQUAL(ept_state_load(&s, ept_pointer(0x5000, 4, true), 0), 0);
    CU_ASSERT(s.root == 0x5000 && s.levels == 4 && s.accessed_dirty);
    CU_ASSERT_EQUAL(ept_state_load(&s, ept_pointer(0x6000, 5, false), 1), 0);
    CU_ASSERT(s.root == 0x6000 && s.levels == 5 && !s.accessed_dirty);
    CU_ASSERT_EQUAL(ept_state_load(&s, 0x5018, false), 0); /* UC */
    CU_ASSERT_EQUAL(ept_state_load(&s, ept_pointer(0x6000, 5, 0), 0), -EINVAL);
    CU_ASSERT_EQUAL(ept_state_load(&s, ept_pointer(0, 3, 0), 1), -EINVAL);
    CU_ASSERT_EQUAL(ept_state_load(&s, 0x5019, true), -EINVAL);
    CU_ASSERT_EQUAL(ept_state_load(&s, 0x511e, true), -EINVAL);
    CU_ASSERT_EQUAL(ept_state_load(&s, 0x501eull | 1ull << 46, 1), -EINVAL);
}

/* ---- The guest's own faults -----------------------------------------------
 */

static void guest_faults(void)
{
    struct machine *m = machine(&small_ept);
    struct walk2d w;

    break_entry(m, 19, PTE_RW, 0);
    walk(m, MMU_WRITE, &w);
    CU_ASSERT_EQUAL(w.outcome, EPT_GUEST_PAGE_FAULT);
    CU_ASSERT_EQUAL(w.error, PF_P | PF_W | PF_U);
    CU_ASSERT_EQUAL(w.references, 20);
    break_entry(m, 9, 0, 1ull << 46);
    walk(m, MMU_READ, &w);
    CU_ASSERT_EQUAL(w.outcome, EPT_GUEST_PAGE_FAULT);
    CU_ASSERT_EQUAL(w.error, PF_P | PF_RS | PF_U);
    CU_ASSERT_EQUAL(w.references, 10);
    walk2d(&m->guest, &m->nested, &m->memory,
           &(struct mmu_request){.va = 1ull << 47}, &w);
    CU_ASSERT_EQUAL(w.outcome, EPT_NOT_CANONICAL);
    CU_ASSERT_EQUAL(w.references, 0);
    free(m);
}

static void memory_fails(void)
{
    for (unsigned n = 1; n <= 24; n++) {
        struct machine *m = machine(&small_ept);
        struct walk2d w;

        m->reads_left = n;
        walk(m, MMU_READ, &w);
        CU_ASSERT_EQUAL(w.outcome, EPT_NO_MEMORY);
        CU_ASSERT_EQUAL(w.error, -EIO);
        CU_ASSERT_EQUAL(w.references, n - 1);
        free(m);
    }
}

/* Another CPU changes entries: the walk starts over, and gives up in the end
 * rather than never. */
static void races(void)
{
    for (unsigned i = 0; i < 2; i++) {
        struct machine *m = machine(i ? &small_npt : &small_ept);
        struct walk2d w;

        m->disturb = 20;
        walk(m, MMU_WRITE, &w);
        CU_ASSERT_EQUAL(w.outcome, EPT_OK);
        CU_ASSERT_EQUAL(w.references, 24);
        m->nested.accessed_dirty = false;
        memset(m->guest_frames, 0, sizeof m->guest_frames);
        build_guest(m, PAGE_4K);
        m->disturb = 9;
        walk(m, MMU_WRITE, &w);
        CU_ASSERT_EQUAL(w.outcome, EPT_OK);
        CU_ASSERT_EQUAL(w.references, 24);
        free(m);
        m = machine(i ? &small_npt : &small_ept);
        m->disturb = 1u << 30;
        walk(m, MMU_WRITE, &w);
        CU_ASSERT_EQUAL(w.outcome, EPT_NO_MEMORY);
        CU_ASSERT_EQUAL(w.error, -EAGAIN);
        free(m);
    }
}

/* ---- NPT (APM vol. 2, 15.25.5 and 15.25.6) --------------------------------
 */

static void npt_faults(void)
{
    static const struct {
        unsigned reference;
        uint64_t clear, set;
        enum mmu_access access;
        uint64_t exit_info1;
    } cases[] = {
        {LAST, PTE_P, 0, MMU_READ, NPF_FINAL | PF_U},
        {LAST, PTE_P, 0, MMU_WRITE, NPF_FINAL | PF_U | PF_W},
        {LAST, PTE_P, 0, MMU_FETCH, NPF_FINAL | PF_U | PF_I},
        {LAST, PTE_RW, 0, MMU_WRITE, NPF_FINAL | PF_U | PF_W | PF_P},
        {21, PTE_RW, 0, MMU_WRITE, NPF_FINAL | PF_U | PF_W | PF_P},
        {LAST, PTE_US, 0, MMU_READ, NPF_FINAL | PF_U | PF_P},
        {LAST, 0, PTE_XD, MMU_FETCH, NPF_FINAL | PF_U | PF_I | PF_P},
        {LAST, 0, 1ull << 46, MMU_READ, NPF_FINAL | PF_U | PF_RS | PF_P},
        {20, 0, PTE_PS, MMU_READ, NPF_FINAL | PF_U | PF_RS | PF_P},
        {20, 0, PTE_G, MMU_READ, NPF_FINAL | PF_U | PF_RS | PF_P},
        /* Of the guest's tables: user writes, whatever the access. */
        {BY_PML4E, PTE_P, 0, MMU_FETCH, NPF_TABLE | PF_U | PF_W},
        {BY_PTE, PTE_RW, 0, MMU_READ, NPF_TABLE | PF_U | PF_W | PF_P},
        {BY_PTE, PTE_US, 0, MMU_READ, NPF_TABLE | PF_U | PF_W | PF_P},
    };

    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct machine *m = machine(&small_npt);
        struct walk2d w;

        break_entry(m, cases[i].reference, cases[i].clear, cases[i].set);
        walk(m, cases[i].access, &w);
        CU_ASSERT_EQUAL(w.outcome, EPT_NESTED_FAULT);
        CU_ASSERT_EQUAL(w.exit_info1, cases[i].exit_info1);
        CU_ASSERT_EQUAL(w.references, cases[i].reference + 1 +
                                          (cases[i].reference == 21 ? 2 : 0));
        free(m);
    }
}

/* ---- Flags and the log ----------------------------------------------------
 */

static bool has(struct machine *m, const struct walk2d *w, unsigned reference,
                uint64_t bits)
{
    return (*entry_at(m, w->reference[reference].pa) & bits) == bits;
}

static void flags_by_format(const struct shape *shape, uint64_t accessed,
                            uint64_t dirty)
{
    struct machine *m = machine(shape);
    struct walk2d w;

    walk(m, MMU_READ, &w);
    for (unsigned i = 0; i < 24; i++) {
        const bool guest = w.reference[i].dimension == WALK2D_GUEST;
        const bool leaf = !guest && w.reference[i].level == 1;

        CU_ASSERT(has(m, &w, i, guest ? PTE_A : accessed));
        /* The page itself was read; the pages of tables count as written. */
        CU_ASSERT_EQUAL(has(m, &w, i, guest ? PTE_D : dirty),
                        leaf && i != LAST);
    }
    walk(m, MMU_WRITE, &w);
    CU_ASSERT(has(m, &w, LAST, dirty) && has(m, &w, 19, PTE_D));
    CU_ASSERT_FALSE(has(m, &w, 14, PTE_D) || has(m, &w, 22, dirty));
    free(m);
}

static void flags(void)
{
    struct machine *m = machine(&small_ept);
    struct walk2d w;

    flags_by_format(&small_ept, EPT_A, EPT_D);
    flags_by_format(&small_npt, PTE_A, PTE_D);
    m->nested.accessed_dirty = false;
    walk(m, MMU_WRITE, &w);
    for (unsigned i = 0; i < 24; i++)
        if (w.reference[i].dimension == WALK2D_NESTED)
            CU_ASSERT_FALSE(has(m, &w, i, EPT_A) || has(m, &w, i, EPT_D));
    CU_ASSERT(has(m, &w, 19, PTE_A | PTE_D));
    free(m);
}

/* SDM vol. 3C, 29.3.6: addresses in the order their dirty flags were set,
 * 4 KiB aligned, the index counting down; none where it was set already. */
static void log_counts_down(void)
{
    struct machine *m = machine(&small_ept);
    struct walk2d w;

    m->nested.pml = &m->pml;
    walk(m, MMU_READ, &w);
    CU_ASSERT_EQUAL(w.outcome, EPT_OK);
    CU_ASSERT_EQUAL(m->pml.index, 507);
    for (unsigned i = 0; i < 4; i++)
        CU_ASSERT_EQUAL(m->log[511 - i],
                        w.reference[4 + 5 * i].gpa & ~(PAGE_4K - 1));
    walk(m, MMU_WRITE, &w);
    CU_ASSERT_EQUAL(m->pml.index, 506);
    CU_ASSERT_EQUAL(m->log[507], (VA + OFFSET) & ~(PAGE_4K - 1));
    walk(m, MMU_WRITE, &w);
    CU_ASSERT_EQUAL(m->pml.index, 506);
    free(m);
}

/* Of a large page the log gets the 4 KiB page that was written. */
static void log_of_large_pages(void)
{
    const struct shape shape = {EPT_FORMAT_EPT, 4, 4, PAGE_2M, PAGE_1G};
    struct machine *m = machine(&shape);
    struct walk2d w;

    m->nested.pml = &m->pml;
    walk(m, MMU_WRITE, &w);
    CU_ASSERT_EQUAL(m->pml.index, 509);
    CU_ASSERT_EQUAL(m->log[511], m->guest.cr3);
    CU_ASSERT_EQUAL(m->log[510], (VA + OFFSET) & ~(PAGE_4K - 1));
    free(m);
}

/* The last entry wraps the index to FFFFh; the next flag to set, accessed or
 * dirty, exits instead, sets nothing and logs nothing. */
static void log_full(void)
{
    struct machine *m = machine(&small_ept);
    struct walk2d w;

    m->nested.pml = &m->pml;
    m->pml.index = 3;
    walk(m, MMU_READ, &w);
    /* The page of the access needs an accessed flag only. */
    CU_ASSERT_EQUAL(w.outcome, EPT_PML_FULL);
    CU_ASSERT_EQUAL(w.gpa, VA + OFFSET);
    CU_ASSERT_EQUAL(m->pml.index, 0xffff);
    CU_ASSERT_FALSE(has(m, &w, LAST, EPT_A));
    m->nested.pml = NULL;
    walk(m, MMU_READ, &w);
    m->nested.pml = &m->pml;
    walk(m, MMU_READ, &w);
    CU_ASSERT_EQUAL(w.outcome, EPT_OK); /* all set: the index isn't looked at */
    walk(m, MMU_WRITE, &w);
    CU_ASSERT_EQUAL(w.outcome, EPT_PML_FULL);
    CU_ASSERT_FALSE(has(m, &w, LAST, EPT_D));
    m->pml.index = EPT_PML_ENTRIES;
    walk(m, MMU_WRITE, &w);
    CU_ASSERT_EQUAL(w.outcome, EPT_PML_FULL);
    m->pml.index = EPT_PML_ENTRIES - 1;
    walk(m, MMU_WRITE, &w);
    CU_ASSERT_EQUAL(w.outcome, EPT_OK);
    CU_ASSERT_EQUAL(m->log[511], (VA + OFFSET) & ~(PAGE_4K - 1));
    free(m);
}

TEST_SUITE(walk2d, {"references by formula, 72 shapes", counts_by_formula},
           {"references as published", counts_as_published},
           {"EPT violations", ept_violations},
           {"EPT violations of guest tables", ept_violations_of_tables},
           {"read-only guest tables", read_only_tables},
           {"beyond four levels", beyond_four_levels},
           {"advanced information", advanced_information},
           {"suppressed #VE", suppressed_ve},
           {"mode-based execute control", mode_based_execute},
           {"EPT misconfigurations", ept_misconfigurations},
           {"ignored bits", ignored_bits}, {"order of events", order_of_events},
           {"EPT pointers", pointers}, {"the guest's own faults", guest_faults},
           {"memory that fails", memory_fails}, {"races", races},
           {"nested page faults", npt_faults}, {"accessed and dirty", flags},
           {"the log counts down", log_counts_down},
           {"the log and large pages", log_of_large_pages},
           {"the log is full", log_full});
