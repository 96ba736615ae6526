/*
 * A guest kernel that runs translated (bt/cache.h): out of translated code when
 * a trap comes, and back into it. In between the guest's state is in the frame
 * as under `trap`, and the rest of the core knows nothing of translations.
 */
#include "vmm/monitor/core.h"

#include <errno.h>

/* An instruction that faulted so often because of traced tables is called out,
 * and is a copy again when so many more of its writes went elsewhere than to
 * such tables. Each time that it is, twice as many faults are needed. */
#define ADAPT_AFTER 4u
#define ADAPT_BACK  16
#define ADAPT_TIMES 12

/* The kernel's, which user code's translations spill into too. */
static struct bt_state *state_of(const struct mon_cpu *cpu)
{
    return (struct bt_state *)(cpu->bt.area[0] + BT_STATE);
}

static struct bt_flags *flags_of(const struct mon_cpu *cpu)
{
    return (struct bt_flags *)(cpu->bt.area[0] + BT_FLAGS);
}

static struct bt_cache *cache_of(const struct mon_cpu *cpu)
{
    return cpu->bt.cache[cpu->v.user];
}

/* User code is, for a trace. */
static bool runs_translated(const struct mon *m, const struct mon_cpu *cpu)
{
    return !cpu->v.user || m->config.trace;
}

static int translator(struct mon *m, struct mon_cpu *cpu,
                      const struct mon_translation *what)
{
    cpu->call_translation = *what;
    return m->ops.translator(cpu);
}

/* ---- Frames with code that was translated ------------------------------ */

bool mon_is_code(const struct mon *m, uint64_t pa)
{
    uint64_t frame = pa >> 12;

    return m->code && frame < m->code_frames &&
           m->code[frame / 64] >> frame % 64 & 1;
}

bool mon_has_code(const struct mon *m, uint64_t pa, uint64_t bytes)
{
    uint64_t first = pa >> 12, last = first + (bytes >> 12);

    for (; m->code && first < last && first < m->code_frames; first += 64)
        if (m->code[first / 64])
            return true;
    return false;
}

static void protect(struct mon *m, uint64_t pa)
{
    uint64_t frame = pa >> 12;

    if (mon_is_code(m, pa))
        return;
    m->code[frame / 64] |= 1ull << frame % 64;
    shadow_host_changed(m->shadow, frame, 1);
}

void mon_code_written(struct mon *m, struct mon_cpu *cpu, uint64_t pa)
{
    uint64_t frame = pa >> 12;

    cpu->traps[MON_CODE_WRITE]++;
    mon_hold_others(m);
    translator(m, cpu,
               &(struct mon_translation){.op = MON_TRANSLATOR_FRAME, .pa = pa});
    for (unsigned i = 0; i < m->config.cpus; i++)
        __atomic_store_n(&mon_cpu(m, i)->bt.stale, true, __ATOMIC_SEQ_CST);
    cpu->bt.stale = false;
    mon_let_go(m);
    m->code[frame / 64] &= ~(1ull << frame % 64);
}

/* An instruction that writes to its own page would never get on if the page
 * were only let go. */
bool mon_writes_own_code(struct mon *m, struct mon_cpu *cpu, uint64_t pa)
{
    for (unsigned i = 0; runs_translated(m, cpu) && i < INSN_BYTES_MAX;
         i += 14) {
        uint64_t at;

        if (shadow_lookup(m->shadow, cpu->frame.rip + i, MMU_FETCH, &at) &&
            (at ^ pa) >> 12 == 0)
            return true;
    }
    return false;
}

/* ---- Addresses whose mapping translations rely on ----------------------- */

static int set_nothing(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    (void)arg;
    (void)pa;
    (void)old;
    (void)bits;
    return 0;
}

/* What a fetch finds, by the guest's own tables. */
static bool walk_fetch(struct mon *m, struct mon_cpu *cpu, uint64_t va,
                       bool user, struct mmu_walk *walk)
{
    const struct mmu_state state = mon_mmu_state(m, cpu);
    const struct mmu_request request = {
        .va = va, .access = MMU_FETCH, .user = user};
    struct mmu_memory memory = mon_tables(m);

    memory.set = set_nothing;
    mmu_walk(&state, &memory, &request, walk);
    return walk->outcome == MMU_OK;
}

static void forget(struct mon *m, struct mon_cpu *cpu, uint64_t va,
                   uint64_t bytes)
{
    translator(m, cpu,
               &(struct mon_translation){
                   .op = MON_TRANSLATOR_RANGE, .va = va, .bytes = bytes});
}

