/*
 * The 2-D walk against brute force: small random tables in both dimensions,
 * flattened page by page into one array for each, without a walk; then the
 * rules of the manuals applied to the two arrays. Outcome, addresses, error
 * bits, every reference, every flag in memory and the log have to agree.
 */
#include "ept/walk2d.h"
#include "tests/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORLDS   14000u
#define REQUESTS 8u

/* Only the first 4 entries of a table are ever used, so an address is a
 * number of five digits to the base 4, its key. */
#define SLOTS  4u
#define KEYS   1024u
#define RAM    32u /* guest-visible pages: 2 by 4 by 4 at 1G, 2M, 4K */
#define TABLES 10u /* of the host: 2 for each level */
#define HOST   (1ull << 35)

struct contents {
    uint64_t ram[RAM][SLOTS];
    uint64_t table[TABLES][SLOTS];
};

struct step {
    unsigned level;
    uint64_t pa;
};

/* A guest-physical page in the host's tables. */
enum kind { MAPPED, ABSENT, BAD, BEYOND };
struct host_page {
    enum kind kind;
    uint64_t rights; /* EPT's bits, or PTE_RW, PTE_US, PTE_XD */
    uint64_t pa, entry;
    unsigned steps;
    struct step step[5];
};

/* A linear page in the guest's tables; `kind` MAPPED when all were reached,
 * STOPPED when the last step's page was not. */
#define STOPPED ((enum kind)9)
struct guest_page {
    enum kind kind;
    bool rw, us, xd;
    uint64_t gpa;
    unsigned steps;
    struct {
        unsigned level;
        uint64_t gpa;
    } step[5];
};

struct world {
    struct contents now, expected;
    struct mmu_state guest;
    struct ept_state nested;
    struct host_page host[KEYS];
    struct guest_page linear[KEYS];
    uint64_t log[EPT_PML_ENTRIES], expected_log[EPT_PML_ENTRIES];
    struct ept_pml pml, expected_pml;
    uint64_t random;
    unsigned flaws; /* how often a flaw drawn gets in, of 64 */
};

/* ---- Randomness and memory ------------------------------------------------
 */

static uint64_t draw(struct world *w)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return __builtin_bswap64(w->random * 0x2545f4914f6cdd1dull);
}

static bool chance(struct world *w, unsigned of_64)
{
    return draw(w) % 64 < of_64;
}

static bool flaw(struct world *w, unsigned of_64)
{
    return chance(w, of_64) && chance(w, w->flaws);
}

/* From key to address, and back. */
static uint64_t address_of(unsigned key)
{
    uint64_t address = 0;

    for (unsigned digit = 0; digit < 5; digit++)
        address |= (uint64_t)(key >> 2 * digit & 3) << (12 + 9 * digit);
    return address;
}

static unsigned key_of(uint64_t address)
{
    unsigned key = 0;

    for (unsigned digit = 0; digit < 5; digit++)
        key |= (unsigned)(address >> (12 + 9 * digit) & 3) << 2 * digit;
    return key;
}

static uint64_t *cell(struct contents *c, uint64_t pa)
{
    const unsigned slot = pa / 8 % 512;
    const uint64_t page = pa >> 12;

    if (slot >= SLOTS)
        return NULL;
    if (pa >= HOST)
        return pa - HOST < TABLES * PAGE_4K ? &c->table[(pa - HOST) >> 12][slot]
                                            : NULL;
    if ((page & 0x1ff) > 3 || (page >> 9 & 0x1ff) > 3 || page >> 18 > 1)
        return NULL;
    return &c->ram[(page & 3) | (page >> 9 & 3) << 2 | page >> 18 << 4][slot];
}

static int read_memory(void *arg, uint64_t pa, uint64_t *entry)
{
    struct world *w = arg;
    const uint64_t *at = cell(&w->now, pa);

    if (!at)
        return -EIO;
    *entry = *at;
    return 0;
}

static int set_memory(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    struct world *w = arg;
    uint64_t *at = cell(&w->now, pa);

    if (!at)
        return -EIO;
    if (*at != old)
        return -EAGAIN;
    *at |= bits;
    return 0;
}

/* ---- Random tables --------------------------------------------------------
 */

