/* The self-test: flags, control registers, MSRs (SDM vol. 3A, chapter 2). */
#include "workloads/guest/selftest.h"

#define MSR_EFER           0xc0000080
#define MSR_STAR           0xc0000081
#define MSR_LSTAR          0xc0000082
#define MSR_FMASK          0xc0000084
#define MSR_FS_BASE        0xc0000100
#define MSR_GS_BASE        0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_NONE           0xdeadbeef

#define FLAG_IF   (1u << 9)
#define FLAG_DF   (1u << 10)
#define FLAG_IOPL (3u << 12)
#define FLAG_NT   (1u << 14)
#define FLAG_RF   (1u << 16)
#define FLAG_VM   (1u << 17)
#define FLAG_AC   (1u << 18)
#define FLAG_VIF  (1u << 19)
#define FLAG_VIP  (1u << 20)
#define FLAG_ID   (1u << 21)
#define STATUS    0x8d5u /* the arithmetic flags */
#define FIXED     2u

#define CR0_TS    (1ull << 3)
#define CR0_AM    (1ull << 18)
#define CR4_PGE   (1ull << 7)
#define VECTOR_GP 13

#define PORT_PIC1_MASK 0x21
#define PORT_PIC2_MASK 0xa1

uint64_t probe_mov_cr0(uint64_t arg);
uint64_t probe_mov_cr4(uint64_t arg);
uint64_t probe_mov_cr8(uint64_t arg);
uint64_t probe_rdmsr(uint64_t arg);
uint64_t probe_rdmsr_at(uint64_t arg);
uint64_t probe_wrmsr(uint64_t arg);
uint64_t probe_wrmsr_at(uint64_t arg);

/* ---- Flags ------------------------------------------------------------- */

static uint64_t pushf(void)
{
    uint64_t flags;

    __asm__ volatile("pushfq; popq %0" : "=r"(flags)::"memory");
    return flags;
}

/* What PUSHF shows after POPF of `flags`, which are then put back. */
static uint64_t popf(uint64_t flags)
{
    uint64_t seen;

    __asm__ volatile("pushq %1\n\t"
                     "popfq\n\t"
                     "pushfq\n\t"
                     "popq %0\n\t"
                     "pushq $2\n\t"
                     "popfq"
                     : "=&r"(seen)
                     : "r"(flags)
                     : "memory", "cc");
    return seen;
}

static uint64_t popf16(uint64_t flags)
{
    uint64_t seen;

    __asm__ volatile("pushfq\n\t"
                     "pushw %w1\n\t"
                     "popfw\n\t"
                     "pushfw\n\t"
                     "popw %w0\n\t"
                     "popfq"
                     : "=&r"(seen)
                     : "r"(flags)
                     : "memory", "cc");
    return seen & 0xffff;
}

/* IRET to the next instruction. */
static uint64_t iret(uint64_t flags)
{
    uint64_t seen, rsp;

    __asm__ volatile("movq %%rsp, %1\n\t"
                     "pushq %4\n\t"
                     "pushq %1\n\t"
                     "pushq %2\n\t"
                     "pushq %3\n\t"
                     "leaq 1f(%%rip), %0\n\t"
                     "pushq %0\n\t"
                     "iretq\n"
                     "1:\n\t"
                     "pushfq\n\t"
                     "popq %0\n\t"
                     "pushq $2\n\t"
                     "popfq"
                     : "=&r"(seen), "=&r"(rsp)
                     : "r"(flags), "i"(KERNEL_CS), "i"(KERNEL_SS)
                     : "memory", "cc");
    return seen;
}

static void interrupt_flag(struct selftest *t)
{
    uint64_t seen;

    check(t, "CLI", "IF at first", pushf() & FLAG_IF, 0);
    __asm__ volatile("sti; pushfq; popq %0; cli" : "=r"(seen)::"memory");
    check(t, "STI", "IF", seen & FLAG_IF, FLAG_IF);
    check(t, "CLI", "IF", pushf() & FLAG_IF, 0);
}

