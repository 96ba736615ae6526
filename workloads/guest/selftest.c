/* The self-test's bookkeeping: checks, verdict, traps caught on purpose. */
#include "workloads/guest/selftest.h"

#define FNV_PRIME 0x100000001b3ull
#define FNV_BASIS 0xcbf29ce484222325ull

static const struct {
    const char *name;
    unsigned where; /* enum guest_flags */
    bool untried;   /* it would end or hang the VM */
} deviations[DEVIATIONS] = {
    [DEVIATION_HOST_FLAGS] = {"user IF", GUEST_UNDER_PVM | GUEST_SOFTWARE_VMM,
                              false},
    [DEVIATION_HOST_TABLES] = {"user LAR, VERR",
                               GUEST_UNDER_PVM | GUEST_SOFTWARE_VMM, false},
    [DEVIATION_PVM_IOPL] = {"user IOPL", GUEST_UNDER_PVM | GUEST_SOFTWARE_VMM,
                            false},
    [DEVIATION_PVM_AM] = {"CR0.AM", GUEST_CPL3_PVM, false},
    [DEVIATION_PVM_CPUID] = {"user CPUID", GUEST_UNDER_PVM, false},
    [DEVIATION_PVM_SLOT_256] = {"PML4E 256", GUEST_CPL3_PVM, false},
    [DEVIATION_PVM_INT] = {"user INT", GUEST_CPL3_PVM, false},
    [DEVIATION_PVM_SYSCALL] = {"SYSCALL stays at CPL3", GUEST_UNDER_PVM, false},
    [DEVIATION_PVM_EMULATOR] = {"INT, LAR... at CPL0", GUEST_UNDER_PVM, true},
    [DEVIATION_PVM_LONG] = {"16-byte instructions", 0, false},
    [DEVIATION_PVM_IRET] = {"IRET", GUEST_UNDER_PVM, false},
    [DEVIATION_PVM_SELECTORS] = {"CS, SS at CPL3", GUEST_CPL3_PVM, false},
    [DEVIATION_PVM_WATCH] = {"DR7", GUEST_UNDER_PVM | GUEST_SOFTWARE_VMM,
                             false},
    [DEVIATION_PVM_AC] = {"AC in handlers", GUEST_UNDER_PVM, false},
    [DEVIATION_PVM_TS] = {"CR0.TS", GUEST_CPL3_PVM, false},
    [DEVIATION_PV_ROOTS] = {"kernel unmapped", GUEST_PARAVIRTUAL, false},
    [DEVIATION_MONITOR_LDT] = {"LDT", GUEST_SOFTWARE_VMM, false},
    [DEVIATION_MONITOR_NULL] = {"null DS", GUEST_SOFTWARE_VMM, false},
    [DEVIATION_TCG_MSR] = {"MSRs", GUEST_CPU_TCG, false},
    [DEVIATION_TCG_SS] = {"#GP for #SS", GUEST_CPU_TCG, false},
    [DEVIATION_TCG_GATE] = {"error codes of gates", GUEST_CPU_TCG, false},
    [DEVIATION_TCG_FAR] = {"32-bit CALL and RET FAR", GUEST_CPU_TCG, true},
    [DEVIATION_TCG_RESERVED] = {"reserved bits", GUEST_WALKED_BY_TCG, false},
    [DEVIATION_TCG_XM] = {"#XM", GUEST_CPU_TCG, false},
    [DEVIATION_TCG_INT1] = {"INT1", GUEST_CPU_TCG, false},
    [DEVIATION_CR_VALUES] = {"bad CRn values", GUEST_UNDER_PVM | GUEST_CPU_TCG,
                             false},
    [DEVIATION_TCG_PAGING] = {"leaving 64-bit mode", GUEST_BARE_TCG, true},
    [DEVIATION_TCG_CR4] = {"CR4 reserved bits", GUEST_BARE_TCG, true},
};