static uint64_t beyond_physical(struct world *w, unsigned bits)
{
    return bits < 52 ? 1ull << (bits + draw(w) % (52 - bits)) : 0;
}

static uint64_t ram_address(struct world *w, unsigned level)
{
    const uint64_t r = draw(w);
    uint64_t pa = (r & 1) << 30;

    if (level < 3)
        pa |= (r >> 1 & 3) << 21;
    if (level < 2)
        pa |= (r >> 3 & 3) << 12;
    return pa;
}

static uint64_t random_ept_entry(struct world *w, unsigned level)
{
    const bool leaf = level == 1 || (level <= 3 ? chance(w, 20) : flaw(w, 1));
    static const unsigned types[] = {0, 1, 4, 5, 6, 6, 6, 6};
    uint64_t e = flaw(w, 10) ? draw(w) & EPT_RWX : EPT_RWX;

    e |= draw(w) & (EPT_A | EPT_D | EPT_XU | EPT_SUPPRESS_VE | 1ull << 11);
    if (!leaf)
        e |= HOST + (2 * (level - 2) + draw(w) % 2) * PAGE_4K;
    else
        e |= EPT_TYPE(types[draw(w) % 8]) | (draw(w) & EPT_IPAT) |
             ram_address(w, level) | (level > 1 ? EPT_PS : 0);
    if (flaw(w, 1))
        e |= EPT_TYPE(draw(w) % 8);
    if (flaw(w, 1))
        e |= beyond_physical(w, w->nested.physical_bits);
    if (leaf && level > 1 && flaw(w, 2))
        e |= PAGE_4K << draw(w) % 9;
    return e;
}

static uint64_t random_npt_entry(struct world *w, unsigned level)
{
    const bool leaf = level == 1 || (level <= 3 ? chance(w, 20) : flaw(w, 1));
    uint64_t e = flaw(w, 6) ? 0 : PTE_P;

    e |= flaw(w, 4) ? draw(w) & (PTE_RW | PTE_US) : PTE_RW | PTE_US;
    e |= draw(w) & (PTE_A | PTE_D | PTE_SW0 | PTE_PCD);
    e |= flaw(w, 4) ? PTE_XD : 0;
    e |= flaw(w, 1) ? PTE_G : 0;
    if (!leaf)
        e |= HOST + (2 * (level - 2) + draw(w) % 2) * PAGE_4K;
    else
        e |= ram_address(w, level) | (level > 1 ? PTE_PS : 0);
    if (flaw(w, 1))
        e |= beyond_physical(w, w->nested.physical_bits);
    if (leaf && level > 1 && flaw(w, 2))
        e |= PAGE_4K << draw(w) % 9;
    return e;
}

static uint64_t random_gpa(struct world *w)
{
    unsigned key = draw(w) & 0x1f;

    if (flaw(w, 8))
        key |= draw(w) & 0xe0;
    if (flaw(w, 1))
        key |= 1u << 8;
    return address_of(key);
}

/* A page of RAM may serve at any level, so entries are drawn for none. */
static uint64_t random_guest_entry(struct world *w)
{
    uint64_t e = flaw(w, 3) ? 0 : PTE_P, gpa = random_gpa(w);

    e |= flaw(w, 6) ? 0 : PTE_RW;
    e |= chance(w, 60) ? PTE_US : 0;
    e |= flaw(w, 4) ? PTE_XD : 0;
    e |= draw(w) & (PTE_D | PTE_SW1) & (chance(w, 32) ? PTE_D : 0);
    e |= chance(w, 48) ? PTE_A : 0;
    e |= flaw(w, 2) ? PTE_G : 0;
    if (chance(w, 8)) {
        e |= PTE_PS;
        if (!flaw(w, 8))
            gpa &= ~((chance(w, 48) ? PAGE_2M : PAGE_1G) - 1);
    }
    if (flaw(w, 1))
        e |= beyond_physical(w, w->guest.physical_bits);
    return e | gpa;
}

static unsigned random_bits(struct world *w)
{
    static const unsigned bits[] = {36, 40, 46, 52};

    return bits[draw(w) % 4];
}