static const struct {
    const char *name;
    uint64_t flags, expected;
} popf_cases[] = {
    {"none", FIXED, FIXED},
    {"IF", FIXED | FLAG_IF, FIXED | FLAG_IF},
    {"DF", FIXED | FLAG_DF, FIXED | FLAG_DF},
    {"IOPL 1", FIXED | 0x1000, FIXED | 0x1000},
    {"IOPL 2", FIXED | 0x2000, FIXED | 0x2000},
    {"IOPL 3", FIXED | FLAG_IOPL, FIXED | FLAG_IOPL},
    {"NT", FIXED | FLAG_NT, FIXED | FLAG_NT},
    {"AC", FIXED | FLAG_AC, FIXED | FLAG_AC},
    {"ID", FIXED | FLAG_ID, FIXED | FLAG_ID},
    {"the arithmetic flags", FIXED | STATUS, FIXED | STATUS},
    {"all of these", FIXED | STATUS | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_AC,
     FIXED | STATUS | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_AC},
    {"reserved bits", 0x8028, FIXED},
    {"RF, VM, VIF, VIP", FIXED | FLAG_RF | FLAG_VM | FLAG_VIF | FLAG_VIP,
     FIXED},
};

static void check_iret(struct selftest *t, const char *part, uint64_t given,
                       uint64_t expected)
{
    check_or(t, "IRET", part, iret(given), expected, DEVIATION_PVM_IRET,
             (given & ~FLAG_IOPL) | FIXED);
}

static void flags(struct selftest *t)
{
    for (unsigned i = 0; i < sizeof popf_cases / sizeof popf_cases[0]; i++)
        check(t, "POPF and PUSHF", popf_cases[i].name,
              popf(popf_cases[i].flags), popf_cases[i].expected);
    check(t, "16-bit POPF and PUSHF", "IF, IOPL", popf16(FLAG_IF | FLAG_IOPL),
          FIXED | FLAG_IF | FLAG_IOPL);
    for (unsigned i = 0; i < sizeof popf_cases / sizeof popf_cases[0] - 1; i++)
        check_iret(t, popf_cases[i].name, popf_cases[i].flags,
                   popf_cases[i].expected);
}

/* ---- Control registers ------------------------------------------------- */

static uint64_t read_cr0(void)
{
    uint64_t value;

    __asm__ volatile("movq %%cr0, %0" : "=r"(value));
    return value;
}

static void write_cr0(uint64_t value)
{
    __asm__ volatile("movq %0, %%cr0" ::"r"(value) : "memory");
}

static uint64_t smsw(void)
{
    uint64_t value;

    __asm__ volatile("smsw %0" : "=r"(value));
    return value;
}

static void cr0(struct selftest *t)
{
    uint64_t first = read_cr0(), seen;
    uint16_t low = 0;

    check(t, "CR0", "PG, WP, NE, PE",
          first & (CR0_PG | CR0_WP | CR0_NE | CR0_PE),
          CR0_PG | CR0_WP | CR0_NE | CR0_PE);
    check(t, "SMSW", "against CR0", (smsw() ^ first) & 0xffff, 0);
    write_cr0(first | CR0_TS | CR0_AM);
    check(t, "CR0", "TS, AM set", read_cr0() & (CR0_TS | CR0_AM),
          CR0_TS | CR0_AM);
    __asm__ volatile("smsw %0" : "=m"(low));
    check(t, "SMSW to memory", "TS", low & CR0_TS, CR0_TS);
    __asm__ volatile("clts");
    check(t, "CLTS", "TS", read_cr0() & CR0_TS, 0);
    __asm__ volatile("lmsw %w0" ::"r"((smsw() | CR0_TS) & ~CR0_PE));
    seen = read_cr0();
    check(t, "LMSW", "TS set, PE kept", seen & (CR0_TS | CR0_PE),
          CR0_TS | CR0_PE);
    write_cr0(first & ~CR0_WP);
    check(t, "CR0", "WP clear", read_cr0() ^ first, CR0_WP);
    write_cr0(first);
    check(t, "CR0", "as before", read_cr0() ^ first, 0);
    check_fault_unless(t, DEVIATION_TCG_PAGING, "CR0.PG cleared", probe_mov_cr0,
                       first & ~CR0_PG, VECTOR_GP, 0);
    check_fault_unless(t, DEVIATION_TCG_PAGING, "CR0.PE cleared", probe_mov_cr0,
                       first & ~CR0_PE, VECTOR_GP, 0);
    check_fault_unless(t, DEVIATION_CR_VALUES, "CR0 bit 63", probe_mov_cr0,
                       first | 1ull << 63, VECTOR_GP, 0);
    write_cr0(first);
}

