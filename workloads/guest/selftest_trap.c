/* The self-test: exceptions and the frames they push (SDM vol. 3A, 6.12 to
 * 6.15), the debug registers (vol. 3B, 17.2). */
#include "workloads/guest/selftest.h"

#define VECTOR_DE 0
#define VECTOR_DB 1
#define VECTOR_BP 3
#define VECTOR_UD 6
#define VECTOR_NM 7
#define VECTOR_DF 8
#define VECTOR_NP 11
#define VECTOR_SS 12
#define VECTOR_GP 13

#define NOT_CANONICAL 0x0123456789abcde0
#define ERROR_IDT     2u
#define GATE_ABSENT   0x0e

#define FLAG_TF     (1u << 8)
#define FLAG_IF     (1u << 9)
#define FLAG_NT     (1u << 14)
#define FLAG_RF     (1u << 16)
#define FLAG_AC     (1u << 18)
#define FLAG_ID     (1u << 21)
#define FLAGS_DF_CF 0x403u /* and the fixed one */

#define CR0_TS    (1ull << 3)
#define IST_STACK (PROCESSES_MAX - 1) /* which no process of the test gets */

#define PROBE(name) uint64_t probe_##name(uint64_t arg)
PROBE(ud2);
PROBE(divide);
PROBE(int3);
PROBE(int80);
PROBE(int81);
PROBE(icebp);
PROBE(fninit);
PROBE(lock_nop);
PROBE(into);
PROBE(long);
PROBE(ud0);
PROBE(step);
PROBE(step_at);
PROBE(load);
PROBE(store);
PROBE(fetch);
PROBE(load_stack);
PROBE(load_stack_at);
PROBE(ud2_with_rsp);
PROBE(ud2_with_rsp_at);
PROBE(divide_with_rsp);
PROBE(ud2_with_flags);
PROBE(ud2_with_flags_at);
PROBE(mov_dr7);

/* ---- Faults ------------------------------------------------------------ */

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

static void faults(struct selftest *t)
{
    const uint8_t zero = 0;
    struct caught c;

    check_fault(t, "UD2", probe_ud2, 0, VECTOR_UD, 0);
    check_fault_unless(t, DEVIATION_PVM_EMULATOR, "UD0", probe_ud0, 0,
                       VECTOR_UD, 0);
    check_fault(t, "INTO", probe_into, 0, VECTOR_UD, 0);
    check_fault(t, "LOCK NOP", probe_lock_nop, 0, VECTOR_UD, 0);
    check_fault_unless(t, DEVIATION_PVM_LONG, "16-byte instruction", probe_long,
                       0, VECTOR_GP, 0);
    check_fault(t, "DIV by 0", probe_divide, (uint64_t)&zero, VECTOR_DE, 0);
    check_fault(t, "load, not canonical", probe_load, NOT_CANONICAL, VECTOR_GP,
                0);
    check_fault(t, "store, not canonical", probe_store, NOT_CANONICAL,
                VECTOR_GP, 0);
    selftest_catch(t, &c, probe_fetch, NOT_CANONICAL);
    check(t, "jump, not canonical", "vector and error code",
          c.frame.vector << 16 | c.frame.error, VECTOR_GP << 16);
    selftest_catch(t, &c, probe_load_stack, NOT_CANONICAL);
    check_trap_or(
        t, DEVIATION_TCG_SS, "load by RBP, not canonical", &c,
        (struct outcome){VECTOR_SS, 0, (uint64_t)probe_load_stack_at},
        (struct outcome){VECTOR_GP, 0, (uint64_t)probe_load_stack_at});
    write_cr0(read_cr0() | CR0_TS);
    check_fault_unless(t, DEVIATION_PVM_TS, "x87 with CR0.TS", probe_fninit, 0,
                       VECTOR_NM, 0);
    write_cr0(read_cr0() & ~CR0_TS);
    check_quiet(t, "x87", probe_fninit, 0);
}

/* QEMU makes 16 of the 8 bytes that an error code counts an entry for. */
static uint64_t tcg_error(uint64_t error)
{
    return (error & ~7ull) * 2 | (error & 7);
}

static void check_int(struct selftest *t, const char *name,
                      probe_function *probe, unsigned vector, uint64_t error,
                      uint64_t length)
{
    const uint64_t rip = (uint64_t)probe + length;
    struct caught c = {.frame.vector = VECTOR_NONE};

    if (selftest_expects(t, DEVIATION_PVM_EMULATOR))
        check_trap_unless(t, DEVIATION_PVM_EMULATOR, name, &c, vector, error,
                          rip);
    else {
        selftest_catch(t, &c, probe, 0);
        check_trap_or(t, DEVIATION_TCG_GATE, name, &c,
                      (struct outcome){vector, error, rip},
                      (struct outcome){vector, tcg_error(error), rip});
    }
}

