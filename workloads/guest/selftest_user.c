/* The self-test's part in the user program (selftest.h). */
#include "workloads/guest/selftest_user.h"

#include "workloads/guest/check.h"
#include "workloads/guest/layout.h"
#include "workloads/guest/syscalls.h"

/* Of a host's Linux. */
#define LINUX_USER_CS 0x33
#define LINUX_USER_SS 0x2b

long user_syscall(long number, long a, long b, long c, long d, long e);

static void check(const char *name, const char *part, uint64_t seen,
                  uint64_t expected)
{
    const struct check c = {name, part, seen, expected, DEVIATION_NONE, 0};

    user_syscall(SYS_CHECK, (long)&c, 0, 0, 0, 0);
}

static void check_or(const char *name, const char *part, uint64_t seen,
                     uint64_t expected, enum deviation deviation,
                     uint64_t deviant)
{
    const struct check c = {name, part, seen, expected, deviation, deviant};

    user_syscall(SYS_CHECK, (long)&c, 0, 0, 0, 0);
}

static void selectors(void)
{
    uint64_t cs, ss;

    __asm__ volatile("movl %%cs, %k0" : "=r"(cs));
    __asm__ volatile("movl %%ss, %k0" : "=r"(ss));
    check_or("user selectors", "CS", cs, USER_CS, DEVIATION_PVM_SELECTORS,
             LINUX_USER_CS);
    check_or("user selectors", "SS", ss, USER_SS, DEVIATION_PVM_SELECTORS,
             LINUX_USER_SS);
}

void selftest_user(const struct wl_env *env)
{
    check("user", "", 0, 0);
    for (uint64_t round = 0; round < env->params->operations; round++)
        selectors();
    user_syscall(SYS_CHECKED, 0, 0, 0, 0, 0);
}