/* Two platforms, two errors. */
static enum deviation upper_deviation(const struct selftest *t)
{
    return selftest_expects(t, DEVIATION_TCG_CR4) ? DEVIATION_TCG_CR4
                                                  : DEVIATION_CR_VALUES;
}

static void cr4(struct selftest *t)
{
    uint64_t first = read_cr4();

    check(t, "CR4", "PAE, OSFXSR", first & (CR4_PAE | CR4_OSFXSR),
          CR4_PAE | CR4_OSFXSR);
    write_cr4(first ^ CR4_PGE);
    check(t, "CR4", "PGE turned", read_cr4() ^ first, CR4_PGE);
    write_cr4(first);
    check(t, "CR4", "as before", read_cr4() ^ first, 0);
    check_fault_unless(t, DEVIATION_TCG_PAGING, "CR4.PAE cleared",
                       probe_mov_cr4, first & ~CR4_PAE, VECTOR_GP, 0);
    check_fault_unless(t, upper_deviation(t), "CR4 bit 63", probe_mov_cr4,
                       first | 1ull << 63, VECTOR_GP, 0);
    write_cr4(first);
}

static uint64_t read_cr8(void)
{
    uint64_t value;

    __asm__ volatile("movq %%cr8, %0" : "=r"(value));
    return value;
}

static void write_cr8(uint64_t value)
{
    __asm__ volatile("movq %0, %%cr8" ::"r"(value));
}

static void other_control(struct selftest *t)
{
    uint64_t cr3 = read_cr3();
    uint64_t root = (uint64_t)selftest_cpu(t)->kernel->kernel_root;

    __asm__ volatile("movq %0, %%cr2" ::"r"(0x123456789abcull));
    check(t, "CR2", "written", read_cr2(), 0x123456789abc);
    check(t, "CR3", "what the kernel loaded", cr3 - (root - DIRECT_BASE), 0);
    write_cr3(cr3);
    check(t, "CR3", "loaded again", read_cr3() - cr3, 0);
    check(t, "CR8", "at first", read_cr8(), 0);
    write_cr8(11);
    check(t, "CR8", "written", read_cr8(), 11);
    write_cr8(0);
    check(t, "CR8", "as before", read_cr8(), 0);
    check_fault_unless(t, DEVIATION_CR_VALUES, "CR8 = 16", probe_mov_cr8, 16,
                       VECTOR_GP, 0);
    write_cr8(0);
}

/* ---- MSRs -------------------------------------------------------------- */

static void check_wrmsr_fault(struct selftest *t, const char *name,
                              uint32_t msr, uint64_t value)
{
    const uint64_t arg[2] = {msr, value}, first = rdmsr(msr);
    struct caught c;

    selftest_catch(t, &c, probe_wrmsr, (uint64_t)arg);
    wrmsr(msr, first);
    check_trap_unless(t, DEVIATION_TCG_MSR, name, &c, VECTOR_GP, 0,
                      (uint64_t)probe_wrmsr_at);
}

static void check_msr(struct selftest *t, const char *name, uint32_t msr,
                      uint64_t value)
{
    uint64_t first = rdmsr(msr);

    wrmsr(msr, value);
    check(t, name, "written", rdmsr(msr), value);
    wrmsr(msr, first);
    check(t, name, "as before", rdmsr(msr) - first, 0);
}

