#include "tests/bt_run.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define SIGNAL_STACK (256u << 10)
#define HLT          0xf4

static const int signals[] = {SIGSEGV, SIGBUS,  SIGILL,
                              SIGFPE,  SIGTRAP, SIGVTALRM};

#define SIGNALS (sizeof signals / sizeof signals[0])

/* At the bottom of the signal stack, where a handler finds it. The offsets are
 * in run_go, too. */
struct run {
    uint64_t gpr[16];
    struct {
        uint64_t rip, cs, rflags, rsp, ss;
    } iret;
    uint64_t host_rsp;
    uint64_t reserved[2];
    _Alignas(16) uint8_t fx[512];
    struct run_trap trap;
    volatile bool inside;
    stack_t old_stack;
    struct sigaction old[SIGNALS];
};

_Static_assert(offsetof(struct run, iret) == 128, "run_go");
_Static_assert(offsetof(struct run, host_rsp) == 168, "run_go");
_Static_assert(offsetof(struct run, fx) == 192, "run_go");

/* ---- As it is ----------------------------------------------------------- */

/* To the guest's context in `run`, and back at run_back with `run` in RDI. */
void run_go(struct run *run);
extern const char run_back[];

__asm__(".text\n"
        "run_go:\n"
        "    push %rbx\n"
        "    push %rbp\n"
        "    push %r12\n"
        "    push %r13\n"
        "    push %r14\n"
        "    push %r15\n"
        "    sub $8, %rsp\n"
        "    stmxcsr (%rsp)\n"
        "    fnstcw 4(%rsp)\n"
        "    mov %rsp, 168(%rdi)\n"
        "    fxrstor64 192(%rdi)\n"
        "    lea 128(%rdi), %rsp\n"
        "    mov 0(%rdi), %rax\n"
        "    mov 8(%rdi), %rcx\n"
        "    mov 16(%rdi), %rdx\n"
        "    mov 24(%rdi), %rbx\n"
        "    mov 40(%rdi), %rbp\n"
        "    mov 48(%rdi), %rsi\n"
        "    mov 64(%rdi), %r8\n"
        "    mov 72(%rdi), %r9\n"
        "    mov 80(%rdi), %r10\n"
        "    mov 88(%rdi), %r11\n"
        "    mov 96(%rdi), %r12\n"
        "    mov 104(%rdi), %r13\n"
        "    mov 112(%rdi), %r14\n"
        "    mov 120(%rdi), %r15\n"
        "    mov 56(%rdi), %rdi\n"
        "    iretq\n"
        "run_back:\n"
        "    pushq $2\n" /* the kernel leaves NT as the guest has it */
        "    popfq\n"
        "    fxsave64 192(%rdi)\n"
        "    fninit\n"
        "    ldmxcsr (%rsp)\n"
        "    fldcw 4(%rsp)\n"
        "    add $8, %rsp\n"
        "    pop %r15\n"
        "    pop %r14\n"
        "    pop %r13\n"
        "    pop %r12\n"
        "    pop %rbp\n"
        "    pop %rbx\n"
        "    ret\n");

