#include "model/core.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* ---- Accesses ------------------------------------------------------------ */

/* What a translation must have for an access, by the kinds of events. Fetches
 * are looked at apart: their bit denies. */
static inline bool allowed(uint64_t value, unsigned kind)
{
    static const uint64_t needs[] = {
        [EVENT_READ] = PTE_US,
        [EVENT_WRITE] = PTE_US | PTE_RW | PTE_D,
        [EVENT_FETCH] = PTE_US,
        [EVENT_KERNEL_READ] = 0,
        [EVENT_KERNEL_WRITE] = PTE_RW | PTE_D,
        [EVENT_KERNEL_FETCH] = 0,
    };
    bool fetch = kind == EVENT_FETCH || kind == EVENT_KERNEL_FETCH;

    return (value & needs[kind]) == needs[kind] && !(fetch && value & PTE_XD);
}

static enum mmu_access access_of(unsigned kind)
{
    return (enum mmu_access)(
        kind >= EVENT_KERNEL_READ ? kind - EVENT_KERNEL_READ : kind);
}

static void use_data(struct machine *m, uint64_t pa)
{
    if (m->config.data_in_caches)
        m->counts.cycles_data += dcache_read(&m->dcache, pa, NULL);
}

void machine_drop(struct machine *m, uint64_t va)
{
    uint16_t pcid = m->tlb.tag & (MMU_PCIDS - 1);

    (void)tlb_invpcid(&m->tlb, INVPCID_ADDRESS, pcid, va);
    (void)psc_invpcid(&m->psc, INVPCID_ADDRESS, pcid, va);
}

int machine_no_table(struct machine *m, uint64_t va)
{
    return why_set(m->why, EPROTO,
                   "the guest's tables lead out of its memory, or an address "
                   "is not canonical: %#llx",
                   (unsigned long long)va);
}

static int walk(struct machine *m, uint64_t va, unsigned kind,
                struct translation *out)
{
    const struct mmu_request request = {
        .va = va, .access = access_of(kind), .user = kind < EVENT_KERNEL_READ};
    int result = m->walk(m, &request, out);

    if (result == WALK_FAULT)
        machine_drop(m, va);
    if (result == WALK_OK) {
        out->pa = (out->value & PTE_ADDR) | (va & (out->page.within - 1));
        use_data(m, out->pa);
    }
    return result;
}

/* No TLB has it. `out` is of WALK_OK and WALK_EMULATED. */
static __attribute__((noinline)) int miss(struct machine *m, uint64_t va,
                                          unsigned kind,
                                          struct translation *out)
{
    int result = walk(m, va, kind, out);

    if (result == WALK_OK)
        tlb_fill(&m->tlb, va, &out->page, access_of(kind), out->value,
                 out->global);
    return result;
}

/* A TLB has it, but not with the rights: a write to a clean page, or an entry
 * that the tables have outgrown. Every copy of it becomes dirty. */
static __attribute__((noinline)) int upgrade(struct machine *m, uint64_t va,
                                             unsigned kind,
                                             struct translation *out)
{
    int result = walk(m, va, kind, out);

    m->counts.dirty_walks++;
    if (result != WALK_OK)
        return result;
    tlb_insert_page(&m->tlb, va, &out->page, access_of(kind), out->value,
                    out->global);
    if (out->value & PTE_D)
        tlb_set_bits(&m->tlb, va, PTE_D);
    return WALK_OK;
}

static int denied(struct machine *m, uint64_t va, int error)
{
    return why_set(m->why, EPROTO,
                   "the guest's tables deny an access to %#llx (error code "
                   "%#x) that the stream says happened",
                   (unsigned long long)va, (unsigned)error);
}

/* An access through the TLB: enum walk_result or a negative errno. In line
 * where accesses are all there is. `out` has its host-physical address. */