/* The shadow tables are in step with the guest's after a flush: as long as no
 * entry of theirs changes, neither did what they are made from. */
static bool is_known(const struct mon *m, const struct mon_region *r)
{
    uint64_t root = shadow_root(m->shadow);

    return r->epoch == shadow_epoch(m->shadow) &&
           (r->root[0] == root || r->root[1] == root);
}

static void remember(const struct mon *m, struct mon_region *r)
{
    uint64_t root = shadow_root(m->shadow), epoch = shadow_epoch(m->shadow);

    if (r->epoch != epoch)
        r->root[0] = r->root[1] = 0;
    r->epoch = epoch;
    if (r->root[0] == root || r->root[1] == root)
        return;
    r->root[1] = r->root[0];
    r->root[0] = root;
}

/* The guest flushed: what it changed before in its tables counts from now on,
 * and no later change counts before the next flush (SDM vol. 3A, 4.10.4). */
static void check_regions(struct mon *m, struct mon_cpu *cpu)
{
    struct mmu_walk walk;

    cpu->bt.check = false;
    for (unsigned i = 0; i < cpu->bt.regions;) {
        struct mon_region *r = &cpu->bt.region[i];

        if (is_known(m, r) ||
            (walk_fetch(m, cpu, r->va, r->user, &walk) && walk.pa == r->pa &&
             walk.page_bytes >= r->bytes)) {
            remember(m, r);
            i++;
            continue;
        }
        forget(m, cpu, r->va, r->bytes);
        *r = cpu->bt.region[--cpu->bt.regions];
    }
}

/* Code at `va` is translated as it is at `pa`. */
static void rely_on(struct mon *m, struct mon_cpu *cpu, uint64_t va,
                    uint64_t pa)
{
    struct mmu_walk walk;
    struct mon_region *r;

    for (unsigned i = 0; i < cpu->bt.regions; i++) {
        r = &cpu->bt.region[i];
        if (r->user == cpu->v.user && va - r->va < r->bytes &&
            pa - r->pa == va - r->va)
            return;
    }
    /* Changed since: by another vCPU, without a flush. */
    if (!walk_fetch(m, cpu, va, cpu->v.user, &walk) || walk.pa != pa)
        walk.page_bytes = PAGE_4K;
    if (cpu->bt.regions == MON_REGIONS) {
        for (unsigned i = 0; i < MON_REGIONS; i++)
            forget(m, cpu, cpu->bt.region[i].va, cpu->bt.region[i].bytes);
        cpu->bt.regions = 0;
    }
    r = &cpu->bt.region[cpu->bt.regions++];
    *r = (struct mon_region){.bytes = walk.page_bytes, .user = cpu->v.user};
    r->va = va & -r->bytes;
    r->pa = pa & -r->bytes;
}

void mon_flushed(struct mon_cpu *cpu)
{
    cpu->bt.check = true;
}

void mon_flushed_page(struct mon_cpu *cpu, uint64_t va)
{
    for (unsigned i = 0; i < cpu->bt.regions; i++)
        cpu->bt.check |= va - cpu->bt.region[i].va < cpu->bt.region[i].bytes;
}

/* ---- Into translated code ---------------------------------------------- */

/* Every byte that could be translated is protected before it is read. */
static int fetch(struct mon *m, struct mon_cpu *cpu, uint64_t va, uint64_t *pa)
{
    if (mon_locate_fetch(m, cpu, va, pa))
        return RAISED;
    if (!mon_ram(m, *pa & ~(PAGE_4K - 1), PAGE_4K))
        return mon_end(cpu, MON_END_NO_MEMORY, *pa, 0);
    protect(m, *pa);
    rely_on(m, cpu, va, *pa);
    return 0;
}

static int translate(struct mon *m, struct mon_cpu *cpu)
{
    uint64_t rip = cpu->frame.rip;
    struct mon_translation what = {
        .op = MON_TRANSLATOR_BLOCK,
        .va = rip,
        .next_pa = MON_NO_PAGE,
        .flag = cpu->bt.indirect,
    };
    int err;

    if (fetch(m, cpu, rip, &what.pa))
        return RAISED;
    err = translator(m, cpu, &what);
    if (err == -ENODATA) {
        if (fetch(m, cpu, (rip | (PAGE_4K - 1)) + 1, &what.next_pa))
            return RAISED;
        err = translator(m, cpu, &what);
    }
    cpu->bt.block = NULL;
    return err ? mon_end(cpu, MON_END_INSTRUCTION, rip, 0) : 0;
}

