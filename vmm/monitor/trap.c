/* Where every trap arrives. */
#include "vmm/monitor/core.h"

/* Of the real CR0, the monitor's and the guest's: who may use the FPU. */
#define CR0_OWN    (CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG)
#define CR0_GUESTS (CR0_MP | 1ull << 2 | 1ull << 3)

/* A guest that can't get on is stopped: no instruction needs so many fills. */
#define REPEATS_MAX 4096

/* ---- Small things everybody needs -------------------------------------- */

int mon_raise(struct mon_cpu *cpu, uint8_t vector)
{
    cpu->exception.pending = true;
    cpu->exception.has_error = false;
    cpu->exception.vector = vector;
    return RAISED;
}

int mon_raise_error(struct mon_cpu *cpu, uint8_t vector, uint32_t error)
{
    mon_raise(cpu, vector);
    cpu->exception.has_error = true;
    cpu->exception.error = error;
    return RAISED;
}

int mon_end(struct mon_cpu *cpu, enum mon_end end, uint64_t a, uint64_t b)
{
    if (cpu->end == MON_END_NONE) {
        cpu->end = end;
        cpu->end_a = a;
        cpu->end_b = b;
    }
    return RAISED;
}

void mon_stop(struct mon_cpu *cpu)
{
    mon_end(cpu, MON_END_HALTED, 0, 0);
}

uint64_t mon_rflags(const struct mon_cpu *cpu)
{
    return (cpu->frame.rflags & ~RFLAGS_VIRTUAL) | cpu->v.flags | RFLAGS_FIXED;
}

void mon_set_rflags(struct mon *m, struct mon_cpu *cpu, uint64_t flags)
{
    uint64_t changed = cpu->frame.rflags ^ flags;

    cpu->v.flags = flags & RFLAGS_VIRTUAL;
    cpu->frame.rflags =
        (flags & (RFLAGS_LOADABLE | RFLAGS_RF) & ~RFLAGS_VIRTUAL) |
        RFLAGS_FIXED;
    if (changed & RFLAGS_AC && cpu->v.cr4 & CR4_SMAP)
        mon_update_mode(m, cpu);
}

struct mmu_state mon_mmu_state(const struct mon *m, const struct mon_cpu *cpu)
{
    return (struct mmu_state){
        .cr3 = cpu->v.cr3,
        .levels = 4,
        .physical_bits = m->config.physical_bits,
        .wp = cpu->v.cr0 & CR0_WP,
        .nxe = cpu->v.efer & EFER_NXE,
        /* SMAP alone would need pages that the kernel can execute and not
         * read: taken as both. */
        .smep = cpu->v.cr4 & (CR4_SMEP | CR4_SMAP),
        .smap = cpu->v.cr4 & CR4_SMAP,
        .ac = cpu->frame.rflags & RFLAGS_AC,
        .pages_1g = true,
    };
}

int mon_update_mode(struct mon *m, struct mon_cpu *cpu)
{
    struct mmu_state state = mon_mmu_state(m, cpu);

    if (!cpu->direct &&
        shadow_set_state(m->shadow, &state,
                         cpu->v.user ? SHADOW_USER : SHADOW_KERNEL))
        return mon_end(cpu, MON_END_PAGING, cpu->v.cr4, cpu->v.cr0);
    return 0;
}

/* ---- Page faults ------------------------------------------------------- */

/* An instruction that faults at the same addresses over and over makes no
 * progress: what one answer brings, the next takes away. */
static int check_progress(struct mon_cpu *cpu)
{
    bool again = false;

    if (cpu->frame.rip != cpu->last_rip) {
        cpu->last_rip = cpu->frame.rip;
        cpu->repeats = 0;
    }
    for (unsigned i = 0; i < MON_ADDRESSES; i++)
        again |= cpu->last_address[i] == cpu->fault_address;
    if (!again)
        cpu->last_address[cpu->next_address++ % MON_ADDRESSES] =
            cpu->fault_address;
    else if (++cpu->repeats == REPEATS_MAX)
        return mon_end(cpu, MON_END_NO_PROGRESS, cpu->frame.rip,
                       cpu->fault_address);
    return 0;
}

