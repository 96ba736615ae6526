/* The VMM's half of binary translation: where the caches are, the translators
 * (bt/bt.h), and what they are asked for. */
#include "vmm/decode.h"
#include "vmm/recorder.h"
#include "vmm/software_private.h"

#include <errno.h>
#include <string.h>

/* ---- Memory ------------------------------------------------------------ */

/* What translation needs behind the rest, in mon_config's words. */
void translation_place(struct software *sw)
{
    bool trace = sw->vm->config.software->trace;
    unsigned cpus = sw->vm->config.vcpus;
    struct mon_config *config = &sw->config;

    config->areas = (sw->bytes + PAGE_2M - 1) & ~(PAGE_2M - 1);
    config->caches =
        config->areas + (trace ? BT_TRACE_AREA : cpus * (uint64_t)BT_AREA);
    config->code_map = config->caches + (cpus + trace) * MON_CACHE_BYTES;
    config->area_tables = MON_TABLES + TABLE_AREA_PT * PAGE_4K;
    config->kernel_pdpt = MON_TABLES + TABLE_KERNEL_PDPT * PAGE_4K;
    sw->bytes = config->code_map + sw->pa / PAGE_4K / 8;
}

/* What CPL 3 has of a vCPU's area (bt/cache.h). */
static void map_area(struct software *sw, unsigned id)
{
    uint64_t pa = sw->pa + sw->config.areas + (uint64_t)id * BT_AREA;
    uint64_t *pd = table(sw, TABLE_AREA_PD) + id * (BT_AREA / PAGE_2M);
    uint64_t *pt = table(sw, TABLE_AREA_PT + id);
    const uint64_t data = OWN_LEAF | PTE_US | PTE_XD;

    pd[0] = table_entry(sw, TABLE_AREA_PT + id);
    pd[BT_CODE / PAGE_2M] = (pa + BT_CODE) | OWN_LEAF | PTE_US | PTE_PS;
    pt[BT_STATE / PAGE_4K] = (pa + BT_STATE) | data | PTE_RW;
    pt[BT_FLAGS / PAGE_4K] = (pa + BT_FLAGS) | data | PTE_RW;
    pt[BT_POPF / PAGE_4K] = (pa + BT_POPF) | data;
    for (uint64_t at = 0; at < BT_TABLE_SIZE * 8; at += PAGE_4K)
        pt[(BT_TABLE + at) / PAGE_4K] = (pa + BT_TABLE + at) | data;
}

/* User code's translations share the state, and so the log, of the kernel's. */
static void map_trace(struct software *sw)
{
    uint64_t pa = sw->pa + sw->config.areas + BT_LOG;
    uint64_t *pd = table(sw, TABLE_AREA_PD) + BT_LOG / PAGE_2M;
    uint64_t *pt = table(sw, TABLE_AREA_PT + BT_LOG / BT_AREA);
    const uint64_t data = OWN_LEAF | PTE_US | PTE_XD | PTE_RW;

    map_area(sw, BT_USER_AREA / BT_AREA);
    table(sw, TABLE_AREA_PT + BT_USER_AREA / BT_AREA)[BT_STATE / PAGE_4K] =
        table(sw, TABLE_AREA_PT)[BT_STATE / PAGE_4K];
    pd[0] = pa | data | PTE_PS;
    pd[1] = table_entry(sw, TABLE_AREA_PT + BT_LOG / BT_AREA);
    for (uint64_t at = PAGE_2M; at < BT_LOG_END - BT_LOG; at += PAGE_4K)
        pt[at % PAGE_2M / PAGE_4K] = (pa + at) | data;
}

/* Only the kernel's roots have them, user code sees no more than before; but
 * with a trace. */
void translation_map(struct software *sw)
{
    uint64_t *pdpt = table(sw, TABLE_KERNEL_PDPT);

    memcpy(pdpt, table(sw, TABLE_PDPT), PAGE_4K);
    pdpt[pt_index(MON_AREAS, 3)] = table_entry(sw, TABLE_AREA_PD);
    for (unsigned i = 0; i < sw->config.cpus; i++)
        map_area(sw, i);
    if (sw->config.trace)
        map_trace(sw);
}

/* ---- The translator ---------------------------------------------------- */

static bool is_sensitive(const uint8_t *bytes, unsigned count)
{
    struct insn insn;

    return !decode_insn(bytes, count, &insn) && insn_is_sensitive(&insn);
}

static struct bt_config bt_config(const struct software *sw, unsigned area)
{
    return (struct bt_config){
        .va = MON_AREAS + (uint64_t)area * BT_AREA,
        .area = sw->memory + sw->config.areas + (uint64_t)area * BT_AREA,
        .cache = (struct bt_cache *)(sw->memory + sw->config.caches +
                                     area * MON_CACHE_BYTES),
        .code_bytes = sw->vm->config.software->code_bytes,
        .is_sensitive = is_sensitive,
        .trace = sw->recorder ? recorder_trace(sw->recorder) : NULL,
    };
}

static int create_translators(struct software *sw, struct why *why)
{
    int err = 0;

    for (unsigned i = 0; !err && i < sw->config.cpus; i++) {
        const struct bt_config config = bt_config(sw, i);

        err = bt_create(&sw->bt[i], &config, why);
    }
    if (!err && sw->config.trace) {
        struct bt_config config = bt_config(sw, sw->config.cpus);

        config.user = true;
        err = bt_create(&sw->user_bt, &config, why);
    }
    return err;
}

static uint64_t ram_end(const struct software *sw)
{
    return sw->config.high_end ? sw->config.high_end : sw->config.low_end;
}

