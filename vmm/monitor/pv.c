/* Hypercalls (workloads/hypercall.h), on directly walked, validated tables
 * (directpt/direct.h). */
#include "vmm/monitor/core.h"
#include "workloads/hypercall.h"

#include <linux/errno.h>

/* HC_IRET loads a whole frame. */
_Static_assert(sizeof(struct mon_frame) == sizeof(struct pv_frame) &&
                   offsetof(struct mon_frame, rip) ==
                       offsetof(struct pv_frame, rip),
               "the guest's frames are ours");

/* ---- Memory, as the CPU finds it by the guest's tables ------------------ */

/* Where every entry has been used as it will be again, the walk needs no more
 * than to read it. Tables are validated: their addresses are RAM's. */
static bool walk_quickly(const struct mon *m, uint64_t root, uint64_t va,
                         enum mmu_access access, uint64_t *pa)
{
    uint64_t need = PTE_P | PTE_US | PTE_A | (access == MMU_WRITE ? PTE_RW : 0);
    uint64_t entry = root, all = ~0ull, any = 0;

    for (unsigned level = 4;; level--) {
        const uint64_t *table = mon_ram(m, entry & PTE_ADDR, PAGE_4K);

        if (!table)
            return false;
        entry = __atomic_load_n(&table[pt_index(va, level)], __ATOMIC_RELAXED);
        all &= entry;
        any |= entry;
        if ((all & need) != need)
            return false;
        if (level > 1 && !(entry & PTE_PS))
            continue;
        if ((access == MMU_WRITE && !(entry & PTE_D)) ||
            (access == MMU_FETCH && (any & PTE_XD)))
            return false;
        *pa = (entry & PTE_ADDR & ~((1ull << pt_shift(level)) - 1)) |
              (va & ((1ull << pt_shift(level)) - 1));
        return true;
    }
}

/* All the guest's is CPL 3's, its kernel's too; our own slot isn't. */
int mon_direct_locate(struct mon *m, struct mon_cpu *cpu, uint64_t va,
                      enum mmu_access access, uint64_t *pa)
{
    const struct mmu_memory memory = mon_tables(m);
    const struct mmu_request request = {
        .va = va, .access = access, .user = true};
    const struct mmu_state state = {
        .cr3 = cpu->v.user ? cpu->user_root : cpu->kernel_root,
        .levels = 4,
        .physical_bits = m->config.physical_bits,
        .wp = true,
        .nxe = true,
    };
    uint32_t user = cpu->v.user ? PF_U : 0;
    struct mmu_walk walk;

    if (!mmu_canonical(va, 4))
        return mon_raise_error(cpu, VECTOR_GP, 0);
    cpu->exception.address = va;
    if (pt_index(va, 4) == MON_SLOT)
        return mon_raise_error(cpu, VECTOR_PF,
                               user | (access == MMU_WRITE ? PF_W : 0));
    if (walk_quickly(m, state.cr3, va, access, pa))
        return 0;
    mmu_walk(&state, &memory, &request, &walk);
    if (walk.outcome == MMU_PAGE_FAULT)
        return mon_raise_error(cpu, VECTOR_PF,
                               ((uint32_t)walk.error & ~PF_U) | user);
    if (walk.outcome != MMU_OK)
        return mon_end(cpu, MON_END_NO_MEMORY, va, 0);
    *pa = walk.pa;
    return 0;
}

/* With no shadow there is no hidden fault. */
int mon_direct_fault(struct mon_cpu *cpu)
{
    uint32_t error = (uint32_t)cpu->frame.error;

    /* For the guest there is nothing in our slot. */
    if (pt_index(cpu->fault_address, 4) == MON_SLOT)
        error &= ~PF_P;
    cpu->traps[MON_TRUE_FAULT]++;
    cpu->exception.address = cpu->fault_address;
    return mon_raise_error(cpu, VECTOR_PF, cpu->v.user ? error : error & ~PF_U);
}

/* ---- Roots ------------------------------------------------------------- */

/* Roots that are left stay valid until the CPU is off them, which it is when
 * it comes back. */
void mon_direct_enter(struct mon *m, struct mon_cpu *cpu)
{
    if (!cpu->left)
        return;
    direct_put_root(&m->direct, cpu->left_root[0]);
    direct_put_root(&m->direct, cpu->left_root[1]);
    cpu->left = false;
}