static void random_world(struct world *w)
{
    static const unsigned flaws[] = {1, 8, 64};
    const bool npt = draw(w) & 1;

    w->flaws = flaws[draw(w) % 3];
    w->guest = (struct mmu_state){.cr3 = random_gpa(w),
                                  .levels = 4 + draw(w) % 2,
                                  .physical_bits = random_bits(w),
                                  .wp = chance(w, 48),
                                  .nxe = chance(w, 48),
                                  .smep = draw(w) & 1,
                                  .smap = draw(w) & 1,
                                  .ac = draw(w) & 1,
                                  .pages_1g = chance(w, 48),
                                  .g_reserved = draw(w) & 1};
    w->nested =
        (struct ept_state){.format = npt ? EPT_FORMAT_NPT : EPT_FORMAT_EPT,
                           .levels = 4 + draw(w) % 2,
                           .physical_bits = random_bits(w),
                           .pages_1g = chance(w, 48),
                           .accessed_dirty = draw(w) & 1,
                           .execute_only = draw(w) & 1,
                           .mbec = draw(w) & 1,
                           .advanced = draw(w) & 1,
                           .nxe = chance(w, 48)};
    w->nested.root = HOST + 2 * (w->nested.levels - 1) * PAGE_4K;
    w->nested.pml = draw(w) & 1 ? &w->pml : NULL;
    w->pml = (struct ept_pml){w->log, draw(w) & 1 ? 511 : draw(w) % 6 - 1};
    memset(w->log, 0, sizeof w->log);
    for (unsigned i = 0; i < TABLES * SLOTS; i++)
        w->now.table[i / SLOTS][i % SLOTS] =
            npt ? random_npt_entry(w, i / SLOTS / 2 + 1)
                : random_ept_entry(w, i / SLOTS / 2 + 1);
    for (unsigned i = 0; i < RAM * SLOTS; i++)
        w->now.ram[i / SLOTS][i % SLOTS] = random_guest_entry(w);
    w->expected = w->now;
    w->expected_pml = (struct ept_pml){w->expected_log, w->pml.index};
    memset(w->expected_log, 0, sizeof w->expected_log);
}

/* ---- The host's tables, flattened -----------------------------------------
 */

static bool is_npt(const struct world *w)
{
    return w->nested.format == EPT_FORMAT_NPT;
}

static bool leaf_at(uint64_t e, unsigned level)
{
    return level == 1 || ((level == 2 || level == 3) && (e >> 7 & 1));
}

/* Any address bit the page's size or the CPU's width leaves unused. */
static bool bad_address(uint64_t e, unsigned level, unsigned bits, bool pat)
{
    for (unsigned bit = 12; bit < 52; bit++) {
        const bool in_page = leaf_at(e, level) && bit < 12 + 9 * (level - 1) &&
                             !(pat && level > 1 && bit == 12);

        if ((e >> bit & 1) && (bit >= bits || in_page))
            return true;
    }
    return false;
}

static bool bad_size(uint64_t e, unsigned level, bool pages_1g)
{
    return level > 1 && (e >> 7 & 1) &&
           (level > 3 || (level == 3 && !pages_1g));
}

static enum kind ept_kind(const struct world *w, uint64_t e, unsigned level)
{
    const bool r = e & 1, wr = e & 2, x = e & 4;
    const bool xu = w->nested.mbec && (e & 0x400);
    const unsigned type = e >> 3 & 7;

    if (!r && !wr && !x && !xu)
        return ABSENT;
    if (!r && (wr || !w->nested.execute_only))
        return BAD;
    if (bad_address(e, level, w->nested.physical_bits, false) ||
        bad_size(e, level, w->nested.pages_1g))
        return BAD;
    if (!leaf_at(e, level))
        return e & 0x78 ? BAD : MAPPED;
    return type == 2 || type == 3 || type == 7 ? BAD : MAPPED;
}

static enum kind ordinary_kind(uint64_t e, unsigned level, unsigned bits,
                               bool nxe, bool pages_1g, bool g_reserved)
{
    if (!(e & 1))
        return ABSENT;
    if (bad_address(e, level, bits, true) || bad_size(e, level, pages_1g) ||
        (e >> 63 && !nxe) || (g_reserved && level > 3 && (e >> 8 & 1)))
        return BAD;
    return MAPPED;
}

