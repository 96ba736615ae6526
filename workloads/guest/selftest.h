/*
 * The self-test: the guest checks that its machine does what the manuals say,
 * from the kernel and from a user program. The answers are the same on the
 * bare machine and under every technique. See docs/audit.md.
 *
 * selftest.c          recording, reporting, catching traps
 * selftest_state.c    flags, control registers, MSRs
 * selftest_segment.c  descriptor tables, selectors, far transfers
 * selftest_trap.c     exceptions and the frames they push
 * selftest_paging.c   page tables
 * selftest_probe.S    single instructions for the kernel's part
 * selftest_user.c     the user program's part
 */
#ifndef WORKLOADS_GUEST_SELFTEST_H
#define WORKLOADS_GUEST_SELFTEST_H

#include "workloads/guest/check.h"
#include "workloads/guest/kernel.h"

struct selftest;

/* One of selftest_probe.S. */
typedef uint64_t probe_function(uint64_t arg);

/* What trap() found, and how it gets back to who waits for it. */
struct caught {
    uint64_t resume_rsp;
    uint64_t cr2, frame_end, handler_ss, handler_flags;
    struct trap_frame frame;
};

/* The kernel's part, when the configuration asks for the test; the user
 * program's comes after it. */
void selftest_start(struct cpu *cpu, const char *name);
/* The user program's system calls. */
uint64_t selftest_syscall(struct cpu *cpu, struct trap_frame *frame);
/* trap(): what selftest_catch() waits for. */
void selftest_caught(struct cpu *cpu, struct trap_frame *frame);
/* A trap of user code that nothing handles; true when the program waits for
 * it. */
bool selftest_user_trap(struct cpu *cpu, struct trap_frame *frame,
                        uint64_t cr2);

/* ---- For the parts ----------------------------------------------------- */

void selftest_state(struct selftest *t);
void selftest_segments(struct selftest *t);
void selftest_traps(struct selftest *t);
void selftest_paging(struct selftest *t);

/* Is it of the kind that this platform is known to do? */
bool selftest_expects(const struct selftest *t, enum deviation deviation);
struct cpu *selftest_cpu(const struct selftest *t);
void selftest_check(struct selftest *t, const struct check *check);
/* Between these, checks of what not every CPU has: not in the checksum. */
void selftest_optional(struct selftest *t, bool on);
/* What this CPU does not have. */
void selftest_absent(struct selftest *t, const char *name);

static inline void check(struct selftest *t, const char *name, const char *part,
                         uint64_t seen, uint64_t expected)
{
    const struct check c = {name, part, seen, expected, DEVIATION_NONE, 0};

    selftest_check(t, &c);
}

static inline void check_or(struct selftest *t, const char *name,
                            const char *part, uint64_t seen, uint64_t expected,
                            enum deviation deviation, uint64_t deviant)
{
    const struct check c = {name, part, seen, expected, deviation, deviant};

    selftest_check(t, &c);
}

/* Calls probe(arg). Its first trap ends it; c->frame.vector is VECTOR_NONE when
 * none came. */
void selftest_catch(struct selftest *t, struct caught *c, probe_function *probe,
                    uint64_t arg);

struct outcome {
    unsigned vector;
    uint64_t error, rip;
};

/* One outcome, or another on a platform with the deviation. */
void check_trap_or(struct selftest *t, enum deviation deviation,
                   const char *name, const struct caught *c, struct outcome o,
                   struct outcome deviant);
/* A trap with this vector and error code (0 where there is none), whose
 * frame's RIP is `rip`. */
void check_trap(struct selftest *t, const char *name, const struct caught *c,
                unsigned vector, uint64_t error, uint64_t rip);
/* The same; a platform with the deviation may do without the trap. */
void check_trap_unless(struct selftest *t, enum deviation deviation,
                       const char *name, const struct caught *c,
                       unsigned vector, uint64_t error, uint64_t rip);
/* The same of the first instruction of a probe, as a fault leaves it. */
void check_fault(struct selftest *t, const char *name, probe_function *probe,
                 uint64_t arg, unsigned vector, uint64_t error);
void check_fault_unless(struct selftest *t, enum deviation deviation,
                        const char *name, probe_function *probe, uint64_t arg,
                        unsigned vector, uint64_t error);
/* No trap at all. */
void check_quiet(struct selftest *t, const char *name, probe_function *probe,
                 uint64_t arg);

/* selftest_probe.S */
/* Returns what the probe does. */
uint64_t catch_trap(struct caught *c, probe_function *probe, uint64_t arg);
extern const uint8_t catch_resume[];

#endif
