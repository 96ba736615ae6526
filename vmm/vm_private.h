/* What the files of vmm/ share and nobody else sees. */
#ifndef VMM_VM_PRIVATE_H
#define VMM_VM_PRIVATE_H

#include "vmm/memory.h"
#include "vmm/vcpu.h"
#include "vmm/vm.h"

#include <pthread.h>

#define CONSOLE_BYTES 4096

/* The VMM's pages in guest memory, all below the image's floor. */
#define GPA_PAGE_TABLES 0x1000 /* four pages */
#define GPA_GDT         0x5000
#define GPA_START_INFO  0x6000
#define GPA_CONFIG      0x7000
#define GPA_RESULTS     0x8000
#define GPA_FLOOR       0x100000

/* RAM leaves the last GiB below 4 GiB to KVM's and the CPU's own pages. */
#define RAM_HOLE_START (3ull << 30)
#define RAM_HOLE_END   (4ull << 30)

struct software;

struct vm {
    struct vm_config config;
    struct vm_memory memory;
    int kvm_fd, fd;
    struct vcpu vcpus[VM_VCPUS_MAX];
    int vcpu_fds[VM_VCPUS_MAX];
    pid_t vcpu_tids[VM_VCPUS_MAX];
    pthread_t threads[VM_VCPUS_MAX];
    unsigned tsc_khz;
    struct software *software; /* NULL: hardware-assisted */
    struct timespec deadline;

    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t changed;
    unsigned threads_ready;
    bool go; /* the vCPUs may run */
    bool ended;
    enum vm_end end;
    struct why end_why;
    char console[CONSOLE_BYTES];
    unsigned console_bytes;
};

/* The first end wins: records it and stops every vCPU. */
void vm_end_once(struct vm *vm, enum vm_end end, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool vm_has_ended(struct vm *vm);
bool vm_deadline_passed(const struct vm *vm);
void vm_console_put(struct vm *vm, char c);

/* vmm/boot.c: page tables, GDT, start info and configuration. */
void boot_write(struct vm *vm, const struct guest_config *config);

#endif
