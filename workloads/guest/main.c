/* Start, configuration, phases and the end of the guest kernel. */
#include "workloads/guest/audit.h"
#include "workloads/guest/paging.h"
#include "workloads/guest/selftest.h"
#include "workloads/pvh.h"

static struct kernel the_kernel;

struct kernel *kernel_get(void)
{
    return &the_kernel;
}

/* ---- The end ----------------------------------------------------------- */

/* Without a shared page the results leave through the console port. */
static void print_results(const struct guest_results *results)
{
    const uint8_t *bytes = (const uint8_t *)results;

    for (unsigned i = 0; i < sizeof *results; i++)
        out8(GUEST_PORT_CONSOLE, bytes[i]);
}

void kernel_finish(struct kernel *k, enum guest_state state)
{
    struct guest_results *results = k->results;

    results->state = state;
    if (results == &k->private_results)
        print_results(results);
    for (;;) {
        out32(GUEST_PORT_EXIT, 0);
        __asm__ volatile("hlt");
    }
}

static void finish_because(enum guest_state state, const char *why)
{
    struct kernel *k = kernel_get();

    for (unsigned i = 0; i < GUEST_MESSAGE_MAX - 1 && why[i]; i++)
        k->results->message[i] = why[i];
    kernel_finish(k, state);
}

void kernel_panic(const char *why)
{
    finish_because(GUEST_FAILED, why);
    __builtin_unreachable();
}

void kernel_unsupported(const char *why)
{
    finish_because(GUEST_UNSUPPORTED, why);
    __builtin_unreachable();
}

/* ---- Phases ------------------------------------------------------------ */

void kernel_phase_begin(struct kernel *k, enum wl_phase phase)
{
    (void)k;
    out32(GUEST_PORT_MARK, GUEST_MARK_BEGIN | phase);
}

void kernel_phase_end(struct kernel *k, enum wl_phase phase,
                      uint64_t operations, uint64_t tsc_begin, uint64_t tsc_end,
                      uint64_t checksum)
{
    struct guest_results *results = k->results;

    out32(GUEST_PORT_MARK, GUEST_MARK_END | phase);
    if (results->phases >= GUEST_PHASES_MAX)
        kernel_panic("the workload has too many phases");
    results->phase[results->phases++] = (struct guest_phase){
        .phase = phase,
        .operations = operations,
        .tsc_begin = tsc_begin,
        .tsc_end = tsc_end,
        .checksum = checksum,
    };
}

/* ---- The lock ---------------------------------------------------------- */

void kernel_lock(struct cpu *cpu)
{
    while (__atomic_exchange_n(&cpu->kernel->lock, true, __ATOMIC_ACQUIRE)) {
        smp_answer_shootdown(cpu);
        __builtin_ia32_pause();
    }
}

void kernel_unlock(struct cpu *cpu)
{
    __atomic_store_n(&cpu->kernel->lock, false, __ATOMIC_RELEASE);
}

/* ---- Start ------------------------------------------------------------- */

static const void *boot_pointer(uint64_t pa)
{
    return (const void *)(KERNEL_BASE + pa);
}

static void add_arena(struct kernel *k, uint64_t start, uint64_t end)
{
    uint64_t image_end = (uint64_t)kernel_end - KERNEL_BASE;
    struct arena arena = {start, end};

    if (k->ram_end && start > k->ram_end) {
        k->hole_start = k->ram_end;
        k->hole_end = start;
    }
    if (arena.end > k->ram_end)
        k->ram_end = arena.end;
    if (arena.next < image_end)
        arena.next = image_end;
    if (arena.next >= arena.end || k->arena_count == ARENAS_MAX)
        return;
    k->arenas[k->arena_count++] = arena;
}

static void find_memory(struct kernel *k, const struct pvh_start_info *info)
{
    const struct pvh_memory *map = boot_pointer(info->memory_map);

    if (info->magic != PVH_START_MAGIC || info->version < 1)
        kernel_panic("started without a PVH start info of version 1");
    for (unsigned i = 0; i < info->memory_map_entries; i++)
        if (map[i].type == PVH_MEMORY_RAM)
            add_arena(k, map[i].address,
                      (map[i].address + map[i].bytes) & ~(PAGE_4K - 1));
    if (!k->arena_count)
        kernel_panic("the start info's memory map has no RAM");
}

static void read_config(struct kernel *k, const struct pvh_start_info *info)
{
    const struct pvh_module *module;
    const struct guest_config *config;

    if (!info->module_count)
        kernel_panic("started without a configuration: pass it as -initrd");
    module = phys_to_virt(info->modules);
    config = phys_to_virt(module->address);
    if (module->bytes < sizeof *config || config->magic != GUEST_CONFIG_MAGIC ||
        config->version != GUEST_ABI_VERSION)
        kernel_panic("the configuration is of another version of memvirt");
    k->config = *config;
    k->config.workload[GUEST_NAME_MAX - 1] = 0;
    if (!k->config.vcpus || k->config.vcpus > CPUS_MAX)
        kernel_panic("the guest kernel runs on 1 to 32 CPUs");
    if (config->results_gpa)
        k->results = phys_to_virt(config->results_gpa);
}

/* CPUID.1:ECX[17]. The KVM that emulates CPL0 offers PCIDs that it cannot
 * keep, so it is used only when asked for. */
static void choose_pcid(struct kernel *k)
{
    uint32_t r[4];

    if (!(k->config.flags & GUEST_USE_PCID))
        return;
    if (KERNEL_US)
        kernel_unsupported("paravirtualized there are no PCIDs");
    cpuid(1, 0, r);
    if (!(r[2] >> 17 & 1))
        kernel_unsupported("this CPU or VM has no PCIDs");
    k->pcid = true;
    k->next_pcid = 1;
}

void kernel_start(unsigned id, uint64_t start_info_pa)
{
    struct kernel *k = kernel_get();
    struct cpu *cpu = &k->cpus[0];

    if (id)
        smp_enter(k, id);
    *(struct cpu **)boot_stacks[0] = cpu;
    k->private_results = (struct guest_results){
        .magic = GUEST_RESULTS_MAGIC,
        .version = GUEST_ABI_VERSION,
        .state = GUEST_RUNNING,
        .boot_tsc = wl_tsc(),
    };
    k->results = &k->private_results;
    find_memory(k, boot_pointer(start_info_pa));
    pv_reserve(k);
    space_init_kernel(k);
    phys_init(k);
    read_config(k, phys_to_virt(start_info_pa));
    if (k->results != &k->private_results)
        *k->results = k->private_results;
    k->results->page_bytes = k->config.page_bytes;
    choose_pcid(k);
    for (unsigned i = 0; i < k->config.vcpus; i++) {
        k->cpus[i].kernel = k;
        k->cpus[i].id = i;
    }
    trap_init_cpu(k, cpu, (uint64_t)boot_stacks[0] + KERNEL_STACK_BYTES);
    smp_init_cpu(k);
    pv_start(k, cpu);
    k->cpus_up = 1;
    if (nano_run(cpu, k->config.workload) ||
        compute_run(cpu, k->config.workload) ||
        paging_run(cpu, k->config.workload) ||
        audit_run(cpu, k->config.workload))
        kernel_finish(k, GUEST_DONE);
    selftest_start(cpu, k->config.workload);
    process_start_first(k);
}