/* A pending interrupt that the guest doesn't allow yet: its page of flags
 * faults when it does. */
static void guard_flags(struct mon *m, struct mon_cpu *cpu)
{
    bool guard = mon_interrupt_pending(cpu);
    uint64_t *entry = m->area_tables + cpu->id * PT_ENTRIES + BT_FLAGS / 4096;

    if (guard == cpu->bt.guarded)
        return;
    cpu->bt.guarded = guard;
    if (guard)
        *entry &= ~PTE_RW;
    else
        *entry |= PTE_RW;
    mon_flush_page(m, cpu->bt.cache[0]->va + BT_FLAGS);
}

static uint64_t find(struct mon_cpu *cpu)
{
    uint64_t rip = cpu->frame.rip, *table;

    if (cpu->bt.indirect) {
        table = (uint64_t *)(cpu->bt.area[cpu->v.user] + BT_TABLE);
        if (!bt_remember(cache_of(cpu), table, rip))
            return 0;
    }
    return bt_resume(cache_of(cpu), cpu->bt.block, rip);
}

int mon_enter_translated(struct mon *m, struct mon_cpu *cpu)
{
    struct bt_flags *flags = flags_of(cpu);
    uint64_t address;

    if (!runs_translated(m, cpu) || cpu->bt.untranslated)
        return 0;
    if (cpu->bt.check)
        check_regions(m, cpu);
    address = find(cpu);
    if (!address) {
        if (translate(m, cpu))
            return RAISED;
        address = bt_resume(cache_of(cpu), NULL, cpu->frame.rip);
    }
    cpu->bt.indirect = false;
    cpu->bt.entered = cpu->frame.rip;
    cpu->frame.rip = address;
    if (cpu->v.user)
        return 0;
    flags->interrupts = cpu->v.flags >> 8 & RFLAGS_IF >> 8;
    flags->others = cpu->v.flags >> 8 & (RFLAGS_IOPL | RFLAGS_NT) >> 8;
    state_of(cpu)->minus_cs = -(uint64_t)cpu->v.cs;
    state_of(cpu)->minus_ss = -(uint64_t)cpu->v.ss;
    guard_flags(m, cpu);
    return 0;
}

/* ---- Out of it --------------------------------------------------------- */

static void restore(struct mon_cpu *cpu, const struct bt_point *point,
                    bool trace)
{
    const struct bt_flags *flags = flags_of(cpu);

    for (unsigned reg = 0; point->restored >> reg; reg++)
        if (point->restored >> reg & 1)
            mon_set_reg(cpu, reg, 8, point->value[reg]);
    cpu->frame.rsp += point->add_rsp;
    cpu->frame.rip = point->rip;
    if (cpu->v.user)
        return;
    cpu->v.flags =
        ((uint64_t)flags->interrupts | flags->others) << 8 & RFLAGS_VIRTUAL;
    if (!trace) /* whose pieces have one beginning */
        cpu->bt.block = point->block;
}

static struct mon_hot *hot_of(struct mon_cpu *cpu, uint64_t rip)
{
    struct mon_hot *hot;

    for (unsigned i = 0; i < MON_HOT; i++)
        if (cpu->bt.hot[i].rip == rip)
            return &cpu->bt.hot[i];
    hot = &cpu->bt.hot[cpu->bt.next_hot++ % MON_HOT];
    *hot = (struct mon_hot){.rip = rip};
    return hot;
}

static void adapt(struct mon *m, struct mon_cpu *cpu, uint64_t rip,
                  bool call_out)
{
    translator(m, cpu,
               &(struct mon_translation){
                   .op = MON_TRANSLATOR_ADAPT, .va = rip, .flag = call_out});
}

/* A called-out store: one that wrote to traced tables before. */
static int store(struct mon *m, struct mon_cpu *cpu, const struct insn *insn)
{
    uint64_t before = shadow_stats(m->shadow)->guest_writes;
    struct mon_hot *hot = hot_of(cpu, cpu->frame.rip);

    cpu->traps[MON_STORE_CALL_OUT]++;
    if (mon_emulate_store(m, cpu, insn))
        return RAISED;
    if (shadow_stats(m->shadow)->guest_writes != before) {
        hot->elsewhere -= hot->elsewhere > 0;
    } else if (++hot->elsewhere >= ADAPT_BACK) {
        hot->elsewhere = 0;
        hot->times += hot->times < ADAPT_TIMES;
        adapt(m, cpu, hot->rip, false);
    }
    return 0;
}