static inline __attribute__((always_inline)) int reach(struct machine *m,
                                                       uint64_t va,
                                                       unsigned kind,
                                                       struct translation *out)
{
    struct tlb_hit hit;

    if (tlb_lookup(&m->tlb, va, access_of(kind), &hit)) {
        if (allowed(hit.value, kind)) {
            m->counts.cycles_tlb += hit.cycles;
            out->pa = (hit.value & PTE_ADDR) | (va & (hit.held_bytes - 1));
            use_data(m, out->pa);
            return WALK_OK;
        }
        return upgrade(m, va, kind, out);
    }
    return miss(m, va, kind, out);
}

static inline __attribute__((always_inline)) int access_memory(
    struct machine *m, uint64_t va, unsigned kind)
{
    struct translation translation;
    int result;

    m->counts.accesses[kind]++;
    result = reach(m, va, kind, &translation);
    if (result == WALK_FAULT)
        return denied(m, va, translation.error);
    if (result == WALK_EMULATED)
        m->changed(m, translation.gpa & ~7ull, 8);
    return result < 0 ? result : 0;
}

/* ---- Other events -------------------------------------------------------- */

static int outside(struct machine *m, uint64_t gpa)
{
    return why_set(m->why, EPROTO,
                   "guest-physical address %#llx is beyond the guest's memory "
                   "or not aligned",
                   (unsigned long long)gpa);
}

/* The access of a store, which must arrive where the stream says. Before the
 * first MOV CR3 there are no tables to go through. */
static int reach_store(struct machine *m, uint64_t va, uint64_t gpa)
{
    struct translation translation;
    uint64_t arrived;
    int result;

    if (!m->paging_on)
        return WALK_OK;
    m->counts.accesses[EVENT_KERNEL_WRITE]++;
    result = reach(m, va, EVENT_KERNEL_WRITE, &translation);
    if (result < 0)
        return result;
    if (result == WALK_FAULT)
        return denied(m, va, translation.error);
    arrived =
        result == WALK_OK ? translation.pa - m->host_base : translation.gpa;
    if (arrived != gpa)
        return why_set(m->why, EPROTO,
                       "a store at %#llx goes to guest-physical address "
                       "%#llx, and to %#llx by the guest's tables",
                       (unsigned long long)va, (unsigned long long)gpa,
                       (unsigned long long)arrived);
    return result;
}

static int store(struct machine *m, uint64_t va, uint64_t gpa, uint64_t value)
{
    int result, err;

    m->counts.stores++;
    if (gpa % 8)
        return outside(m, gpa);
    result = reach_store(m, va, gpa);
    if (result < 0)
        return result;
    err = tables_store(&m->tables, gpa, value);
    if (err == -ENOMEM)
        return why_set(m->why, ENOMEM, "no memory for the guest's tables");
    if (err)
        return outside(m, gpa);
    if (result == WALK_EMULATED)
        m->changed(m, gpa, 8);
    else if (m->stored)
        m->stored(m, gpa);
    return 0;
}

/* The guest takes a page fault: so must we. */
static int fault(struct machine *m, uint64_t va, uint64_t error)
{
    struct translation translation = {.error = 0};
    unsigned kind = error & PF_W   ? EVENT_WRITE
                    : error & PF_I ? EVENT_FETCH
                                   : EVENT_READ;
    int result;

    if (!(error & PF_U))
        kind += EVENT_KERNEL_READ;
    if (!m->paging_on)
        return why_set(m->why, EPROTO,
                       "a page fault before the guest has page tables");
    m->counts.guest_faults++;
    m->counts.cycles_guest_faults += m->config.costs->guest_fault;
    result = reach(m, va, kind, &translation);
    if (result < 0)
        return result;
    if (result == WALK_FAULT && (uint64_t)translation.error == error)
        return 0;
    if (result == WALK_FAULT)
        return denied(m, va, translation.error);
    return why_set(m->why, EPROTO,
                   "the stream has a page fault (error code %#llx) at %#llx "
                   "where the guest's tables allow the access",
                   (unsigned long long)error, (unsigned long long)va);
}

