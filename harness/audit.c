#include "harness/audit.h"

#include "harness/child.h"
#include "harness/technique.h"
#include "workloads/catalog.h"
#include "workloads/guest/layout.h"

#include <asm/prctl.h>
#include <csv.h>
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define JMP_RAX      0xe0ffu /* jmp *%rax */
#define PAGE_BYTES   4096
#define TIME_LIMIT_S 60

static const struct {
    const char *name;
    bool listed;
    uint64_t (*run)(uint64_t arg);
} instructions[AUDIT_INSTRUCTIONS] = {
#define AUDIT(id, name, listed) [AUDIT_##id] = {name, listed, audit_##id},
#include "workloads/audit.def"
#undef AUDIT
};

static const char *const outcome_names[AUDIT_OUTCOMES] = {
    [AUDIT_RIGHT] = "right",          [AUDIT_TRAPPED] = "trapped",
    [AUDIT_WRONG] = "silently wrong", [AUDIT_ENDED] = "ended the VM",
    [AUDIT_ABSENT] = "not tried",
};

const char *audit_instruction_name(unsigned instruction)
{
    return instructions[instruction].name;
}

bool audit_instruction_listed(unsigned instruction)
{
    return instructions[instruction].listed;
}

const char *audit_outcome_name(enum audit_outcome outcome)
{
    return outcome_names[outcome];
}

/* ---- In this process --------------------------------------------------- */

/* What the guest's kernel gets on a machine of its own; SGDT and SIDT show an
 * address of its own, which this process has none of. */
static bool expected_by_kernel(unsigned instruction, uint64_t *expected)
{
    static const uint64_t known[AUDIT_INSTRUCTIONS] = {
        [AUDIT_sldt] = LDT_SEL,
        [AUDIT_smsw] = 0x3b, /* PE, MP, TS, ET, NE */
        [AUDIT_popf] = 0x3000,
        [AUDIT_lar] = 0xa09b00,
        [AUDIT_lsl] = 0xffffffff,
        [AUDIT_verr] = 3,
        [AUDIT_pop] = KERNEL_SS,
        [AUDIT_push] = KERNEL_SS,
        [AUDIT_call] = KERNEL_CS,
        [AUDIT_jmp] = KERNEL_CS,
        [AUDIT_int] = AUDIT_INT_MARK,
        [AUDIT_ret] = KERNEL_CS,
        [AUDIT_str] = TSS_SEL,
        [AUDIT_mov] = KERNEL_CS,
        [AUDIT_iretq] = 0x3000,
        [AUDIT_syscall] = AUDIT_SYSCALL_MARK,
        [AUDIT_swapgs] = AUDIT_SWAPPED,
        [AUDIT_rdgsbase] = AUDIT_GS_BASE,
        [AUDIT_cr8] = AUDIT_TASK_PRIORITY,
    };

    *expected = known[instruction];
    return instruction != AUDIT_sgdt && instruction != AUDIT_sidt &&
           instruction != AUDIT_sysret;
}

/* A handler has no argument to find it by. */
struct jump {
    sigjmp_buf buffer;
    int signal;
};

static struct jump *jump_of_handler(void)
{
    static struct jump jump;

    return &jump;
}

static void on_signal(int number)
{
    struct jump *jump = jump_of_handler();

    jump->signal = number;
    siglongjmp(jump->buffer, 1);
}

static const int signals[] = {SIGSEGV, SIGILL, SIGBUS, SIGTRAP, SIGFPE};
#define SIGNALS (sizeof signals / sizeof signals[0])

static void catch_signals(struct sigaction before[SIGNALS])
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_NODEFER};

    for (size_t i = 0; i < SIGNALS; i++)
        sigaction(signals[i], &action, &before[i]);
}

static void release_signals(const struct sigaction before[SIGNALS])
{
    for (size_t i = 0; i < SIGNALS; i++)
        sigaction(signals[i], &before[i], NULL);
}

/* False when a signal came. */
static bool execute_one(unsigned instruction, uint64_t arg, uint64_t *value)
{
    if (sigsetjmp(jump_of_handler()->buffer, 0))
        return false;
    *value = instructions[instruction].run(arg);
    return true;
}

static void judge_process(unsigned instruction, bool went_on, uint64_t value,
                          struct audit_row *row)
{
    row->has_expected = expected_by_kernel(instruction, &row->expected);
    if (!went_on) {
        row->outcome = AUDIT_TRAPPED;
        snprintf(row->note, sizeof row->note, "%s",
                 strsignal(jump_of_handler()->signal));
        return;
    }
    row->has_value = true;
    row->value = value;
    row->outcome =
        row->has_expected && value == row->expected ? AUDIT_RIGHT : AUDIT_WRONG;
    if (!row->has_expected)
        snprintf(row->note, sizeof row->note, "not the kernel's own table");
}

