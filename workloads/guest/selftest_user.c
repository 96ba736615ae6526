/* The self-test's part in the user program: traps, memory, processes, time. */
#include "workloads/guest/selftest_user.h"

#include "workloads/limits.h"

#include <stdbool.h>

#define VECTOR_DE 0
#define VECTOR_DB 1
#define VECTOR_BP 3
#define VECTOR_UD 6
#define VECTOR_SS 12
#define VECTOR_GP 13
#define VECTOR_PF 14
#define VECTOR_AC 17
#define VECTOR_XM 19

/* Page-fault error codes. */
#define P 1u
#define W 2u
#define U 4u
#define I 16u

#define NOT_CANONICAL 0x0123456789abcde0
#define KERNEL_TEXT   (KERNEL_BASE + KERNEL_LOAD)
#define SLOT_507      0xfffffd8000001000 /* our monitor's, under its VMM */
/* Away from the monitor's LSTAR: where SYSCALL stays at CPL 3, who jumps there
 * makes a system call. */
#define SLOT_507_FETCH 0xfffffdffffc00000
#define SLOT_256       0xffff800000001000
#define ERROR_IDT      2u
#define GATE_KERNEL    0x8e
#define GATE_USER      0xee
#define FLAG_TF        0x100u
#define SEL_BEYOND     0x1f8

const long user_sys_catch = SYS_CATCH;

#define PROBE(name) void user_##name(uint64_t arg)
PROBE(load);
PROBE(store);
PROBE(fetch);
PROBE(ud2);
PROBE(divide);
PROBE(int3);
PROBE(int80);
PROBE(int81);
PROBE(load_stack);
PROBE(load_stack_at);
PROBE(step);
PROBE(step_at);
PROBE(unaligned);
PROBE(divide_sse);
PROBE(divide_sse_at);
PROBE(hlt);
PROBE(cli);
PROBE(sti);
PROBE(clts);
PROBE(invd);
PROBE(wbinvd);
PROBE(invlpg);
PROBE(lgdt);
PROBE(lidt);
PROBE(lldt);
PROBE(ltr);
PROBE(lmsw);
PROBE(swapgs);
PROBE(sysret);
PROBE(mov_from_cr0);
PROBE(mov_from_cr2);
PROBE(mov_from_cr3);
PROBE(mov_from_cr4);
PROBE(mov_from_cr8);
PROBE(mov_to_cr0);
PROBE(mov_to_cr3);
PROBE(mov_to_cr4);
PROBE(mov_to_cr8);
PROBE(mov_from_dr7);
PROBE(mov_to_dr7);
PROBE(in);
PROBE(out);
PROBE(rdmsr);
PROBE(rdmsr_at);
PROBE(wrmsr);
PROBE(wrmsr_at);
PROBE(rdpmc);
PROBE(rdpmc_at);
PROBE(mov_ss);
PROBE(mov_ds);
PROBE(far_ret);
PROBE(far_ret_at);
PROBE(iret);
PROBE(iret_at);

static void check_trap(const char *name, const struct user_trap *trap,
                       unsigned vector, unsigned error, uint64_t rip)
{
    user_check(name, "vector and error code",
               user_both(trap->vector, trap->error), user_both(vector, error));
    user_check(name, "RIP - expected", trap->rip - rip, 0);
}

static void check_fault(const char *name, user_probe *probe, uint64_t arg,
                        unsigned vector, unsigned error)
{
    struct user_trap trap = user_trap_of(probe, arg);

    check_trap(name, &trap, vector, error, (uint64_t)probe);
}

/* ---- Traps ------------------------------------------------------------- */

static void frames(void)
{
    struct user_trap trap = user_trap_of(user_ud2, 0);

    check_trap("user UD2", &trap, VECTOR_UD, 0, (uint64_t)user_ud2);
    user_check("frame of user code", "CS", trap.cs, USER_CS);
    user_check("frame of user code", "SS", trap.ss, USER_SS);
    user_check("frame of user code", "RSP - expected",
               trap.rsp - trap.resume_rsp, (uint64_t)-8);
    user_check("handler", "SS", trap.handler_ss, 0);
    user_check("handler", "RSP0 - the frame's end",
               user_ask(ASK_STACK, 0, 0) - trap.frame_end, 0);
}

