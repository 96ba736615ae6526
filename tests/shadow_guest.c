#include "tests/shadow_guest.h"

#include <errno.h>
#include <string.h>

#define NO_CHANGE UINT32_MAX

/* The second half of the tables begins the area that the host maps in large
 * pages: the window's tables follow the first. */
uint64_t guest_frame_pa(unsigned index)
{
    bool large = index >= TABLES / 2 && index < TABLES;

    return (large ? LARGE_AREA + index - TABLES / 2 : index) * PAGE_4K;
}

int guest_slot(uint64_t pa)
{
    uint64_t frame = pa / PAGE_4K;
    uint64_t index =
        frame < LARGE_AREA ? frame : frame - LARGE_AREA + TABLES / 2;

    if (index >= FRAMES || guest_frame_pa((unsigned)index) != frame * PAGE_4K)
        return -1;
    return (int)(index * PT_ENTRIES + pa % PAGE_4K / 8);
}

/* One table for each level under the root; the last one's entries lead to all
 * tables. */
static void window(struct guest *g, unsigned levels)
{
    const uint64_t rights = PTE_P | PTE_RW;
    unsigned first = FRAMES - (levels - 1), last = FRAMES - 1;

    for (unsigned i = first; i < last; i++)
        g->memory[(size_t)i * PT_ENTRIES] = guest_frame_pa(i + 1) | rights;
    for (unsigned i = 0; i < TABLES; i++) {
        g->memory[last * PT_ENTRIES + i] = guest_frame_pa(i) | rights;
        g->memory[i * PT_ENTRIES + WINDOW] = guest_frame_pa(first) | rights;
    }
}

void guest_init(struct guest *g, unsigned levels)
{
    memset(g, 0, sizeof *g);
    for (unsigned i = 0; i < SLOTS; i++)
        g->last[i] = NO_CHANGE;
    window(g, levels);
    g->cpu = g->cpus;
    g->now = 1;
}

static void record(struct guest *g, uint32_t slot, uint64_t value)
{
    struct change *c = &g->change[g->changes % CHANGES];

    if (g->memory[slot] == value)
        return;
    g->now++;
    *c = (struct change){.old = g->memory[slot],
                         .from = g->since[slot],
                         .until = g->now,
                         .slot = slot,
                         .previous = g->last[slot]};
    g->last[slot] = g->changes++;
    g->memory[slot] = value;
    g->since[slot] = g->now;
}

void guest_store(struct guest *g, uint64_t pa, uint64_t value)
{
    int slot = guest_slot(pa);

    if (slot >= 0)
        record(g, (uint32_t)slot, value);
}

static bool has_memory(uint64_t pa)
{
    uint64_t frame = pa / PAGE_4K;

    return frame < SMALL_END || frame / HUGE_AREA == 1;
}

int guest_read(void *guest, uint64_t pa, uint64_t *entry)
{
    const struct guest *g = guest;
    int slot = guest_slot(pa);

    if (!has_memory(pa))
        return -EFAULT;
    *entry = slot < 0 ? 0 : g->memory[slot];
    return 0;
}

int guest_set(void *guest, uint64_t pa, uint64_t old, uint64_t bits)
{
    struct guest *g = guest;
    int slot = guest_slot(pa);

    if (slot < 0)
        return -EFAULT;
    if (g->memory[slot] != old)
        return -EAGAIN;
    g->mmu_sets++;
    record(g, (uint32_t)slot, old | bits);
    return 0;
}

unsigned guest_unit(uint64_t frame)
{
    if (frame < LARGE_AREA)
        return (unsigned)frame;
    return LARGE_AREA +
           (frame < SMALL_END ? (unsigned)(frame / PT_ENTRIES) : 0);
}

/* Scattered where the host has 4 KiB pages only, else shifted as a whole. */
int guest_host(const struct guest *g, uint64_t frame, struct shadow_frame *host)
{
    uint64_t moved;

    if (!has_memory(frame * PAGE_4K))
        return -EFAULT;
    moved = g->moved[guest_unit(frame)] % 8;
    if (moved == 7)
        return -EFAULT;
    host->level = frame < LARGE_AREA ? 1 : frame < SMALL_END ? 2 : 3;
    host->frame = host->level == 1   ? 0x100000 + frame * 5 % LARGE_AREA
                  : host->level == 2 ? 0x200000 + frame
                                     : 0x1000000 + frame;
    host->frame += moved << 26;
    host->writable = frame - HOST_READONLY >= 4;
    host->executable = frame - HOST_NOEXEC >= 4;
    return 0;
}