/* With CR4.UMIP these five trap, and Linux answers for the CPU: with bases that
 * no table has (arch/x86/kernel/umip.c), which is how it shows. */
#define UMIP_GDT_BASE 0xfffffffffffe0000
#define UMIP_IDT_BASE 0xffffffffffff0000

static void note_umip(struct audit_column *column)
{
    static const unsigned covered[] = {AUDIT_sgdt, AUDIT_sidt, AUDIT_sldt,
                                       AUDIT_smsw, AUDIT_str};

    if (column->rows[AUDIT_sgdt].value != UMIP_GDT_BASE ||
        column->rows[AUDIT_sidt].value != UMIP_IDT_BASE)
        return;
    for (size_t i = 0; i < sizeof covered / sizeof covered[0]; i++) {
        struct audit_row *row = &column->rows[covered[i]];

        row->outcome = AUDIT_TRAPPED;
        snprintf(row->note, sizeof row->note,
                 "by CR4.UMIP; the value is Linux's answer");
    }
}

/* QEMU's TCG pops for these as supervisor: with SMAP a fault that Linux takes
 * for its own. */
static bool ends_linux(enum platform platform, unsigned instruction,
                       struct audit_row *row)
{
    if (platform != PLATFORM_LAB_SVM ||
        (instruction != AUDIT_ret && instruction != AUDIT_iretq))
        return false;
    row->outcome = AUDIT_ABSENT;
    snprintf(row->note, sizeof row->note,
             "QEMU's TCG would end Linux (docs/platforms.md)");
    return true;
}

static void run_all(struct audit_column *column, uint64_t far)
{
    struct sigaction before[SIGNALS];

    catch_signals(before);
    for (unsigned i = 0; i < AUDIT_INSTRUCTIONS; i++) {
        uint64_t value = 0;
        bool went_on;

        if (ends_linux(column->platform, i, &column->rows[i]))
            continue;
        went_on = execute_one(i, far, &value);
        judge_process(i, went_on, value, &column->rows[i]);
    }
    release_signals(before);
}

void audit_process(struct audit_column *column)
{
    uint16_t *code = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    struct {
        uint32_t offset;
        uint16_t selector;
    } far = {0, KERNEL_CS};

    *column = (struct audit_column){.mode = "process, CPL 3",
                                    .platform = platform_here()};
    if (code != MAP_FAILED) {
        *code = JMP_RAX;
        mprotect(code, PAGE_BYTES, PROT_READ | PROT_EXEC);
        far.offset = (uint32_t)(uintptr_t)code;
    }
    syscall(SYS_arch_prctl, ARCH_SET_GS, AUDIT_GS_BASE);
    run_all(column, (uint64_t)(uintptr_t)&far);
    syscall(SYS_arch_prctl, ARCH_SET_GS, 0ul);
    note_umip(column);
    if (code != MAP_FAILED)
        munmap(code, PAGE_BYTES);
}

/* ---- In the guest's kernel --------------------------------------------- */

static void take_audits(const struct run_record *record,
                        struct audit_column *column)
{
    for (unsigned i = 0; i < record->audit_count; i++) {
        const struct guest_audit *a = &record->audits[i];
        struct audit_row *row = &column->rows[a->instruction];

        row->has_expected = true;
        row->expected = a->expected;
        row->has_value = a->vector == GUEST_NO_VECTOR;
        row->value = a->value;
        row->outcome = !row->has_value               ? AUDIT_TRAPPED
                       : row->value == row->expected ? AUDIT_RIGHT
                                                     : AUDIT_WRONG;
        row->note[0] = 0;
        if (!row->has_value)
            snprintf(row->note, sizeof row->note,
                     "exception %u in the guest's kernel", a->vector);
    }
}

/* The first instruction of `from` on that has no row: what ended the run. */
static unsigned behind_last(const struct run_record *record, unsigned from)
{
    if (record->audit_count)
        from = record->audits[record->audit_count - 1].instruction + 1;
    return from == AUDIT_sysret ? from + 1 : from;
}

static int run_from(struct run_spec *spec, unsigned first,
                    const volatile sig_atomic_t *stop,
                    struct audit_column *column, unsigned *next,
                    struct why *why)
{
    struct run_record record;
    int err;

    spec->operations = first + 1;
    err = child_run(spec, &record, stop);
    if (err)
        return err;
    take_audits(&record, column);
    *next = AUDIT_INSTRUCTIONS;
    if (record.status == RUN_UNSUPPORTED) {
        err = why_set(why, ENOTSUP, "%s", record.message);
    } else if (record.status == RUN_FAILED) {
        unsigned ended = behind_last(&record, first);

        if (ended < AUDIT_INSTRUCTIONS) {
            column->rows[ended].outcome = AUDIT_ENDED;
            snprintf(column->rows[ended].note, sizeof column->rows[ended].note,
                     "%.*s", (int)sizeof column->rows[ended].note - 1,
                     record.message);
        }
        *next = ended + 1;
    }
    run_record_free(&record);
    return err;
}