static void check_int1(struct selftest *t)
{
    const uint64_t rip = (uint64_t)probe_icebp;
    struct caught c = {.frame.vector = VECTOR_NONE};

    if (selftest_expects(t, DEVIATION_PVM_EMULATOR))
        check_trap_unless(t, DEVIATION_PVM_EMULATOR, "INT1", &c, VECTOR_DB, 0,
                          rip + 1);
    else {
        selftest_catch(t, &c, probe_icebp, 0);
        check_trap_or(t, DEVIATION_TCG_INT1, "INT1", &c,
                      (struct outcome){VECTOR_DB, 0, rip + 1},
                      (struct outcome){VECTOR_UD, 0, rip});
    }
}

/* Vector 81h of the IDT is empty unless it is filled here. */
static void software_interrupts(struct selftest *t)
{
    struct kernel *k = selftest_cpu(t)->kernel;
    const unsigned error = 0x81 * 8 | ERROR_IDT;

    check_int(t, "INT3", probe_int3, VECTOR_BP, 0, 1);
    trap_set_gate(k, 0x80, GATE_INTERRUPT, 0);
    check_int(t, "INT n", probe_int80, 0x80, 0, 2);
    check_int(t, "INT n, no gate", probe_int81, VECTOR_GP, error, 0);
    trap_set_gate(k, 0x81, GATE_ABSENT, 0);
    check_int(t, "INT n, gate not present", probe_int81, VECTOR_NP, error, 0);
    k->idt[0x81][0] = 0;
}

/* ---- Frames ------------------------------------------------------------ */

static void check_frame_flags(struct selftest *t)
{
    const uint64_t given = FLAGS_DF_CF | FLAG_AC | FLAG_ID;
    struct caught c;

    selftest_catch(t, &c, probe_ud2_with_flags, given);
    check(t, "frame", "RFLAGS but RF", c.frame.rflags & ~(uint64_t)FLAG_RF,
          given);
    check(t, "frame", "CS", c.frame.cs, KERNEL_CS);
    check(t, "frame", "SS", c.frame.ss, KERNEL_SS);
    check(t, "handler", "SS", c.handler_ss, KERNEL_SS);
    check(t, "handler", "IF, TF, NT",
          c.handler_flags & (FLAG_IF | FLAG_TF | FLAG_NT), 0);
    check_or(t, "handler", "AC", c.handler_flags & FLAG_AC, FLAG_AC,
             DEVIATION_PVM_AC, 0);
}

static void check_trap_gate(struct selftest *t)
{
    struct kernel *k = selftest_cpu(t)->kernel;
    struct caught c;

    selftest_catch(t, &c, probe_ud2_with_flags, 2 | FLAG_IF);
    check(t, "interrupt gate", "IF in the frame", c.frame.rflags & FLAG_IF,
          FLAG_IF);
    check(t, "interrupt gate", "IF", c.handler_flags & FLAG_IF, 0);
    trap_set_gate(k, VECTOR_UD, GATE_TRAP, 0);
    selftest_catch(t, &c, probe_ud2_with_flags, 2 | FLAG_IF);
    check(t, "trap gate", "IF", c.handler_flags & FLAG_IF, FLAG_IF);
    trap_set_gate(k, VECTOR_UD, GATE_INTERRUPT, 0);
}

/* The frame ends at a multiple of 16 below the RSP that was. */
static void check_frame_stack(struct selftest *t)
{
    static const uint8_t below[] = {0, 1, 7, 8, 15};
    uint64_t middle = (uint64_t)process_stacks[IST_STACK] + 0x2000;
    struct caught c;

    for (unsigned i = 0; i < sizeof below; i++) {
        uint64_t rsp = middle - below[i];

        selftest_catch(t, &c, probe_ud2_with_rsp, rsp);
        check(t, "frame", "RSP", c.frame.rsp - rsp, 0);
        check(t, "frame", "its end", c.frame_end - (rsp & ~15ull), 0);
        check(t, "frame", "RIP", c.frame.rip - (uint64_t)probe_ud2_with_rsp_at,
              0);
    }
}

static void interrupt_stacks(struct selftest *t)
{
    struct cpu *cpu = selftest_cpu(t);
    struct kernel *k = cpu->kernel;
    uint64_t top = (uint64_t)process_stacks[IST_STACK] + 0x3000;
    struct caught c;

    cpu->tss.ist[0] = top + 8;
    cpu->tss.ist[6] = top - 0x800;
    trap_set_gate(k, VECTOR_UD, GATE_INTERRUPT, 1);
    check_fault(t, "IST 1", probe_ud2, 0, VECTOR_UD, 0);
    selftest_catch(t, &c, probe_ud2, 0);
    check(t, "IST 1", "the frame's end", c.frame_end - top, 0);
    check(t, "IST 1", "RSP in the frame", c.frame.rsp - c.resume_rsp,
          (uint64_t)-8);
    trap_set_gate(k, VECTOR_UD, GATE_INTERRUPT, 7);
    selftest_catch(t, &c, probe_ud2, 0);
    check(t, "IST 7", "the frame's end", c.frame_end - (top - 0x800), 0);
    trap_set_gate(k, VECTOR_UD, GATE_INTERRUPT, 0);
}