int machine_invlpg(struct machine *m, uint64_t va)
{
    tlb_invlpg(&m->tlb, va);
    psc_invlpg(&m->psc);
    return 0;
}

int machine_load_cr3(struct machine *m, uint64_t value)
{
    uint16_t pcid = m->guest.pcid ? value & (MMU_PCIDS - 1) : 0;
    bool keep = m->guest.pcid && value >> 63;

    m->paging.cr3 = value & PTE_ADDR;
    tlb_load_cr3(&m->tlb, pcid, keep);
    psc_load_cr3(&m->psc, pcid, keep);
    return 0;
}

static int load_cr3(struct machine *m, uint64_t value)
{
    m->counts.cr3++;
    if ((value & PTE_ADDR) >= m->guest.ram_bytes)
        return outside(m, value & PTE_ADDR);
    m->paging_on = true;
    return m->load_cr3(m, value);
}

static int clear(struct machine *m, uint64_t gpa)
{
    if (gpa % PAGE_4K || tables_clear(&m->tables, gpa))
        return outside(m, gpa);
    if (m->changed)
        m->changed(m, gpa, PAGE_4K);
    return 0;
}

/* What isn't an access. */
static int happen(struct machine *m, const uint64_t *event)
{
    switch (event_kind(event[0])) {
    case EVENT_STORE:
        return store(m, event_va(event[0]), event[1], event[2]);
    case EVENT_FAULT:
        return fault(m, event_va(event[0]), event[1]);
    case EVENT_CLEAR:
        return clear(m, event_argument(event[0]));
    case EVENT_INVLPG:
        m->counts.invlpg++;
        return m->invlpg(m, event_va(event[0]));
    case EVENT_CR3:
        return load_cr3(m, event[1]);
    case EVENT_INSTRUCTIONS:
        m->counts.instructions += event_argument(event[0]);
        return 0;
    default:
        return 0;
    }
}

/* Accesses up to the next other event; where that is, or a negative errno. */
static long access_all(struct machine *m, const uint64_t *words, size_t count)
{
    size_t at = 0;

    for (; at < count && event_kind(words[at]) <= EVENT_KERNEL_FETCH; at++) {
        int err = access_memory(m, event_va(words[at]), event_kind(words[at]));

        if (err)
            return err;
    }
    return (long)at;
}

int machine_run(struct machine *m, const uint64_t *words, size_t count,
                struct why *why)
{
    size_t at = 0;

    m->why = why;
    while (at < count) {
        unsigned length = event_words(event_kind(words[at]));
        long done;

        if (!length || length > count - at)
            return why_set(why, EPROTO, "no event begins with %#llx",
                           (unsigned long long)words[at]);
        if (event_kind(words[at]) > EVENT_KERNEL_FETCH) {
            int err = happen(m, &words[at]);

            if (err)
                return err;
            at += length;
            continue;
        }
        if (!m->paging_on)
            return why_set(why, EPROTO,
                           "an access before the guest has page tables");
        done = access_all(m, words + at, count - at);
        if (done < 0)
            return (int)done;
        at += (size_t)done;
    }
    return 0;
}

/* ---- Making -------------------------------------------------------------- */

static struct tlb_config nested_tlb_config(const struct mmu_profile *profile)
{
    return (struct tlb_config){
        .count = 1,
        .structure[0] = {.name = "nested",
                         .entries = profile->nested_tlb.entries,
                         .ways = profile->nested_tlb.ways,
                         .level = 1,
                         .accesses = 7,
                         .sizes = 7,
                         .cycles = profile->nested_tlb.cycles},
    };
}

struct sizes {
    size_t tlb, psc, psc_nested, nested_tlb, dcache;
};

