/* Control registers, debug registers and MSRs. */
#include "vmm/monitor/core.h"

#define CR0_TS (1ull << 3)
#define CR0_NW (1ull << 29)
#define CR0_CD (1ull << 30)
#define CR0_DEFINED                                                      \
    (CR0_PE | CR0_MP | (1ull << 2) | CR0_TS | CR0_ET | CR0_NE | CR0_WP | \
     (1ull << 18) | CR0_NW | CR0_CD | CR0_PG)

#define CR4_TSD  (1ull << 2)
#define CR4_PGE  (1ull << 7)
#define CR4_UMIP (1ull << 11)
/* VME to PCE, OSFXSR, OSXMMEXCPT, UMIP, PCIDE, SMEP, SMAP. */
#define CR4_DEFINED (0x7ffull | CR4_UMIP | CR4_PCIDE | CR4_SMEP | CR4_SMAP)
#define CR4_PAGING  (CR4_PGE | (1ull << 4) | CR4_PAE | CR4_SMEP | CR4_SMAP)

#define CR3_NO_FLUSH (1ull << 63)

enum {
    MSR_TSC = 0x10,
    MSR_APIC_BASE = 0x1b,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_EIP = 0x176,
    MSR_PAT = 0x277,
};
#define MSR_EFER           0xc0000080u
#define MSR_STAR           0xc0000081u
#define MSR_LSTAR          0xc0000082u
#define MSR_CSTAR          0xc0000083u
#define MSR_FMASK          0xc0000084u
#define MSR_FS_BASE        0xc0000100u
#define MSR_GS_BASE        0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX        0xc0000103u

static int bad(struct mon_cpu *cpu)
{
    return mon_raise_error(cpu, VECTOR_GP, 0);
}

static void flush(struct mon *m, struct mon_cpu *cpu)
{
    if (cpu->direct)
        mon_flush_own(m);
    else
        shadow_flush_all(m->shadow);
    if (m->config.trace)
        mon_log_cr3(m, cpu);
    mon_flushed(cpu);
}

static void invlpg(struct mon *m, struct mon_cpu *cpu, uint64_t va)
{
    if (cpu->direct)
        mon_flush_page(m, va);
    else
        shadow_invlpg(m->shadow, va);
    if (m->config.trace)
        mon_log_invlpg(m, cpu, va);
    mon_flushed_page(cpu, va);
}

/* ---- Control registers ------------------------------------------------- */

/* Paging can't be turned off in 64-bit mode (SDM vol. 2, MOV to CR). */
static int set_cr0(struct mon *m, struct mon_cpu *cpu, uint64_t value)
{
    uint64_t old = cpu->v.cr0;

    if (value >> 32 || ((value & CR0_PG) && !(value & CR0_PE)) ||
        ((value & CR0_NW) && !(value & CR0_CD)))
        return bad(cpu);
    if (!(value & CR0_PG))
        return bad(cpu);
    cpu->v.cr0 = (value & CR0_DEFINED) | CR0_ET;
    if ((old ^ cpu->v.cr0) & CR0_WP) {
        if (mon_update_mode(m, cpu))
            return RAISED;
        flush(m, cpu);
    }
    return 0;
}

static int set_cr3(struct mon *m, struct mon_cpu *cpu, uint64_t value)
{
    if (!(cpu->v.cr4 & CR4_PCIDE))
        value &= ~CR3_NO_FLUSH;
    if ((value & ~CR3_NO_FLUSH) >> m->config.physical_bits)
        return bad(cpu);
    /* A root that is not a hypercall's was not validated. */
    if (cpu->direct && value != cpu->v.cr3)
        return bad(cpu);
    cpu->v.cr3 = value & ~CR3_NO_FLUSH;
    if (cpu->direct)
        mon_flush_own(m);
    else
        shadow_set_cr3(m->shadow, cpu->v.cr3);
    if (m->config.trace)
        mon_log_cr3(m, cpu);
    mon_flushed(cpu);
    return 0;
}

static int set_cr4(struct mon *m, struct mon_cpu *cpu, uint64_t value)
{
    uint64_t old = cpu->v.cr4;

    if (value & ~CR4_DEFINED || !(value & CR4_PAE))
        return bad(cpu);
    if ((value & CR4_PCIDE) && !(old & CR4_PCIDE) && (cpu->v.cr3 & 0xfff))
        return bad(cpu);
    cpu->v.cr4 = value;
    if ((old ^ value) & CR4_PAGING) {
        if (mon_update_mode(m, cpu))
            return RAISED;
        flush(m, cpu);
    }
    return 0;
}