static void fill_host(struct world *w, unsigned key, unsigned level,
                      const struct host_page *page)
{
    const unsigned pages = 1u << 2 * (level - 1);

    for (unsigned i = 0; i < pages; i++) {
        w->host[key + i] = *page;
        if (page->kind == MAPPED)
            w->host[key + i].pa =
                (page->entry & PTE_ADDR & ~((1ull << pt_shift(level)) - 1)) |
                address_of(i);
    }
}

static void flatten_host(struct world *w, uint64_t table, unsigned level,
                         unsigned key, const struct host_page *above)
{
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        const uint64_t at = table + 8 * slot;
        const uint64_t e = *cell(&w->now, at);
        const unsigned here = key + (slot << 2 * (level - 1));
        struct host_page page = *above;

        page.step[page.steps++] = (struct step){level, at};
        page.entry = e;
        page.kind = is_npt(w)
                        ? ordinary_kind(e, level, w->nested.physical_bits,
                                        w->nested.nxe, w->nested.pages_1g, true)
                        : ept_kind(w, e, level);
        page.rights &= e ^ (is_npt(w) ? PTE_XD : 0);
        if (page.kind != MAPPED || leaf_at(e, level))
            fill_host(w, here, level, &page);
        else
            flatten_host(w, e & PTE_ADDR, level - 1, here, &page);
    }
}

static void flatten_all_host(struct world *w)
{
    struct host_page none = {.kind = BEYOND, .rights = ~0ull};

    for (unsigned key = 0; key < KEYS; key++)
        w->host[key] = none;
    flatten_host(w, w->nested.root, w->nested.levels, 0, &none);
}

/* ---- The guest's tables, flattened ----------------------------------------
 */

/* Whether the host lets the CPU read a guest's table there. */
static bool reachable(const struct world *w, const struct host_page *page)
{
    if (page->kind != MAPPED)
        return false;
    if (is_npt(w))
        return (page->rights & PTE_RW) && (page->rights & PTE_US);
    return (page->rights & EPT_R) &&
           (!w->nested.accessed_dirty || (page->rights & EPT_W));
}

static void fill_guest(struct world *w, unsigned key, unsigned level,
                       uint64_t e, const struct guest_page *page)
{
    for (unsigned i = 0; i < 1u << 2 * (level - 1); i++) {
        w->linear[key + i] = *page;
        w->linear[key + i].gpa =
            (e & PTE_ADDR & ~((1ull << pt_shift(level)) - 1)) | address_of(i);
    }
}

static void flatten_guest(struct world *w, uint64_t table, unsigned level,
                          unsigned key, const struct guest_page *above)
{
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        const uint64_t gpa = table + 8 * slot;
        const struct host_page *behind = &w->host[key_of(gpa)];
        const unsigned here = key + (slot << 2 * (level - 1));
        struct guest_page page = *above;
        uint64_t e;

        page.step[page.steps].level = level;
        page.step[page.steps++].gpa = gpa;
        page.kind = STOPPED;
        if (!reachable(w, behind)) {
            fill_guest(w, here, level, 0, &page);
            continue;
        }
        e = *cell(&w->now, behind->pa + 8 * slot);
        page.kind =
            ordinary_kind(e, level, w->guest.physical_bits, w->guest.nxe,
                          w->guest.pages_1g, w->guest.g_reserved);
        page.rw &= e >> 1 & 1;
        page.us &= e >> 2 & 1;
        page.xd |= e >> 63;
        if (page.kind != MAPPED || leaf_at(e, level))
            fill_guest(w, here, level, e, &page);
        else
            flatten_guest(w, e & PTE_ADDR, level - 1, here, &page);
    }
}

static void flatten_all_guest(struct world *w)
{
    const struct guest_page none = {.rw = true, .us = true};

    flatten_guest(w, w->guest.cr3, w->guest.levels, 0, &none);
}

/* ---- The rules ------------------------------------------------------------
 */

/* What the walk has to say. Its references are appended as they are made. */
static void expect_reference(struct walk2d *x, enum walk2d_dimension dimension,
                             unsigned level, unsigned guest_level, uint64_t pa)
{
    x->reference[x->references++] =
        (struct walk2d_reference){.dimension = dimension,
                                  .level = level,
                                  .guest_level = guest_level,
                                  .pa = pa};
}

