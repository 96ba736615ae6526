/* Guest RAM: a memfd with the pages and the NUMA nodes asked for. */
#ifndef VMM_MEMORY_H
#define VMM_MEMORY_H

#include "vmm/vm.h"

struct vm_memory {
    uint8_t *ram; /* ram_bytes, mapped in one piece */
    uint64_t ram_bytes;
    int fd;
};

/* Every page is present on return, so that a run measures the guest's and
 * KVM's work and not the host's page allocator. */
int vm_memory_create(struct vm_memory *memory, const struct vm_config *config,
                     struct why *why);
void vm_memory_destroy(struct vm_memory *memory);
uint64_t vm_memory_page_bytes(const struct vm_memory *memory);

#endif
