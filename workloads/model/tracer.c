#include "workloads/model/tracer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Where the first frame is that the image does not need, and what its user
 * program takes in pages: as in the guest's image. */
#define IMAGE_END    0x200000ull
#define PROGRAM_PA   0x110000ull
#define PROGRAM_TEXT (8 * PAGE_4K)
#define PROGRAM_DATA (1 * PAGE_4K)

/* ---- Batches ------------------------------------------------------------ */

static void next_batch(void)
{
    tracer->batch = tracer->next = ring_room(tracer->ring);
    tracer->limit = tracer->batch + RING_WORDS - EVENT_WORDS_MAX;
}

void tracer_submit(void)
{
    ring_submit(tracer->ring, (size_t)(tracer->next - tracer->batch));
    next_batch();
}

static void submit_rest(void)
{
    tracer_leave_kernel();
    if (tracer->next > tracer->batch)
        ring_submit(tracer->ring, (size_t)(tracer->next - tracer->batch));
}

void tracer_finish(void)
{
    tracer_leave_kernel();
    tracer_event(EVENT_END, 0);
    submit_rest();
    process_end(RING_DONE);
}

void tracer_fail(int error, const char *format, ...)
{
    struct ring *ring = tracer->ring;
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(ring->why.text, sizeof ring->why.text, format, arguments);
    va_end(arguments);
    ring->error = -error;
    tracer->failing = true;
    submit_rest();
    process_give_up();
}

/* ---- Events of the kernel ---------------------------------------------- */

void tracer_leave_kernel(void)
{
    if (!tracer->pending)
        return;
    *tracer->pending = *tracer->pending_from;
    tracer->pending = NULL;
}

static void kernel_event(enum event_kind kind, uint64_t argument)
{
    tracer_leave_kernel();
    tracer_event(kind, argument);
}

/* The call-out comes before the store: the value is read later. */
static void kernel_store(uint64_t pa)
{
    kernel_event(EVENT_STORE, DIRECT_BASE + pa);
    *tracer->next++ = pa;
    tracer->pending = tracer->next++;
    tracer->pending_from = phys_to_virt(pa);
}

static void kernel_access(uint64_t pa, uint64_t bytes, enum mmu_access access)
{
    if (access == MMU_READ)
        kernel_event(EVENT_KERNEL_READ, DIRECT_BASE + pa);
    else if (bytes < 8)
        kernel_event(EVENT_KERNEL_WRITE, DIRECT_BASE + pa);
    else if (bytes == 8 && !(pa & 7))
        kernel_store(pa);
    else
        tracer_fail(EINVAL, "a store of %" PRIu64 " bytes in the kernel: a bug",
                    bytes);
}

static uint64_t virt_to_phys(const void *virt)
{
    return (uint64_t)virt - RAM_AT;
}

/* Large frames only ever hold data; all that is in them here is the link of
 * the free list. */
void frame_clear(void *frame, uint64_t bytes)
{
    uint64_t pa = virt_to_phys(frame);

    for (uint64_t i = 0; i < bytes; i += PAGE_4K) {
        kernel_event(EVENT_CLEAR, pa + i);
        tracer_event(EVENT_KERNEL_WRITE, DIRECT_BASE + pa + i);
    }
    memset(frame, 0, PAGE_4K);
}

/* The data itself is elsewhere, and the host's fork copies it. */
void frame_copy(void *to, const void *from, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i += PAGE_4K) {
        kernel_event(EVENT_KERNEL_READ, DIRECT_BASE + virt_to_phys(from) + i);
        tracer_event(EVENT_KERNEL_WRITE, DIRECT_BASE + virt_to_phys(to) + i);
    }
}

static void forget_translations(void)
{
    tracer->generation += TRACER_GENERATION;
    if (tracer->generation < PAGE_4K)
        return;
    memset(tracer->tlb, 0, sizeof tracer->tlb);
    tracer->generation = TRACER_GENERATION | TRACER_WRITABLE;
}

void write_cr3(uint64_t value)
{
    kernel_event(EVENT_CR3, 0);
    *tracer->next++ = value;
    tracer->mmu.cr3 = value;
    forget_translations();
}

void invlpg(uint64_t va)
{
    kernel_event(EVENT_INVLPG, va);
    forget_translations();
}

unsigned paging_levels(void)
{
    return tracer->mmu.levels;
}

/* A CPU with pages of 1 GiB; the kernel asks nothing else. */
void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)subleaf;
    memset(out, 0, 4 * sizeof *out);
    if (leaf == 0x80000000)
        out[0] = 0x80000001;
    if (leaf == 0x80000001)
        out[3] = 1u << 26;
}

void kernel_panic(const char *why)
{
    tracer_fail(ENOMEM, "%s", why);
}

/* There is one CPU. */
void smp_flush_others(struct kernel *k, uint64_t start, uint64_t end,
                      uint64_t page_bytes)
{
    (void)k;
    (void)start;
    (void)end;
    (void)page_bytes;
}

/* ---- Accesses ----------------------------------------------------------- */

static int read_ram(void *arg, uint64_t pa, uint64_t *entry)
{
    const struct tracing *t = arg;

    if (pa >= t->kernel.ram_end)
        return -EFAULT;
    *entry = *(const uint64_t *)phys_to_virt(pa);
    return 0;
}