static void check_double(struct selftest *t, const char *name,
                         probe_function *probe, uint64_t rsp)
{
    struct caught c;

    selftest_catch(t, &c, probe, rsp);
    check(t, name, "vector and error code",
          c.frame.vector << 16 | c.frame.error, VECTOR_DF << 16);
    check(t, name, "RSP", c.frame.rsp, rsp);
}

static void double_faults(struct selftest *t)
{
    struct kernel *k = selftest_cpu(t)->kernel;

    trap_set_gate(k, VECTOR_DF, GATE_INTERRUPT, 1);
    check_double(t, "#DF, stack not mapped", probe_ud2_with_rsp,
                 NANO_BASE + 0x5008);
    check_double(t, "#DF, stack not canonical", probe_divide_with_rsp,
                 NOT_CANONICAL);
    k->idt[VECTOR_DE][0] = 0;
    check_double(t, "#DF, no gate", probe_divide_with_rsp,
                 (uint64_t)process_stacks[IST_STACK] + 0x1000);
    trap_set_gate(k, VECTOR_DE, GATE_INTERRUPT, 0);
    trap_set_gate(k, VECTOR_DF, GATE_INTERRUPT, 0);
}

/* ---- Debugging --------------------------------------------------------- */

static uint64_t read_dr(unsigned number)
{
    uint64_t value = 0;

    switch (number) {
    case 0:
        __asm__ volatile("movq %%dr0, %0" : "=r"(value));
        break;
    case 3:
        __asm__ volatile("movq %%dr3, %0" : "=r"(value));
        break;
    case 6:
        __asm__ volatile("movq %%dr6, %0" : "=r"(value));
        break;
    default:
        __asm__ volatile("movq %%dr7, %0" : "=r"(value));
    }
    return value;
}

static void write_dr6_dr7(uint64_t dr6, uint64_t dr7)
{
    __asm__ volatile("movq %0, %%dr6" ::"r"(dr6));
    __asm__ volatile("movq %0, %%dr7" ::"r"(dr7));
}

#define DR6_NONE  0xffff0ff0
#define DR7_FIXED 0x400

static void debug_registers(struct selftest *t)
{
    __asm__ volatile("movq %0, %%dr0" ::"r"(0x123456789abcull));
    __asm__ volatile("movq %0, %%dr3" ::"r"(0xffff800012345678ull));
    check(t, "DR0", "written", read_dr(0), 0x123456789abc);
    check(t, "DR3", "written", read_dr(3), 0xffff800012345678);
    check(t, "DR7", "at first", read_dr(7), DR7_FIXED);
    write_dr6_dr7(DR6_NONE, 0x000f0300);
    check(t, "DR7", "written", read_dr(7), 0x000f0700);
    write_dr6_dr7(DR6_NONE, 0);
    check(t, "DR7", "cleared", read_dr(7), DR7_FIXED);
    check(t, "DR6", "cleared", read_dr(6), DR6_NONE);
    check_fault(t, "DR7 bit 32", probe_mov_dr7, 1ull << 32, VECTOR_GP, 0);
}

static void single_step(struct selftest *t)
{
    struct caught c;

    selftest_catch(t, &c, probe_step, 0);
    check_trap(t, "TF", &c, VECTOR_DB, 0, (uint64_t)probe_step_at);
    check(t, "TF", "in the frame", c.frame.rflags & FLAG_TF, FLAG_TF);
    check(t, "TF", "in the handler", c.handler_flags & FLAG_TF, 0);
    check(t, "TF", "DR6", read_dr(6) & 0x400f, 0x4000);
    write_dr6_dr7(DR6_NONE, 0);
    check_int1(t);
}

static void watchpoint(struct selftest *t)
{
    uint64_t word = 0;
    struct caught c;

    __asm__ volatile("movq %0, %%dr0" ::"r"(&word));
    write_dr6_dr7(DR6_NONE, 0x000d0002); /* G0, on writes, 4 bytes */
    selftest_catch(t, &c, probe_store, (uint64_t)&word);
    write_dr6_dr7(read_dr(6), 0);
    check_trap_unless(t, DEVIATION_PVM_WATCH, "data breakpoint", &c, VECTOR_DB,
                      0, (uint64_t)probe_store + 3);
    check_or(t, "data breakpoint", "DR6", read_dr(6) & 0x400f, 1,
             DEVIATION_PVM_WATCH, 0);
    check(t, "data breakpoint", "written", word - (uint64_t)&word, 0);
    write_dr6_dr7(DR6_NONE, 0);
}

void selftest_traps(struct selftest *t)
{
    *(struct cpu **)process_stacks[IST_STACK] = selftest_cpu(t);
    faults(t);
    software_interrupts(t);
    check_frame_flags(t);
    check_trap_gate(t);
    check_frame_stack(t);
    interrupt_stacks(t);
    double_faults(t);
    debug_registers(t);
    single_step(t);
    watchpoint(t);
}