static void exceptions(void)
{
    const uint64_t words[2] = {0, 0};
    struct user_trap trap;

    check_fault("user DIV by 0", user_divide, (uint64_t)words, VECTOR_DE, 0);
    check_fault("user load, not canonical", user_load, NOT_CANONICAL, VECTOR_GP,
                0);
    trap = user_trap_of(user_load_stack, NOT_CANONICAL);
    user_check_or("user load by RBP, not canonical", "vector and error code",
                  user_both(trap.vector, trap.error), user_both(VECTOR_SS, 0),
                  DEVIATION_TCG_SS, user_both(VECTOR_GP, 0));
    trap = user_trap_of(user_step, 0);
    check_trap("user TF", &trap, VECTOR_DB, 0, (uint64_t)user_step_at);
    user_check("user TF", "in the frame", trap.rflags & FLAG_TF, FLAG_TF);
    trap = user_trap_of(user_divide_sse, 0);
    user_check_or("user SSE DIV by 0", "vector and error code",
                  user_both(trap.vector, trap.error), user_both(VECTOR_XM, 0),
                  DEVIATION_TCG_XM, user_both(VECTOR_NONE, 0));
    user_check_or("user SSE DIV by 0", "RIP", trap.rip,
                  (uint64_t)user_divide_sse_at, DEVIATION_TCG_XM, 0);
    __asm__ volatile("ldmxcsr %0" ::"m"((const uint32_t){0x1f80}));
    trap = user_trap_of(user_unaligned, (uint64_t)words);
    user_check_or("user unaligned load, AC without AM", "vector", trap.vector,
                  VECTOR_NONE, DEVIATION_PVM_AM, VECTOR_AC);
}

/* One on kvm_pvm: INT n is undefined, and INT3 needs no right. */
static bool is_pvm_int(user_probe *probe, const struct user_trap *trap)
{
    uint64_t at = trap->rip - (uint64_t)probe;

    if (trap->error)
        return false;
    return probe == user_int3 ? trap->vector == VECTOR_BP && at == 1
                              : trap->vector == VECTOR_UD && at == 0;
}

static void check_int(const char *name, user_probe *probe, unsigned vector,
                      unsigned error, unsigned length)
{
    struct user_trap trap = user_trap_of(probe, 0);
    uint64_t seen = user_both(trap.vector, trap.error);
    uint64_t at = trap.rip - (uint64_t)probe;
    uint64_t tcg = user_both(vector, (error & ~7u) * 2 | (error & 7));
    bool pvm = is_pvm_int(probe, &trap);

    user_check_or(name, "vector and error code", seen, user_both(vector, error),
                  pvm ? DEVIATION_PVM_INT : DEVIATION_TCG_GATE,
                  pvm ? seen : tcg);
    user_check_or(name, "RIP", at, length,
                  pvm ? DEVIATION_PVM_INT : DEVIATION_NONE, at);
}

static void software_interrupts(void)
{
    check_int("user INT3, DPL 0", user_int3, VECTOR_GP,
              VECTOR_BP * 8 | ERROR_IDT, 0);
    user_ask(ASK_GATE, VECTOR_BP, GATE_USER);
    check_int("user INT3", user_int3, VECTOR_BP, 0, 1);
    user_ask(ASK_GATE, VECTOR_BP, GATE_KERNEL);
    user_ask(ASK_GATE, 0x80, GATE_USER);
    user_ask(ASK_GATE, 0x81, GATE_KERNEL);
    check_int("user INT n", user_int80, 0x80, 0, 2);
    check_int("user INT n, DPL 0", user_int81, VECTOR_GP, 0x81 * 8 | ERROR_IDT,
              0);
}

static void privileged(void)
{
    static const struct {
        const char *name;
        user_probe *probe, *at;
    } cases[] = {
        {"user HLT", user_hlt, user_hlt},
        {"user CLI", user_cli, user_cli},
        {"user STI", user_sti, user_sti},
        {"user CLTS", user_clts, user_clts},
        {"user INVD", user_invd, user_invd},
        {"user WBINVD", user_wbinvd, user_wbinvd},
        {"user INVLPG", user_invlpg, user_invlpg},
        {"user LGDT", user_lgdt, user_lgdt},
        {"user LIDT", user_lidt, user_lidt},
        {"user LLDT", user_lldt, user_lldt},
        {"user LTR", user_ltr, user_ltr},
        {"user LMSW", user_lmsw, user_lmsw},
        {"user SWAPGS", user_swapgs, user_swapgs},
        {"user SYSRET", user_sysret, user_sysret},
        {"user MOV from CR0", user_mov_from_cr0, user_mov_from_cr0},
        {"user MOV from CR2", user_mov_from_cr2, user_mov_from_cr2},
        {"user MOV from CR3", user_mov_from_cr3, user_mov_from_cr3},
        {"user MOV from CR4", user_mov_from_cr4, user_mov_from_cr4},
        {"user MOV from CR8", user_mov_from_cr8, user_mov_from_cr8},
        {"user MOV to CR0", user_mov_to_cr0, user_mov_to_cr0},
        {"user MOV to CR3", user_mov_to_cr3, user_mov_to_cr3},
        {"user MOV to CR4", user_mov_to_cr4, user_mov_to_cr4},
        {"user MOV to CR8", user_mov_to_cr8, user_mov_to_cr8},
        {"user MOV from DR7", user_mov_from_dr7, user_mov_from_dr7},
        {"user MOV to DR7", user_mov_to_dr7, user_mov_to_dr7},
        {"user IN", user_in, user_in},
        {"user OUT", user_out, user_out},
        {"user RDMSR", user_rdmsr, user_rdmsr_at},
        {"user WRMSR", user_wrmsr, user_wrmsr_at},
        {"user RDPMC", user_rdpmc, user_rdpmc_at},
    };
    const uint64_t words[2] = {0, 0};

    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct user_trap trap = user_trap_of(cases[i].probe, (uint64_t)words);

        check_trap(cases[i].name, &trap, VECTOR_GP, 0, (uint64_t)cases[i].at);
    }
}