static int mov_from_cr(struct mon_cpu *cpu, const struct insn *insn)
{
    const uint64_t *cr[9] = {
        [0] = &cpu->v.cr0, [2] = &cpu->v.cr2, [3] = &cpu->v.cr3,
        [4] = &cpu->v.cr4, [8] = &cpu->v.cr8,
    };

    if (insn->number > 8 || !cr[insn->number])
        return mon_raise(cpu, VECTOR_UD);
    mon_set_reg(cpu, insn->operand[0].reg, 8, *cr[insn->number]);
    return 0;
}

static int mov_to_cr(struct mon *m, struct mon_cpu *cpu,
                     const struct insn *insn)
{
    uint64_t value = mon_get_reg(cpu, insn->operand[0].reg, 8);

    switch (insn->number) {
    case 0:
        return set_cr0(m, cpu, value);
    case 2:
        cpu->v.cr2 = value;
        return cpu->direct ? mon_write(m, cpu, cpu->pv_cr2, &value, 8) : 0;
    case 3:
        return set_cr3(m, cpu, value);
    case 4:
        return set_cr4(m, cpu, value);
    case 8:
        if (value >> 4)
            return bad(cpu);
        cpu->v.cr8 = value;
        return 0;
    default:
        return mon_raise(cpu, VECTOR_UD);
    }
}

/* LMSW sets PE, MP, EM and TS, and can't clear PE. */
static int lmsw(struct mon *m, struct mon_cpu *cpu, const struct insn *insn)
{
    uint64_t value;

    if (mon_get_operand(m, cpu, insn, 0, &value))
        return RAISED;
    return set_cr0(m, cpu, (cpu->v.cr0 & ~0xeull) | (value & 0xf));
}

static int smsw(struct mon *m, struct mon_cpu *cpu, const struct insn *insn)
{
    uint64_t value = cpu->v.cr0;

    if (insn->operand[0].kind == INSN_OPERAND_MEMORY)
        value &= 0xffff;
    return mon_set_operand(m, cpu, insn, 0, value);
}

/* ---- Debug registers --------------------------------------------------- */

/* Kept and given back; breakpoints are never armed. */
static int mov_dr(struct mon_cpu *cpu, const struct insn *insn, bool to)
{
    unsigned n = insn->number;

    if (n == 4 || n == 5)
        n += 2;
    if (n > 7)
        return mon_raise(cpu, VECTOR_UD);
    if (!to) {
        mon_set_reg(cpu, insn->operand[0].reg, 8, cpu->v.dr[n]);
        return 0;
    }
    cpu->v.dr[n] = mon_get_reg(cpu, insn->operand[0].reg, 8);
    if (n >= 6 && cpu->v.dr[n] >> 32)
        return bad(cpu);
    if (n == 6)
        cpu->v.dr[6] = (cpu->v.dr[6] & 0xe00f) | 0xffff0ff0;
    else if (n == 7)
        cpu->v.dr[7] = (cpu->v.dr[7] & 0xffff2bff) | 0x400;
    return 0;
}

/* ---- MSRs -------------------------------------------------------------- */

static uint64_t *plain_msr(struct mon_cpu *cpu, uint32_t msr)
{
    switch (msr) {
    case MSR_SYSENTER_CS ... MSR_SYSENTER_EIP:
        return &cpu->v.sysenter[msr - MSR_SYSENTER_CS];
    case MSR_PAT:
        return &cpu->v.pat;
    case MSR_STAR:
        return &cpu->v.star;
    case MSR_LSTAR:
        return &cpu->v.lstar;
    case MSR_CSTAR:
        return &cpu->v.cstar;
    case MSR_FMASK:
        return &cpu->v.fmask;
    case MSR_KERNEL_GS_BASE:
        return &cpu->v.kernel_gs_base;
    case MSR_TSC_AUX:
        return &cpu->v.tsc_aux;
    default:
        return NULL;
    }
}

static bool holds_address(uint32_t msr)
{
    return msr == MSR_LSTAR || msr == MSR_CSTAR || msr == MSR_FS_BASE ||
           msr == MSR_GS_BASE || msr == MSR_KERNEL_GS_BASE ||
           (msr > MSR_SYSENTER_CS && msr <= MSR_SYSENTER_EIP);
}

