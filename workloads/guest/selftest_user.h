/*
 * The self-test's part in the user program.
 *
 * selftest_user.c        traps, memory, processes, time
 * selftest_user_state.c  flags, selectors, system calls
 */
#ifndef WORKLOADS_GUEST_SELFTEST_USER_H
#define WORKLOADS_GUEST_SELFTEST_USER_H

#include "workloads/api.h"
#include "workloads/guest/check.h"
#include "workloads/guest/layout.h"
#include "workloads/guest/syscalls.h"

void selftest_user(const struct wl_env *env);
void selftest_user_state(void);

typedef void user_probe(uint64_t arg);

void user_catch(struct user_trap *trap, user_probe *probe, uint64_t arg);
long user_syscall(long number, long a, long b, long c, long d, long e);

static inline void user_check_or(const char *name, const char *part,
                                 uint64_t seen, uint64_t expected,
                                 enum deviation deviation, uint64_t deviant)
{
    const struct check c = {name, part, seen, expected, deviation, deviant};

    user_syscall(SYS_CHECK, (long)&c, 0, 0, 0, 0);
}

static inline void user_check(const char *name, const char *part, uint64_t seen,
                              uint64_t expected)
{
    user_check_or(name, part, seen, expected, DEVIATION_NONE, 0);
}

static inline uint64_t user_ask(enum ask what, uint64_t a, uint64_t b)
{
    return (uint64_t)user_syscall(SYS_ASK, what, (long)a, (long)b, 0, 0);
}

/* Its first trap, or VECTOR_NONE. */
static inline struct user_trap user_trap_of(user_probe *probe, uint64_t arg)
{
    struct user_trap trap = {.vector = VECTOR_NONE};

    user_catch(&trap, probe, arg);
    user_syscall(SYS_CATCH, 0, 0, 0, 0, 0);
    return trap;
}

/* A trap's vector and error code in one number. */
static inline uint64_t user_both(uint64_t vector, uint64_t error)
{
    return vector << 16 | error;
}

#endif
