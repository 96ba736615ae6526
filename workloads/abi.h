/*
 * What the guest image and whoever starts it agree on.
 *
 * The image gets a `struct guest_config` as the first module of the PVH start
 * info (Xen's public/arch-x86/hvm/start_info.h), from our VMM and from QEMU's
 * -initrd alike. It answers with a `struct guest_results`: into the page that
 * `results_gpa` names, or, when that is 0, byte by byte through the debug
 * console when the run is over.
 */
#ifndef WORKLOADS_ABI_H
#define WORKLOADS_ABI_H

#include <stdint.h>

#define GUEST_ABI_VERSION   3u
#define GUEST_CONFIG_MAGIC  0x6766636d766d656dull /* "memvmcfg" */
#define GUEST_RESULTS_MAGIC 0x7365726d766d656dull /* "memvmres" */

#define GUEST_NAME_MAX    24
#define GUEST_MESSAGE_MAX 256
#define GUEST_PHASES_MAX  8
#define GUEST_AUDITS_MAX  32

/* I/O ports. The console and exit ports are QEMU's defaults for -debugcon and
 * -device isa-debug-exit. */
#define GUEST_PORT_CONSOLE 0xe9  /* byte out: one character */
#define GUEST_PORT_EXIT    0xf4  /* dword out: ends the run */
#define GUEST_PORT_MARK    0x5f0 /* dword out: GUEST_MARK_* below */

#define GUEST_MARK_BEGIN 0x100u /* | enum wl_phase: counting starts */
#define GUEST_MARK_END   0x200u /* | enum wl_phase: counting stops */

enum guest_flags {
    GUEST_USE_PCID = 1 << 0, /* tag address spaces with PCIDs */
    /* Whose known errors the paging test and the self-test are to expect: */
    GUEST_WALKED_BY_TCG = 1 << 1, /* QEMU's TCG walks the guest's tables */
    GUEST_SHADOWED = 1 << 2,      /* KVM's shadow page tables, not kvm_pvm's */
    GUEST_UNDER_PVM = 1 << 3,     /* kvm_pvm */
    GUEST_CPU_TCG = 1 << 4,       /* QEMU's TCG runs the guest's code */
    GUEST_BARE_TCG = 1 << 5,      /* and nothing is in between */
    GUEST_SOFTWARE_VMM = 1 << 6,  /* the kernel runs at CPL 3 */
    GUEST_CPL3_PVM = 1 << 7,      /* kvm_pvm, under any technique */
    GUEST_PARAVIRTUAL = 1 << 8,   /* the kernel makes hypercalls */
};

struct guest_config {
    uint64_t magic;
    uint32_t version;
    uint32_t flags; /* enum guest_flags */
    char workload[GUEST_NAME_MAX];
    uint64_t working_set_bytes;
    uint64_t page_bytes; /* 4 KiB, 2 MiB or 1 GiB: the guest's mappings */
    uint64_t operations;
    uint64_t seed;
    uint32_t vcpus;
    uint32_t reserved;
    uint64_t results_gpa; /* 0: print the results on the debug console */
};

enum guest_state {
    GUEST_RUNNING = 1,
    GUEST_DONE = 2,
    GUEST_FAILED = 3,      /* message says why */
    GUEST_UNSUPPORTED = 4, /* message says what this CPU or VM lacks */
};

/* How user code enters the guest kernel; see docs/platforms.md. */
enum guest_syscall_path {
    GUEST_SYSCALL_NONE = 0,
    GUEST_SYSCALL_INSN = 1,
    GUEST_SYSCALL_FAULT = 2, /* SYSCALL that stays at CPL3 and faults */
};

struct guest_phase {
    uint32_t phase; /* enum wl_phase */
    uint32_t reserved;
    uint64_t operations;
    uint64_t tsc_begin;
    uint64_t tsc_end;
    uint64_t checksum; /* of what the workload computed: equal everywhere */
};

/* What an instruction of the audit did (workloads/audit.h). */
struct guest_audit {
    uint32_t instruction;     /* enum audit_instruction */
    uint32_t vector;          /* of the exception, GUEST_NO_VECTOR for none */
    uint64_t value, expected; /* no value where there was an exception */
};

#define GUEST_NO_VECTOR 0xffffu

struct guest_results {
    uint64_t magic;
    uint32_t version;
    uint32_t state; /* enum guest_state */
    uint32_t syscall_path;
    uint32_t phases;
    struct guest_phase phase[GUEST_PHASES_MAX];
    uint64_t page_bytes; /* the mapping size the guest really used */
    uint64_t boot_tsc;   /* at the guest kernel's first C statement */
    char message[GUEST_MESSAGE_MAX];
    uint32_t audits, reserved;
    struct guest_audit audit[GUEST_AUDITS_MAX];
};

#endif