static void segments(void)
{
    struct user_trap trap;

    check_fault("user SS, null", user_mov_ss, 0, VECTOR_GP, 0);
    check_fault("user SS of DPL 0", user_mov_ss, KERNEL_SS, VECTOR_GP,
                KERNEL_SS);
    check_fault("user DS of DPL 0", user_mov_ds, KERNEL_SS, VECTOR_GP,
                KERNEL_SS);
    check_fault("user DS beyond the GDT", user_mov_ds, SEL_BEYOND, VECTOR_GP,
                SEL_BEYOND);
    trap = user_trap_of(user_far_ret, KERNEL_CS);
    check_trap("user RET FAR to the kernel", &trap, VECTOR_GP, KERNEL_CS,
               (uint64_t)user_far_ret_at);
    trap = user_trap_of(user_iret, KERNEL_CS);
    check_trap("user IRET to the kernel", &trap, VECTOR_GP, KERNEL_CS,
               (uint64_t)user_iret_at);
}

/* ---- Memory ------------------------------------------------------------ */

static void check_page_fault(const char *name, user_probe *probe, uint64_t va,
                             unsigned error)
{
    struct user_trap trap = user_trap_of(probe, va);

    check_trap(name, &trap, VECTOR_PF, error,
               probe == user_fetch ? va : (uint64_t)probe);
    user_check(name, "CR2 - expected", trap.cr2 - va, 0);
}

/* What the kernel has, which a user's own tables may not map. */
static void check_kernel_page(const char *name, user_probe *probe, uint64_t va,
                              unsigned error)
{
    struct user_trap trap = user_trap_of(probe, va);

    user_check_or(name, "vector and error code",
                  user_both(trap.vector, trap.error),
                  user_both(VECTOR_PF, error), DEVIATION_PV_ROOTS,
                  user_both(VECTOR_PF, error & ~P));
    user_check(name, "RIP - expected",
               trap.rip - (probe == user_fetch ? va : (uint64_t)probe), 0);
    user_check(name, "CR2 - expected", trap.cr2 - va, 0);
}

static void check_quiet(const char *name, user_probe *probe, uint64_t va)
{
    struct user_trap trap = user_trap_of(probe, va);

    user_check(name, "vector (none)", trap.vector, VECTOR_NONE);
}

static void forbidden(void)
{
    static const uint64_t data[2] = {1, 2};
    struct user_trap trap;

    check_kernel_page("user load, kernel text", user_load, KERNEL_TEXT, U | P);
    check_kernel_page("user store, kernel text", user_store, KERNEL_TEXT,
                      U | P | W);
    check_kernel_page("user fetch, kernel text", user_fetch, KERNEL_TEXT,
                      U | P | I);
    check_kernel_page("user load, direct map", user_load, DIRECT_BASE, U | P);
    check_page_fault("user load, slot 507", user_load, SLOT_507, U);
    check_page_fault("user store, slot 507", user_store, SLOT_507, U | W);
    check_page_fault("user fetch, slot 507", user_fetch, SLOT_507_FETCH, U | I);
    trap = user_trap_of(user_load, SLOT_256);
    user_check_or("user load, slot 256", "vector and error code",
                  user_both(trap.vector, trap.error), user_both(VECTOR_PF, U),
                  DEVIATION_PVM_SLOT_256, user_both(VECTOR_PF, trap.error));
    check_page_fault("user load, nothing", user_load, 8, U);
    check_page_fault("user store, nothing", user_store, 0x1238, U | W);
    check_page_fault("user fetch, nothing", user_fetch, 0x1000, U | I);
    check_page_fault("user store, its text", user_store, (uint64_t)user_load,
                     U | P | W);
    check_page_fault("user store, its constants", user_store, (uint64_t)data,
                     U | P | W);
}

