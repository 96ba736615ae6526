/* The self-test: exceptions and the frames they push (SDM vol. 3A, 6.12 to
 * 6.15). */
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

void probe_ud2(uint64_t arg);
void probe_divide(uint64_t arg);
void probe_int3(uint64_t arg);
void probe_load(uint64_t arg);
void probe_load_stack(uint64_t arg);
void probe_load_stack_at(uint64_t arg);

static void faults(struct selftest *t)
{
    const uint8_t zero = 0;
    struct caught c;

    check_fault(t, "#UD by UD2", probe_ud2, 0, VECTOR_UD, 0);
    check_fault(t, "#DE", probe_divide, (uint64_t)&zero, VECTOR_DE, 0);
    check_fault(t, "#GP by an address", probe_load, NOT_CANONICAL, VECTOR_GP,
                0);
    selftest_catch(t, &c, probe_load_stack, NOT_CANONICAL);
    check_trap(t, "#SS by an address", &c, VECTOR_SS, 0,
               (uint64_t)probe_load_stack_at);
}

void selftest_traps(struct selftest *t)
{
    faults(t);
}
