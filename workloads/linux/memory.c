/*
 * Memory of a workload under Linux. 4 KiB pages are kept from becoming larger
 * ones. 2 MiB pages come from the reserved pool (hugetlbfs(5)) or, when it has
 * not enough, are transparent ones (Documentation/admin-guide/mm/transhuge);
 * the kernel promises nothing about these, so that they are read back. 1 GiB
 * pages come from the pool only.
 */
#include "base/parse.h"
#include "workloads/limits.h"
#include "workloads/linux/state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static uint64_t memory_available(void)
{
    FILE *file = fopen("/proc/meminfo", "re");
    uint64_t kib = 0;
    char line[128];

    if (!file)
        return 0;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %" SCNu64 " kB", &kib) == 1)
            break;
    fclose(file);
    return kib << 10;
}

void linux_memory_init(struct linux_memory *memory, uint64_t page_bytes)
{
    memory->asked_page_bytes = page_bytes;
    memory->available = memory_available();
}

static bool transparent_pages_off(void)
{
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    char line[128];
    bool off = true;

    if (!file)
        return true;
    if (fgets(line, sizeof line, file))
        off = strstr(line, "[never]");
    fclose(file);
    return off;
}

/* Sums over the mappings of the process that overlap a range. */
struct smaps {
    uint64_t resident, transparent, kernel_page;
};

static int read_smaps(const void *addr, uint64_t bytes, struct smaps *smaps)
{
    uint64_t begin = (uintptr_t)addr, end = begin + bytes, from, to, kib;
    FILE *file = fopen("/proc/self/smaps", "re");
    bool inside = false;
    char line[512];

    *smaps = (struct smaps){0, 0, 0};
    if (!file)
        return -errno;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &from, &to) == 2)
            inside = from < end && begin < to;
        if (!inside)
            continue;
        if (sscanf(line, "KernelPageSize: %" SCNu64, &kib) == 1)
            smaps->kernel_page = kib << 10;
        else if (sscanf(line, "Rss: %" SCNu64, &kib) == 1)
            smaps->resident += kib << 10;
        else if (sscanf(line, "AnonHugePages: %" SCNu64, &kib) == 1)
            smaps->transparent += kib << 10;
    }
    fclose(file);
    return 0;
}

/* 0 where it cannot be told: nothing is resident, or sizes are mixed. */
static uint64_t page_size_of(const struct smaps *smaps)
{
    if (smaps->kernel_page > WL_PAGE_4K)
        return smaps->kernel_page;
    if (!smaps->resident)
        return 0;
    if (smaps->transparent == smaps->resident)
        return WL_PAGE_2M;
    return smaps->transparent ? 0 : smaps->kernel_page;
}

static int no_pages(struct why *why, uint64_t bytes, uint64_t page_bytes)
{
    uint64_t pages = bytes / page_bytes;

    if (page_bytes == WL_PAGE_4K)
        return why_set(why, ENOTSUP,
                       "the kernel used larger pages than 4 KiB: as root, echo "
                       "madvise > /sys/kernel/mm/transparent_hugepage/enabled");
    if (page_bytes == WL_PAGE_1G)
        return why_set(
            why, ENOTSUP,
            "no 1 GiB pages: as root, echo %" PRIu64
            " > /sys/kernel/mm/hugepages/hugepages-1048576kB/"
            "nr_hugepages, or boot with hugepagesz=1G hugepages=%" PRIu64,
            pages, pages);
    return why_set(why, ENOTSUP,
                   "no 2 MiB pages for the whole of the working set: as "
                   "root, sysctl vm.nr_hugepages=%" PRIu64,
                   pages);
}

static int verify(const struct linux_mapping *mapping, uint64_t *found,
                  struct why *why)
{
    struct smaps smaps;

    if (read_smaps(mapping->addr, mapping->bytes, &smaps))
        return why_set(why, ENOTSUP,
                       "cannot read /proc/self/smaps, so that the page size "
                       "is not known: mount /proc");
    *found = page_size_of(&smaps);
    if (smaps.resident && *found != mapping->page_bytes)
        return no_pages(why, mapping->bytes, mapping->page_bytes);
    return 0;
}

/* The largest mapping of the page size asked for is the working set. */
int linux_memory_verify(struct linux_memory *memory, struct why *why)
{
    const struct linux_mapping *largest = NULL;

    for (unsigned i = 0; i < memory->count; i++) {
        const struct linux_mapping *m = &memory->mappings[i];

        if (m->page_bytes == memory->asked_page_bytes &&
            (!largest || m->bytes > largest->bytes))
            largest = m;
    }
    if (!largest)
        return 0;
    return verify(largest, &memory->found_page_bytes, why);
}