/* Sets flags on the host's path; false when the log is full. */
static bool expect_flags(struct world *w, const struct host_page *page,
                         uint64_t gpa, bool write)
{
    const unsigned a = is_npt(w) ? 5 : 8;
    struct ept_pml *pml = is_npt(w) || !w->nested.pml ? NULL : &w->expected_pml;

    if (!is_npt(w) && !w->nested.accessed_dirty)
        return true;
    for (unsigned i = 0; i < page->steps; i++) {
        uint64_t *e = cell(&w->expected, page->step[i].pa);
        const bool dirties =
            write && i == page->steps - 1 && !(*e >> (a + 1) & 1);

        if ((*e >> a & 1) && !dirties)
            continue;
        if (pml && pml->index > 511)
            return false;
        *e |= 1ull << a | (uint64_t)dirties << (a + 1);
        if (pml && dirties)
            pml->log[pml->index--] = gpa >> 12 << 12;
    }
    return true;
}

static void expect_violation(const struct world *w, struct walk2d *x,
                             const struct host_page *page, uint64_t access)
{
    const bool told = page->kind == MAPPED;

    x->outcome = EPT_VIOLATION;
    x->suppress_ve = page->kind != BEYOND && page->entry >> 63;
    x->qualification |= access | 0x80;
    if (told)
        x->qualification |= (page->rights & 7) << 3;
    if (told && w->nested.mbec && (page->rights & 0x400))
        x->qualification |= 0x40;
}

/* One host translation; `access` as the qualification's bits, `fetch_bit` the
 * right a fetch needs. */
static bool expect_ept(struct world *w, struct walk2d *x,
                       const struct host_page *page, uint64_t gpa,
                       uint64_t access, uint64_t fetch_bit)
{
    const uint64_t needs = access == 4 ? fetch_bit : access;

    if (page->kind == BAD)
        x->outcome = EPT_MISCONFIGURATION;
    else if (page->kind != MAPPED || (page->rights & needs) != needs)
        expect_violation(w, x, page, access);
    else if (!expect_flags(w, page, gpa, access & 2))
        x->outcome = EPT_PML_FULL;
    return x->outcome == EPT_OK;
}

static bool expect_npt(struct world *w, struct walk2d *x,
                       const struct host_page *page, uint64_t gpa,
                       uint64_t access, bool table)
{
    uint64_t code = 4 | (access & 2);

    if (access == 4 && w->nested.nxe)
        code |= 16;
    if (page->kind == MAPPED && (page->rights & PTE_US) &&
        (!(access & 2) || (page->rights & PTE_RW)) &&
        (access != 4 || (page->rights & PTE_XD)))
        return expect_flags(w, page, gpa, access & 2);
    if (page->kind == MAPPED)
        code |= 1;
    if (page->kind == BAD)
        code |= 9;
    x->outcome = EPT_NESTED_FAULT;
    x->exit_info1 = code | (table ? 1ull << 33 : 1ull << 32);
    return false;
}

static bool expect_host(struct world *w, struct walk2d *x, uint64_t gpa,
                        unsigned guest_level, uint64_t access,
                        uint64_t fetch_bit)
{
    const struct host_page *page = &w->host[key_of(gpa)];
    bool fine;

    for (unsigned i = 0; i < page->steps; i++)
        expect_reference(x, WALK2D_NESTED, page->step[i].level, guest_level,
                         page->step[i].pa);
    fine = is_npt(w) ? expect_npt(w, x, page, gpa, access, guest_level)
                     : expect_ept(w, x, page, gpa, access, fetch_bit);
    x->gpa = gpa;
    return fine;
}

static bool expect_tables(struct world *w, struct walk2d *x,
                          const struct guest_page *page)
{
    const uint64_t access = is_npt(w) ? 2 : w->nested.accessed_dirty ? 3 : 1;

    for (unsigned i = 0; i < page->steps; i++) {
        const uint64_t gpa = page->step[i].gpa;
        const unsigned level = page->step[i].level;

        if (!expect_host(w, x, gpa, level, access, 0))
            return false;
        expect_reference(x, WALK2D_GUEST, level, level,
                         w->host[key_of(gpa)].pa | (gpa & 0xfff));
    }
    x->gpa = 0;
    return true;
}