static int measure(const struct mmu_profile *profile, struct sizes *sizes,
                   struct why *why)
{
    const struct tlb_config nested = nested_tlb_config(profile);
    int err = tlb_bytes(&profile->tlb, &sizes->tlb, NULL);

    if (!err)
        err = psc_bytes(&profile->psc, &sizes->psc, NULL);
    if (!err)
        err = psc_bytes(&profile->psc_nested, &sizes->psc_nested, NULL);
    if (!err)
        err = dcache_bytes(&profile->dcache, &sizes->dcache, NULL);
    sizes->nested_tlb = 0;
    if (!err && profile->nested_tlb.entries)
        err = tlb_bytes(&nested, &sizes->nested_tlb, NULL);
    return err ? why_set(why, -err, "the CPU profile '%s' cannot be",
                         profile->name)
               : 0;
}

static int make_caches(struct machine *m, struct why *why)
{
    const struct mmu_profile *profile = m->config.profile;
    const struct tlb_config nested = nested_tlb_config(profile);
    struct sizes sizes;
    char *at;
    int err = measure(profile, &sizes, why);

    if (err)
        return err;
    m->storage_bytes = sizes.tlb + sizes.psc + sizes.psc_nested +
                       sizes.nested_tlb + sizes.dcache;
    m->storage = at = malloc(m->storage_bytes + 1);
    if (!at)
        return why_set(why, ENOMEM, "out of memory");
    tlb_init(&m->tlb, &profile->tlb, at);
    at += sizes.tlb;
    psc_init(&m->psc, &profile->psc, at);
    at += sizes.psc;
    psc_init(&m->nested.psc, &profile->psc_nested, at);
    at += sizes.psc_nested;
    m->nested.has_tlb = sizes.nested_tlb;
    if (m->nested.has_tlb)
        tlb_init(&m->nested.tlb, &nested, at);
    at += sizes.nested_tlb;
    dcache_init(&m->dcache, &profile->dcache, at);
    return 0;
}

static int check_guest(const struct event_guest *guest, struct why *why)
{
    if (guest->levels != 4 && guest->levels != 5)
        return why_set(why, EINVAL, "a guest has 4 or 5 levels, not %u",
                       guest->levels);
    if (guest->physical_bits < 36 || guest->physical_bits > 52)
        return why_set(why, EINVAL,
                       "a guest's physical addresses have 36 to 52 bits, not "
                       "%u",
                       guest->physical_bits);
    if (!guest->ram_bytes || guest->ram_bytes > 1ull << 50 ||
        guest->ram_bytes >> guest->physical_bits > 1 ||
        guest->ram_bytes % PAGE_4K)
        return why_set(why, EINVAL,
                       "a guest's memory is whole pages, 1 PiB at most, and "
                       "within its physical addresses");
    return 0;
}

static int check_host(const struct machine_config *config,
                      const struct event_guest *guest, struct why *why)
{
    bool tables =
        config->technique == MODEL_NESTED || config->technique == MODEL_AGILE;

    if (!pt_leaf_level(config->host_page_bytes))
        return why_set(why, EINVAL, "host pages are 4K, 2M or 1G");
    if (config->host_large_ppm > 1000000)
        return why_set(why, EINVAL, "more large pages than all");
    if (tables && config->nested_levels != 4 && config->nested_levels != 5)
        return why_set(why, EINVAL,
                       "the second dimension has 4 or 5 levels, not %u",
                       config->nested_levels);
    if (tables && guest->ram_bytes > 1ull
                                         << pt_shift(config->nested_levels + 1))
        return why_set(why, EINVAL,
                       "%u levels of the second dimension do not reach all of "
                       "the guest's memory",
                       config->nested_levels);
    return 0;
}

