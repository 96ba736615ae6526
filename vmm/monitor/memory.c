/* Guest memory as the monitor reaches it: through the shadow tables, looked
 * up in software, so that what the monitor reads is what the CPU would. */
#include "vmm/monitor/core.h"

#include <errno.h>

/* Mostly a few words. */
static void copy(void *to, const void *from, unsigned bytes)
{
    const uint8_t *in = from;
    uint8_t *out = to;

    for (; bytes >= 8; bytes -= 8, in += 8, out += 8)
        __builtin_memcpy(out, in, 8);
    for (; bytes; bytes--)
        *out++ = *in++;
}

void *mon_ram(const struct mon *m, uint64_t pa, uint64_t bytes)
{
    const uint64_t high = 1ull << 32;

    if (pa < m->config.low_end && bytes <= m->config.low_end - pa)
        return m->ram_low + pa;
    if (pa >= high && pa < m->config.high_end &&
        bytes <= m->config.high_end - pa)
        return m->ram_high + (pa - high);
    return NULL;
}

/* ---- For the shadow MMU ------------------------------------------------ */

static int table_read(void *arg, uint64_t pa, uint64_t *entry)
{
    const uint64_t *at = mon_ram(arg, pa, sizeof *at);

    if (!at)
        return -ENXIO;
    *entry = __atomic_load_n(at, __ATOMIC_RELAXED);
    return 0;
}

static int table_set(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    uint64_t *at = mon_ram(arg, pa, sizeof *at);

    if (!at)
        return -ENXIO;
    return __atomic_compare_exchange_n(at, &old, old | bits, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)
               ? 0
               : -EAGAIN;
}

struct mmu_memory mon_tables(struct mon *m)
{
    return (struct mmu_memory){table_read, table_set, m};
}

/* Guest frames are where they say: the VM has nobody else's memory. A slot
 * ends at a multiple of 2 MiB, so that large frames are whole ones; larger
 * shadow pages not every KVM allows. */
static int frame_find(void *arg, uint64_t guest_frame,
                      struct shadow_frame *frame)
{
    const struct mon *m = arg;
    uint64_t pa = guest_frame << 12;

    if (!mon_ram(m, pa, PAGE_4K))
        return -ENXIO;
    *frame = (struct shadow_frame){
        .frame = guest_frame,
        .level = mon_has_code(m, pa & ~(PAGE_2M - 1), PAGE_2M) ? 1 : 2,
        .writable = !mon_is_code(m, pa),
        .executable = true,
    };
    return 0;
}

void mon_flush_page(void *arg, uint64_t va)
{
    struct mon_cpu *cpu = ((struct mon *)arg)->current;

    if (cpu->flush_pages < MON_FLUSH_PAGES)
        cpu->flush_page[cpu->flush_pages] = va;
    if (cpu->flush_pages <= MON_FLUSH_PAGES)
        cpu->flush_pages++;
}

void mon_flush_own(void *arg)
{
    ((struct mon *)arg)->current->flush_pages = MON_FLUSH_PAGES + 1;
}

/* A vCPU that is in the guest comes into the monitor, and flushes before it
 * goes back; one that is in the monitor flushes then too. */
void mon_flush_all(void *arg)
{
    struct mon *m = arg;

    mon_flush_own(arg);
    for (unsigned i = 0; i < m->config.cpus; i++)
        if (mon_cpu(m, i) != m->current)
            __atomic_store_n(&mon_cpu(m, i)->flush_wanted, true,
                             __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < m->config.cpus; i++) {
        struct mon_cpu *other = mon_cpu(m, i);

        if (other == m->current ||
            !__atomic_load_n(&other->in_guest, __ATOMIC_SEQ_CST))
            continue;
        m->ops.kick(other);
        while (__atomic_load_n(&other->in_guest, __ATOMIC_SEQ_CST) &&
               __atomic_load_n(&other->flush_wanted, __ATOMIC_SEQ_CST))
            m->ops.relax(m->current);
    }
}

void mon_hold_others(struct mon *m)
{
    for (unsigned i = 0; i < m->config.cpus; i++) {
        struct mon_cpu *other = mon_cpu(m, i);

        if (other == m->current)
            continue;
        __atomic_store_n(&other->held, true, __ATOMIC_SEQ_CST);
        if (!__atomic_load_n(&other->in_guest, __ATOMIC_SEQ_CST))
            continue;
        m->ops.kick(other);
        while (__atomic_load_n(&other->in_guest, __ATOMIC_SEQ_CST))
            m->ops.relax(m->current);
    }
}

void mon_let_go(struct mon *m)
{
    for (unsigned i = 0; i < m->config.cpus; i++)
        __atomic_store_n(&mon_cpu(m, i)->held, false, __ATOMIC_SEQ_CST);
}