struct selftest {
    struct cpu *cpu;
    uint64_t begin;
    uint64_t checksum;
    bool optional;
    unsigned done, failed, deviant[DEVIATIONS], absent;
    const char *first_absent;
    struct user_trap *user_trap;
    char first[GUEST_MESSAGE_MAX]; /* failures */
};

/* A tester of the test writes the number of a check here, which then expects
 * what no machine gives. */
static const volatile struct {
    char tag[16];
    uint32_t number;
} spoiled = {"spoil check no. ", 0};

struct cpu *selftest_cpu(const struct selftest *t)
{
    return t->cpu;
}

/* ---- Text -------------------------------------------------------------- */

struct text {
    char *at, *end;
};

static void put(struct text *text, const char *from)
{
    while (*from && text->at < text->end)
        *text->at++ = *from++;
    *text->at = 0;
}

static void put_hex(struct text *text, uint64_t value)
{
    char digits[19] = "0x", *at = digits + 2;
    int shift = 60;

    while (shift && !(value >> shift))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        *at++ = "0123456789abcdef"[value >> shift & 15];
    *at = 0;
    put(text, digits);
}

static void put_number(struct text *text, unsigned value)
{
    char digits[11], *at = digits + sizeof digits - 1;

    *at = 0;
    do
        *--at = (char)('0' + value % 10);
    while (value /= 10);
    put(text, at);
}

/* ---- Checks ------------------------------------------------------------ */

static void mix_text(struct selftest *t, const char *text)
{
    for (; *text; text++)
        t->checksum = (t->checksum ^ (uint8_t)*text) * FNV_PRIME;
}

/* Which checks there were, in which order, and what was expected: equal on
 * every machine, so nothing that depends on one is expected. */
static void mix(struct selftest *t, const struct check *c)
{
    mix_text(t, c->name);
    mix_text(t, c->part);
    for (unsigned shift = 0; shift < 64; shift += 8)
        t->checksum = (t->checksum ^ (c->expected >> shift & 0xff)) * FNV_PRIME;
}

static void print(const struct selftest *t, const char *line)
{
    const struct kernel *k = t->cpu->kernel;

    if (k->results == &k->private_results) /* which leave by the console */
        return;
    while (*line)
        out8(GUEST_PORT_CONSOLE, (uint8_t)*line++);
}

/* The message has room for the first few, the console for more. */
static void describe(struct selftest *t, const struct check *c)
{
    char line[160];
    struct text text = {line, line + sizeof line - 1};
    struct text message = {t->first, t->first + sizeof t->first - 1};

    while (*message.at)
        message.at++;
    put(&text, c->name);
    put(&text, *c->part ? ", " : "");
    put(&text, c->part);
    put(&text, ": saw ");
    put_hex(&text, c->seen);
    put(&text, ", expected ");
    put_hex(&text, c->expected);
    put(&message, t->failed ? "; " : "");
    put(&message, line);
    put(&text, "\n");
    print(t, line);
}

bool selftest_expects(const struct selftest *t, enum deviation deviation)
{
    return deviation && deviation < DEVIATIONS &&
           t->cpu->kernel->config.flags & deviations[deviation].where;
}

void selftest_check(struct selftest *t, const struct check *given)
{
    struct check c = *given;

    t->done++;
    if (t->done == spoiled.number) {
        c.expected = ~c.expected;
        c.deviation = DEVIATION_NONE;
    }
    if (!t->optional)
        mix(t, &c);
    if (c.seen == c.expected)
        return;
    if (c.seen == c.deviant && selftest_expects(t, c.deviation)) {
        t->deviant[c.deviation]++;
        return;
    }
    describe(t, &c);
    t->failed++;
}

void selftest_optional(struct selftest *t, bool on)
{
    t->optional = on;
}

void selftest_absent(struct selftest *t, const char *name)
{
    if (!t->absent++)
        t->first_absent = name;
}

/* ---- Traps ------------------------------------------------------------- */

void selftest_catch(struct selftest *t, struct caught *c, probe_function *probe,
                    uint64_t arg)
{
    *c = (struct caught){.frame.vector = VECTOR_NONE};
    t->cpu->caught = c;
    catch_trap(c, probe, arg);
    t->cpu->caught = NULL;
}

