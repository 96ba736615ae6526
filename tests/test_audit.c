/* The audit: what no CPU can do otherwise, the bare machine, and the way of
 * the records. */
#include "harness/audit.h"
#include "harness/table.h"
#include "tests/test.h"
#include "vmm/results.h"

#include <stdlib.h>
#include <string.h>

/* By the manual these fault at CPL 3, and these can't show a kernel's own. */
static void process_at_cpl3(void)
{
    static const unsigned trap[] = {AUDIT_cli,    AUDIT_swapgs, AUDIT_cr8,
                                    AUDIT_sysret, AUDIT_jmp,    AUDIT_ret,
                                    AUDIT_call,   AUDIT_pop};
    static const unsigned lie[] = {AUDIT_pushf, AUDIT_popf,   AUDIT_lar,
                                   AUDIT_lsl,   AUDIT_verr,   AUDIT_mov,
                                   AUDIT_iretq, AUDIT_syscall};
    struct audit_column column;

    audit_process(&column);
    for (unsigned i = 0; i < sizeof trap / sizeof trap[0]; i++)
        CU_ASSERT_EQUAL(column.rows[trap[i]].outcome, AUDIT_TRAPPED);
    for (unsigned i = 0; i < sizeof lie / sizeof lie[0]; i++)
        CU_ASSERT_EQUAL(column.rows[lie[i]].outcome, AUDIT_WRONG);
    CU_ASSERT_EQUAL(column.rows[AUDIT_pushf].value, 0x200);
    CU_ASSERT_EQUAL(column.rows[AUDIT_mov].value, 0x33);
    for (unsigned i = 0; i < AUDIT_INSTRUCTIONS; i++)
        if (audit_instruction_listed(i))
            CU_ASSERT_NOT_EQUAL(column.rows[i].outcome, AUDIT_RIGHT);
}

static void seventeen(void)
{
    unsigned listed = 0;

    for (unsigned i = 0; i < AUDIT_INSTRUCTIONS; i++)
        listed += audit_instruction_listed(i);
    CU_ASSERT_EQUAL(listed, 17);
}

/* Cells of audit.csv by instruction and mode; "" when there is no such row. */
static const char *outcome_of(const struct table *t, const char *instruction,
                              const char *mode)
{
    for (size_t row = 0; row < table_rows(t); row++)
        if (!strcmp(table_cell(t, row, table_column(t, "instruction")),
                    instruction) &&
            !strcmp(table_cell(t, row, table_column(t, "mode")), mode))
            return table_cell(t, row, table_column(t, "outcome"));
    return "";
}

static void bare_machine_is_right(void)
{
    char *folder = test_folder(), *output, path[600];
    struct table *t = NULL;
    struct why why;

    CU_ASSERT_EQUAL(
        test_shell(&output, "\"$MEMVIRT\" audit -t emulation -o %s/a", folder),
        0);
    snprintf(path, sizeof path, "%s/a/audit.csv", folder);
    CU_ASSERT_FATAL(!table_read(&t, path, &why));
    if (table_rows(t) == AUDIT_INSTRUCTIONS)
        test_skip("no qemu-system-x86_64: 'apt install qemu-system-x86'");
    else
        CU_ASSERT_PTR_NOT_NULL(strstr(output, "of the 17, 16 right 1 trapped"));
    for (size_t i = 0;
         table_rows(t) > AUDIT_INSTRUCTIONS && i < AUDIT_INSTRUCTIONS; i++) {
        /* QEMU's CALL far has a stack pointer of 32 bits. */
        const char *expected = i == AUDIT_call     ? "trapped"
                               : i == AUDIT_sysret ? "not tried"
                                                   : "right";

        CU_ASSERT_STRING_EQUAL(
            outcome_of(t, audit_instruction_name((unsigned)i), "emulation"),
            expected);
    }
    table_free(t);
    free(output);
    free(folder);
}

static void records_travel(void)
{
    struct run_record record = {.audit_count = 2}, read;
    struct why why;
    char *json;

    record.audits[0] = (struct guest_audit){AUDIT_sgdt, GUEST_NO_VECTOR,
                                            0xffffffff80123456, UINT64_MAX};
    record.audits[1] = (struct guest_audit){AUDIT_cli, 13, 0, 1};
    json = run_record_to_json(&record);
    CU_ASSERT_PTR_NOT_NULL_FATAL(json);
    CU_ASSERT_EQUAL(run_record_from_json(json, &read, &why), 0);
    CU_ASSERT_EQUAL(read.audit_count, 2);
    CU_ASSERT(!memcmp(read.audits, record.audits, sizeof record.audits));
    free(json);
    record.audits[1].instruction = AUDIT_INSTRUCTIONS;
    json = run_record_to_json(&record);
    CU_ASSERT_NOT_EQUAL(run_record_from_json(json, &read, &why), 0);
    free(json);
}

/* The guest's page is not trusted. */
static void pages_are_checked(void)
{
    struct guest_results page = {
        .magic = GUEST_RESULTS_MAGIC,
        .version = GUEST_ABI_VERSION,
        .state = GUEST_DONE,
        .audits = GUEST_AUDITS_MAX,
    };
    struct guest_results read;
    struct why why;

    CU_ASSERT_EQUAL(guest_results_read(&page, sizeof page, &read, &why), 0);
    page.audits++;
    CU_ASSERT_NOT_EQUAL(guest_results_read(&page, sizeof page, &read, &why), 0);
    page.audits = 1;
    page.audit[0].instruction = AUDIT_INSTRUCTIONS;
    CU_ASSERT_NOT_EQUAL(guest_results_read(&page, sizeof page, &read, &why), 0);
}

TEST_SUITE(audit, {"there are 17", seventeen},
           {"a process gets what the manual says", process_at_cpl3},
           {"the bare machine is right", bare_machine_is_right},
           {"records travel as JSON", records_travel},
           {"the guest's page is checked", pages_are_checked});