/* By register number. */
static const int greg[16] = {
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
    REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

/* The kernel leaves AC and NT as the guest has them. */
void run_signal(int number, siginfo_t *info, void *context);

__asm__("run_signal:\n"
        "    pushf\n"
        "    andl $~0x44000, (%rsp)\n"
        "    popf\n"
        "    jmp run_caught\n");

void run_caught(int number, siginfo_t *info, void *context);

void run_caught(int number, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *regs = uc->uc_mcontext.gregs;
    struct run *run = uc->uc_stack.ss_sp;

    (void)info;
    if (!run->inside) {
        if (number == SIGVTALRM)
            return;
        dprintf(2, "signal %d outside of the guest, at %#llx\n", number,
                (unsigned long long)regs[REG_RIP]);
        signal(number, SIG_DFL);
        return;
    }
    for (unsigned i = 0; i < 16; i++)
        run->gpr[i] = (uint64_t)regs[greg[i]];
    run->iret.rip = (uint64_t)regs[REG_RIP];
    run->iret.rflags = (uint64_t)regs[REG_EFL];
    run->trap.vector =
        number == SIGVTALRM ? RUN_TIMEOUT : (unsigned)regs[REG_TRAPNO];
    run->trap.error = (uint64_t)regs[REG_ERR];
    run->trap.cr2 = (uint64_t)regs[REG_CR2];
    run->inside = false;
    regs[REG_RIP] = (greg_t)run_back;
    regs[REG_RSP] = (greg_t)run->host_rsp;
    regs[REG_RDI] = (greg_t)run;
    regs[REG_EFL] = RUN_RESERVED | RUN_IF;
}

static int take_signals(struct run *run, struct why *why)
{
    stack_t stack = {.ss_sp = run, .ss_size = SIGNAL_STACK};
    struct sigaction action = {.sa_sigaction = run_signal,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK};

    sigfillset(&action.sa_mask); /* or a timer's comes between */
    if (sigaltstack(&stack, &run->old_stack))
        return why_set(why, errno, "no signal stack: %m");
    for (size_t i = 0; i < SIGNALS; i++)
        sigaction(signals[i], &action, &run->old[i]);
    return 0;
}

int run_open(struct run **out, struct why *why)
{
    struct run *run = mmap(NULL, SIGNAL_STACK, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int err;

    if (run == MAP_FAILED)
        return why_set(why, ENOMEM, "no memory for a signal stack");
    __asm__ volatile("fxsave64 %0" : "=m"(run->fx));
    err = take_signals(run, why);
    if (err)
        munmap(run, SIGNAL_STACK);
    else
        *out = run;
    return err;
}

void run_close(struct run *run)
{
    for (size_t i = 0; i < SIGNALS; i++)
        sigaction(signals[i], &run->old[i], NULL);
    sigaltstack(&run->old_stack, NULL);
    munmap(run, SIGNAL_STACK);
}

void run_enter(struct run *run, struct run_regs *regs, struct run_trap *trap)
{
    memcpy(run->gpr, regs->gpr, sizeof run->gpr);
    memcpy(run->fx, regs->fx, sizeof run->fx);
    run->iret.rip = regs->rip;
    run->iret.cs = RUN_CS;
    run->iret.rflags = regs->rflags | RUN_RESERVED | RUN_IF;
    run->iret.rsp = regs->gpr[4];
    run->iret.ss = RUN_SS;
    run->inside = true;
    run_go(run);
    memcpy(regs->gpr, run->gpr, sizeof run->gpr);
    memcpy(regs->fx, run->fx, sizeof run->fx);
    regs->rip = run->iret.rip;
    regs->rflags = run->iret.rflags;
    *trap = run->trap;
}

static bool is_prefix(unsigned byte)
{
    return memchr("\x26\x2e\x36\x3e\x64\x65\x66\x67\xf2\xf3", (int)byte, 10) ||
           byte >> 4 == 4;
}

static bool is_pushf(uint64_t rip)
{
    const uint8_t *bytes = (const uint8_t *)rip;
    unsigned at = 0;

    while (at < 14 && is_prefix(bytes[at]))
        at++;
    return bytes[at] == 0x9c;
}

void run_step(struct run *run, struct run_regs *regs, struct run_trap *trap)
{
    uint64_t rip = regs->rip;

    regs->rflags |= RUN_TF;
    run_enter(run, regs, trap);
    regs->rflags &= ~(uint64_t)RUN_TF;
    if (trap->vector == RUN_DEBUG && is_pushf(rip))
        ((uint8_t *)regs->gpr[4])[1] &= (uint8_t) ~(RUN_TF >> 8);
}

/* ---- Translated ---------------------------------------------------------- */

int translated_open(struct translated *t, struct run *run,
                    const struct translated_config *config, struct why *why)
{
    struct bt_config bt = {.va = config->va,
                           .code_bytes = config->code_bytes,
                           .is_sensitive = config->is_sensitive,
                           .user = config->user,
                           .trace = config->trace};
    struct bt_state *state;

    *t = (struct translated){
        .run = run, .trace = config->trace, .user = config->user};
    t->cache = calloc(1, sizeof *t->cache);
    t->area = mmap((void *)config->va, BT_TRACE_AREA,
                   PROT_READ | PROT_WRITE | PROT_EXEC,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (t->area == MAP_FAILED)
        t->area = NULL;
    if (!t->cache || !t->area)
        return why_set(why, ENOMEM, "no memory for a translation cache");
    state = (struct bt_state *)(t->area + BT_STATE);
    state->minus_cs = -(uint64_t)RUN_CS;
    state->minus_ss = -(uint64_t)RUN_SS;
    state->log = config->va + BT_LOG;
    mprotect(t->area + BT_LOG_END, RUN_PAGE, PROT_READ);
    bt.area = t->area;
    bt.cache = t->cache;
    return bt_create(&t->bt, &bt, why);
}

void translated_close(struct translated *t)
{
    if (t->bt)
        bt_destroy(t->bt);
    if (t->area)
        munmap(t->area, BT_TRACE_AREA);
    free(t->cache);
    *t = (struct translated){0};
}

/* ---- The log ------------------------------------------------------------ */

static struct bt_state *state_of(const struct translated *t)
{
    return (struct bt_state *)(t->area + BT_STATE);
}

void translated_drain(void *translated)
{
    struct translated *t = translated;
    uint64_t begin = t->cache->va + BT_LOG;

    if (!t->trace)
        return;
    t->drains++;
    if (bt_trace_expand(t->trace, (const uint64_t *)begin,
                        (state_of(t)->log - begin) / 8))
        snprintf(t->broken, sizeof t->broken, "a log that makes no sense");
    state_of(t)->log = begin;
}

/* As the monitor does it. */
static void log_stop(struct translated *t, uint64_t address,
                     const struct run_regs *regs, const struct bt_point *point,
                     bool user)
{
    uint64_t *to = (uint64_t *)state_of(t)->log;
    bool last;

    if (!t->trace)
        return;
    last = state_of(t)->log + RUN_PAGE > t->cache->va + BT_LOG_END;
    if (last)
        mprotect(t->area + BT_LOG_END, RUN_PAGE, PROT_READ | PROT_WRITE);
    to[0] = bt_log_word(BT_LOG_STOP,
                        (address - t->cache->va - BT_CODE) |
                            (user ? BT_LOG_USER : 0) |
                            (point->kind == BT_CALL_OUT ? BT_LOG_CALL : 0));
    to[1] = regs->gpr[6];
    to[2] = regs->gpr[7];
    to[3] = regs->rip;
    state_of(t)->log += BT_LOG_STOP_WORDS * 8;
    if (!last)
        return;
    translated_drain(t);
    mprotect(t->area + BT_LOG_END, RUN_PAGE, PROT_READ);
}

static bool log_is_full(struct translated *t, const struct run_trap *trap)
{
    if (!t->trace || trap->vector != RUN_PAGE_FAULT ||
        trap->cr2 - (t->cache->va + BT_LOG_END) >= RUN_PAGE)
        return false;
    translated_drain(t);
    return true;
}

static bool broken(struct translated *t, struct run_trap *trap,
                   const char *what, uint64_t where)
{
    snprintf(t->broken, sizeof t->broken, "%s at %#llx (vector %u)", what,
             (unsigned long long)where, trap->vector);
    trap->vector = RUN_BROKEN;
    return false;
}

static bool is_code(const struct translated *t, uint64_t va)
{
    for (unsigned i = 0; i < t->codes; i++)
        if (va >= t->code[i].begin && va < t->code[i].end)
            return true;
    return false;
}

/* What the CPU says when it fetches where no code is. */
static bool no_code(struct run_trap *trap, uint64_t va)
{
    bool canonical = (uint64_t)((int64_t)(va << 16) >> 16) == va;

    *trap = canonical ? (struct run_trap){RUN_PAGE_FAULT, 0x14, va}
                      : (struct run_trap){RUN_PROTECTION, 0, 0};
    return false;
}

static bool translate(struct translated *t, uint64_t rip, bool indirect,
                      struct run_trap *trap)
{
    uint64_t page = rip & ~(uint64_t)(RUN_PAGE - 1), next = page + RUN_PAGE;
    struct bt_request request = {
        .gva = rip,
        .bytes = (const uint8_t *)rip,
        .count = (unsigned)(next - rip),
        .pa = page,
        .next = t->give_next && is_code(t, next) ? (const uint8_t *)next : NULL,
        .next_pa = next,
        .indirect = indirect,
    };

    if (!is_code(t, rip))
        return no_code(trap, rip);
    t->translations++;
    if (!bt_translate(t->bt, &request))
        return true;
    if (!is_code(t, next))
        return no_code(trap, next);
    request.next = (const uint8_t *)next;
    if (!bt_translate(t->bt, &request))
        return true;
    return broken(t, trap, "not translated", rip);
}

static void guest_state(const struct run_regs *raw,
                        const struct bt_point *point, struct run_regs *regs)
{
    *regs = *raw;
    for (unsigned i = 0; i < 16; i++)
        if (point->restored >> i & 1)
            regs->gpr[i] = point->value[i];
    regs->gpr[4] += point->add_rsp;
    regs->rip = point->rip;
}

/* In the cache until something is to be done. False: a trap for the caller. */
static bool in_cache(struct translated *t, uint64_t address,
                     struct run_regs *regs, struct bt_point *point,
                     struct run_trap *trap)
{
    const struct bt_state *state = (const void *)(t->area + BT_STATE);
    struct run_regs raw = *regs;
    bool again;

    raw.rip = address;
    for (;;) {
        t->entries++;
        if (t->entries_left && !--t->entries_left) {
            trap->vector = RUN_TIMEOUT;
            return false;
        }
        if (t->on_step)
            run_step(t->run, &raw, trap);
        else
            run_enter(t->run, &raw, trap);
        if (!bt_contains(t->cache, raw.rip))
            return broken(t, trap, "outside the cache", raw.rip);
        if (!bt_recover(
                t->cache, state, raw.rip,
                &(struct bt_registers){raw.gpr[1], raw.gpr[2], raw.gpr[4]},
                point))
            return broken(t, trap, "not recovered", raw.rip);
        guest_state(&raw, point, regs);
        log_stop(t, raw.rip, regs, point, t->user);
        if (log_is_full(t, trap)) {
            point->kind = BT_EXIT;
            return true;
        }
        if (trap->vector == RUN_TIMEOUT)
            return false;
        again = t->on_step && t->on_step(t->context, regs, point);
        if (trap->vector != RUN_DEBUG || !t->on_step)
            break;
        if (again) {
            point->kind = BT_INSTRUCTION;
            return true;
        }
    }
    if (point->kind == BT_INSTRUCTION)
        return false;
    if (trap->vector != RUN_PROTECTION || *(const uint8_t *)raw.rip != HLT)
        return broken(t, trap, "no HLT", raw.rip);
    return true;
}

static bool call_out(struct translated *t, struct run_regs *regs,
                     struct run_trap *trap)
{
    t->call_outs++;
    if (t->stop && t->stop(regs->rip)) {
        trap->vector = RUN_STOPPED;
        return false;
    }
    run_step(t->run, regs, trap);
    return trap->vector == RUN_DEBUG;
}

/* Where to go on. False: there is nothing, and the trap says so. */
static bool resume(struct translated *t, const struct bt_point *point,
                   uint64_t rip, uint64_t *address, struct run_trap *trap)
{
    bool branch = point->kind == BT_MISS || point->kind == BT_EXIT || t->trace;
    bool miss = point->kind == BT_MISS;
    uint64_t *table = (uint64_t *)(t->area + BT_TABLE);

    t->misses += miss;
    if (miss && !bt_remember(t->cache, table, rip) &&
        !translate(t, rip, true, trap))
        return false;
    *address = bt_resume(t->cache, branch ? NULL : point->block, rip);
    if (*address)
        return true;
    if (!translate(t, rip, miss, trap))
        return false;
    *address = bt_resume(t->cache, NULL, rip);
    return *address || broken(t, trap, "translated and not there", rip);
}

static void describe(const struct run_regs *regs, struct translated *t)
{
    struct bt_point here = {.rip = regs->rip, .start = true};

    if (t->on_step)
        t->on_step(t->context, regs, &here);
}

void translated_run(struct translated *t, struct run_regs *regs,
                    struct run_trap *trap)
{
    struct bt_point point = {.kind = BT_INSTRUCTION};
    uint64_t address;

    regs->rflags &= ~(uint64_t)RUN_TF;
    for (;;) {
        describe(regs, t);
        if (!resume(t, &point, regs->rip, &address, trap) ||
            !in_cache(t, address, regs, &point, trap))
            return;
        if (point.kind == BT_CALL_OUT && !call_out(t, regs, trap))
            return;
    }
}