static int write_traced(struct mon *m, struct mon_cpu *cpu, uint64_t pa)
{
    const struct insn *insn;

    if (mon_is_code(m, pa) && !mon_writes_own_code(m, cpu, pa)) {
        mon_code_written(m, cpu, pa);
        return check_progress(cpu);
    }
    if (mon_fetch(m, cpu, &insn))
        return RAISED;
    if (mon_can_store(insn)) {
        cpu->traps[MON_TRACED_WRITE]++;
        if (m->config.translate)
            mon_traced_write(m, cpu);
        return mon_emulate_store(m, cpu, insn);
    }
    if (mon_is_code(m, pa))
        mon_code_written(m, cpu, pa);
    cpu->traps[MON_UNSHADOWED]++;
    if (!shadow_unshadow(m->shadow, pa))
        return mon_end(cpu, MON_END_INSTRUCTION, cpu->frame.rip, 0);
    return check_progress(cpu);
}

/* ---- Poisoned translations --------------------------------------------- */

/* A load of our own at CPL 3 brings the translation into the TLB: one from
 * CPL 0 would not where a TLB keeps the two apart. The guest's instruction
 * then runs again, and hits. */
static void touch(struct mon_cpu *cpu)
{
    cpu->touching = true;
    cpu->touch_rip = cpu->frame.rip;
    cpu->touch_rax = cpu->frame.rax;
    cpu->touch_rflags = cpu->frame.rflags;
    cpu->frame.rip = MON_BASE + MON_TOUCH;
    cpu->frame.rax = cpu->fault_address;
    cpu->frame.rflags &= ~(RFLAGS_TF | RFLAGS_AC);
}

/* True when the trap was our load's own end, or its fault because another
 * vCPU took the translation away: the guest's instruction tells. */
static bool end_touch(struct mon *m, struct mon_cpu *cpu)
{
    bool ours =
        cpu->frame.vector == VECTOR_GP || cpu->frame.vector == VECTOR_PF;

    cpu->touching = false;
    cpu->frame.rip = cpu->touch_rip;
    cpu->frame.rax = cpu->touch_rax;
    cpu->frame.rflags = cpu->touch_rflags;
    shadow_repoison(m->shadow);
    return ours;
}

static int resolve(struct mon *m, struct mon_cpu *cpu,
                   const struct mmu_request *request)
{
    struct shadow_fault fault;
    enum shadow_outcome outcome =
        shadow_fault(m->shadow, (uint32_t)cpu->frame.error, request, &fault);

    switch (outcome) {
    case SHADOW_FIXED:
        cpu->traps[MON_HIDDEN_FAULT]++;
        return check_progress(cpu);
    case SHADOW_POISONED:
        cpu->traps[MON_POISONED]++;
        touch(cpu);
        return check_progress(cpu);
    case SHADOW_EMULATE_WRITE:
        return write_traced(m, cpu, fault.pa);
    default:
        cpu->traps[MON_TRUE_FAULT] += outcome == SHADOW_TRUE_FAULT;
        return mon_no_access(cpu, request->va, outcome, &fault);
    }
}

/* Where SYSCALL stays at CPL 3, its fetch at LSTAR faults: with RIP and CR2
 * there, and the return address in RCX. */
static bool is_syscall(const struct mon *m, const struct mon_cpu *cpu)
{
    const uint64_t entry = MON_BASE + MON_SYSCALL_ENTRY;

    return m->config.syscall_faults && cpu->frame.rip == entry &&
           cpu->fault_address == entry;
}

static int page_fault(struct mon *m, struct mon_cpu *cpu)
{
    uint32_t error = (uint32_t)cpu->frame.error;
    const struct mmu_request request = {
        .va = cpu->fault_address,
        .access = error & PF_I   ? MMU_FETCH
                  : error & PF_W ? MMU_WRITE
                                 : MMU_READ,
        .user = cpu->v.user,
    };

    if (is_syscall(m, cpu)) {
        cpu->frame.rip = cpu->frame.rcx;
        cpu->frame.rflags = cpu->frame.r11;
        return mon_syscall(m, cpu);
    }
    return cpu->direct ? mon_direct_fault(cpu) : resolve(m, cpu, &request);
}

/* ---- Other exceptions -------------------------------------------------- */

/* One that is the guest's own: its user code's, or what its kernel's code
 * means too. */
static int reflect(struct mon_cpu *cpu)
{
    uint8_t vector = (uint8_t)cpu->frame.vector;
    bool has_error =
        vector == VECTOR_DF || (vector >= VECTOR_TS && vector <= VECTOR_PF) ||
        vector == 17 || vector == 21 || vector == 29 || vector == 30;

    cpu->traps[MON_EXCEPTION + (vector & 31)]++;
    if (vector == VECTOR_DB)
        cpu->v.dr[6] |= 1u << 14; /* BS: nothing else is armed */
    if (has_error)
        return mon_raise_error(cpu, vector, (uint32_t)cpu->frame.error);
    return mon_raise(cpu, vector);
}

