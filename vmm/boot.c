/*
 * What the guest finds in memory when it starts: page tables for 64-bit mode,
 * a GDT, and the PVH start info with the configuration as its first module.
 */
#include "mmu/entry.h"
#include "vmm/vm_private.h"
#include "workloads/pvh.h"

#include <string.h>

static void *guest(struct vm *vm, uint64_t gpa)
{
    return vm->memory.ram + gpa;
}

/* The first GiB, at 0 and at the start of the top 2 GiB. */
static void write_page_tables(struct vm *vm)
{
    uint64_t *pml4 = guest(vm, GPA_PAGE_TABLES), *low = pml4 + PT_ENTRIES,
             *high = low + PT_ENTRIES, *pd = high + PT_ENTRIES;
    const uint64_t flags = PTE_P | PTE_RW | PTE_A;

    pml4[0] = (GPA_PAGE_TABLES + 1 * PAGE_4K) | flags;
    pml4[511] = (GPA_PAGE_TABLES + 2 * PAGE_4K) | flags;
    low[0] = high[510] = (GPA_PAGE_TABLES + 3 * PAGE_4K) | flags;
    for (unsigned i = 0; i < PT_ENTRIES; i++)
        pd[i] = i * PAGE_2M | flags | PTE_D | PTE_PS;
}

static void write_gdt(struct vm *vm)
{
    uint64_t *gdt = guest(vm, GPA_GDT);

    gdt[1] = 0x00af9b000000ffff; /* 64-bit code */
    gdt[2] = 0x00cf93000000ffff; /* data */
}

static void write_start_info(struct vm *vm)
{
    struct pvh_start_info *info = guest(vm, GPA_START_INFO);
    struct pvh_module *module = (void *)(info + 1);
    struct pvh_memory *map = (void *)(module + 1);
    uint64_t ram = vm->memory.ram_bytes;
    uint64_t low = ram < RAM_HOLE_START ? ram : RAM_HOLE_START;

    *info = (struct pvh_start_info){
        .magic = PVH_START_MAGIC,
        .version = 1,
        .module_count = 1,
        .modules = GPA_START_INFO + sizeof *info,
        .memory_map = GPA_START_INFO + sizeof *info + sizeof *module,
        .memory_map_entries = ram > low ? 2 : 1,
    };
    *module = (struct pvh_module){
        .address = GPA_CONFIG,
        .bytes = sizeof(struct guest_config),
    };
    map[0] = (struct pvh_memory){.bytes = low, .type = PVH_MEMORY_RAM};
    map[1] = (struct pvh_memory){
        .address = RAM_HOLE_END,
        .bytes = ram - low,
        .type = PVH_MEMORY_RAM,
    };
}

void boot_write(struct vm *vm, const struct guest_config *config)
{
    struct guest_config *copy = guest(vm, GPA_CONFIG);

    memset(guest(vm, 0), 0, GPA_FLOOR);
    write_page_tables(vm);
    write_gdt(vm);
    write_start_info(vm);
    *copy = *config;
    copy->magic = GUEST_CONFIG_MAGIC;
    copy->version = GUEST_ABI_VERSION;
    copy->vcpus = vm->config.vcpus;
    copy->results_gpa = GPA_RESULTS;
}
