#include "vmm/vcpu.h"

#include "mmu/entry.h"
#include "vmm/monitor/layout.h"
#include "vmm/software.h"
#include "vmm/vm_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- Creation and reset ------------------------------------------------ */

#define CPUID_ENTRIES_MAX 256

/* The guest sees what KVM can virtualize here: CPUID as KVM proposes it. */
static int set_cpuid(struct vcpu *vcpu, struct why *why)
{
    struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof *cpuid + CPUID_ENTRIES_MAX * sizeof cpuid->entries[0]);
    int err = 0;

    if (!cpuid)
        return why_set(why, ENOMEM, "out of memory");
    cpuid->nent = CPUID_ENTRIES_MAX;
    if (ioctl(vcpu->vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid))
        err = why_set(why, errno, "KVM_GET_SUPPORTED_CPUID failed: %s",
                      strerror(errno));
    for (unsigned i = 0; !err && i < cpuid->nent; i++) {
        struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

        if (entry->function == 1) /* EBX[31:24]: the initial APIC ID */
            entry->ebx = (entry->ebx & 0xffffff) | vcpu->id << 24;
        else if (entry->function == 0xb || entry->function == 0x1f)
            entry->edx = vcpu->id;
    }
    if (!err && ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid))
        err = why_set(why, errno, "KVM_SET_CPUID2 failed: %s", strerror(errno));
    free(cpuid);
    return err;
}

int vcpu_create(struct vcpu *vcpu, struct vm *vm, unsigned id, struct why *why)
{
    int bytes = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);

    *vcpu = (struct vcpu){.vm = vm, .id = id, .fd = -1};
    if (bytes < (int)sizeof *vcpu->run)
        return why_set(why, EPROTO, "KVM_GET_VCPU_MMAP_SIZE failed");
    vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, id);
    if (vcpu->fd < 0)
        return why_set(why, errno, "KVM cannot create vCPU %u: %s", id,
                       strerror(errno));
    vcpu->run_bytes = (size_t)bytes;
    vcpu->run = mmap(NULL, vcpu->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                     vcpu->fd, 0);
    if (vcpu->run == MAP_FAILED) {
        vcpu->run = NULL;
        return why_set(why, errno, "cannot map vCPU %u's run page: %s", id,
                       strerror(errno));
    }
    return set_cpuid(vcpu, why);
}

void vcpu_destroy(struct vcpu *vcpu)
{
    if (vcpu->run)
        munmap(vcpu->run, vcpu->run_bytes);
    if (vcpu->fd >= 0)
        close(vcpu->fd);
}

struct kvm_segment vcpu_segment(uint16_t selector, uint8_t type, bool code)
{
    return (struct kvm_segment){
        .limit = 0xffffffff,
        .selector = selector,
        .type = type,
        .present = 1,
        .s = 1,
        .l = code,
        .db = !code,
        .g = 1,
    };
}

int vcpu_set_state(struct vcpu *vcpu, const struct kvm_sregs *sregs,
                   const struct kvm_regs *regs, struct why *why)
{
    struct kvm_mp_state runnable = {KVM_MP_STATE_RUNNABLE};

    if (ioctl(vcpu->fd, KVM_SET_SREGS, sregs))
        return why_set(why, errno, "KVM refused 64-bit mode: %s",
                       strerror(errno));
    if (ioctl(vcpu->fd, KVM_SET_REGS, regs))
        return why_set(why, errno, "KVM_SET_REGS failed: %s", strerror(errno));
    /* With the in-kernel APIC all but vCPU 0 would wait for INIT; without it
     * there is no such state. */
    if (vcpu->id && ioctl(vcpu->fd, KVM_SET_MP_STATE, &runnable))
        return why_set(why, errno, "cannot start vCPU %u: %s", vcpu->id,
                       strerror(errno));
    return 0;
}

int vcpu_reset(struct vcpu *vcpu, uint64_t entry, uint64_t cr3, uint64_t gdt,
               uint64_t start_info, struct why *why)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {
        .rip = entry,
        .rbx = start_info,
        .rdi = vcpu->id,
        .rflags = 2,
    };

    if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
        return why_set(why, errno, "KVM_GET_SREGS failed: %s", strerror(errno));
    sregs.cs = vcpu_segment(0x08, 0xb, true);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss =
        vcpu_segment(0x10, 0x3, false);
    sregs.gdt.base = gdt;
    sregs.gdt.limit = 3 * 8 - 1;
    sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    sregs.cr3 = cr3;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    return vcpu_set_state(vcpu, &sregs, &regs, why);
}

/* ---- Exits ------------------------------------------------------------- */