static int check_shadow(const struct machine_config *config, struct why *why)
{
    if (config->shadow_roots > SHADOW_ROOTS_MAX)
        return why_set(why, EINVAL, "at most %u shadow roots are kept",
                       SHADOW_ROOTS_MAX);
    if (config->shadow_tables && !shadow_arena_bytes(config->shadow_tables))
        return why_set(why, EINVAL, "shadow paging has %u to %u tables",
                       SHADOW_PAGES_MIN, SHADOW_PAGES_MAX);
    return 0;
}

static int check(const struct machine_config *config,
                 const struct event_guest *guest, struct why *why)
{
    int err = check_guest(guest, why);

    if (!err && config->technique != MODEL_NATIVE)
        err = check_host(config, guest, why);
    return err ? err : check_shadow(config, why);
}

void *machine_reserve(uint64_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

static int make_agile(struct machine *m, uint64_t *host_next, struct why *why)
{
    int err = nested_create(m, host_next, why);

    if (!err && !m->config.agile_nested)
        err = shadow_create(m, host_next, why);
    if (!err && !m->config.agile_nested)
        err = agile_create(m, why);
    return err;
}

static int make_technique(struct machine *m, struct why *why)
{
    uint64_t host_next = HOST_TABLES_PA;
    int err;

    switch (m->config.technique) {
    case MODEL_NATIVE:
        return native_create(m, why);
    case MODEL_SHADOW:
        err = shadow_create(m, &host_next, why);
        break;
    case MODEL_NESTED:
    case MODEL_FLAT:
        err = nested_create(m, &host_next, why);
        break;
    case MODEL_AGILE:
        err = make_agile(m, &host_next, why);
        break;
    default:
        return why_set(why, ENOTSUP, "the model has no such technique");
    }
    m->host_base = (host_next + PAGE_1G - 1) & ~(PAGE_1G - 1);
    return err;
}

int machine_create(struct machine **machine,
                   const struct machine_config *config,
                   const struct event_guest *guest, struct why *why)
{
    struct machine *m;
    int err = check(config, guest, why);

    *machine = NULL;
    if (err)
        return err;
    m = calloc(1, sizeof *m);
    if (!m)
        return why_set(why, ENOMEM, "out of memory");
    m->config = *config;
    m->guest = *guest;
    m->paging = (struct mmu_state){
        .levels = guest->levels,
        .physical_bits = guest->physical_bits,
        .wp = true,
        .nxe = true,
        .pages_1g = guest->pages_1g,
    };
    if (tables_init(&m->tables, guest->ram_bytes))
        err = why_set(why, ENOMEM, "out of memory");
    if (!err)
        err = make_caches(m, why);
    if (!err)
        err = make_technique(m, why);
    if (err) {
        machine_destroy(m);
        return err;
    }
    *machine = m;
    return 0;
}

void machine_destroy(struct machine *m)
{
    if (!m)
        return;
    agile_destroy(m);
    nested_destroy(m);
    shadow_destroy(m);
    tables_free(&m->tables);
    free(m->storage);
    free(m);
}

uint64_t machine_bytes(const struct machine *m)
{
    uint64_t bytes = sizeof *m + m->storage_bytes + tables_bytes(&m->tables);

    bytes += m->nested.arena.used * PAGE_4K;
    if (m->nested.flat)
        bytes += m->guest.ram_bytes / PAGE_4K / 8;
    bytes += shadow_bytes(m);
    return bytes;
}

void machine_reset_counts(struct machine *m)
{
    agile_reset_counts(m);
    m->counts = (struct counts){.stores = 0};
    tlb_reset_counts(&m->tlb);
    psc_reset_counts(&m->psc);
    psc_reset_counts(&m->nested.psc);
    if (m->nested.has_tlb)
        tlb_reset_counts(&m->nested.tlb);
    dcache_reset_counts(&m->dcache);
    if (m->shadowing.shadow)
        m->shadowing.before = *shadow_stats(m->shadowing.shadow);
}

void machine_counts(const struct machine *m, struct machine_counts *counts)
{
    counts_collect(m, counts);
}