static int call_out(struct mon *m, struct mon_cpu *cpu)
{
    const struct insn *insn;

    if (mon_fetch(m, cpu, &insn))
        return RAISED;
    if (mon_can_store(insn))
        return store(m, cpu, insn);
    if (insn->op == INSN_UNSUPPORTED || insn->op >= INSN_MOV)
        return mon_raise(cpu, VECTOR_UD); /* no such feature in the guest */
    return mon_emulate(m, cpu, insn);
}

void mon_traced_write(struct mon *m, struct mon_cpu *cpu)
{
    struct mon_hot *hot;

    if (!m->config.adaptive || cpu->v.user)
        return;
    hot = hot_of(cpu, cpu->frame.rip);
    if (++hot->faults < ADAPT_AFTER << hot->times)
        return;
    hot->faults = 0;
    adapt(m, cpu, hot->rip, true);
}

/* After one step of the real CPU: has the guest's instruction been done? */
static bool within_step(const struct mon_cpu *cpu, const struct bt_point *point)
{
    return cpu->frame.vector == VECTOR_DB && !point->start &&
           point->rip == cpu->bt.entered;
}

/* CLI, STI or POPF in line while an interrupt is pending. */
static bool guarded_flags(const struct mon_cpu *cpu)
{
    return cpu->frame.vector == VECTOR_PF && cpu->frame.error & PF_W &&
           cpu->fault_address - (cpu->bt.cache[0]->va + BT_FLAGS) < PAGE_4K;
}

enum mon_came mon_leave_translated(struct mon *m, struct mon_cpu *cpu,
                                   bool syscall)
{
    uint64_t *rip = syscall ? &cpu->frame.rcx : &cpu->frame.rip, code = *rip;
    const struct bt_registers regs = {cpu->frame.rcx, cpu->frame.rdx,
                                      cpu->frame.rsp};
    struct bt_point point;

    cpu->bt.block = NULL;
    cpu->bt.stale = false;
    if (!runs_translated(m, cpu) ||
        !bt_recover(cache_of(cpu), state_of(cpu), *rip, &regs, &point))
        return MON_CAME_TRAP;
    if (syscall) {
        *rip = point.rip;
        if (m->config.trace)
            mon_log_stop(m, cpu, code, false);
        return MON_CAME_TRAP;
    }
    if (within_step(cpu, &point))
        return MON_CAME_WITHIN;
    restore(cpu, &point, m->config.trace);
    if (m->config.trace) {
        mon_log_stop(m, cpu, code, point.kind == BT_CALL_OUT);
        if (mon_log_is_full(cpu)) {
            mon_log_drain(m, cpu);
            return MON_CAME_DONE;
        }
    }
    if (guarded_flags(cpu)) {
        call_out(m, cpu);
        return MON_CAME_DONE;
    }
    if (cpu->frame.vector != VECTOR_GP)
        return MON_CAME_TRAP;
    switch (point.kind) {
    case BT_EXIT: /* a block of its own, for the branch to go to */
        cpu->traps[MON_BT_EXIT]++;
        cpu->bt.block = NULL;
        return MON_CAME_DONE;
    case BT_MISS:
        cpu->traps[MON_BT_MISS]++;
        cpu->bt.indirect = true;
        return MON_CAME_DONE;
    case BT_CALL_OUT:
        if (cpu->v.user)
            cpu->bt.untranslated = true;
        else
            call_out(m, cpu);
        return MON_CAME_DONE;
    default:
        return MON_CAME_TRAP;
    }
}

void mon_translated_init(struct mon *m, uint8_t *memory)
{
    const struct mon_config *config = &m->config;

    m->code = (uint64_t *)(memory + config->code_map);
    m->code_frames = (config->high_end > config->low_end ? config->high_end
                                                         : config->low_end) >>
                     12;
    m->area_tables = (uint64_t *)(memory + config->area_tables);
    for (unsigned i = 0; i < config->cpus; i++)
        for (unsigned user = 0; user < (config->trace ? 2u : 1u); user++) {
            struct mon_translated *bt = &mon_cpu(m, i)->bt;
            uint64_t number = i + user * config->cpus;

            bt->area[user] = memory + config->areas + number * BT_AREA;
            bt->cache[user] = (struct bt_cache *)(memory + config->caches +
                                                  number * MON_CACHE_BYTES);
        }
}