static int get_roots(struct mon *m, uint64_t kernel, uint64_t user)
{
    int err = direct_get_root(&m->direct, kernel);

    if (err)
        return err;
    err = direct_get_root(&m->direct, user);
    if (err)
        direct_put_root(&m->direct, kernel);
    return err;
}

/* References to both are held. */
static void use_roots(struct mon_cpu *cpu, uint64_t kernel, uint64_t user)
{
    cpu->kernel_root = kernel;
    cpu->user_root = user;
    cpu->v.cr3 = kernel;
}

static int set_roots(struct mon *m, struct mon_cpu *cpu, uint64_t kernel,
                     uint64_t user)
{
    int err = get_roots(m, kernel, user);

    if (err)
        return err;
    cpu->left_root[0] = cpu->kernel_root;
    cpu->left_root[1] = cpu->user_root;
    cpu->left = true;
    use_roots(cpu, kernel, user);
    mon_flush_own(m);
    return 0;
}

/* ---- Start ------------------------------------------------------------- */

/* A vCPU that stayed on shadow tables could write to those that others walk:
 * all leave them at once, and none runs while the root is validated. One that
 * has passed the lock on its way into the guest finds the root there. */
static int start_all(struct mon *m, uint64_t root)
{
    unsigned n = 0;
    int err = 0;

    mon_hold_others(m);
    while (!err && n < m->config.cpus) {
        err = get_roots(m, root, root);
        n += !err;
    }
    for (unsigned i = 0; i < n; i++) {
        struct mon_cpu *cpu = mon_cpu(m, i);

        if (err) {
            direct_put_root(&m->direct, root);
            direct_put_root(&m->direct, root);
            continue;
        }
        use_roots(cpu, root, root);
        cpu->direct = true;
        cpu->cr3 = root;
    }
    mon_let_go(m);
    return err;
}

static int start(struct mon *m, struct mon_cpu *cpu, uint64_t at,
                 int64_t *result)
{
    struct pv_start start;

    if (mon_read(m, cpu, at, &start, sizeof start))
        return RAISED;
    if (!mmu_canonical(start.syscall_entry, 4)) {
        *result = -EINVAL;
        return 0;
    }
    *result = cpu->direct ? set_roots(m, cpu, start.root, start.root)
                          : start_all(m, start.root);
    if (*result)
        return 0;
    cpu->pv_syscall = start.syscall_entry;
    cpu->pv_cr2 = (uint64_t)start.cr2;
    return 0;
}

/* ---- Updates ----------------------------------------------------------- */

/* The updates in one page of the guest's array. Another vCPU may write to it
 * meanwhile: each is read once. */
static unsigned update_some(struct mon *m, const struct pv_update *updates,
                            unsigned count)
{
    unsigned i = 0;

    for (; i < count; i++) {
        uint64_t entry = __atomic_load_n(&updates[i].entry, __ATOMIC_RELAXED);
        uint64_t value = __atomic_load_n(&updates[i].value, __ATOMIC_RELAXED);

        if (direct_update(&m->direct, entry, value))
            break;
    }
    return i;
}

/* A refused one ends the batch; a fault on the array is the guest's, with what
 * came before it done and the call to be made again. */
static int update(struct mon *m, struct mon_cpu *cpu, uint64_t at,
                  uint64_t count, int64_t *result)
{
    uint64_t done = 0;

    *result = 0;
    if (at % sizeof(struct pv_update) || count > PV_UPDATES_MAX)
        count = 0;
    while (done < count) {
        uint64_t left = count - done, pa = 0;
        uint64_t room = (PAGE_4K - at % PAGE_4K) / sizeof(struct pv_update);
        unsigned n = (unsigned)(left < room ? left : room), written;
        const void *from;

        if (mon_direct_locate(m, cpu, at, MMU_READ, &pa))
            return RAISED;
        from = mon_ram(m, pa, n * sizeof(struct pv_update));
        if (!from)
            return mon_end(cpu, MON_END_NO_MEMORY, pa, 0);
        written = update_some(m, from, n);
        done += written;
        at += n * sizeof(struct pv_update);
        if (written < n)
            break;
    }
    *result = (int64_t)done;
    return 0;
}

/* ---- Back to user code ------------------------------------------------- */

