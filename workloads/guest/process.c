/*
 * Processes and system calls. There is no timer: a process runs until it
 * waits, yields or exits, so every run is the same sequence of operations.
 */
#include "workloads/guest/selftest.h"

#include <errno.h>

#define RFLAGS_FIXED   0x2ull
#define RFLAGS_IF      0x200ull
#define RFLAGS_OF_USER 0xcd5ull /* the arithmetic flags and DF */
#define RED_ZONE       128

struct user_header {
    uint64_t entry, data_offset, bytes;
};

static struct process *process_alloc(struct kernel *k)
{
    for (unsigned i = 0; i < PROCESSES_MAX; i++) {
        struct process *p = &k->processes[i];

        if (p->state != PROCESS_FREE)
            continue;
        *p = (struct process){.state = PROCESS_READY,
                              .stack_top = (uint64_t)process_stacks[i] +
                                           KERNEL_STACK_BYTES};
        *(struct cpu **)process_stacks[i] = &k->cpus[0];
        return p;
    }
    return NULL;
}

static struct trap_frame *frame_of(const struct process *p)
{
    return (struct trap_frame *)p->stack_top - 1;
}

/* Interrupts are for shootdowns only. With one CPU they stay off: a bare
 * machine's timer would arrive at a vector nobody set up. */
static uint64_t user_rflags(void)
{
    return RFLAGS_FIXED | (kernel_get()->config.vcpus > 1 ? RFLAGS_IF : 0);
}

struct trap_frame process_user_frame(unsigned cpu, uint64_t entry,
                                     uint64_t arg0, uint64_t arg1,
                                     uint64_t arg2)
{
    return (struct trap_frame){
        .rip = entry,
        .rdi = arg0,
        .rsi = arg1,
        .rdx = arg2,
        .cs = USER_CS,
        .ss = USER_SS,
        .rflags = user_rflags(),
        /* as after a call: RSP + 8 is a multiple of 16 */
        .rsp = USER_STACK - cpu * (uint64_t)USER_STACK_BYTES - 8,
    };
}

static int load_program(struct kernel *k, struct space *space, uint64_t *entry)
{
    const struct user_header *header = (const void *)user_program;
    uint64_t pa = (uint64_t)user_program - KERNEL_BASE;
    uint64_t data = header->data_offset, end = header->bytes;
    uint64_t stacks = k->config.vcpus * (uint64_t)USER_STACK_BYTES;
    int err;

    *entry = header->entry;
    err = space_map_frames(k, space, USER_BASE, pa, data,
                           WL_PROT_READ | SPACE_EXEC);
    if (!err)
        err = space_map_frames(k, space, USER_BASE + data, pa + data,
                               end - data, WL_PROT_READ | WL_PROT_WRITE);
    if (!err && !space_map(k, space, USER_STACK - stacks, stacks, PAGE_4K,
                           WL_PROT_READ | WL_PROT_WRITE, true))
        err = -ENOMEM;
    return err;
}

void process_start_first(struct kernel *k)
{
    struct process *p = process_alloc(k);
    uint64_t entry = 0;

    if (space_create(k, &p->space) || load_program(k, &p->space, &entry))
        kernel_panic("the VM has too little memory for the user program");
    for (unsigned i = 0; i < CPUS_MAX; i++)
        k->cpus[i].process = p;
    *frame_of(p) = process_user_frame(0, entry, 0, 0, 0);
    cpu_set_stack(&k->cpus[0], p->stack_top);
    space_switch(k, &p->space);
    p->space.tagged = true;
    enter_user(frame_of(p));
}

static void switch_to(struct cpu *cpu, struct process *next)
{
    struct process *previous = cpu->process;

    cpu->process = next;
    cpu_set_stack(cpu, next->stack_top);
    space_switch(cpu->kernel, &next->space);
    next->space.tagged = true;
    context_switch(&previous->kernel_rsp, next->kernel_rsp);
}

void process_started(void);

/* The first thing a forked process does: its parent took the lock. */
void process_started(void)
{
    kernel_unlock(this_cpu());
}

static long sys_fork(struct cpu *cpu, const struct trap_frame *frame)
{
    struct kernel *k = cpu->kernel;
    struct process *parent = cpu->process, *child = process_alloc(k);
    uint64_t *stack;
    int err;

    if (!child)
        return -EAGAIN;
    err = space_clone(k, &child->space, &parent->space);
    if (err) {
        child->state = PROCESS_FREE;
        return err;
    }
    child->parent = parent;
    child->segv_handler = parent->segv_handler;
    *frame_of(child) = *frame;
    frame_of(child)->rax = 0;
    stack = (uint64_t *)frame_of(child);
    *--stack = (uint64_t)fork_return;
    child->kernel_rsp = (uint64_t)(stack - 6); /* what context_switch pops */
    return child - k->processes;
}

static long sys_wait(struct cpu *cpu, uint64_t id)
{
    struct kernel *k = cpu->kernel;
    struct process *child;

    if (id >= PROCESSES_MAX)
        return -ECHILD;
    child = &k->processes[id];
    if (child->state == PROCESS_FREE || child->parent != cpu->process)
        return -ECHILD;
    while (child->state != PROCESS_ZOMBIE)
        switch_to(cpu, child);
    space_destroy(k, &child->space);
    child->state = PROCESS_FREE;
    return child->exit_status;
}