static int create_recorder(struct software *sw, struct why *why)
{
    if (sw->config.cpus > 1)
        return why_set(why, ENOTSUP,
                       "a trace is of one vCPU: ask for --vcpus 1");
    sw->recorder = recorder_create(sw->vm, ram_end(sw),
                                   sw->memory + sw->config.areas, MON_AREAS);
    return sw->recorder ? 0 : why_set(why, ENOMEM, "out of memory");
}

/* The guest's page around `pa`; NULL where it has no RAM. */
static const uint8_t *page_at(const struct software *sw, uint64_t pa)
{
    const uint8_t *ram = sw->vm->memory.ram;

    pa &= ~(PAGE_4K - 1);
    if (pa < sw->config.low_end)
        return ram + pa;
    if (pa >= RAM_HOLE_END && pa < sw->config.high_end)
        return ram + RAM_HOLE_START + (pa - RAM_HOLE_END);
    return NULL;
}

static int translate(struct software *sw, unsigned id,
                     const struct mon_translation *what)
{
    const uint8_t *page = page_at(sw, what->pa);
    unsigned offset = what->pa % PAGE_4K;
    const struct bt_request request = {
        .gva = what->va,
        .bytes = page + offset,
        .count = PAGE_4K - offset,
        .pa = what->pa,
        .next =
            what->next_pa == MON_NO_PAGE ? NULL : page_at(sw, what->next_pa),
        .next_pa = what->next_pa,
        .indirect = what->flag,
    };

    if (!page)
        return -EFAULT;
    return bt_translate(cpu_of(sw, id)->v.user ? sw->user_bt : sw->bt[id],
                        &request);
}

uint64_t software_rip(const struct vcpu *vcpu, const struct kvm_regs *regs)
{
    struct software *sw = vcpu->vm->software;
    const uint64_t area = sw->config.areas + (uint64_t)vcpu->id * BT_AREA;
    unsigned cache = vcpu->id;
    const struct bt_registers needed = {regs->rcx, regs->rdx, regs->rsp};
    struct bt_point point;

    if (sw->config.trace && cpu_of(sw, vcpu->id)->v.user)
        cache = sw->config.cpus;
    if (!sw->config.translate ||
        !bt_recover((struct bt_cache *)(sw->memory + sw->config.caches +
                                        cache * MON_CACHE_BYTES),
                    (struct bt_state *)(sw->memory + area + BT_STATE),
                    regs->rip, &needed, &point))
        return regs->rip;
    return point.rip;
}

int translation_answer(struct software *sw, unsigned id,
                       const struct mon_translation *what)
{
    if (!sw->config.translate)
        return -EINVAL;
    switch (what->op) {
    case MON_TRANSLATOR_BLOCK:
        return translate(sw, id, what);
    case MON_TRANSLATOR_FRAME:
        for (unsigned i = 0; i < sw->config.cpus; i++)
            bt_invalidate_frame(sw->bt[i], what->pa);
        if (sw->user_bt)
            bt_invalidate_frame(sw->user_bt, what->pa);
        return 0;
    case MON_TRANSLATOR_RANGE:
        bt_invalidate_range(sw->bt[id], what->va, what->bytes);
        if (sw->user_bt)
            bt_invalidate_range(sw->user_bt, what->va, what->bytes);
        return 0;
    case MON_TRANSLATOR_ADAPT:
        bt_adapt(sw->bt[id], what->va, what->flag);
        return 0;
    case MON_TRANSLATOR_DRAIN:
        return sw->recorder ? recorder_drain(sw->recorder) : -EINVAL;
    }
    return -EINVAL;
}

/* ---- Traces ------------------------------------------------------------ */

void software_mark(struct vm *vm, enum wl_phase phase, bool begin)
{
    if (vm->software->recorder)
        recorder_mark(vm->software->recorder, phase, begin);
}

void software_end_trace(struct vm *vm)
{
    if (vm->software && vm->software->recorder &&
        recorder_end(vm->software->recorder) && vm->end == VM_END_EXIT) {
        vm->end = VM_END_ERROR;
        why_set(&vm->end_why, EIO, "the trace can't be written");
    }
}

void vm_trace_guest(const struct vm *vm, struct event_guest *guest)
{
    *guest = (struct event_guest){
        .levels = 4,
        .physical_bits = vm->software->config.physical_bits,
        .pages_1g = true,
        .ram_bytes = ram_end(vm->software),
    };
}

/* ---- What was counted ------------------------------------------------- */

static void add_stats(struct bt_stats *sum, const struct bt_stats *part)
{
    uint64_t *to = (uint64_t *)sum;
    const uint64_t *from = (const uint64_t *)part;

    _Static_assert(sizeof *sum % sizeof *to == 0, "nothing but counts");
    for (size_t i = 0; i < sizeof *sum / sizeof *to; i++)
        to[i] += from[i];
}

const struct bt_stats *vm_bt_stats(const struct vm *vm)
{
    struct software *sw = vm->software;

    if (!sw || !sw->config.translate)
        return NULL;
    sw->bt_total = (struct bt_stats){0};
    for (unsigned i = 0; i < sw->config.cpus; i++)
        add_stats(&sw->bt_total, bt_stats(sw->bt[i]));
    return &sw->bt_total;
}

/* ---- Life -------------------------------------------------------------- */

int translation_create(struct software *sw, struct why *why)
{
    int err = sw->config.trace ? create_recorder(sw, why) : 0;

    return err ? err : create_translators(sw, why);
}

void translation_destroy(struct software *sw)
{
    for (unsigned i = 0; i < MON_CPUS_MAX; i++)
        bt_destroy(sw->bt[i]);
    bt_destroy(sw->user_bt);
    recorder_destroy(sw->recorder);
}
