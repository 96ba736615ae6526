/*
 * The guest kernel: as little of an operating system as the workloads need,
 * doing to page tables what an operating system does.
 *
 * main.c     start, configuration, results, the end
 * phys.c     physical memory
 * space.c    address spaces: mapping, demand paging, copy-on-write
 * trap.c     descriptor tables, exceptions
 * process.c  processes and system calls
 * smp.c      other CPUs: starting, running user code on, shooting down
 * nano.c     the kernel nanobenchmarks
 * compute.c  code that computes (workloads/compute/compute.h)
 * paging.c   the paging test (paging.h)
 * selftest.c the self-test (selftest.h)
 * audit.c    the audit (workloads/audit.h)
 *
 * All state hangs off one struct kernel, found through the CPU a kernel stack
 * belongs to. One lock covers it; user code runs without.
 */
#ifndef WORKLOADS_GUEST_KERNEL_H
#define WORKLOADS_GUEST_KERNEL_H

#include "mmu/entry.h"
#include "workloads/abi.h"
#include "workloads/api.h"
#include "workloads/guest/layout.h"
#include "workloads/guest/syscalls.h"

/* The model runs space.c and phys.c in a process of the host; a kernel built
 * with GUEST_PV asks a monitor for what others do themselves. */
#ifdef GUEST_HOSTED
#include "workloads/model/insn.h"
#else
#include "workloads/guest/insn.h"
#endif
#include "workloads/hypercall.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VMAS_MAX 32

struct trap_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8;
    uint64_t rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
};

/* A run of user addresses with one page size and protection. */
struct vma {
    uint64_t start, end; /* start == end: unused */
    uint64_t page_bytes;
    unsigned prot; /* enum wl_prot, and SPACE_EXEC */
};

#define SPACE_EXEC 4u

struct space {
    uint64_t *root;     /* PML4 or PML5, through the direct map */
    uint64_t cr3;       /* its physical address, and the PCID */
    uint64_t user_root; /* GUEST_PV: physical, of the user's PML4 */
    bool tagged;        /* its PCID holds no older space's translations */
    struct vma vmas[VMAS_MAX];
};

enum process_state { PROCESS_FREE, PROCESS_READY, PROCESS_ZOMBIE };

struct process {
    enum process_state state;
    int exit_status;
    struct process *parent;
    struct space space;
    uint64_t kernel_rsp; /* while it does not run */
    uint64_t stack_top;
    uint64_t segv_handler; /* user address, or 0 */
};

struct tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3, iopb;
} __attribute__((packed));

struct kernel;
struct paging_trap;
struct caught;
struct selftest;

struct cpu {
    uint64_t kernel_rsp; /* CPU_KERNEL_RSP */
    uint64_t user_rsp;   /* CPU_USER_RSP */
    struct kernel *kernel;
    struct process *process;
    unsigned id;
    unsigned generation;     /* of the work it has done */
    bool running_user;       /* an AP in parallel() */
    volatile bool shootdown; /* somebody waits for us to flush */
    /* A trap the kernel takes on purpose: vector + 1, and the length of the
     * instruction to go on behind. */
    unsigned expected_trap, expected_length;
    struct paging_trap *paging_trap; /* the paging test waits for one */
    struct caught *caught;           /* and the self-test */
    struct selftest *selftest;       /* NULL in other runs */
    uint64_t pv_cr2;                 /* GUEST_PV: from the monitor */
    uint64_t gdt[9];
    struct tss tss;
};

struct shootdown {
    uint64_t start, end, page_bytes;
    volatile unsigned pending;
};

/* A run of RAM: 4 KiB frames are taken from its start, large ones from its
 * end. */
struct arena {
    uint64_t next, end;
};

#define ARENAS_MAX 4

/* GUEST_PV: page tables come from memory that is mapped read-only, and are
 * written by hypercalls, many at once. */
#define PV_BATCH 1024

struct pv {
    struct arena tables;   /* not yet handed out */
    uint64_t start, end;   /* all of that memory */
    uint32_t *free_frames; /* given back: frame numbers */
    unsigned free_count, count;
    struct pv_update batch[PV_BATCH] __attribute__((aligned(16)));
};

struct kernel {
    struct guest_config config;
    struct guest_results *results; /* the shared page, or private memory */
    struct guest_results private_results;
    bool lock;

    /* phys.c */
    struct arena arenas[ARENAS_MAX];
    unsigned arena_count;
    uint64_t ram_end, hole_start, hole_end;
    uint64_t free_list[4]; /* by leaf level, linked through the frames */
    uint16_t *references;  /* of each 4 KiB frame that is mapped */

    /* space.c */
    uint64_t idt[256][2];
    uint64_t *kernel_root;
    bool pcid;
    unsigned next_pcid;

    struct process processes[PROCESSES_MAX];
    struct cpu cpus[CPUS_MAX];
    volatile unsigned cpus_up;

    /* smp.c */
    struct {
        uint64_t entry, arg0, arg1;
        volatile unsigned generation, running;
    } work;
    struct shootdown shootdown;
    struct pv pv;
};

/* main.c */
struct kernel *kernel_get(void);
void kernel_panic(const char *why) __attribute__((noreturn));
void kernel_unsupported(const char *why) __attribute__((noreturn));
void kernel_finish(struct kernel *k, enum guest_state state)
    __attribute__((noreturn));