static void *map_anonymous(uint64_t bytes, int flags)
{
    return mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

static void *map_pool(uint64_t bytes, uint64_t page_bytes)
{
    int bits = __builtin_ctzll(page_bytes);

    return map_anonymous(bytes, MAP_HUGETLB | bits << MAP_HUGE_SHIFT);
}

/* Newer kernels align by themselves; elsewhere it takes a larger mapping of
 * which the ends are given back. */
static void *map_aligned(uint64_t bytes)
{
    unsigned char *addr = map_anonymous(bytes, 0);
    uint64_t over;

    if (addr == MAP_FAILED || (uintptr_t)addr % WL_PAGE_2M == 0)
        return addr;
    munmap(addr, bytes);
    addr = map_anonymous(bytes + WL_PAGE_2M, 0);
    if (addr == MAP_FAILED)
        return addr;
    over = WL_PAGE_2M - (uintptr_t)addr % WL_PAGE_2M;
    munmap(addr, over);
    if (over < WL_PAGE_2M)
        munmap(addr + over + bytes, WL_PAGE_2M - over);
    return addr + over;
}

static int map_4k(void **addr, uint64_t bytes, struct why *why)
{
    *addr = map_anonymous(bytes, 0);
    if (*addr == MAP_FAILED)
        return why_set(why, ENOMEM, "cannot map the working set: %s",
                       strerror(errno));
    /* EINVAL: a kernel without transparent pages. */
    madvise(*addr, bytes, MADV_NOHUGEPAGE);
    return 0;
}

static int map_transparent(void **addr, uint64_t bytes, struct why *why)
{
    if (transparent_pages_off())
        return no_pages(why, bytes, WL_PAGE_2M);
    *addr = map_aligned(bytes);
    if (*addr == MAP_FAILED)
        return why_set(why, ENOMEM, "cannot map the working set: %s",
                       strerror(errno));
    if (madvise(*addr, bytes, MADV_HUGEPAGE)) {
        munmap(*addr, bytes);
        return no_pages(why, bytes, WL_PAGE_2M);
    }
    return 0;
}

static int check_available(const struct linux_memory *memory, uint64_t bytes,
                           struct why *why)
{
    char asked[32], available[32];

    if (!memory->available || memory->mapped + bytes <= memory->available)
        return 0;
    format_size(bytes >> 20 << 20, asked, sizeof asked);
    format_size(memory->available >> 20 << 20, available, sizeof available);
    return why_set(why, ENOMEM,
                   "the working set takes %s and this machine has %s free: "
                   "ask for a smaller --size",
                   asked, available);
}

static int map_pages(struct linux_memory *memory, struct linux_mapping *m,
                     struct why *why)
{
    int error;

    if (m->page_bytes != WL_PAGE_4K && !memory->no_hugetlb) {
        m->addr = map_pool(m->bytes, m->page_bytes);
        m->pool = m->addr != MAP_FAILED;
        if (m->pool)
            return 0;
        memory->no_hugetlb = true;
    }
    if (m->page_bytes == WL_PAGE_1G)
        return no_pages(why, m->bytes, WL_PAGE_1G);
    error = check_available(memory, m->bytes, why);
    if (error)
        return error;
    return m->page_bytes == WL_PAGE_4K
               ? map_4k(&m->addr, m->bytes, why)
               : map_transparent(&m->addr, m->bytes, why);
}

static int populate(const struct linux_mapping *m, struct why *why)
{
    if (!madvise(m->addr, m->bytes, MADV_POPULATE_WRITE))
        return 0;
    return why_set(why, ENOMEM,
                   "cannot populate the working set: %s (needs Linux 5.14)",
                   strerror(errno));
}

static int map_into(struct linux_memory *memory, struct linux_mapping *m,
                    enum wl_map_flags flags, struct why *why)
{
    uint64_t found;
    int error = map_pages(memory, m, why);

    if (error || flags != WL_POPULATE)
        return error;
    error = populate(m, why);
    if (!error && m->page_bytes != WL_PAGE_4K)
        error = verify(m, &found, why);
    if (error)
        munmap(m->addr, m->bytes);
    return error;
}

void *linux_map(const struct wl_env *env, uint64_t bytes, uint64_t page_bytes,
                enum wl_map_flags flags)
{
    struct wl_linux *self = wl_linux_of(env);
    struct linux_memory *memory = &self->memory;
    struct linux_mapping m = {.page_bytes = page_bytes};

    if (!bytes || bytes > WL_BYTES_MAX || !wl_page_size_known(page_bytes) ||
        memory->count == LINUX_MAPPINGS_MAX) {
        self->error = why_set(&self->why, EINVAL,
                              "the workload asked for a mapping that cannot "
                              "be: a bug in it");
        return NULL;
    }
    m.bytes = (bytes + page_bytes - 1) / page_bytes * page_bytes;
    self->error = map_into(memory, &m, flags, &self->why);
    if (self->error)
        return NULL;
    memory->mapped += m.pool ? 0 : m.bytes;
    memory->mappings[memory->count++] = m;
    return m.addr;
}

/* Whole mappings only. Outside a phase nothing is measured, so that it is the
 * time to look at one that will be gone when the run ends. */
int linux_unmap(const struct wl_env *env, void *addr, uint64_t bytes)
{
    struct wl_linux *self = wl_linux_of(env);
    struct linux_memory *memory = &self->memory;
    unsigned i = 0;

    while (i < memory->count && memory->mappings[i].addr != addr)
        i++;
    if (i == memory->count || !bytes || bytes > memory->mappings[i].bytes ||
        memory->mappings[i].bytes - bytes >= memory->mappings[i].page_bytes)
        return -EINVAL;
    if (!self->in_phase && !memory->found_page_bytes) {
        self->error = linux_memory_verify(memory, &self->why);
        if (self->error)
            return self->error;
    }
    if (munmap(addr, memory->mappings[i].bytes))
        return -errno;
    if (!memory->mappings[i].pool)
        memory->mapped -= memory->mappings[i].bytes;
    memory->mappings[i] = memory->mappings[--memory->count];
    return 0;
}

int linux_protect(const struct wl_env *env, void *addr, uint64_t bytes,
                  unsigned prot)
{
    int flags = (prot & WL_PROT_READ ? PROT_READ : 0) |
                (prot & WL_PROT_WRITE ? PROT_WRITE : 0);

    (void)env;
    return mprotect(addr, bytes, flags) ? -errno : 0;
}

void linux_memory_free(struct linux_memory *memory)
{
    while (memory->count) {
        const struct linux_mapping *m = &memory->mappings[--memory->count];

        munmap(m->addr, m->bytes);
    }
}