static int set_ram(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    (void)arg;
    *(uint64_t *)phys_to_virt(pa) = old | bits;
    return 0;
}

static void remember(uint64_t va, const struct mmu_walk *walk)
{
    unsigned shift = tracer->page_shift;
    uint64_t tag = (va >> shift << shift) | tracer->generation;

    if (!walk->writable)
        tag &= ~TRACER_WRITABLE;
    tracer->tlb[va >> shift & (TRACER_PAGES - 1)] = tag;
}

/* The workload's own handler, as the guest kernel calls it. */
static void violation(uint64_t va)
{
    const struct tracer_process *p = &tracer->process[tracer->current];

    if (!p->segv)
        tracer_fail(ECANCELED,
                    "access violation at 0x%" PRIx64
                    " that the workload does not handle",
                    va);
    if (p->segv(p->env, (void *)va, p->segv_arg))
        tracer_fail(ECANCELED, "a segv handler gave up");
}

static void page_fault(uint64_t va, unsigned error)
{
    int err;

    tracer_event(EVENT_FAULT, va);
    *tracer->next++ = error;
    err = space_fault(&tracer->kernel, tracer_space(), va, error);
    tracer_leave_kernel();
    if (err == -ENOMEM)
        tracer_fail(ENOMEM, "out of guest memory: give the guest more, or a "
                            "smaller working set");
    if (err)
        violation(va);
}

void tracer_access(uint64_t va, enum mmu_access access)
{
    const struct mmu_memory memory = {read_ram, set_ram, tracer};
    const struct mmu_request request = {
        .va = va, .access = access, .user = true};
    struct mmu_walk walk;

    mmu_walk(&tracer->mmu, &memory, &request, &walk);
    while (walk.outcome == MMU_PAGE_FAULT) {
        page_fault(va, (unsigned)walk.error);
        mmu_walk(&tracer->mmu, &memory, &request, &walk);
    }
    if (walk.outcome != MMU_OK)
        tracer_fail(EINVAL,
                    "no access at 0x%" PRIx64 " is possible: with %u "
                    "levels that is not a user's address",
                    va, tracer->mmu.levels);
    remember(va, &walk);
    tracer_event((enum event_kind)access, va);
}

void tracer_call_out(uint64_t va, uint64_t bytes, enum mmu_access access)
{
    uint64_t next_page = (va | (PAGE_4K - 1)) + 1;

    if (va - RAM_AT < RAM_MAX) {
        kernel_access(va - RAM_AT, bytes, access);
        return;
    }
    if (va - DATA_START >= DATA_END - DATA_START)
        return;
    tracer_user(va, access, 12);
    if (va + bytes > next_page)
        tracer_user(next_page, access, 12);
}

/* ---- Start -------------------------------------------------------------- */

static void map_fixed(struct ring *ring, uint64_t at, uint64_t bytes)
{
    void *want = (void *)at;

    if (mmap(want, bytes, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE,
             -1, 0) == want)
        return;
    ring->error =
        why_set(&ring->why, errno,
                "cannot map %" PRIu64 " MiB for the model's guest: %s",
                bytes >> 20, strerror(errno));
    ring_finish(ring, RING_FAILED);
    _exit(1);
}

static void load_program(struct kernel *k, struct space *space)
{
    const unsigned rw = WL_PROT_READ | WL_PROT_WRITE;

    if (space_map_frames(k, space, USER_BASE, PROGRAM_PA, PROGRAM_TEXT,
                         WL_PROT_READ | SPACE_EXEC) ||
        space_map_frames(k, space, USER_BASE + PROGRAM_TEXT,
                         PROGRAM_PA + PROGRAM_TEXT, PROGRAM_DATA, rw) ||
        !space_map(k, space, USER_STACK - USER_STACK_BYTES, USER_STACK_BYTES,
                   PAGE_4K, rw, true))
        kernel_panic("the guest has too little memory for a program");
}

static void start_kernel(struct kernel *k, const struct event_guest *guest,
                         bool program)
{
    struct process *first = &k->processes[0];

    k->config.vcpus = 1;
    k->arenas[0] = (struct arena){IMAGE_END, guest->ram_bytes};
    k->arena_count = 1;
    k->ram_end = guest->ram_bytes;
    space_init_kernel(k);
    phys_init(k);
    k->pcid = guest->pcid;
    k->next_pcid = 1;
    first->state = PROCESS_READY;
    if (space_create(k, &first->space))
        kernel_panic("the guest has too little memory for a process");
    if (program)
        load_program(k, &first->space);
    space_switch(k, &first->space);
    first->space.tagged = true;
    tracer_leave_kernel();
}

void tracer_start(struct ring *ring, const struct event_guest *guest,
                  bool program)
{
    map_fixed(ring, TRACER_AT, sizeof *tracer);
    map_fixed(ring, RAM_AT, guest->ram_bytes);
    tracer->ring = ring;
    tracer->page_shift = 12;
    tracer->generation = TRACER_GENERATION | TRACER_WRITABLE;
    tracer->mmu = (struct mmu_state){
        .levels = guest->levels,
        .physical_bits = guest->physical_bits,
        .wp = true,
        .nxe = true,
        .pages_1g = guest->pages_1g,
    };
    next_batch();
    start_kernel(&tracer->kernel, guest, program);
}