uint64_t guest_host_pa(const struct guest *g, uint64_t pa,
                       enum mmu_access access)
{
    struct shadow_frame host;

    if (guest_host(g, pa / PAGE_4K, &host) ||
        (access == MMU_WRITE && !host.writable) ||
        (access == MMU_FETCH && !host.executable))
        return UINT64_MAX;
    return host.frame * PAGE_4K + pa % PAGE_4K;
}

static struct flush *flush_slot(const struct guest *g, uint64_t va,
                                unsigned level)
{
    uint64_t page = va >> pt_shift(level);
    uint64_t mixed = page * 0x9e3779b97f4a7c15ull;

    return (struct flush *)&g->cpu->invlpg[level - 1][mixed >> 52];
}

void guest_flush_all(struct guest *g)
{
    g->cpu->flushed = g->now++;
}

/* A page of any size around the address goes. */
void guest_flush(struct guest *g, uint64_t va)
{
    for (unsigned level = 1; level <= 3; level++)
        *flush_slot(g, va, level) =
            (struct flush){.page = va >> pt_shift(level), .time = g->now};
    g->now++;
}

/* A flush that was overwritten by another page's is forgotten: the oracle is
 * more lenient then, never less. */
static uint64_t flush_time(const struct guest *g, uint64_t va, unsigned level)
{
    const struct flush *f = flush_slot(g, va, level);

    if (f->page == va >> pt_shift(level) && f->time > g->cpu->flushed)
        return f->time;
    return g->cpu->flushed;
}

static bool canonical(const struct guest *g, uint64_t va)
{
    unsigned unused = 64 - pt_shift(g->cpu->state.levels + 1);

    return (uint64_t)((int64_t)(va << unused) >> unused) == va;
}

static uint64_t reserved(const struct guest *g, unsigned level, uint64_t entry)
{
    uint64_t bits = PTE_ADDR & ~((1ull << g->cpu->state.physical_bits) - 1);

    if (!g->cpu->state.nxe)
        bits |= PTE_XD;
    if (level >= 4 || (level == 3 && !g->cpu->state.pages_1g))
        bits |= PTE_PS;
    if (level >= 4 && g->cpu->state.g_reserved)
        bits |= PTE_G;
    if (level > 1 && (entry & PTE_PS))
        bits |= ((1ull << pt_shift(level)) - 1) & ~(PAGE_4K * 2 - 1);
    return entry & bits;
}

/* A path as far as it was followed. */
struct path {
    bool w, u, x;
    unsigned key; /* of the last entry */
};

static void add(const struct guest *g, struct path *p, uint64_t entry)
{
    p->w = p->w && (entry & PTE_RW);
    p->u = p->u && (entry & PTE_US);
    p->x = p->x && !(g->cpu->state.nxe && (entry & PTE_XD));
    p->key = (unsigned)(entry >> 59) & 15;
}

/* SDM vol. 3A, 4.6.2. */
static bool key_denies(const struct guest *g, const struct path *p,
                       const struct mmu_request *r)
{
    uint32_t rights = g->cpu->state.pkru >> 2 * p->key & 3;
    bool write = r->access == MMU_WRITE && (r->user || g->cpu->state.wp);

    return g->cpu->state.pke && p->u && r->access != MMU_FETCH &&
           ((rights & 1) || (write && (rights & 2)));
}

static bool permitted(const struct guest *g, const struct path *p,
                      const struct mmu_request *r)
{
    const struct mmu_state *s = &g->cpu->state;

    if (key_denies(g, p, r))
        return false;
    if (r->user)
        return p->u && (r->access == MMU_WRITE   ? p->w
                        : r->access == MMU_FETCH ? p->x
                                                 : true);
    if (r->access == MMU_FETCH)
        return p->x && !(s->smep && p->u);
    if (s->smap && !s->ac && p->u)
        return false;
    return r->access == MMU_READ || p->w || !s->wp;
}

static uint32_t error_code(const struct guest *g, const struct mmu_request *r)
{
    bool fetch =
        r->access == MMU_FETCH && (g->cpu->state.nxe || g->cpu->state.smep);

    return (r->access == MMU_WRITE ? PF_W : 0) | (r->user ? PF_U : 0) |
           (fetch ? PF_I : 0);
}