int mon_memory_init(struct mon *m, uint8_t *arena)
{
    const struct shadow_ops ops = {
        .memory = mon_tables(m),
        .frame = frame_find,
        .flush_page = mon_flush_page,
        .flush_own = mon_flush_own,
        .flush_all = mon_flush_all,
    };
    const uint64_t tables = m->config.pa + MON_TABLES;
    const uint64_t flags = PTE_P | PTE_RW | PTE_US | PTE_A;
    const uint64_t kernel =
        m->config.kernel_pdpt ? m->config.pa + m->config.kernel_pdpt : tables;
    const struct shadow_config config = {
        .policy = m->config.policy,
        .roots = m->config.roots,
        .flood = m->config.flood,
        .cpus = m->config.cpus,
        .poison = m->config.poison,
        .tables_pa = m->config.pa + MON_ARENA,
        .fixed = true,
        .fixed_index = MON_SLOT,
        .fixed_entry = {[SHADOW_BOTH] = tables | flags,
                        [SHADOW_KERNEL] = kernel | flags,
                        [SHADOW_USER] =
                            (m->config.trace ? kernel : tables) | flags},
    };

    return shadow_init(&m->shadow, arena, m->config.arena_bytes, &config, &ops);
}

/* ---- For the emulation ------------------------------------------------- */

int mon_no_access(struct mon_cpu *cpu, uint64_t va, enum shadow_outcome outcome,
                  const struct shadow_fault *fault)
{
    switch (outcome) {
    case SHADOW_TRUE_FAULT:
        cpu->exception.address = va;
        return mon_raise_error(cpu, VECTOR_PF, fault->error);
    case SHADOW_NOT_CANONICAL:
        return mon_raise_error(cpu, VECTOR_GP, 0);
    case SHADOW_RESERVED:
        return mon_end(cpu, MON_END_RESERVED, va, 0);
    default:
        return mon_end(cpu, MON_END_NO_MEMORY, fault->pa, 0);
    }
}

/* shadow_lookup, with a memory for the few pages that every trap needs. */
static bool lookup(struct mon *m, struct mon_cpu *cpu, uint64_t va,
                   enum mmu_access access, uint64_t *pa)
{
    struct mon_lookup *l =
        &cpu->lookup[(va >> 12 ^ va >> 21 ^ access << 3) % MON_LOOKUPS];
    uint64_t tag = (va & ~(PAGE_4K - 1)) | (access + 1u);
    uint64_t root = shadow_root(m->shadow), epoch = shadow_epoch(m->shadow);

    if (l->tag == tag && l->root == root && l->epoch == epoch) {
        *pa = l->pa | (va & (PAGE_4K - 1));
        return true;
    }
    if (!shadow_lookup(m->shadow, va, access, pa))
        return false;
    *l = (struct mon_lookup){tag, root, epoch, *pa & ~(PAGE_4K - 1)};
    return true;
}

/* Where an access goes. `traced` when the shadow MMU must be told of it. */
static int locate(struct mon *m, struct mon_cpu *cpu, uint64_t va,
                  enum mmu_access access, uint64_t *pa, bool *traced)
{
    const struct mmu_request request = {
        .va = va, .access = access, .user = cpu->v.user};
    struct shadow_fault fault;
    enum shadow_outcome outcome;

    *traced = false;
    if (cpu->direct)
        return mon_direct_locate(m, cpu, va, access, pa);
    if (lookup(m, cpu, va, access, pa))
        return 0;
    outcome = shadow_fault(m->shadow, 0, &request, &fault);
    *pa = fault.pa;
    if (outcome == SHADOW_EMULATE_WRITE)
        *traced = true;
    else if (outcome != SHADOW_FIXED && outcome != SHADOW_POISONED)
        return mon_no_access(cpu, va, outcome, &fault);
    return 0;
}

static unsigned in_page(uint64_t va, unsigned bytes)
{
    unsigned room = PAGE_4K - va % PAGE_4K;

    return bytes < room ? bytes : room;
}

int mon_read(struct mon *m, struct mon_cpu *cpu, uint64_t va, void *to,
             unsigned bytes)
{
    uint8_t *at = to;

    for (unsigned n; bytes; bytes -= n, va += n, at += n) {
        const void *from;
        bool traced;
        uint64_t pa;

        n = in_page(va, bytes);
        if (locate(m, cpu, va, MMU_READ, &pa, &traced))
            return RAISED;
        from = mon_ram(m, pa, n);
        if (!from)
            return mon_end(cpu, MON_END_NO_MEMORY, pa, 0);
        copy(at, from, n);
        if (m->config.trace)
            mon_log_access(m, cpu, va, MMU_READ, n);
    }
    return 0;
}

int mon_probe_write(struct mon *m, struct mon_cpu *cpu, uint64_t va,
                    unsigned bytes)
{
    for (unsigned n; bytes; bytes -= n, va += n) {
        bool traced;
        uint64_t pa;

        n = in_page(va, bytes);
        if (locate(m, cpu, va, MMU_WRITE, &pa, &traced))
            return RAISED;
    }
    return 0;
}

