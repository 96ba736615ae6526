#include "vmm/memory.h"

#include "mmu/entry.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const struct {
    const char *name;
    unsigned memfd_flags;
    int advice;
    uint64_t align;
} backings[] = {
    [VM_BACKING_4K] = {"4 KiB", 0, MADV_NOHUGEPAGE, PAGE_2M},
    [VM_BACKING_THP] = {"transparent", 0, MADV_HUGEPAGE, PAGE_2M},
    [VM_BACKING_2M] = {"2 MiB", MFD_HUGETLB | MFD_HUGE_2MB, 0, PAGE_2M},
    [VM_BACKING_1G] = {"1 GiB", MFD_HUGETLB | MFD_HUGE_1GB, 0, 1ull << 30},
};

static int no_pages(const struct vm_config *config, int err, struct why *why)
{
    uint64_t page = backings[config->backing].align;
    uint64_t pages = config->ram_bytes / page;

    if (config->backing < VM_BACKING_2M)
        return why_set(why, err,
                       "cannot get %" PRIu64 " MiB of guest memory: %s; use a "
                       "smaller --size",
                       config->ram_bytes >> 20, strerror(err));
    return why_set(why, ENOTSUP,
                   "not enough %s pages (%s): reserve %" PRIu64
                   " with 'echo %" PRIu64 " > /sys/kernel/mm/hugepages/"
                   "hugepages-%" PRIu64 "kB/nr_hugepages', or use --host-page "
                   "4K",
                   backings[config->backing].name, strerror(err), pages, pages,
                   page >> 10);
}

static uint64_t available_bytes(void)
{
    FILE *meminfo = fopen("/proc/meminfo", "re");
    uint64_t kb = UINT64_MAX >> 10;
    char line[128];

    while (meminfo && fgets(line, sizeof line, meminfo))
        if (sscanf(line, "MemAvailable: %" SCNu64, &kb) == 1)
            break;
    if (meminfo)
        fclose(meminfo);
    return kb << 10;
}

static int map_ram(struct vm_memory *memory, const struct vm_config *config,
                   struct why *why)
{
    uint64_t align = backings[config->backing].align;
    uint64_t room = memory->ram_bytes + align;
    uint8_t *base, *aligned;

    /* Reserve with room to align: KVM maps a large page only where guest
     * physical and host virtual addresses agree in their low bits. */
    base = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return no_pages(config, errno, why);
    aligned = (uint8_t *)(((uintptr_t)base + align - 1) & ~(align - 1));
    munmap(base, (size_t)(aligned - base));
    munmap(aligned + memory->ram_bytes,
           (size_t)(base + room - aligned) - memory->ram_bytes);
    memory->ram = mmap(aligned, memory->ram_bytes, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_FIXED, memory->fd, 0);
    if (memory->ram != MAP_FAILED)
        return 0;
    memory->ram = NULL;
    munmap(aligned, memory->ram_bytes);
    return no_pages(config, errno, why);
}

static int fill_ram(struct vm_memory *memory, const struct vm_config *config,
                    struct why *why)
{
    int advice = backings[config->backing].advice;

    if (advice)
        madvise(memory->ram, memory->ram_bytes, advice);
    if (config->place) {
        int err =
            config->place(memory->ram, memory->ram_bytes, config->arg, why);

        if (err)
            return err;
    }
    if (madvise(memory->ram, memory->ram_bytes, MADV_POPULATE_WRITE))
        return no_pages(config, errno == EFAULT ? ENOMEM : errno, why);
    return 0;
}

int vm_memory_create(struct vm_memory *memory, const struct vm_config *config,
                     struct why *why)
{
    int err;

    memory->ram_bytes = config->ram_bytes;
    memory->ram = NULL;
    memory->fd = -1;
    if (config->backing < VM_BACKING_2M &&
        config->ram_bytes > available_bytes())
        return no_pages(config, ENOMEM, why);
    memory->fd = memfd_create(
        "memvirt-ram", MFD_CLOEXEC | backings[config->backing].memfd_flags);
    if (memory->fd < 0)
        return no_pages(config, errno, why);
    if (ftruncate(memory->fd, (off_t)memory->ram_bytes))
        err = no_pages(config, errno, why);
    else
        err = map_ram(memory, config, why);
    if (!err)
        err = fill_ram(memory, config, why);
    if (err)
        vm_memory_destroy(memory);
    return err;
}

void vm_memory_destroy(struct vm_memory *memory)
{
    if (memory->ram)
        munmap(memory->ram, memory->ram_bytes);
    if (memory->fd >= 0)
        close(memory->fd);
    memory->ram = NULL;
    memory->fd = -1;
}

/* ShmemPmdMapped counts what transparent pages map; hugetlb mappings say
 * KernelPageSize (Documentation/filesystems/proc.rst). */
uint64_t vm_memory_page_bytes(const struct vm_memory *memory)
{
    FILE *smaps = fopen("/proc/self/smaps", "re");
    uintptr_t ram = (uintptr_t)memory->ram, from, to;
    uint64_t kb, page_kb = 0, pmd_kb = 0;
    int here = 0;
    char line[512];

    while (smaps && fgets(line, sizeof line, smaps)) {
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &from, &to) == 2)
            here = from <= ram && ram < to;
        else if (here && sscanf(line, "KernelPageSize: %" SCNu64, &kb) == 1)
            page_kb = kb;
        else if (here && sscanf(line, "ShmemPmdMapped: %" SCNu64, &kb) == 1)
            pmd_kb = kb;
    }
    if (smaps)
        fclose(smaps);
    return pmd_kb << 10 > memory->ram_bytes / 2 ? PAGE_2M : page_kb << 10;
}
