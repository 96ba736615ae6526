/*
 * What the guest finds in memory when it starts: page tables for 64-bit mode,
 * a GDT, and the PVH start info with the configuration as its first module.
 */
#include "mmu/entry.h"
#include "vmm/vm_private.h"

#include <string.h>
#include <xen/start_info.h>

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
    struct hvm_start_info *info = guest(vm, GPA_START_INFO);
    struct hvm_modlist_entry *module = (void *)(info + 1);
    struct hvm_memmap_table_entry *map = (void *)(module + 1);
    uint64_t ram = vm->memory.ram_bytes;
    uint64_t low = ram < RAM_HOLE_START ? ram : RAM_HOLE_START;

    *info = (struct hvm_start_info){
        .magic = XEN_HVM_START_MAGIC_VALUE,
        .version = 1,
        .nr_modules = 1,
        .modlist_paddr = GPA_START_INFO + sizeof *info,
        .memmap_paddr = GPA_START_INFO + sizeof *info + sizeof *module,
        .memmap_entries = ram > low ? 2 : 1,
    };
    *module = (struct hvm_modlist_entry){
        .paddr = GPA_CONFIG,
        .size = sizeof(struct guest_config),
    };
    map[0] = (struct hvm_memmap_table_entry){
        .size = low,
        .type = XEN_HVM_MEMMAP_TYPE_RAM,
    };
    map[1] = (struct hvm_memmap_table_entry){
        .addr = RAM_HOLE_END,
        .size = ram - low,
        .type = XEN_HVM_MEMMAP_TYPE_RAM,
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
