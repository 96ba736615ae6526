/*
 * The monitor: the software VMM of `trap`, `bt` and `pv`. It is the only code
 * at CPL 0 in the VM; the guest's kernel and its programs run at CPL 3, on
 * shadow tables of their own (docs/monitor.md).
 *
 * The core, all of this folder but start.c and entry.S, is freestanding and
 * does nothing that only a CPU at CPL 0 can: it works on structures in the
 * monitor's memory and leaves what the CPU must do (flushes, CR3, descriptor
 * tables) to whoever enters the guest. So it runs in the VM, where a trap
 * costs no exit (assist on), or in the VMM process, one user exit a trap
 * (assist off), and under a test.
 *
 * All vCPUs share one `struct mon` under one lock; a vCPU's state is its
 * `struct mon_cpu`. Nothing a guest does is trusted: it gets its architectural
 * exception, or the run ends with a reason.
 */
#ifndef VMM_MONITOR_MONITOR_H
#define VMM_MONITOR_MONITOR_H

#include "bt/cache.h"
#include "directpt/direct.h"
#include "shadowpt/shadow.h"
#include "vmm/monitor/insn.h"
#include "vmm/monitor/layout.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MON_CPUS_MAX 32

/* General registers by number: frame->gpr[mon_gpr(n)]. */
struct mon_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8;
    uint64_t rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
};

/* Why control came to the monitor: an insn_op that was emulated, or one of
 * these. */
enum mon_reason {
    MON_HIDDEN_FAULT = INSN_OPS,
    MON_TRUE_FAULT,
    MON_TRACED_WRITE, /* a write emulated, whatever the instruction */
    MON_UNSHADOWED,   /* a table given up for an instruction not emulated */
    MON_SYSCALL,
    MON_HYPERCALL,
    MON_KICKED, /* by another vCPU */
    MON_POISONED,
    /* The guest kernel's translated code goes on where nothing is translated
     * yet; where an indirect branch finds nothing; writes to traced tables
     * without a fault. And code that was translated is written. */
    MON_BT_EXIT,
    MON_BT_MISS,
    MON_STORE_CALL_OUT,
    MON_CODE_WRITE,
    MON_EXCEPTION, /* + vector: the guest's own, but page faults */
    MON_REASONS = MON_EXCEPTION + 32
};

/* Why a run ends that the guest did not end. The values are for the sentence
 * (vmm/software.c). */
enum mon_end {
    MON_END_NONE,
    MON_END_TRIPLE_FAULT,
    MON_END_NO_MEMORY,   /* a: guest-physical address */
    MON_END_RESERVED,    /* a: address in the monitor's slot */
    MON_END_INSTRUCTION, /* not emulated; a: RIP, bytes in cpu->site */
    MON_END_PAGING,      /* a: CR4, b: CR0: no mode that shadows can follow */
    MON_END_NO_PROGRESS, /* a: RIP, b: address it keeps faulting at */
    MON_END_HALTED,      /* for good: nothing can wake it */
    MON_END_SEGMENT,     /* a: selector of what is no 64-bit code */
    MON_END_TRACE,       /* its log makes no sense, or nobody takes it */
    MON_END_OWN_FAULT,   /* the monitor's: a: vector, b: RIP */
};

/* The virtual CPU: what the guest believes. General registers, RIP and RSP
 * are in the frame; RFLAGS too, but for IF and IOPL. */
struct mon_virtual {
    bool user; /* CPL 3; else CPL 0 */
    uint64_t cr0, cr2, cr3, cr4, cr8, efer;
    uint64_t flags; /* IF and IOPL */
    uint64_t star, lstar, cstar, fmask, kernel_gs_base, tsc_aux, pat;
    uint64_t sysenter[3];
    uint64_t gdt_base, idt_base;
    uint16_t gdt_limit, idt_limit;
    uint16_t cs, ss, ldt, tr;
    uint64_t tr_base;
    uint32_t tr_limit;
    uint64_t dr[8];
    bool sti_shadow; /* no interrupt before the next instruction */
    /* The local APIC, as an x2APIC (SDM vol. 3A, 10.12). */
    uint64_t apic_base, apic_svr, apic_icr, apic_lvt_timer;
    uint64_t irr[4], isr[4]; /* irr is set by other vCPUs */
    bool irr_any;            /* and this, after it */
};

struct mon_exception {
    bool pending, has_error;
    uint8_t vector;
    uint32_t error;
    uint64_t address; /* #PF: CR2 */
};

/* What a call to the VMM is about; the values are in struct mon_cpu. */
enum mon_call {
    MON_CALL_TRAP,       /* assist off: handle the trap in the frame */
    MON_CALL_DECODE,     /* call_pa, call_bytes, call_count -> call_insn */
    MON_CALL_END,        /* end, end_a, end_b */
    MON_CALL_TRANSLATOR, /* call_translation -> call_error */
};

