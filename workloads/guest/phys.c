/*
 * Physical memory. A frame that was never handed out is taken as zero, which
 * our VMM's memory and QEMU's are; one that comes back is cleared. So filling
 * memory for the first time costs no clearing on a KVM that emulates this
 * kernel instruction by instruction.
 */
#include "workloads/guest/kernel.h"

static uint64_t take_low(struct arena *arena, uint64_t bytes)
{
    uint64_t pa = arena->next;

    if (arena->end - arena->next < bytes)
        return 0;
    arena->next += bytes;
    return pa;
}

static uint64_t take_high(struct arena *arena, uint64_t bytes)
{
    uint64_t top = arena->end & ~(bytes - 1);

    if (top < arena->next || top - arena->next < bytes)
        return 0;
    arena->end = top - bytes;
    return arena->end;
}

void phys_init(struct kernel *k)
{
    uint64_t table = k->ram_end / PAGE_4K * sizeof *k->references;
    uint64_t pa = 0;

    table = (table + PAGE_4K - 1) & ~(PAGE_4K - 1);
    for (unsigned i = 0; !pa && i < k->arena_count; i++)
        pa = take_low(&k->arenas[i], table);
    if (!pa)
        kernel_panic("the VM has too little memory to boot");
    k->references = phys_to_virt(pa);
}

uint64_t phys_alloc(struct kernel *k, unsigned level)
{
    uint64_t bytes = 1ull << pt_shift(level), pa = k->free_list[level];

    if (pa) {
        k->free_list[level] = *(uint64_t *)phys_to_virt(pa);
        frame_clear(phys_to_virt(pa), bytes);
        return pa;
    }
    for (unsigned i = 0; !pa && i < k->arena_count; i++)
        pa = level == 1 ? take_low(&k->arenas[i], bytes)
                        : take_high(&k->arenas[i], bytes);
    return pa;
}

void phys_free(struct kernel *k, uint64_t pa, unsigned level)
{
    *(uint64_t *)phys_to_virt(pa) = k->free_list[level];
    k->free_list[level] = pa;
}