/* With IOPL 3, which the CPU doesn't have. */
static bool user_may(const struct mon_cpu *cpu, const struct insn *insn)
{
    return (cpu->v.flags & RFLAGS_IOPL) == RFLAGS_IOPL &&
           (insn->op == INSN_IN || insn->op == INSN_OUT ||
            insn->op == INSN_CLI || insn->op == INSN_STI);
}

/* User code may execute INT n where its gate says so, and with IOPL 3 more;
 * the CPU never lets it. */
static int user_instruction(struct mon *m, struct mon_cpu *cpu, bool *done)
{
    const struct insn *insn;

    if (mon_fetch(m, cpu, &insn))
        return RAISED;
    *done = insn->op == INSN_INT || user_may(cpu, insn);
    return *done ? mon_emulate(m, cpu, insn) : 0;
}

static bool is_selector_fault(const struct mon_cpu *cpu)
{
    return cpu->frame.error && !(cpu->frame.error & 7);
}

static int user_exception(struct mon *m, struct mon_cpu *cpu)
{
    uint8_t vector = (uint8_t)cpu->frame.vector;
    bool done = false;

    if ((vector == VECTOR_GP && cpu->frame.error & 2) ||
        (vector == VECTOR_GP && cpu->v.flags & RFLAGS_IOPL) ||
        (vector == VECTOR_UD && m->config.syscall_faults)) {
        if (user_instruction(m, cpu, &done))
            return RAISED;
    } else if ((vector == VECTOR_GP || vector == VECTOR_NP) &&
               is_selector_fault(cpu)) {
        done = mon_refresh_gdt(m, cpu, (uint16_t)cpu->frame.error);
    }
    return done ? 0 : reflect(cpu);
}

/* #GP and #UD of the guest kernel: mostly because it isn't at CPL 0. */
static int kernel_exception(struct mon *m, struct mon_cpu *cpu)
{
    uint8_t vector = (uint8_t)cpu->frame.vector;
    const struct insn *insn;

    if (vector != VECTOR_GP && vector != VECTOR_UD && vector != VECTOR_NP &&
        vector != VECTOR_SS)
        return reflect(cpu);
    if (mon_fetch(m, cpu, &insn))
        return RAISED;
    if (insn->op == INSN_UNSUPPORTED || insn->op >= INSN_MOV)
        return reflect(cpu);
    if (vector == VECTOR_GP && !cpu->frame.error && insn->op == INSN_UNDEFINED)
        return reflect(cpu);
    return mon_emulate(m, cpu, insn);
}

static int dispatch(struct mon *m, struct mon_cpu *cpu)
{
    switch (cpu->frame.vector) {
    case VECTOR_PF:
        return page_fault(m, cpu);
    case MON_VECTOR_SYSCALL:
        return mon_syscall(m, cpu);
    case MON_VECTOR_KICK:
        cpu->traps[MON_KICKED]++;
        return 0;
    }
    if (cpu->frame.vector >= 32)
        return 0; /* no device of the VM's sends it */
    return cpu->v.user ? user_exception(m, cpu) : kernel_exception(m, cpu);
}

/* ---- In and out -------------------------------------------------------- */

void mon_lock(struct mon *m, struct mon_cpu *cpu)
{
    while (__atomic_exchange_n(&m->lock, true, __ATOMIC_ACQUIRE))
        m->ops.relax(cpu);
    m->current = cpu;
    shadow_select(m->shadow, cpu->id);
}

void mon_unlock(struct mon *m)
{
    m->current = NULL;
    __atomic_store_n(&m->lock, false, __ATOMIC_RELEASE);
}

/* Interrupts are for other vCPUs' kicks; with one vCPU there are none, and
 * user code sees its own IF in PUSHF. */
static void leave(struct mon *m, struct mon_cpu *cpu)
{
    bool open =
        m->config.cpus > 1 || !cpu->v.user || (cpu->v.flags & RFLAGS_IF);

    if (open)
        cpu->frame.rflags |= RFLAGS_IF;
    else
        cpu->frame.rflags &= ~RFLAGS_IF;
    cpu->cr3 = !cpu->direct  ? shadow_root(m->shadow)
               : cpu->v.user ? cpu->user_root
                             : cpu->kernel_root;
    cpu->user_gdt = cpu->v.user;
    cpu->cr0 = CR0_OWN | (cpu->v.cr0 & CR0_GUESTS);
}

