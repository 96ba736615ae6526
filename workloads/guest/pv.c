/* The kernel's paravirtual half (workloads/hypercall.h): only in the image
 * built with GUEST_PV. */
#include "workloads/guest/kernel.h"

#include <errno.h>

_Static_assert(HC_IRET == 9, "entry.S has the number");
_Static_assert(sizeof(struct trap_frame) == sizeof(struct pv_frame),
               "HC_IRET loads a trap_frame");

/* One part in so many of RAM is for page tables. */
#define TABLES_PART 24
#define TABLES_MIN  (4ull << 20)

static long hypercall(enum hypercall call, uint64_t a, uint64_t b)
{
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"((uint64_t)call), "D"(a), "S"(b)
                     : "rcx", "r11", "memory");
    return result;
}

static void must(long result)
{
    if (result)
        kernel_panic("the monitor refused a hypercall");
}

/* ---- Memory for tables ------------------------------------------------- */

/* From the end of the first GiB, which the boot tables map; whole pages of the
 * direct map. */
void pv_reserve(struct kernel *k)
{
    struct arena *arena = &k->arenas[0];
    uint64_t end = arena->end < PAGE_1G ? arena->end : PAGE_1G;
    uint64_t bytes = k->ram_end / TABLES_PART, links;

    bytes = bytes < TABLES_MIN ? TABLES_MIN : bytes;
    bytes &= ~(PAGE_2M - 1);
    end &= ~(PAGE_2M - 1);
    links = (bytes / PAGE_4K * sizeof *k->pv.free_frames + PAGE_4K - 1) &
            ~(PAGE_4K - 1);
    if (arena->next + links + bytes > end)
        kernel_panic("the VM has too little memory for page tables");
    k->pv.free_frames = boot_to_virt(arena->next);
    arena->next += links;
    k->pv.end = end;
    k->pv.start = end - bytes;
    k->pv.tables = (struct arena){k->pv.start, k->pv.end};
    if (arena->end > end && k->arena_count < ARENAS_MAX)
        k->arenas[k->arena_count++] = (struct arena){end, arena->end};
    arena->end = k->pv.start;
}

uint64_t phys_alloc_table(struct kernel *k)
{
    struct arena *tables = &k->pv.tables;
    uint64_t pa;

    if (k->pv.free_count) {
        pa = (uint64_t)k->pv.free_frames[--k->pv.free_count] * PAGE_4K;
        must(hypercall(HC_CLEAR, pa, 0));
        return pa;
    }
    if (tables->next == tables->end)
        return 0;
    pa = tables->next;
    tables->next += PAGE_4K;
    return pa;
}

void phys_free_table(struct kernel *k, uint64_t pa)
{
    k->pv.free_frames[k->pv.free_count++] = (uint32_t)(pa / PAGE_4K);
}

/* ---- Changes ----------------------------------------------------------- */

void pt_sync(struct kernel *k)
{
    unsigned count = k->pv.count;

    k->pv.count = 0;
    if (count && hypercall(HC_UPDATE, (uint64_t)k->pv.batch, count) != count)
        kernel_panic("the monitor refused a page-table update");
}

void pt_write(struct kernel *k, uint64_t *entry, uint64_t value)
{
    if (k->pv.count == PV_BATCH)
        pt_sync(k);
    k->pv.batch[k->pv.count++] =
        (struct pv_update){(uint64_t)entry - DIRECT_BASE, value};
}

void link_table(struct kernel *k, struct space *space, uint64_t *entry,
                unsigned level, uint64_t value)
{
    uint64_t index = (uint64_t)entry / 8 % PT_ENTRIES;

    pt_write(k, entry, value);
    if (level == PAGING_LEVELS && index < PT_ENTRIES / 2 && space->user_root)
        pt_write(k, (uint64_t *)phys_to_virt(space->user_root) + index, value);
}

/* ---- Roots ------------------------------------------------------------- */

int pin_roots(struct kernel *k, struct space *space, uint64_t root)
{
    space->user_root = phys_alloc_table(k);
    if (!space->user_root)
        return -ENOMEM;
    must(hypercall(HC_PIN, root, PAGING_LEVELS));
    must(hypercall(HC_PIN, space->user_root, PAGING_LEVELS));
    return 0;
}

void unpin_roots(struct kernel *k, struct space *space)
{
    pt_sync(k);
    must(hypercall(HC_UNPIN, space->user_root, 0));
    must(hypercall(HC_UNPIN, space->cr3, 0));
    phys_free_table(k, space->user_root);
}

void load_root(const struct space *space, uint64_t keep)
{
    (void)keep;
    pt_sync(kernel_get());
    must(hypercall(HC_SET_ROOTS, space->cr3, space->user_root));
}

void load_kernel_root(const struct kernel *k)
{
    write_cr3((uint64_t)k->kernel_root - DIRECT_BASE);
}

void write_cr3(uint64_t root)
{
    must(hypercall(HC_SET_ROOTS, root, root));
}

void flush_tlb(const struct space *space)
{
    (void)space;
    flush_tlb_own();
}

void flush_tlb_own(void)
{
    must(hypercall(HC_FLUSH, 0, 0));
}

void invlpg(uint64_t va)
{
    must(hypercall(HC_FLUSH_PAGE, va, 0));
}

/* ---- Start ------------------------------------------------------------- */

void pv_start(struct kernel *k, struct cpu *cpu)
{
    const struct pv_start start = {
        .root = (uint64_t)k->kernel_root - DIRECT_BASE,
        .syscall_entry = (uint64_t)syscall_entry,
        .cr2 = &cpu->pv_cr2,
    };

    if (hypercall(HC_START, (uint64_t)&start, 0))
        kernel_panic("the monitor refused the kernel's page tables");
}

uint64_t read_cr2(void)
{
    return this_cpu()->pv_cr2;
}