/* Atomic where the CPU's store would be: other vCPUs walk the tables. */
static void store(void *to, const void *from, unsigned bytes)
{
    uint64_t value = 0;

    if (bytes > 8 || (uintptr_t)to % bytes) {
        copy(to, from, bytes);
        return;
    }
    copy(&value, from, bytes);
    if (bytes == 8)
        __atomic_store_n((uint64_t *)to, value, __ATOMIC_RELEASE);
    else if (bytes == 4)
        __atomic_store_n((uint32_t *)to, (uint32_t)value, __ATOMIC_RELEASE);
    else
        copy(to, from, bytes);
}

int mon_write(struct mon *m, struct mon_cpu *cpu, uint64_t va, const void *from,
              unsigned bytes)
{
    const uint8_t *at = from;

    if (in_page(va, bytes) < bytes && mon_probe_write(m, cpu, va, bytes))
        return RAISED;
    for (unsigned n; bytes; bytes -= n, va += n, at += n) {
        bool traced;
        uint64_t pa;
        void *to;

        n = in_page(va, bytes);
        if (locate(m, cpu, va, MMU_WRITE, &pa, &traced))
            return RAISED;
        to = mon_ram(m, pa, n);
        if (!to)
            return mon_end(cpu, MON_END_NO_MEMORY, pa, 0);
        store(to, at, n);
        if (m->config.trace)
            mon_log_write(m, cpu, va, pa, n);
        if (traced)
            shadow_guest_write(m->shadow, pa, n);
        if (traced && mon_is_code(m, pa))
            mon_code_written(m, cpu, pa);
    }
    return 0;
}

/* ---- Instructions ------------------------------------------------------ */

/* What is at the start of a site: as many bytes as an instruction can have, or
 * as the page has. */
struct site_bytes {
    uint8_t bytes[16];
    unsigned count;
};

static bool is_site(const struct mon_site *site, uint64_t pa,
                    const struct site_bytes *b)
{
    if (site->pa != pa + 1 || site->insn.length > b->count)
        return false;
    for (unsigned i = 0; i < site->insn.length; i++)
        if (site->insn.bytes[i] != b->bytes[i])
            return false;
    return true;
}

int mon_locate_fetch(struct mon *m, struct mon_cpu *cpu, uint64_t va,
                     uint64_t *pa)
{
    bool traced;

    return locate(m, cpu, va, MMU_FETCH, pa, &traced);
}

/* Code that CPL 3 has just executed can be read. */
static int fetch_bytes(struct mon *m, struct mon_cpu *cpu, uint64_t va,
                       struct site_bytes *b, unsigned count, uint64_t *pa)
{
    const uint8_t *from;
    bool traced;

    if (locate(m, cpu, va, MMU_FETCH, pa, &traced))
        return RAISED;
    from = mon_ram(m, *pa, count);
    if (!from)
        return mon_end(cpu, MON_END_NO_MEMORY, *pa, 0);
    if (count == 16)
        __builtin_memcpy(b->bytes, from, 16);
    else
        copy(b->bytes + b->count, from, count);
    b->count += count;
    return 0;
}

static int decode_site(struct mon *m, struct mon_cpu *cpu,
                       struct mon_site *site, uint64_t pa, struct site_bytes *b)
{
    unsigned first = b->count;
    uint64_t rest_pa;
    int err = -ENODATA;

    m->decodes++;
    site->pa = 0;
    if (first)
        err = m->ops.decode(cpu, pa, b->bytes, first, &site->insn);
    if (err && first < INSN_BYTES_MAX) {
        if (fetch_bytes(m, cpu, cpu->frame.rip + first, b,
                        INSN_BYTES_MAX - first, &rest_pa))
            return RAISED;
        err = m->ops.decode(cpu, pa, b->bytes, INSN_BYTES_MAX, &site->insn);
    }
    if (err)
        return mon_raise(cpu, VECTOR_UD);
    /* One that crosses pages is decoded each time: its key would be two
     * frames. */
    if (site->insn.length <= first)
        site->pa = pa + 1;
    return 0;
}

int mon_fetch(struct mon *m, struct mon_cpu *cpu, const struct insn **insn)
{
    struct site_bytes b = {.count = 0};
    struct mon_site *site;
    uint64_t pa;

    if (fetch_bytes(m, cpu, cpu->frame.rip, &b, in_page(cpu->frame.rip, 16),
                    &pa))
        return RAISED;
    if (b.count > INSN_BYTES_MAX)
        b.count = INSN_BYTES_MAX;
    site = &m->sites[(pa ^ pa >> 13) & m->site_mask];
    if (!is_site(site, pa, &b) && decode_site(m, cpu, site, pa, &b))
        return RAISED;
    *insn = &site->insn;
    return 0;
}