/* "rip 0x... cr2 0x...": what explains an end that was not the guest's. */
static const char *state_text(struct vcpu *vcpu, char *text, size_t bytes)
{
    struct kvm_regs regs = {0};
    struct kvm_sregs sregs = {0};

    if (ioctl(vcpu->fd, KVM_GET_REGS, &regs) ||
        ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
        snprintf(text, bytes, "registers cannot be read");
    else
        snprintf(text, bytes,
                 "vCPU %u rip 0x%llx rsp 0x%llx cpl %u cr2 0x%llx cr3 0x%llx",
                 vcpu->id,
                 vcpu->vm->software
                     ? (unsigned long long)software_rip(vcpu, &regs)
                     : regs.rip,
                 regs.rsp, sregs.cs.selector & 3, sregs.cr2, sregs.cr3);
    return text;
}

/* KVM_INTERNAL_ERROR_*, Documentation/virt/kvm/api.rst. */
static void end_internal_error(struct vcpu *vcpu, const char *state)
{
    static const char *const names[] = {
        "?", "emulation failed", "simultaneous exceptions",
        "event delivery failed", "unexpected exit"};
    const struct kvm_run *run = vcpu->run;
    unsigned suberror = run->internal.suberror;
    unsigned count = run->internal.ndata < 4 ? run->internal.ndata : 4;
    char data[4 * 20] = "";

    for (unsigned i = 0, at = 0; i < count; i++)
        at += (unsigned)snprintf(data + at, sizeof data - at, " %llx",
                                 run->internal.data[i]);
    vm_end_once(vcpu->vm, VM_END_INTERNAL_ERROR,
                "KVM internal error %u (%s), data%s, at %s", suberror,
                suberror < 5 ? names[suberror] : "?", data, state);
}

static void end_of_exit(struct vcpu *vcpu)
{
    const struct kvm_run *run = vcpu->run;
    const char *name = vm_exit_name(run->exit_reason);
    char state[200];

    state_text(vcpu, state, sizeof state);
    switch (run->exit_reason) {
    case KVM_EXIT_HLT:
        vm_end_once(vcpu->vm, VM_END_HALT, "the guest halted at %s", state);
        break;
    case KVM_EXIT_SHUTDOWN:
        vm_end_once(vcpu->vm, VM_END_SHUTDOWN,
                    "the guest triple-faulted (KVM_EXIT_SHUTDOWN) at %s",
                    state);
        break;
    case KVM_EXIT_INTERNAL_ERROR:
        end_internal_error(vcpu, state);
        break;
    case KVM_EXIT_FAIL_ENTRY:
        vm_end_once(vcpu->vm, VM_END_FAILED_ENTRY,
                    "the CPU refused to enter the guest, hardware reason "
                    "0x%llx, at %s",
                    run->fail_entry.hardware_entry_failure_reason, state);
        break;
    case KVM_EXIT_MMIO:
        vm_end_once(vcpu->vm, VM_END_BAD_ACCESS,
                    "the guest %s guest physical address 0x%llx, where "
                    "nothing is, at %s",
                    run->mmio.is_write ? "wrote to" : "read from",
                    run->mmio.phys_addr, state);
        break;
    default:
        vm_end_once(vcpu->vm, VM_END_BAD_ACCESS,
                    "KVM exit %u (%s) that memvirt does not expect, at %s",
                    run->exit_reason, name ? name : "unknown", state);
    }
}

static void mark(struct vcpu *vcpu, uint32_t value)
{
    const struct vm_config *config = &vcpu->vm->config;
    unsigned phase = value & 0xff;
    bool begin = value & GUEST_MARK_BEGIN;

    if (phase < WL_PHASES && !vcpu->id && vcpu->vm->software)
        software_mark(vcpu->vm, phase, begin);
    if (phase < WL_PHASES && !vcpu->id && config->hooks.mark)
        config->hooks.mark(vcpu->vm, phase, begin, config->arg);
}

/* A port that nothing answers reads as all ones, as on a PC's bus. */
void vcpu_port(struct vcpu *vcpu, uint16_t port, unsigned bytes, bool out,
               uint8_t *data)
{
    uint32_t value = 0;

    if (!out) {
        memset(data, 0xff, bytes);
        return;
    }
    memcpy(&value, data, bytes);
    switch (port) {
    case GUEST_PORT_CONSOLE:
        vm_console_put(vcpu->vm, (char)value);
        break;
    case GUEST_PORT_EXIT:
        vm_end_once(vcpu->vm, VM_END_EXIT, "the guest ended");
        break;
    case GUEST_PORT_MARK:
        mark(vcpu, value);
        break;
    case MON_PORT:
        if (vcpu->vm->software)
            software_call(vcpu, value);
        break;
    }
}

static void io(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;

    if (run->io.size > 4 || run->io.data_offset > vcpu->run_bytes ||
        run->io.size * (uint64_t)run->io.count >
            vcpu->run_bytes - run->io.data_offset)
        return;
    for (unsigned i = 0; i < run->io.count; i++)
        vcpu_port(vcpu, run->io.port, run->io.size,
                  run->io.direction == KVM_EXIT_IO_OUT,
                  data + i * run->io.size);
}

static void interrupted(struct vcpu *vcpu, int err)
{
    char state[200];

    if (err != EINTR && err != EAGAIN)
        vm_end_once(vcpu->vm, VM_END_ERROR, "KVM_RUN failed: %s at %s",
                    strerror(err), state_text(vcpu, state, sizeof state));
    else if (vm_deadline_passed(vcpu->vm))
        vm_end_once(vcpu->vm, VM_END_TIMEOUT,
                    "the time limit of %u s passed at %s; raise it with "
                    "--time-limit",
                    vcpu->vm->config.time_limit_s,
                    state_text(vcpu, state, sizeof state));
}

void vcpu_loop(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;

    while (!vm_has_ended(vcpu->vm)) {
        if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
            interrupted(vcpu, errno);
            continue;
        }
        if (run->exit_reason < VM_EXIT_KINDS)
            __atomic_store_n(&vcpu->exits[run->exit_reason],
                             vcpu->exits[run->exit_reason] + 1,
                             __ATOMIC_RELAXED);
        if (run->exit_reason == KVM_EXIT_IO)
            io(vcpu);
        /* A TPR that fell is for who keeps the local APIC: nobody. */
        else if (run->exit_reason != KVM_EXIT_SET_TPR)
            end_of_exit(vcpu);
    }
}
