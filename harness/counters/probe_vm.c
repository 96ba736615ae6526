#include "harness/counters/probe_vm.h"

#include "mmu/entry.h"
#include "workloads/abi.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM_BYTES  (2u << 20)
#define PML4_GPA   0x1000u
#define PDPT_GPA   0x2000u
#define PD_GPA     0x3000u
#define CODE_GPA   0x8000u
#define CODE_BYTES 64u
#define STACK_GPA  0x10000u

#define RFLAGS_ONE  (1u << 1)
#define SELECTOR_CS 0x08
#define SELECTOR_DS 0x10

/*
 * One loop per instruction, each CODE_BYTES long:
 *
 *     start:  test esi, esi; jz done
 *     again:  the instruction; dec esi; jnz again
 *     done:   mov edx, GUEST_PORT_MARK; out dx, eax
 *
 * RSI counts, RDI points to a page, RBX holds the value of CR3.
 */
#define DONE 0xba, GUEST_PORT_MARK & 0xff, GUEST_PORT_MARK >> 8, 0, 0, 0xef

static const unsigned char code[PROBE_OPS][CODE_BYTES] = {
    [PROBE_CPUID] = {0x85, 0xf6, 0x74, 0x08,        /* test; jz done */
                     0x31, 0xc0, 0x0f, 0xa2,        /* xor eax, eax; cpuid */
                     0xff, 0xce, 0x75, 0xf8, DONE}, /* dec; jnz again */
    [PROBE_INVLPG] = {0x85, 0xf6, 0x74, 0x07, 0x0f, 0x01, 0x3f, /* [rdi] */
                      0xff, 0xce, 0x75, 0xf9, DONE},
    [PROBE_CR3] = {0x85, 0xf6, 0x74, 0x07, 0x0f, 0x22, 0xdb, /* cr3, rbx */
                   0xff, 0xce, 0x75, 0xf9, DONE},
    [PROBE_NOTHING] = {0x85, 0xf6, 0x74, 0x05, 0x90, /* nop */
                       0xff, 0xce, 0x75, 0xfb, DONE},
};

static void write_image(char *ram)
{
    uint64_t pml4 = PDPT_GPA | PTE_P | PTE_RW, pdpt = PD_GPA | PTE_P | PTE_RW;
    uint64_t pd = PTE_P | PTE_RW | PTE_PS;

    memcpy(ram + PML4_GPA, &pml4, sizeof pml4);
    memcpy(ram + PDPT_GPA, &pdpt, sizeof pdpt);
    memcpy(ram + PD_GPA, &pd, sizeof pd);
    memcpy(ram + CODE_GPA, code, sizeof code);
}

/* Straight into 64-bit mode: there are KVMs that run nothing else. */
static int enter_long_mode(int vcpu)
{
    struct kvm_segment cs = {.limit = ~0u,
                             .selector = SELECTOR_CS,
                             .type = 11,
                             .present = 1,
                             .s = 1,
                             .l = 1,
                             .g = 1};
    struct kvm_segment ds = cs;
    struct kvm_sregs sregs;

    if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
        return -errno;
    ds.selector = SELECTOR_DS;
    ds.type = 3;
    ds.l = 0;
    ds.db = 1;
    sregs.cs = cs;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = ds;
    sregs.cr3 = PML4_GPA;
    sregs.cr4 = CR4_PAE;
    sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    sregs.efer = EFER_LME | EFER_LMA;
    return ioctl(vcpu, KVM_SET_SREGS, &sregs) ? -errno : 0;
}

static int make_memory(struct probe_vm *p)
{
    struct kvm_userspace_memory_region region = {.memory_size = RAM_BYTES};

    p->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->ram == MAP_FAILED)
        return -errno;
    write_image(p->ram);
    region.userspace_addr = (uintptr_t)p->ram;
    return ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &region) ? -errno : 0;
}

static int make_vcpu(struct probe_vm *p)
{
    int bytes;

    p->vcpu = ioctl(p->vm, KVM_CREATE_VCPU, 0ul);
    if (p->vcpu < 0)
        return -errno;
    bytes = ioctl(p->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (bytes < (int)sizeof(struct kvm_run))
        return -EPROTO;
    p->run_bytes = (size_t)bytes;
    p->run = mmap(NULL, p->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                  p->vcpu, 0);
    if (p->run == MAP_FAILED)
        return -errno;
    return enter_long_mode(p->vcpu);
}

int probe_vm_open(struct probe_vm *probe, struct why *why)
{
    int err;

    *probe = (struct probe_vm){.kvm = -1,
                               .vm = -1,
                               .vcpu = -1,
                               .ram = MAP_FAILED,
                               .run = MAP_FAILED,
                               .tid = gettid()};
    probe->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (probe->kvm < 0)
        return why_set(why, errno, "/dev/kvm: %s", strerror(errno));
    probe->vm = ioctl(probe->kvm, KVM_CREATE_VM, 0ul);
    err = probe->vm < 0 ? -errno : make_memory(probe);
    if (!err)
        err = make_vcpu(probe);
    if (!err)
        return 0;
    probe_vm_close(probe);
    return why_set(why, -err, "KVM would not make a VM: %s", strerror(-err));
}

int probe_vm_run(struct probe_vm *probe, enum probe_op op, uint32_t count,
                 struct why *why)
{
    const struct kvm_run *run = probe->run;
    struct kvm_regs regs = {.rip = CODE_GPA + (unsigned)op * CODE_BYTES,
                            .rsp = STACK_GPA,
                            .rsi = count,
                            .rdi = STACK_GPA,
                            .rbx = PML4_GPA,
                            .rflags = RFLAGS_ONE};

    if (ioctl(probe->vcpu, KVM_SET_REGS, &regs))
        return why_set(why, errno, "KVM_SET_REGS: %s", strerror(errno));
    while (ioctl(probe->vcpu, KVM_RUN, NULL))
        if (errno != EINTR && errno != EAGAIN)
            return why_set(why, errno, "KVM_RUN: %s", strerror(errno));
    if (run->exit_reason != KVM_EXIT_IO || run->io.port != GUEST_PORT_MARK)
        return why_set(why, EIO,
                       "the probe guest ended with KVM exit reason %u, not "
                       "with its port write",
                       run->exit_reason);
    return 0;
}

struct counters_vm probe_vm_counted(const struct probe_vm *probe)
{
    return (struct counters_vm){.vm_fd = probe->vm,
                                .vcpu_fds = &probe->vcpu,
                                .vcpu_tids = &probe->tid,
                                .vcpus = 1};
}

void probe_vm_close(struct probe_vm *probe)
{
    if (probe->run != MAP_FAILED)
        munmap(probe->run, probe->run_bytes);
    if (probe->vcpu >= 0)
        close(probe->vcpu);
    if (probe->vm >= 0)
        close(probe->vm);
    if (probe->ram != MAP_FAILED)
        munmap(probe->ram, RAM_BYTES);
    if (probe->kvm >= 0)
        close(probe->kvm);
}