static int iret(struct mon *m, struct mon_cpu *cpu)
{
    struct mon_frame f;

    if (mon_read(m, cpu, cpu->frame.rsp, &f, sizeof f) ||
        mon_check_return(m, cpu, (uint16_t)f.cs, (uint16_t)f.ss, f.rip))
        return RAISED;
    f.vector = cpu->frame.vector;
    f.error = 0;
    cpu->frame = f;
    mon_set_rflags(m, cpu, f.rflags & (RFLAGS_LOADABLE | RFLAGS_RF));
    cpu->v.user = (f.cs & 3) == 3;
    mon_set_cs_ss(cpu, (uint16_t)f.cs, (uint16_t)f.ss);
    return 0;
}

/* User code's SYSCALL: on the stack the TSS names, as an event. */
int mon_direct_syscall(struct mon *m, struct mon_cpu *cpu)
{
    uint64_t slot[5] = {cpu->frame.rip, cpu->v.cs, mon_rflags(cpu),
                        cpu->frame.rsp, cpu->v.ss};
    uint64_t rsp;

    cpu->traps[MON_SYSCALL]++;
    cpu->v.user = false;
    if (mon_read(m, cpu, cpu->v.tr_base + 4, &rsp, 8) ||
        mon_write(m, cpu, rsp - sizeof slot, slot, sizeof slot)) {
        cpu->v.user = true;
        return RAISED;
    }
    cpu->frame.rsp = rsp - sizeof slot;
    cpu->frame.rip = cpu->pv_syscall;
    mon_set_cs_ss(cpu, (uint16_t)(cpu->v.star >> 32) & ~3u, 0);
    mon_set_rflags(m, cpu,
                   slot[2] & ~(RFLAGS_IF | RFLAGS_TF | RFLAGS_DF | RFLAGS_AC));
    return 0;
}

/* ---- The calls --------------------------------------------------------- */

static int64_t simple(struct mon *m, struct mon_cpu *cpu, uint64_t call)
{
    uint64_t a = cpu->frame.rdi, b = cpu->frame.rsi;

    switch (call) {
    case HC_SET_ROOTS:
        return set_roots(m, cpu, a, b);
    case HC_PIN:
        return direct_pin(&m->direct, a, b > 4 ? 0 : (unsigned)b);
    case HC_UNPIN:
        return direct_unpin(&m->direct, a);
    case HC_CLEAR:
        return direct_clear(&m->direct, a);
    case HC_FLUSH_PAGE:
        mon_flush_page(m, a);
        return 0;
    case HC_FLUSH:
        mon_flush_own(m);
        return 0;
    default:
        return -ENOSYS;
    }
}

/* What was validated while the guest could still write to it, on shadow
 * tables, would not be valid: before HC_START there is nothing else. */
static int dispatch(struct mon *m, struct mon_cpu *cpu, int64_t *result)
{
    uint64_t call = cpu->frame.rax, a = cpu->frame.rdi, b = cpu->frame.rsi;

    if (call == HC_START)
        return start(m, cpu, a, result);
    if (!cpu->direct)
        *result = call > HC_START && call <= HC_IRET ? -EINVAL : -ENOSYS;
    else if (call == HC_UPDATE)
        return update(m, cpu, a, b, result);
    else
        *result = simple(m, cpu, call);
    return 0;
}

int mon_hypercall(struct mon *m, struct mon_cpu *cpu)
{
    int64_t result = 0;
    int raised;

    cpu->traps[MON_HYPERCALL]++;
    if (cpu->direct && cpu->frame.rax == HC_IRET)
        return iret(m, cpu);
    raised = dispatch(m, cpu, &result);
    if (raised)
        cpu->frame.rip -= 2; /* at the SYSCALL: it can be made again */
    else
        cpu->frame.rax = (uint64_t)result;
    return raised;
}

void mon_direct_init(struct mon *m, void *frames)
{
    const struct direct_config config = {
        .physical_bits = m->config.physical_bits,
        .ram = {{0, m->config.low_end, m->ram_low},
                {1ull << 32, m->config.high_end, m->ram_high}},
        .flush_all = mon_flush_all,
        .arg = m,
        .fixed_index = MON_SLOT,
        .fixed_entry =
            (m->config.pa + MON_TABLES) | PTE_P | PTE_RW | PTE_US | PTE_A,
    };

    direct_init(&m->direct, &config, frames);
}