/* What is asked of the translator (bt/bt.h). */
enum mon_translator {
    MON_TRANSLATOR_BLOCK, /* va, pa, next_pa; flag: for indirect branches */
    MON_TRANSLATOR_FRAME, /* pa was written: on every vCPU */
    MON_TRANSLATOR_RANGE, /* va, bytes are mapped elsewhere */
    MON_TRANSLATOR_ADAPT, /* va; flag: becomes a call-out */
    MON_TRANSLATOR_DRAIN, /* the log is to be empty (bt/trace.h) */
};

#define MON_NO_PAGE UINT64_MAX

struct mon_translation {
    enum mon_translator op;
    bool flag;
    uint64_t va, bytes, pa, next_pa;
};

/* Addresses that translations rely on to be mapped so. */
struct mon_region {
    bool user;
    uint64_t va, pa, bytes;
    uint64_t root[2], epoch; /* of the shadow tables when it was so */
};

/* A store of the kernel's to traced tables. */
struct mon_hot {
    uint64_t rip;
    unsigned faults, elsewhere; /* since it was adapted */
    unsigned times;             /* that it was made a copy again */
};

#define MON_REGIONS 32
#define MON_HOT     16

/* A vCPU whose kernel runs translated (translated.c). The second of two is of
 * user code, where config.trace is set. */
struct mon_translated {
    uint8_t *area[2]; /* bt/cache.h's */
    struct bt_cache *cache[2];
    struct bt_block *block; /* that the trap came from */
    uint64_t entered;       /* guest RIP that translated code began at */
    bool indirect;          /* by a branch that found nothing */
    bool check;             /* the regions, before translated code runs */
    bool guarded;           /* the page of flags is read-only */
    bool untranslated;      /* user code's next instruction runs as it is */
    volatile bool stale;    /* another vCPU wrote to code */
    unsigned regions, next_hot;
    struct mon_region region[MON_REGIONS];
    struct mon_hot hot[MON_HOT];
};

/* What a lookup in the shadow tables said. */
struct mon_lookup {
    uint64_t tag;         /* the page's address | enum mmu_access + 1 */
    uint64_t root, epoch; /* as shadow_root and shadow_epoch were */
    uint64_t pa;
};

#define MON_LOOKUPS     32
#define MON_FLUSH_PAGES 8
#define MON_ADDRESSES   8

struct mon_cpu {
    struct mon_frame frame; /* where the CPU and entry.S push */
    uint64_t stack_top;
    uint64_t syscall_rsp;
    uint64_t self;          /* its address in the monitor */
    uint64_t fault_address; /* CR2 at entry */
    unsigned id;
    void *host; /* the VMM's own */

    /* For the way back into the guest. */
    uint64_t cr3, loaded_cr3;
    unsigned flush_pages; /* over MON_FLUSH_PAGES: everything */
    uint64_t flush_page[MON_FLUSH_PAGES];
    bool user_gdt, loaded_user_gdt;
    uint64_t cr0, loaded_cr0;   /* MP, EM and TS are the guest's */
    volatile bool flush_wanted; /* by another vCPU */
    volatile bool in_guest;
    volatile bool held; /* by another vCPU: stays out of the guest */

    struct mon_virtual v;
    struct mon_lookup lookup[MON_LOOKUPS];
    /* pv, on the guest's own tables. */
    bool direct, left;
    uint64_t kernel_root, user_root, pv_syscall, pv_cr2;
    uint64_t left_root[2]; /* see pv.c */
    struct mon_exception exception;
    /* Page faults of one instruction: where it is, the last addresses, and how
     * often one of them came again. */
    uint64_t last_rip, last_address[MON_ADDRESSES];
    unsigned next_address, repeats;
    /* A translation is being loaded for the guest (trap.c); its state. */
    bool touching;
    uint64_t touch_rip, touch_rax, touch_rflags;
    bool stepping; /* one instruction, because of STI (trap.c) */

    enum mon_end end;
    uint64_t end_a, end_b;
    struct mon_frame own_fault; /* MON_END_OWN_FAULT */

    uint64_t call_pa;
    uint8_t call_bytes[INSN_BYTES_MAX];
    uint8_t call_count;
    struct insn call_insn;
    struct mon_translation call_translation;
    int call_error;

    struct mon_translated bt;

    uint64_t traps[MON_REASONS];

    /* The real descriptor tables: the guest's loadable segments as its kernel
     * (every DPL 3) and as its user code may load them. */
    uint64_t gdt[2][MON_GDT];
    uint32_t tss[26];
};