static int rdmsr(struct mon *m, struct mon_cpu *cpu)
{
    uint32_t msr = (uint32_t)mon_get_reg(cpu, 1, 4);
    const uint64_t *plain = plain_msr(cpu, msr);
    uint64_t value;

    if (plain)
        value = *plain;
    else if (msr == MSR_EFER)
        value = cpu->v.efer;
    else if (msr == MSR_FS_BASE || msr == MSR_GS_BASE)
        value = m->ops.get_base(cpu, msr == MSR_FS_BASE ? INSN_FS : INSN_GS);
    else if (msr == MSR_TSC)
        value = m->ops.tsc();
    else if (!mon_msr_is_apic(msr))
        return bad(cpu);
    else if (mon_apic_read(m, cpu, msr, &value))
        return RAISED;
    mon_set_reg(cpu, 0, 4, (uint32_t)value);
    mon_set_reg(cpu, 2, 4, value >> 32);
    return 0;
}

/* LME can't change while paging is on, and LMA never. */
static int set_efer(struct mon *m, struct mon_cpu *cpu, uint64_t value)
{
    uint64_t old = cpu->v.efer;

    if (value & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE) ||
        ((value ^ old) & EFER_LME))
        return bad(cpu);
    cpu->v.efer = (value & ~EFER_LMA) | (old & EFER_LMA);
    if ((old ^ cpu->v.efer) & EFER_NXE) {
        if (mon_update_mode(m, cpu))
            return RAISED;
        flush(m, cpu);
    }
    return 0;
}

static void set_base(struct mon *m, struct mon_cpu *cpu, unsigned segment,
                     uint64_t base)
{
    m->ops.set_base(cpu, segment, base);
    if (m->config.trace)
        mon_log_bases(m, cpu);
}

static int wrmsr(struct mon *m, struct mon_cpu *cpu)
{
    uint32_t msr = (uint32_t)mon_get_reg(cpu, 1, 4);
    uint64_t value = mon_get_reg(cpu, 2, 4) << 32 | mon_get_reg(cpu, 0, 4);
    uint64_t *plain = plain_msr(cpu, msr);

    if (holds_address(msr) && !mmu_canonical(value, 4))
        return bad(cpu);
    if (plain)
        *plain = value;
    else if (msr == MSR_EFER)
        return set_efer(m, cpu, value);
    else if (msr == MSR_FS_BASE || msr == MSR_GS_BASE)
        set_base(m, cpu, msr == MSR_FS_BASE ? INSN_FS : INSN_GS, value);
    else if (!mon_msr_is_apic(msr))
        return bad(cpu);
    else
        return mon_apic_write(m, cpu, msr, value);
    return 0;
}

static int swapgs(struct mon *m, struct mon_cpu *cpu)
{
    uint64_t base = m->ops.get_base(cpu, INSN_GS);

    set_base(m, cpu, INSN_GS, cpu->v.kernel_gs_base);
    cpu->v.kernel_gs_base = base;
    return 0;
}

static int invpcid(struct mon *m, struct mon_cpu *cpu, const struct insn *insn)
{
    uint64_t descriptor[2];

    if (mon_read(m, cpu, mon_address(m, cpu, insn), descriptor, 16))
        return RAISED;
    if (mon_get_reg(cpu, insn->operand[0].reg, 8) > 3)
        return bad(cpu);
    flush(m, cpu);
    return 0;
}

int mon_emulate_control(struct mon *m, struct mon_cpu *cpu,
                        const struct insn *insn)
{
    switch (insn->op) {
    case INSN_MOV_FROM_CR:
        return mov_from_cr(cpu, insn);
    case INSN_MOV_TO_CR:
        return mov_to_cr(m, cpu, insn);
    case INSN_MOV_FROM_DR:
    case INSN_MOV_TO_DR:
        return mov_dr(cpu, insn, insn->op == INSN_MOV_TO_DR);
    case INSN_LMSW:
        return lmsw(m, cpu, insn);
    case INSN_SMSW:
        return smsw(m, cpu, insn);
    case INSN_CLTS:
        cpu->v.cr0 &= ~CR0_TS;
        return 0;
    case INSN_INVLPG:
        invlpg(m, cpu, mon_address(m, cpu, insn));
        return 0;
    case INSN_INVPCID:
        return invpcid(m, cpu, insn);
    case INSN_RDMSR:
        return rdmsr(m, cpu);
    case INSN_WRMSR:
        return wrmsr(m, cpu);
    default:
        return swapgs(m, cpu);
    }
}