int audit_technique(enum technique technique, const volatile sig_atomic_t *stop,
                    struct audit_column *column, struct why *why)
{
    struct run_spec spec = {
        .technique = technique,
        .platform = platform_here(),
        .workload = "audit",
        .guest_page_bytes = 4096,
        .seed = 1,
        .vcpus = 1,
        .time_limit_s = TIME_LIMIT_S,
        .uncounted = true,
    };
    unsigned next = 0;
    int err = 0;

    *column = (struct audit_column){.platform = spec.platform};
    snprintf(column->mode, sizeof column->mode, "%s",
             technique_name(technique));
    for (unsigned i = 0; i < AUDIT_INSTRUCTIONS; i++)
        column->rows[i].outcome = AUDIT_ABSENT;
    while (!err && next < AUDIT_INSTRUCTIONS)
        err = run_from(&spec, next, stop, column, &next, why);
    return err;
}

/* ---- Showing ----------------------------------------------------------- */

static void print_row(const struct audit_column *columns, unsigned count,
                      unsigned instruction, FILE *file)
{
    fprintf(file, "  %-12s", audit_instruction_name(instruction));
    for (unsigned c = 0; c < count; c++) {
        const struct audit_row *row = &columns[c].rows[instruction];
        char text[40];

        if (row->has_value && row->outcome == AUDIT_WRONG)
            snprintf(text, sizeof text, "wrong 0x%" PRIx64, row->value);
        else
            snprintf(text, sizeof text, "%s", audit_outcome_name(row->outcome));
        fprintf(file, "  %-24s", text);
    }
    fputc('\n', file);
}

static void print_sum(const struct audit_column *columns, unsigned count,
                      FILE *file)
{
    for (unsigned c = 0; c < count; c++) {
        unsigned sums[AUDIT_OUTCOMES] = {0};

        for (unsigned i = 0; i < AUDIT_INSTRUCTIONS; i++)
            if (audit_instruction_listed(i))
                sums[columns[c].rows[i].outcome]++;
        fprintf(file, "  %s: of the 17,", columns[c].mode);
        for (unsigned o = 0; o < AUDIT_OUTCOMES; o++)
            if (sums[o])
                fprintf(file, " %u %s", sums[o],
                        audit_outcome_name((enum audit_outcome)o));
        fputc('\n', file);
    }
}

void audit_print(const struct audit_column *columns, unsigned count, FILE *file)
{
    fprintf(file, "  %-12s", "instruction");
    for (unsigned c = 0; c < count; c++)
        fprintf(file, "  %-24s", columns[c].mode);
    fputc('\n', file);
    for (unsigned listed = 1; listed <= 1; listed--) {
        for (unsigned i = 0; i < AUDIT_INSTRUCTIONS; i++)
            if (audit_instruction_listed(i) == listed)
                print_row(columns, count, i, file);
        if (listed)
            fputs("  64-bit mode, and CLI for comparison:\n", file);
    }
    fputc('\n', file);
    print_sum(columns, count, file);
}

static void write_cell(const char *text, bool last, FILE *file)
{
    csv_fwrite(file, text, strlen(text));
    fputs(last ? "\r\n" : ",", file);
}

static void write_number(bool there, uint64_t value, FILE *file)
{
    if (there)
        fprintf(file, "0x%" PRIx64, value);
    fputc(',', file);
}

static void write_row(const struct audit_column *column, unsigned instruction,
                      FILE *file)
{
    const struct audit_row *row = &column->rows[instruction];

    write_cell(audit_instruction_name(instruction), false, file);
    write_cell(audit_instruction_listed(instruction) ? "yes" : "no", false,
               file);
    write_cell(column->mode, false, file);
    write_cell(platform_name(column->platform), false, file);
    write_cell(audit_outcome_name(row->outcome), false, file);
    write_number(row->has_value, row->value, file);
    write_number(row->has_expected, row->expected, file);
    write_cell(row->note, true, file);
}

int audit_write_csv(const struct audit_column *columns, unsigned count,
                    FILE *file)
{
    fputs("instruction,listed,mode,platform,outcome,value,expected,note\r\n",
          file);
    for (unsigned c = 0; c < count; c++)
        for (unsigned i = 0; i < AUDIT_INSTRUCTIONS; i++)
            write_row(&columns[c], i, file);
    return ferror(file) ? -EIO : 0;
}