struct mon_config {
    unsigned cpus;
    bool assist;
    bool pv;             /* the guest kernel makes hypercalls */
    bool translate;      /* the guest kernel runs translated */
    bool adaptive;       /* and stores to traced tables are called out */
    bool trace;          /* user code too, and both log (bt/trace.h) */
    bool syscall_faults; /* SYSCALL arrives as a #PF on the fetch (kvm_pvm) */
    unsigned physical_bits;
    uint64_t low_end, high_end; /* RAM: 0 .. low_end, 4 GiB .. high_end */
    uint64_t pa;                /* of the monitor's memory */
    uint64_t arena_bytes;
    uint64_t frames; /* pv: offset of the frames' types, zeroed */
    /* translate: offsets of the vCPUs' areas, of their page tables (one for
     * the first 2 MiB of each), of what is known of them, and of a bit for
     * each frame of RAM, all zeroed. With trace, user code's are behind the
     * kernel's of all vCPUs. */
    uint64_t areas, area_tables, caches, code_map;
    uint64_t kernel_pdpt; /* of the roots of the kernel's; 0: as the others */
    enum shadow_policy policy;
    unsigned roots, flood;
    uint64_t poison;
    /* How every vCPU starts: in 64-bit mode at CPL 0. */
    uint64_t entry, cr3, gdt, start_info;
};

/* What the core asks of its surroundings. */
struct mon_ops {
    /* Decodes the instruction at guest-physical `pa`, of which `count` bytes
     * are at hand: 0, or -ENODATA when it is longer. */
    int (*decode)(struct mon_cpu *cpu, uint64_t pa, const uint8_t *bytes,
                  unsigned count, struct insn *insn);
    uint32_t (*port)(struct mon_cpu *cpu, uint16_t port, unsigned bytes,
                     bool out, uint32_t value);
    /* FS.base (INSN_FS) or GS.base, of the guest as it stands. */
    uint64_t (*get_base)(struct mon_cpu *cpu, unsigned segment);
    void (*set_base)(struct mon_cpu *cpu, unsigned segment, uint64_t base);
    /* DS, ES, FS or GS; what is loaded is null, or in cpu->gdt[0]. */
    uint16_t (*get_selector)(struct mon_cpu *cpu, unsigned segment);
    void (*set_selector)(struct mon_cpu *cpu, unsigned segment,
                         uint16_t selector);
    /* Makes another vCPU enter the monitor, soon. */
    void (*kick)(struct mon_cpu *cpu);
    /* Waits, without the lock, until something may have happened for this
     * vCPU. */
    void (*wait)(struct mon_cpu *cpu);
    void (*relax)(struct mon_cpu *cpu); /* in a spin */
    uint64_t (*tsc)(void);
    /* cpu->call_translation: 0 or a negative errno. NULL where nothing is
     * translated. */
    int (*translator)(struct mon_cpu *cpu);
    void *arg;
};

#define MON_CACHE_BYTES ((sizeof(struct bt_cache) + 4095) & ~4095ull)

struct mon_site {
    uint64_t pa; /* + 1; 0: empty */
    struct insn insn;
};

struct mon {
    struct mon_config config;
    struct mon_ops ops;
    struct shadow *shadow;
    struct direct direct;        /* pv */
    uint8_t *ram_low, *ram_high; /* guest-physical 0, and 4 GiB */
    struct mon_cpu *cpus;        /* MON_CPU_BYTES apart */
    struct mon_site *sites;
    unsigned site_mask;
    volatile bool lock;
    struct mon_cpu *current; /* who holds it */
    uint64_t decodes;
    /* translate: frames with translated code; see mon_config */
    uint64_t *code, code_frames, *area_tables;
};

/* Sets up `mon` and every vCPU's state; the arena, the sites and the vCPUs'
 * parts are at the given addresses. 0 or what shadow_init says. */
int mon_init(struct mon *mon, const struct mon_config *config,
             const struct mon_ops *ops, uint8_t *ram_low, uint8_t *ram_high,
             uint8_t *memory);

/* The first entry into the guest: afterwards the frame is its state. */
void mon_start_cpu(struct mon *mon, struct mon_cpu *cpu);

/* From ops.wait: the vCPU waits no longer, the run has ended. */
void mon_stop(struct mon_cpu *cpu);

/* Handles the trap in the frame. Afterwards the guest can go on, or cpu->end
 * says why not. */
void mon_trap(struct mon *mon, struct mon_cpu *cpu);

static inline struct mon_cpu *mon_cpu(const struct mon *mon, unsigned id)
{
    return (struct mon_cpu *)((uint8_t *)mon->cpus + id * MON_CPU_BYTES);
}

#endif