static enum mon_came come(struct mon *m, struct mon_cpu *cpu)
{
    bool syscall = cpu->frame.vector == VECTOR_PF && is_syscall(m, cpu);

    if (cpu->touching && end_touch(m, cpu))
        return MON_CAME_DONE;
    return m->config.translate ? mon_leave_translated(m, cpu, syscall)
                               : MON_CAME_TRAP;
}

/* STI lets an interrupt in that has come before: not before the next
 * instruction, which is stepped. */
static void begin_step(struct mon_cpu *cpu)
{
    bool step = cpu->bt.untranslated ||
                (cpu->v.sti_shadow && cpu->v.flags & RFLAGS_IF &&
                 mon_interrupt_pending(cpu));

    cpu->bt.untranslated = false;
    cpu->stepping = step && !(cpu->frame.rflags & RFLAGS_TF);
    if (cpu->stepping)
        cpu->frame.rflags |= RFLAGS_TF;
}

static bool end_step(struct mon_cpu *cpu)
{
    bool stepped = cpu->stepping && cpu->frame.vector == VECTOR_DB;

    if (cpu->stepping)
        cpu->frame.rflags &= ~RFLAGS_TF;
    cpu->stepping = false;
    cpu->v.sti_shadow &= !stepped;
    return stepped;
}

/* Events until there are no more: the kernel's next instruction may fault
 * before it is translated. */
static void settle(struct mon *m, struct mon_cpu *cpu)
{
    do {
        do
            mon_deliver_exception(m, cpu);
        while (!cpu->end && mon_interrupt(m, cpu));
    } while (!cpu->end && m->config.translate && mon_enter_translated(m, cpu));
}

void mon_trap(struct mon *m, struct mon_cpu *cpu)
{
    enum mon_came came;

    mon_lock(m, cpu);
    cpu->exception.pending = false;
    mon_direct_enter(m, cpu);
    came = come(m, cpu);
    if (came != MON_CAME_WITHIN) {
        if (!end_step(cpu) && came == MON_CAME_TRAP)
            dispatch(m, cpu);
        settle(m, cpu);
        begin_step(cpu);
    }
    leave(m, cpu);
    mon_unlock(m);
}

/* ---- Start ------------------------------------------------------------- */

static void reset(struct mon *m, struct mon_cpu *cpu)
{
    const struct mon_config *config = &m->config;

    cpu->v = (struct mon_virtual){
        .cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG,
        .cr3 = config->cr3,
        .cr4 = CR4_PAE,
        .efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE,
        .pat = 0x0007040600070406,
        .gdt_base = config->gdt,
        .gdt_limit = 3 * 8 - 1,
        .idt_limit = 0xffff,
        .tr_limit = 0xffff,
        .apic_base = 0xfee00000u | 1u << 11 | (cpu->id ? 0 : 1u << 8),
        .dr = {[6] = 0xffff0ff0, [7] = 0x400},
    };
    cpu->frame = (struct mon_frame){
        .rip = config->entry,
        .rbx = config->start_info,
        .rdi = cpu->id,
        .rflags = RFLAGS_FIXED,
    };
    mon_set_cs_ss(cpu, 0x08, 0x10);
}

void mon_start_cpu(struct mon *m, struct mon_cpu *cpu)
{
    mon_lock(m, cpu);
    reset(m, cpu);
    if (cpu->direct) /* by another's HC_START, before this one was here */
        cpu->v.cr3 = cpu->kernel_root;
    if (!mon_update_mode(m, cpu)) {
        mon_load_gdt(m, cpu);
        settle(m, cpu);
    }
    leave(m, cpu);
    mon_unlock(m);
}

int mon_init(struct mon *m, const struct mon_config *config,
             const struct mon_ops *ops, uint8_t *ram_low, uint8_t *ram_high,
             uint8_t *memory)
{
    *m = (struct mon){
        .config = *config,
        .ops = *ops,
        .ram_low = ram_low,
        .ram_high = ram_high,
        .cpus = (struct mon_cpu *)(memory + MON_CPUS),
        .sites = (struct mon_site *)(memory + MON_SITES),
        .site_mask = 8191,
    };
    if (config->translate)
        mon_translated_init(m, memory);
    if (config->pv)
        mon_direct_init(m, memory + config->frames);
    return mon_memory_init(m, memory + MON_ARENA);
}