static void msrs(struct selftest *t)
{
    uint64_t efer = rdmsr(MSR_EFER);
    struct caught c;

    check(t, "EFER", "SCE, LME, LMA, NXE", efer, 0xd01);
    wrmsr(MSR_EFER, efer & ~1ull);
    check(t, "EFER", "SCE clear", rdmsr(MSR_EFER), 0xd00);
    wrmsr(MSR_EFER, efer);
    check(t, "EFER", "as before", rdmsr(MSR_EFER) - efer, 0);
    check(t, "STAR", "as loaded", rdmsr(MSR_STAR) >> 32,
          (uint64_t)(USER_SS - 8) << 16 | KERNEL_CS);
    check(t, "LSTAR", "as loaded", rdmsr(MSR_LSTAR) - (uint64_t)syscall_entry,
          0);
    check(t, "FMASK", "as loaded", rdmsr(MSR_FMASK), 0x40700);
    check_msr(t, "STAR", MSR_STAR, 0x0123456789abcdef);
    check_msr(t, "LSTAR", MSR_LSTAR, 0x7f1234567890);
    check_msr(t, "FMASK", MSR_FMASK, 0x47700);
    check_msr(t, "FS base", MSR_FS_BASE, 0xffff812345678900);
    check_msr(t, "GS base", MSR_GS_BASE, 0x00007f3456789abc);
    check_msr(t, "kernel GS base", MSR_KERNEL_GS_BASE, 0xffff800000001000);
    check_wrmsr_fault(t, "LSTAR not canonical", MSR_LSTAR, 1ull << 63);
    check_wrmsr_fault(t, "FS base not canonical", MSR_FS_BASE, 1ull << 63);
    check_wrmsr_fault(t, "EFER reserved bit", MSR_EFER, efer | 1ull << 63);
    selftest_catch(t, &c, probe_rdmsr, MSR_NONE);
    check_trap_unless(t, DEVIATION_TCG_MSR, "RDMSR of no MSR", &c, VECTOR_GP, 0,
                      (uint64_t)probe_rdmsr_at);
}

static uint64_t load_gs0(void)
{
    uint64_t value;

    __asm__ volatile("movq %%gs:0, %0" : "=r"(value)::"memory");
    return value;
}

static uint64_t load_fs8(void)
{
    uint64_t value;

    __asm__ volatile("movq %%fs:8, %0" : "=r"(value)::"memory");
    return value;
}

static void swapgs(struct selftest *t)
{
    const uint64_t words[4] = {0x1111, 0x2222, 0x3333, 0x4444};
    uint64_t gs = rdmsr(MSR_GS_BASE), kernel_gs = rdmsr(MSR_KERNEL_GS_BASE);

    wrmsr(MSR_GS_BASE, (uint64_t)&words[0]);
    wrmsr(MSR_KERNEL_GS_BASE, (uint64_t)&words[1]);
    wrmsr(MSR_FS_BASE, (uint64_t)&words[2]);
    check(t, "GS base", "a load through it", load_gs0(), 0x1111);
    check(t, "FS base", "a load through it", load_fs8(), 0x4444);
    __asm__ volatile("swapgs" ::: "memory");
    check(t, "SWAPGS", "a load", load_gs0(), 0x2222);
    check(t, "SWAPGS", "GS base", rdmsr(MSR_GS_BASE) - (uint64_t)&words[1], 0);
    check(t, "SWAPGS", "kernel GS base",
          rdmsr(MSR_KERNEL_GS_BASE) - (uint64_t)&words[0], 0);
    __asm__ volatile("swapgs" ::: "memory");
    check(t, "SWAPGS twice", "a load", load_gs0(), 0x1111);
    wrmsr(MSR_GS_BASE, gs);
    wrmsr(MSR_KERNEL_GS_BASE, kernel_gs);
    wrmsr(MSR_FS_BASE, 0);
}

void selftest_state(struct selftest *t)
{
    /* A bare machine's timer has no vector here. */
    out8(PORT_PIC1_MASK, 0xff);
    out8(PORT_PIC2_MASK, 0xff);
    interrupt_flag(t);
    flags(t);
    cr0(t);
    cr4(t);
    other_control(t);
    msrs(t);
    swapgs(t);
}