static uint64_t read_ss(void)
{
    uint64_t ss;

    __asm__ volatile("movl %%ss, %k0" : "=r"(ss));
    return ss;
}

void selftest_caught(struct cpu *cpu, struct trap_frame *frame)
{
    struct caught *c = cpu->caught;

    cpu->caught = NULL;
    c->cr2 = read_cr2();
    c->frame = *frame;
    c->frame_end = (uint64_t)(frame + 1);
    c->handler_ss = read_ss();
    __asm__ volatile("pushfq; popq %0" : "=r"(c->handler_flags));
    frame->rip = (uint64_t)catch_resume;
    frame->rsp = c->resume_rsp;
    frame->cs = KERNEL_CS;
    frame->ss = KERNEL_SS;
    frame->rflags = 2;
}

/* A deviation that shows in nothing else: no trap came, or none was tried. */
static void deviate(struct selftest *t, enum deviation deviation,
                    const char *name, const char *part, uint64_t expected)
{
    const struct check c = {name,     part,      ~expected,
                            expected, deviation, ~expected};

    selftest_check(t, &c);
}

static uint64_t both(unsigned vector, uint64_t error)
{
    return (uint64_t)vector << 16 | error;
}

void check_trap_or(struct selftest *t, enum deviation deviation,
                   const char *name, const struct caught *c, struct outcome o,
                   struct outcome deviant)
{
    if (selftest_expects(t, deviation) && c->frame.vector == deviant.vector &&
        c->frame.error == deviant.error && c->frame.rip == deviant.rip) {
        deviate(t, deviation, name, "vector and error code",
                both(o.vector, o.error));
        deviate(t, deviation, name, "RIP - expected", 0);
        return;
    }
    check(t, name, "vector and error code",
          both((unsigned)c->frame.vector, c->frame.error),
          both(o.vector, o.error));
    check(t, name, "RIP - expected", c->frame.rip - o.rip, 0);
}

void check_trap_unless(struct selftest *t, enum deviation deviation,
                       const char *name, const struct caught *c,
                       unsigned vector, uint64_t error, uint64_t rip)
{
    check_trap_or(t, deviation, name, c, (struct outcome){vector, error, rip},
                  (struct outcome){VECTOR_NONE, 0, 0});
}

void check_trap(struct selftest *t, const char *name, const struct caught *c,
                unsigned vector, uint64_t error, uint64_t rip)
{
    check_trap_unless(t, DEVIATION_NONE, name, c, vector, error, rip);
}

void check_fault_unless(struct selftest *t, enum deviation deviation,
                        const char *name, probe_function *probe, uint64_t arg,
                        unsigned vector, uint64_t error)
{
    struct caught c = {.frame.vector = VECTOR_NONE};

    if (!selftest_expects(t, deviation) || !deviations[deviation].untried)
        selftest_catch(t, &c, probe, arg);
    check_trap_unless(t, deviation, name, &c, vector, error, (uint64_t)probe);
}

void check_fault(struct selftest *t, const char *name, probe_function *probe,
                 uint64_t arg, unsigned vector, uint64_t error)
{
    check_fault_unless(t, DEVIATION_NONE, name, probe, arg, vector, error);
}

void check_quiet(struct selftest *t, const char *name, probe_function *probe,
                 uint64_t arg)
{
    struct caught c;

    selftest_catch(t, &c, probe, arg);
    check(t, name, "vector (none)", c.frame.vector, VECTOR_NONE);
}

/* ---- The user program -------------------------------------------------- */

bool selftest_user_trap(struct cpu *cpu, struct trap_frame *frame, uint64_t cr2)
{
    struct user_trap *trap = cpu->selftest ? cpu->selftest->user_trap : NULL;

    if (!trap)
        return false;
    cpu->selftest->user_trap = NULL;
    trap->vector = frame->vector;
    trap->error = frame->error;
    trap->cr2 = cr2;
    trap->rip = frame->rip;
    trap->cs = frame->cs;
    trap->rflags = frame->rflags;
    trap->rsp = frame->rsp;
    trap->ss = frame->ss;
    trap->handler_ss = read_ss();
    trap->frame_end = (uint64_t)(frame + 1);
    frame->rip = trap->resume_rip;
    frame->rsp = trap->resume_rsp;
    frame->cs = USER_CS;
    frame->ss = USER_SS;
    frame->rflags = 2;
    return true;
}

