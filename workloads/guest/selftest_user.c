/* The self-test's part in the user program (selftest.h). */
#include "workloads/guest/selftest_user.h"

#include "workloads/guest/check.h"
#include "workloads/guest/layout.h"
#include "workloads/guest/syscalls.h"

long user_syscall(long number, long a, long b, long c, long d, long e);

static void check(const char *name, const char *part, uint64_t seen,
                  uint64_t expected)
{
    const struct check c = {name, part, seen, expected, DEVIATION_NONE, 0};

    user_syscall(SYS_CHECK, (long)&c, 0, 0, 0, 0);
}

static void selectors(void)
{
    uint64_t cs, ss;

    __asm__ volatile("movl %%cs, %k0" : "=r"(cs));
    __asm__ volatile("movl %%ss, %k0" : "=r"(ss));
    check("user selectors", "CS", cs, USER_CS);
    check("user selectors", "SS", ss, USER_SS);
}

void selftest_user(const struct wl_env *env)
{
    for (uint64_t round = 0; round < env->params->operations; round++)
        selectors();
    user_syscall(SYS_CHECKED, 0, 0, 0, 0, 0);
}
