/* The self-test in the user program: flags, selectors, system calls. */
#include "workloads/guest/selftest_user.h"

/* Of a host's Linux. */
#define LINUX_USER_CS 0x33
#define LINUX_USER_SS 0x2b

#define FLAG_IF   (1ull << 9)
#define FLAG_DF   (1ull << 10)
#define FLAG_IOPL (3ull << 12)
#define FLAG_NT   (1ull << 14)
#define FLAG_RF   (1ull << 16)
#define FLAG_AC   (1ull << 18)
#define FLAG_ID   (1ull << 21)
#define STATUS    0x8d5ull
#define FIXED     2ull

struct user_syscall_effect {
    uint64_t flags; /* in */
    uint64_t rcx, r11, flags_after, cs, ss;
};
void user_syscall_effect(struct user_syscall_effect *effect);
extern const uint8_t user_syscall_effect_at[];

void user_in(uint64_t arg);

static uint64_t pushf(void)
{
    uint64_t flags;

    __asm__ volatile("subq $128, %%rsp\n\t"
                     "pushfq\n\t"
                     "popq %0\n\t"
                     "addq $128, %%rsp"
                     : "=r"(flags)::"memory", "cc");
    return flags;
}

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

static uint64_t iret(uint64_t flags)
{
    uint64_t seen, rsp;

    __asm__ volatile("movq %%rsp, %1\n\t"
                     "movl %%ss, %k0\n\t"
                     "pushq %0\n\t"
                     "pushq %1\n\t"
                     "pushq %2\n\t"
                     "movl %%cs, %k0\n\t"
                     "pushq %0\n\t"
                     "leaq 1f(%%rip), %0\n\t"
                     "pushq %0\n\t"
                     "iretq\n"
                     "1:\n\t"
                     "pushfq\n\t"
                     "popq %0\n\t"
                     "pushq $2\n\t"
                     "popfq"
                     : "=&r"(seen), "=&r"(rsp)
                     : "r"(flags)
                     : "memory", "cc");
    return seen;
}

/* Interrupts are off while one CPU runs, in user code too. */
static void flags(void)
{
    user_check_or("user PUSHF", "IF", pushf() & FLAG_IF, 0,
                  DEVIATION_HOST_FLAGS, FLAG_IF);
    user_check("user PUSHF", "IOPL", pushf() & FLAG_IOPL, 0);
    user_check("user POPF", "arithmetic flags, DF, AC, ID",
               popf(FIXED | STATUS | FLAG_DF | FLAG_AC | FLAG_ID) & ~FLAG_IF,
               FIXED | STATUS | FLAG_DF | FLAG_AC | FLAG_ID);
    user_check_or("user POPF", "IF set", popf(FIXED | FLAG_IF) & FLAG_IF, 0,
                  DEVIATION_HOST_FLAGS, FLAG_IF);
    user_check("user POPF", "IOPL set", popf(FIXED | FLAG_IOPL) & FLAG_IOPL, 0);
    user_check("user IRET", "arithmetic flags, DF, AC, ID",
               iret(FIXED | STATUS | FLAG_DF | FLAG_AC | FLAG_ID) & ~FLAG_IF,
               FIXED | STATUS | FLAG_DF | FLAG_AC | FLAG_ID);
    user_check("user IRET", "IOPL set", iret(FIXED | FLAG_IOPL) & FLAG_IOPL, 0);
}

/* With IOPL 3 a user program may do what is the kernel's. */
static void privilege_level(void)
{
    struct user_trap trap;
    uint64_t seen = 0;

    user_ask(ASK_IRET, FIXED | FLAG_IOPL, 0);
    seen = pushf();
    user_check_or("IRET to CPL3", "IOPL 3", seen & FLAG_IOPL, FLAG_IOPL,
                  DEVIATION_PVM_IOPL, 0);
    trap = user_trap_of(user_in, 0);
    user_check_or("IN with IOPL 3", "vector", trap.vector, VECTOR_NONE,
                  DEVIATION_PVM_IOPL, 13);
    user_ask(ASK_IRET, FIXED | FLAG_ID | FLAG_DF, 0);
    seen = pushf();
    __asm__ volatile("pushq $2; popfq" ::: "cc");
    user_check("IRET to CPL3", "IOPL 0, ID, DF",
               seen & (FLAG_IOPL | FLAG_ID | FLAG_DF), FLAG_ID | FLAG_DF);
}