static void mappings(const struct wl_env *env)
{
    uint64_t bytes = 4 * WL_PAGE_4K;
    uint64_t *map = env->os->map(env, bytes, WL_PAGE_4K, WL_LAZY);
    uint64_t va = (uint64_t)map;

    user_check("demand zero", "a page", map[513], 0);
    map[0] = 0x1111;
    user_check("demand zero", "its neighbour", map[512 * 2], 0);
    user_check("demand zero", "what was written", map[0], 0x1111);
    check_page_fault("fetch, data", user_fetch, va, U | P | I);
    env->os->protect(env, map, WL_PAGE_4K, WL_PROT_READ);
    check_page_fault("store, protected", user_store, va, U | P | W);
    check_quiet("load, protected", user_load, va);
    check_quiet("store, the page behind", user_store, va + WL_PAGE_4K);
    env->os->protect(env, map, WL_PAGE_4K, WL_PROT_READ | WL_PROT_WRITE);
    check_quiet("store, writable again", user_store, va);
    user_check("store, writable again", "what memory has", map[0], va);
    env->os->unmap(env, map, bytes);
    check_page_fault("load, unmapped", user_load, va, U);
    check_page_fault("store, unmapped", user_store, va + WL_PAGE_4K, U | W);
    map = env->os->map(env, bytes, WL_PAGE_4K, WL_POPULATE);
    user_check("populated", "a page", map[512], 0);
    env->os->unmap(env, map, bytes);
}

/* ---- Processes --------------------------------------------------------- */

static void child(const struct wl_env *env, volatile uint64_t *map)
{
    user_check("child", "what the parent wrote before", map[0], 0xaaaa);
    map[0] = 0xbbbb;
    map[512] = 0xcccc;
    user_check("child", "its own", map[0], 0xbbbb);
    user_check("child", "a page of the parent's alone", map[1024], 0);
    env->os->yield(env);
    user_check("child", "its own, after the parent wrote", map[0], 0xbbbb);
    env->os->exit_child(env, 7);
}

static void copy_on_write(const struct wl_env *env)
{
    uint64_t bytes = 4 * WL_PAGE_4K;
    volatile uint64_t *map = env->os->map(env, bytes, WL_PAGE_4K, WL_LAZY);
    int status = 0;
    long id;

    map[0] = 0xaaaa;
    id = env->os->fork(env);
    if (!id)
        child(env, map);
    map[1024] = 0xdddd;
    env->os->yield(env);
    user_check("parent", "its own, after the child wrote", map[0], 0xaaaa);
    user_check("parent", "a page the child wrote", map[512], 0);
    map[0] = 0xeeee;
    env->os->wait_child(env, id, &status);
    user_check("parent", "the child's status", (uint64_t)status, 7);
    user_check("parent", "its own, in the end", map[0], 0xeeee);
    user_check("parent", "its page", map[1024], 0xdddd);
    env->os->unmap(env, (void *)map, bytes);
}

/* ---- The CPU ----------------------------------------------------------- */

static void identification(void)
{
    static const uint32_t leaves[] = {0,          1,          7,
                                      0x80000000, 0x80000001, 0x80000008};
    uint32_t kernel[4], user[4];

    for (unsigned i = 0; i < sizeof leaves / sizeof leaves[0]; i++) {
        uint64_t differ;

        user_ask(ASK_CPUID, leaves[i], (uint64_t)kernel);
        __asm__ volatile("cpuid"
                         : "=a"(user[0]), "=b"(user[1]), "=c"(user[2]),
                           "=d"(user[3])
                         : "a"(leaves[i]), "c"(0));
        differ = (kernel[0] ^ user[0]) | (kernel[1] ^ user[1]) |
                 (kernel[2] ^ user[2]) | (kernel[3] ^ user[3]);
        user_check_or("CPUID", "user against kernel", differ, 0,
                      DEVIATION_PVM_CPUID, differ);
    }
}

static void time_passes(const struct wl_env *env)
{
    uint64_t last = wl_tsc(), backwards = 0;

    for (unsigned i = 0; i < 4; i++) {
        uint64_t kernel = user_ask(ASK_TSC, 0, 0), now;

        env->os->yield(env);
        now = wl_tsc();
        backwards += kernel <= last || now <= kernel;
        last = now;
    }
    user_check("TSC", "steps backwards", backwards, 0);
}

static void round_of(const struct wl_env *env)
{
    selftest_user_state();
    frames();
    exceptions();
    software_interrupts();
    privileged();
    segments();
    forbidden();
    mappings(env);
    copy_on_write(env);
    identification();
    time_passes(env);
}

void selftest_user(const struct wl_env *env)
{
    for (uint64_t left = check_rounds(env->params->operations); left; left--)
        round_of(env);
    user_syscall(SYS_CHECKED, 0, 0, 0, 0, 0);
}