/* ---- The verdict ------------------------------------------------------- */

static void put_verdict(struct text *text, const struct selftest *t)
{
    bool any = false;

    put_number(text, t->done);
    put(text, " checks, ");
    if (t->failed)
        put_number(text, t->failed);
    put(text, t->failed ? " failed; first: " : "none failed");
    put(text, t->first);
    for (unsigned d = 1; d < DEVIATIONS; d++) {
        if (!t->deviant[d])
            continue;
        put(text, any ? ", " : "; known deviations (*: not tried): ");
        put_number(text, t->deviant[d]);
        put(text, " ");
        put(text, deviations[d].name);
        put(text, deviations[d].untried ? "*" : "");
        any = true;
    }
    if (t->absent) {
        put(text, "; this CPU has no ");
        put(text, t->first_absent);
    }
}

static void finish(struct selftest *t)
{
    struct kernel *k = t->cpu->kernel;
    char message[GUEST_MESSAGE_MAX] = "";
    struct text text = {message, message + sizeof message - 1};

    kernel_phase_end(k, WL_STEADY, t->done, t->begin, wl_tsc(), t->checksum);
    put_verdict(&text, t);
    if (t->failed)
        kernel_panic(message);
    for (unsigned i = 0; i < sizeof message; i++)
        k->results->message[i] = message[i];
    kernel_finish(k, GUEST_DONE);
}

/* What the user program wants of the kernel. */
static uint64_t ask(struct selftest *t, struct trap_frame *frame)
{
    struct kernel *k = t->cpu->kernel;
    uint64_t value;

    switch (frame->rdi) {
    case ASK_FLAGS:
        __asm__ volatile("pushfq; popq %0" : "=r"(value));
        return value;
    case ASK_TSC:
        return wl_tsc();
    case ASK_CPUID:
        cpuid((uint32_t)frame->rsi, (uint32_t)(frame->rsi >> 32),
              (uint32_t *)frame->rdx);
        return 0;
    case ASK_IRET: /* leaves by IRET, with these flags */
        frame->rflags = frame->rsi;
        frame->vector = 0;
        return 0;
    case ASK_GATE:
        trap_set_gate(k, (unsigned)frame->rsi, (unsigned)frame->rdx, 0);
        return 0;
    default: /* ASK_STACK: where traps from user code put their frame */
        return t->cpu->tss.rsp[0];
    }
}

uint64_t selftest_syscall(struct cpu *cpu, struct trap_frame *frame)
{
    struct selftest *t = cpu->selftest;

    if (!t)
        return (uint64_t)-1;
    switch (frame->rax) {
    case SYS_ASK:
        return ask(t, frame);
    case SYS_CHECK:
        selftest_check(t, (const struct check *)frame->rdi);
        return 0;
    case SYS_CATCH:
        t->user_trap = (struct user_trap *)frame->rdi;
        return 0;
    case SYS_CHECKED:
        finish(t);
    }
    return 0;
}

void selftest_start(struct cpu *cpu, const char *name)
{
    struct kernel *k = cpu->kernel;
    struct selftest *t;

    if (!same_text(name, "selftest"))
        return;
    t = phys_to_virt(phys_alloc(k, 1));
    t->cpu = cpu;
    t->checksum = FNV_BASIS;
    cpu->selftest = t;
    kernel_phase_begin(k, WL_STEADY);
    t->begin = wl_tsc();
    for (uint64_t left = check_rounds(k->config.operations); left; left--) {
        selftest_state(t);
        selftest_segments(t);
        selftest_traps(t);
        if (!KERNEL_US) /* or the tables are not the kernel's to write */
            selftest_paging(t);
    }
}