static void system_calls(void)
{
    static const uint64_t given[] = {FIXED, FIXED | STATUS,
                                     FIXED | FLAG_AC | FLAG_ID};
    struct user_syscall_effect e = {0};

    for (unsigned i = 0; i < 3; i++) {
        e.flags = given[i];
        user_syscall_effect(&e);
        user_check("SYSCALL", "RCX - expected",
                   e.rcx - (uint64_t)user_syscall_effect_at, 0);
        user_check("SYSCALL", "R11", e.r11 & ~(FLAG_RF | FLAG_IF), given[i]);
        user_check("SYSRET", "flags", e.flags_after & ~FLAG_IF, given[i]);
    }
    user_check_or("SYSRET", "CS", e.cs, USER_CS, DEVIATION_PVM_SELECTORS,
                  LINUX_USER_CS);
    user_check_or("SYSRET", "SS", e.ss, USER_SS, DEVIATION_PVM_SELECTORS,
                  LINUX_USER_SS);
    __asm__ volatile("pushfq; orl %0, (%%rsp); popfq" ::"i"((int)FLAG_AC)
                     : "memory", "cc");
    e.flags = user_ask(ASK_FLAGS, 0, 0);
    __asm__ volatile("pushq $2; popfq" ::: "memory", "cc");
    user_check("FMASK", "IF, DF", e.flags & (FLAG_IF | FLAG_DF), 0);
    user_check_or("FMASK", "AC", e.flags & FLAG_AC, 0, DEVIATION_PVM_SYSCALL,
                  FLAG_AC);
}

/* ---- Selectors and descriptors ----------------------------------------- */

#define REFUSED  0xbad
#define LAR_BITS 0xf0ff00u

static uint64_t lar(uint32_t selector)
{
    uint32_t value = 0;
    uint8_t ok;

    __asm__ volatile("larl %2, %1; setz %0"
                     : "=q"(ok), "+r"(value)
                     : "r"(selector)
                     : "cc");
    return ok ? value & LAR_BITS : REFUSED;
}

static uint64_t verify(uint32_t selector)
{
    uint8_t r, w;

    __asm__ volatile("verr %w2; setz %0; verw %w2; setz %1"
                     : "=&q"(r), "=q"(w)
                     : "r"(selector)
                     : "cc");
    return r | (uint64_t)w << 1;
}

static void selectors(void)
{
    uint64_t cs, ss, ds;

    __asm__ volatile("movl %%cs, %k0" : "=r"(cs));
    __asm__ volatile("movl %%ss, %k0" : "=r"(ss));
    user_check_or("user selectors", "CS", cs, USER_CS, DEVIATION_PVM_SELECTORS,
                  LINUX_USER_CS);
    user_check_or("user selectors", "SS", ss, USER_SS, DEVIATION_PVM_SELECTORS,
                  LINUX_USER_SS);
    __asm__ volatile("movl %1, %%ds; movl %%ds, %k0; movl %2, %%ds"
                     : "=r"(ds)
                     : "r"(3), "r"(0));
    user_check("user selectors", "DS, null with RPL 3", ds, 3);
    __asm__ volatile("pushq $0; popq %%fs; pushq %%fs; popq %0"
                     : "=r"(ds)::"memory");
    user_check("user selectors", "FS, null", ds, 0);
}

/* A kernel's descriptors are none of its user programs' business. */
static void descriptors(void)
{
    user_check("user LAR", "kernel code", lar(KERNEL_CS), REFUSED);
    user_check("user LAR", "kernel data", lar(KERNEL_SS), REFUSED);
    user_check("user LAR", "null", lar(0), REFUSED);
    user_check_or("user LAR", "user code", lar(USER_CS), 0xa0fb00,
                  DEVIATION_HOST_TABLES, lar(USER_CS));
    user_check_or("user LAR", "user data", lar(USER_SS), 0xc0f300,
                  DEVIATION_HOST_TABLES, lar(USER_SS));
    user_check("user VERR, VERW", "kernel data", verify(KERNEL_SS), 0);
    user_check_or("user VERR, VERW", "user code", verify(USER_CS), 1,
                  DEVIATION_HOST_TABLES, verify(USER_CS));
    user_check_or("user VERR, VERW", "user data", verify(USER_SS), 3,
                  DEVIATION_HOST_TABLES, verify(USER_SS));
}

void selftest_user_state(void)
{
    flags();
    privilege_level();
    system_calls();
    selectors();
    descriptors();
}