static bool is_leaf(unsigned level, uint64_t entry)
{
    return level == 1 || (entry & PTE_PS);
}

static uint64_t leaf_pa(unsigned level, uint64_t entry, uint64_t va)
{
    uint64_t offset = (1ull << pt_shift(level)) - 1;

    return (entry & PTE_ADDR & ~offset) | (va & offset);
}

static void fault(struct expected *e, uint32_t error)
{
    e->outcome = MMU_PAGE_FAULT;
    e->error |= error;
    e->pending = false;
}

void guest_expect(const struct guest *g, const struct mmu_request *r,
                  struct expected *e)
{
    struct path path = {true, true, true, 0};
    uint64_t table = g->cpu->state.cr3 & PTE_ADDR;

    *e = (struct expected){.outcome = MMU_OK, .error = error_code(g, r)};
    if (!canonical(g, r->va)) {
        e->outcome = MMU_NOT_CANONICAL;
        return;
    }
    for (unsigned level = g->cpu->state.levels;; level--) {
        uint64_t pa = table + 8ull * pt_index(r->va, level), entry;

        if (guest_read((void *)g, pa, &entry)) {
            e->outcome = MMU_NO_MEMORY;
            return;
        }
        if (!(entry & PTE_P))
            return fault(e, 0);
        if (reserved(g, level, entry))
            return fault(e, PF_P | PF_RS);
        add(g, &path, entry);
        e->slot[e->entries] = guest_slot(pa);
        e->bits[e->entries] = PTE_A;
        if (is_leaf(level, entry) && r->access == MMU_WRITE)
            e->bits[e->entries] |= PTE_D;
        e->pending |= (e->bits[e->entries++] & ~entry) != 0;
        if (is_leaf(level, entry)) {
            e->pa = leaf_pa(level, entry, r->va);
            e->user = path.u;
            if (!permitted(g, &path, r))
                fault(e, PF_P | (key_denies(g, &path, r) ? PF_PK : 0));
            return;
        }
        table = entry & PTE_ADDR;
    }
}

/* One search through the values that entries had. */
struct search {
    const struct guest *g;
    const struct mmu_request *request;
    uint64_t host_pa, flushed;
};

static bool follow(const struct search *s, uint64_t table, unsigned level,
                   uint64_t time, struct path path);

static bool leads(const struct search *s, uint64_t entry, unsigned level,
                  uint64_t time, uint64_t until, struct path path)
{
    const struct mmu_request *r = s->request;
    bool leaf = is_leaf(level, entry);

    if ((entry & (PTE_P | PTE_A)) != (PTE_P | PTE_A) ||
        reserved(s->g, level, entry))
        return false;
    add(s->g, &path, entry);
    if (!leaf)
        return follow(s, entry & PTE_ADDR, level - 1, time, path);
    return until > flush_time(s->g, r->va, level) &&
           (r->access != MMU_WRITE || (entry & PTE_D)) &&
           permitted(s->g, &path, r) &&
           guest_host_pa(s->g, leaf_pa(level, entry, r->va), r->access) ==
               s->host_pa;
}

/* Entries are read from the root down: each at a time no earlier than the one
 * before. */
static bool follow(const struct search *s, uint64_t table, unsigned level,
                   uint64_t time, struct path path)
{
    const struct guest *g = s->g;
    int slot = guest_slot(table + 8ull * pt_index(s->request->va, level));
    const struct change *c;

    if (slot < 0 || !level)
        return false;
    if (leads(s, g->memory[slot], level,
              g->since[slot] > time ? g->since[slot] : time, UINT64_MAX, path))
        return true;
    for (uint32_t i = g->last[slot];
         i != NO_CHANGE && g->changes - i <= CHANGES; i = c->previous) {
        c = &g->change[i % CHANGES];
        if (c->until <= time || c->until <= s->flushed)
            return false;
        if (leads(s, c->old, level, c->from > time ? c->from : time, c->until,
                  path))
            return true;
    }
    return false;
}

bool guest_stale(const struct guest *g, const struct mmu_request *request,
                 uint64_t host_pa)
{
    struct search s = {.g = g,
                       .request = request,
                       .host_pa = host_pa,
                       .flushed = flush_time(g, request->va, 1)};

    return canonical(g, request->va) &&
           follow(&s, g->cpu->state.cr3 & PTE_ADDR, g->cpu->state.levels,
                  s.flushed, (struct path){true, true, true, 0});
}