static bool guest_denies(const struct mmu_state *s, const struct guest_page *p,
                         const struct mmu_request *r)
{
    const bool write = r->access == MMU_WRITE, fetch = r->access == MMU_FETCH;

    if (r->user)
        return !p->us || (write && !p->rw) || (fetch && p->xd);
    if (fetch)
        return p->xd || (p->us && s->smep);
    return (p->us && s->smap && !s->ac) || (write && !p->rw && s->wp);
}

static void expect_fault(const struct mmu_state *s, struct walk2d *x,
                         const struct guest_page *p,
                         const struct mmu_request *r)
{
    x->outcome = EPT_GUEST_PAGE_FAULT;
    x->error = (p->kind == MAPPED) | (p->kind == BAD ? 9 : 0) |
               (r->access == MMU_WRITE ? 2 : 0) | (r->user ? 4 : 0) |
               (r->access == MMU_FETCH && (s->nxe || s->smep) ? 16 : 0);
}

/* The guest's accessed and dirty flags, through EPT pages that may be
 * read-only where EPT's own flags are off. */
static bool expect_updates(struct world *w, struct walk2d *x,
                           const struct guest_page *page, bool write)
{
    for (unsigned i = 0; i < page->steps; i++) {
        const uint64_t gpa = page->step[i].gpa;
        const struct host_page *behind = &w->host[key_of(gpa)];
        uint64_t *e = cell(&w->expected, behind->pa | (gpa & 0xfff));
        const uint64_t bits = write && i == page->steps - 1 ? 0x60 : 0x20;

        if ((*e & bits) == bits)
            continue;
        if (!is_npt(w) && !(behind->rights & EPT_W)) {
            expect_violation(w, x, behind, 3);
            x->gpa = gpa;
            return false;
        }
        *e |= bits;
    }
    return true;
}

/* What a TLB would keep. */
static void expect_page(const struct world *w, struct walk2d *x,
                        const struct guest_page *page,
                        const struct host_page *host)
{
    const uint64_t by = w->nested.mbec && page->us ? 0x400 : 4;

    x->pa = host->pa | (x->gpa & 0xfff);
    x->guest_page_bytes = 1ull << pt_shift(page->step[page->steps - 1].level);
    x->nested_page_bytes = 1ull << pt_shift(host->step[host->steps - 1].level);
    x->user = page->us;
    x->writable = page->rw && (host->rights & 2);
    x->executable = !page->xd && (host->rights & (is_npt(w) ? PTE_XD : by));
    if (is_npt(w))
        return;
    x->memory_type = host->entry >> 3 & 7;
    x->ignore_pat = host->entry >> 6 & 1;
}

static void expect_access(struct world *w, struct walk2d *x,
                          const struct guest_page *page, uint64_t gpa,
                          const struct mmu_request *r)
{
    static const uint64_t access[] = {1, 2, 4};
    const bool by_user = w->nested.mbec && page->us;

    if (expect_host(w, x, gpa, 0, access[r->access], by_user ? 0x400 : 4)) {
        expect_page(w, x, page, &w->host[key_of(gpa)]);
        return;
    }
    if (x->outcome != EPT_VIOLATION)
        return;
    x->qualification |= 0x100;
    if (w->nested.advanced)
        x->qualification |= (page->us ? 0x200 : 0) | (page->rw ? 0x400 : 0) |
                            (page->xd ? 0x800 : 0);
}

static void expect(struct world *w, const struct mmu_request *r,
                   struct walk2d *x)
{
    const struct guest_page *page = &w->linear[key_of(r->va)];

    memset(x, 0, sizeof *x);
    if (!expect_tables(w, x, page))
        return;
    if (page->kind != MAPPED || guest_denies(&w->guest, page, r))
        expect_fault(&w->guest, x, page, r);
    else if (expect_updates(w, x, page, r->access == MMU_WRITE))
        expect_access(w, x, page, page->gpa | (r->va & 0xfff), r);
}

/* ---- Comparison -----------------------------------------------------------
 */

static bool same_references(const struct walk2d *x, const struct walk2d *got)
{
    if (x->references != got->references)
        return false;
    for (unsigned i = 0; i < x->references; i++)
        if (x->reference[i].dimension != got->reference[i].dimension ||
            x->reference[i].level != got->reference[i].level ||
            x->reference[i].guest_level != got->reference[i].guest_level ||
            x->reference[i].pa != got->reference[i].pa)
            return false;
    return true;
}