void kernel_phase_begin(struct kernel *k, enum wl_phase phase);
void kernel_phase_end(struct kernel *k, enum wl_phase phase,
                      uint64_t operations, uint64_t tsc_begin, uint64_t tsc_end,
                      uint64_t checksum);
void kernel_lock(struct cpu *cpu);
void kernel_unlock(struct cpu *cpu);

/* The CPU this code runs on: every kernel stack starts with its CPU. */
static inline struct cpu *this_cpu(void)
{
    uint64_t rsp;

    __asm__ volatile("movq %%rsp, %0" : "=r"(rsp));
    return *(struct cpu **)(rsp & ~(uint64_t)(KERNEL_STACK_BYTES - 1));
}

static inline bool same_text(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* phys.c: frames by leaf level (1: 4 KiB, 2: 2 MiB, 3: 1 GiB), zeroed.
 * Returns a physical address, or 0 when there is none left. */
void phys_init(struct kernel *k);
uint64_t phys_alloc(struct kernel *k, unsigned level);
void phys_free(struct kernel *k, uint64_t pa, unsigned level);

/* pv.c, and what stands for it elsewhere */
#include "workloads/guest/paravirt.h"

/* space.c */
void space_init_kernel(struct kernel *k);
int space_create(struct kernel *k, struct space *space);
void space_destroy(struct kernel *k, struct space *space);
int space_clone(struct kernel *k, struct space *to, struct space *from);
void space_switch(const struct kernel *k, const struct space *space);
/* Maps one more range; returns its address, or 0. `at` 0: anywhere. */
uint64_t space_map(struct kernel *k, struct space *space, uint64_t at,
                   uint64_t bytes, uint64_t page_bytes, unsigned prot,
                   bool populate);
/* Maps frames that exist already and stay: the user program's. */
int space_map_frames(struct kernel *k, struct space *space, uint64_t at,
                     uint64_t pa, uint64_t bytes, unsigned prot);
int space_unmap(struct kernel *k, struct space *space, uint64_t start,
                uint64_t bytes);
int space_protect(struct kernel *k, struct space *space, uint64_t start,
                  uint64_t bytes, unsigned prot);
/* A page fault in user code: 0 when the access can be tried again. */
int space_fault(struct kernel *k, struct space *space, uint64_t va,
                uint64_t error);
/* The entry, at `level`, of a page of the kernel's own at va; its tables are
 * made if need be, its frame is the caller's business. */
uint64_t *space_kernel_entry(struct kernel *k, uint64_t va, unsigned level);

/* trap.c */
void trap_init_cpu(struct kernel *k, struct cpu *cpu, uint64_t stack_top);
void trap(struct trap_frame *frame);
/* The IDT's entry for a vector (SDM vol. 3A, 6.14.1): P, DPL and type as they
 * stand in it, and the number of its stack in the TSS, 0 for none. */
#define GATE_INTERRUPT      0x8e
#define GATE_TRAP           0x8f
#define GATE_INTERRUPT_USER 0xee
void trap_set_gate(struct kernel *k, unsigned vector, unsigned type,
                   unsigned ist);
/* Where the next trap from user code puts its frame. */
void cpu_set_stack(struct cpu *cpu, uint64_t stack_top);

/* process.c */
void process_start_first(struct kernel *k) __attribute__((noreturn));
/* The frame of user code at entry with three arguments. */
struct trap_frame process_user_frame(unsigned cpu, uint64_t entry,
                                     uint64_t arg0, uint64_t arg1,
                                     uint64_t arg2);
uint64_t process_syscall(struct cpu *cpu, struct trap_frame *frame);
void process_page_fault(struct cpu *cpu, struct trap_frame *frame, uint64_t va);

/* smp.c */
void smp_enter(struct kernel *k, unsigned id) __attribute__((noreturn));
void smp_init_cpu(const struct kernel *k);
void smp_start_work(struct cpu *cpu, uint64_t entry, uint64_t arg0,
                    uint64_t arg1);
void smp_wait_work(struct cpu *cpu);
void smp_work_done(struct cpu *cpu) __attribute__((noreturn));
void smp_flush_others(struct kernel *k, uint64_t start, uint64_t end,
                      uint64_t page_bytes);
void smp_answer_shootdown(struct cpu *cpu);
void smp_end_of_interrupt(void);

/* nano.c: runs the nanobenchmark of that name; false when there is none. */
bool nano_run(struct cpu *cpu, const char *name);

/* compute.c: the same of workloads/compute/compute.def. */
bool compute_run(struct cpu *cpu, const char *name);

/* entry.S */
extern const uint8_t trap_stubs[256][16];
extern const uint8_t user_program[], user_program_end[];
extern uint8_t boot_stacks[CPUS_MAX][KERNEL_STACK_BYTES];
extern uint8_t process_stacks[PROCESSES_MAX][KERNEL_STACK_BYTES];
extern uint8_t kernel_end[];
void fork_return(void);
void enter_user(struct trap_frame *frame) __attribute__((noreturn));
void syscall_entry(void);
void context_switch(uint64_t *save_rsp, uint64_t load_rsp);
void idle_until_interrupt(void);
void start64(void);
void kernel_start(unsigned id, uint64_t start_info_pa)
    __attribute__((noreturn));

#endif