static long sys_exit(struct cpu *cpu, int status)
{
    struct process *p = cpu->process;

    if (!p->parent)
        kernel_finish(cpu->kernel, GUEST_DONE);
    p->exit_status = status;
    p->state = PROCESS_ZOMBIE;
    switch_to(cpu, p->parent);
    kernel_panic("a process ran after its end");
}

static long sys_yield(struct cpu *cpu)
{
    struct process *p = cpu->process, *peer = p->parent;

    for (unsigned i = PROCESSES_MAX; !peer && i-- > 0;) {
        struct process *other = &cpu->kernel->processes[i];

        if (other->state == PROCESS_READY && other->parent == p)
            peer = other;
    }
    if (peer)
        switch_to(cpu, peer);
    return 0;
}

/* The segv handler gets the address and the frame to resume, which stands on
 * its own stack. */
static void call_segv_handler(struct process *p, struct trap_frame *frame,
                              uint64_t va)
{
    uint64_t saved = (frame->rsp - RED_ZONE - sizeof *frame) & ~15ull;

    *(struct trap_frame *)saved = *frame;
    frame->rip = p->segv_handler;
    frame->rdi = va;
    frame->rsi = saved;
    frame->rsp = saved - 8;
}

static long sys_resume(struct trap_frame *frame, uint64_t saved)
{
    if (saved >= USER_STACK)
        return -EFAULT;
    *frame = *(const struct trap_frame *)saved;
    frame->cs = USER_CS;
    frame->ss = USER_SS;
    frame->rflags = (frame->rflags & RFLAGS_OF_USER) | user_rflags();
    return (long)frame->rax;
}

void process_page_fault(struct cpu *cpu, struct trap_frame *frame, uint64_t va)
{
    struct process *p = cpu->process;
    int err = space_fault(cpu->kernel, &p->space, va, frame->error);

    if (!err)
        return;
    if (err == -ENOMEM)
        kernel_panic("out of guest memory: give the VM more, or a smaller "
                     "working set");
    if (frame->cs & 3 && selftest_user_trap(cpu, frame, va))
        return;
    if (!(frame->cs & 3) || !p->segv_handler)
        kernel_panic("a user program accessed memory it does not have");
    call_segv_handler(p, frame, va);
}

static void finish_with_message(struct kernel *k, uint64_t state,
                                uint64_t message)
{
    const char *text = (const char *)message;

    for (unsigned i = 0; text && i < GUEST_MESSAGE_MAX - 1 && text[i]; i++)
        k->results->message[i] = text[i];
    kernel_finish(k, (enum guest_state)state);
}

static long sys_map(struct cpu *cpu, const struct trap_frame *frame)
{
    return (long)space_map(cpu->kernel, &cpu->process->space, 0, frame->rdi,
                           frame->rsi, WL_PROT_READ | WL_PROT_WRITE,
                           frame->rdx);
}

uint64_t process_syscall(struct cpu *cpu, struct trap_frame *frame)
{
    struct kernel *k = cpu->kernel;
    struct space *space = &cpu->process->space;

    switch (frame->rax) {
    case SYS_NULL:
        return 0;
    case SYS_CONFIG:
        *(struct guest_config *)frame->rdi = k->config;
        return 0;
    case SYS_MAP:
        return (uint64_t)sys_map(cpu, frame);
    case SYS_UNMAP:
        return (uint64_t)space_unmap(k, space, frame->rdi, frame->rsi);
    case SYS_PROTECT:
        return (uint64_t)space_protect(k, space, frame->rdi, frame->rsi,
                                       (unsigned)frame->rdx & 3);
    case SYS_ON_SEGV:
        cpu->process->segv_handler = frame->rdi;
        return 0;
    case SYS_FORK:
        return (uint64_t)sys_fork(cpu, frame);
    case SYS_EXIT:
        return (uint64_t)sys_exit(cpu, (int)frame->rdi);
    case SYS_WAIT:
        return (uint64_t)sys_wait(cpu, frame->rdi);
    case SYS_YIELD:
        return (uint64_t)sys_yield(cpu);
    case SYS_PARALLEL:
        smp_start_work(cpu, frame->rdi, frame->rsi, frame->rdx);
        return 0;
    case SYS_WORK_DONE:
        smp_work_done(cpu);
    case SYS_WORK_WAIT:
        smp_wait_work(cpu);
        return 0;
    case SYS_PHASE_BEGIN:
        kernel_phase_begin(k, (enum wl_phase)frame->rdi);
        return 0;
    case SYS_PHASE_END:
        kernel_phase_end(k, (enum wl_phase)frame->rdi, frame->rsi, frame->rdx,
                         frame->r8, frame->r9);
        return 0;
    case SYS_RESUME:
        return (uint64_t)sys_resume(frame, frame->rdi);
    case SYS_FINISH:
        finish_with_message(k, frame->rdi, frame->rsi);
        break;
    case SYS_CHECK ... SYS_CHECKED:
        return selftest_syscall(cpu, frame);
    }
    return (uint64_t)-ENOSYS;
}