static bool same_page(const struct walk2d *x, const struct walk2d *got)
{
    return x->guest_page_bytes == got->guest_page_bytes &&
           x->nested_page_bytes == got->nested_page_bytes &&
           x->user == got->user && x->writable == got->writable &&
           x->executable == got->executable &&
           x->memory_type == got->memory_type &&
           x->ignore_pat == got->ignore_pat;
}

static const char *difference(const struct world *w, const struct walk2d *x,
                              const struct walk2d *got)
{
    if (x->outcome != got->outcome)
        return "outcome";
    if (x->error != got->error)
        return "error code";
    if (x->qualification != got->qualification)
        return "exit qualification";
    if (x->exit_info1 != got->exit_info1)
        return "EXITINFO1";
    if (x->suppress_ve != got->suppress_ve)
        return "suppress #VE";
    if (x->gpa != got->gpa)
        return "guest-physical address";
    if (x->pa != got->pa)
        return "physical address";
    if (!same_page(x, got))
        return "page";
    if (!same_references(x, got))
        return "references";
    if (memcmp(&w->now, &w->expected, sizeof w->now))
        return "flags in memory";
    if (w->pml.index != w->expected_pml.index ||
        memcmp(w->log, w->expected_log, sizeof w->log))
        return "log";
    return NULL;
}

/* One entry read at two guest-physical addresses with unlike rights: whether
 * its flag is found set the second time is the CPU's affair. */
static bool ambiguous(const struct world *w, const struct mmu_request *r)
{
    const struct guest_page *page = &w->linear[key_of(r->va)];

    if (is_npt(w) || w->nested.accessed_dirty)
        return false;
    for (unsigned i = 0; i < page->steps; i++)
        for (unsigned j = 0; j < i; j++) {
            const struct host_page *a = &w->host[key_of(page->step[i].gpa)];
            const struct host_page *b = &w->host[key_of(page->step[j].gpa)];

            if (a->kind == MAPPED && b->kind == MAPPED && a->pa == b->pa &&
                (a->rights ^ b->rights) & EPT_W)
                return true;
        }
    return false;
}

static void random_request(struct world *w, struct mmu_request *r)
{
    const unsigned key = draw(w) & (w->guest.levels == 5 ? 0x3ff : 0xff);

    *r = (struct mmu_request){.va = address_of(key) | (draw(w) & 0xfff),
                              .access = draw(w) % 3,
                              .user = draw(w) & 1};
}

static void against_brute_force(void)
{
    struct world *w = calloc(1, sizeof *w);
    unsigned seen[EPT_NO_MEMORY + 1] = {0}, skipped = 0, failures = 0;
    const struct mmu_memory memory = {read_memory, set_memory, w};

    CU_ASSERT_PTR_NOT_NULL_FATAL(w);
    w->random = 0x6d656d76697274ull;
    for (unsigned i = 0; i < WORLDS * REQUESTS && failures < 5; i++) {
        struct walk2d x, got;
        struct mmu_request r;
        const char *wrong;

        if (i % REQUESTS == 0) {
            random_world(w);
            flatten_all_host(w);
            flatten_all_guest(w);
        }
        random_request(w, &r);
        if (ambiguous(w, &r)) {
            skipped++;
            continue;
        }
        expect(w, &r, &x);
        walk2d(&w->guest, &w->nested, &memory, &r, &got);
        seen[x.outcome]++;
        wrong = difference(w, &x, &got);
        if (wrong) {
            failures++;
            printf("\n    case %u: %s (outcome %d, want %d)", i, wrong,
                   got.outcome, x.outcome);
        }
    }
    CU_ASSERT_EQUAL(failures, 0);
    CU_ASSERT(WORLDS * REQUESTS - skipped >= 100000);
    /* Every outcome but the two that no table brings about. */
    for (unsigned o = 0; o < EPT_NO_MEMORY; o++)
        if (o != EPT_NOT_CANONICAL)
            CU_ASSERT(seen[o] > 500);
    free(w);
}

TEST_SUITE(walk2d_oracle,
           {"100,000 cases by brute force", against_brute_force});
