/* The guest kernel runs code that computes (workloads/compute/compute.h).
 * Warmed up by two operations, as the nanobenchmarks are. */
#include "workloads/compute/compute.h"
#include "workloads/guest/kernel.h"

#define WARM_UP 2

static const struct {
    const char *name;
    compute_function *run;
} computes[] = {
#define COMPUTE(id, summary, operation, operations) {#id, id},
#include "workloads/compute/compute.def"
#undef COMPUTE
};

static void measure(struct kernel *k, compute_function *run)
{
    uint64_t pa = phys_alloc(k, 1), begin, end, sum;
    struct compute_page *page = phys_to_virt(pa);

    if (!pa)
        kernel_panic("the VM has too little memory");
    run(page, WARM_UP, k->config.seed);
    kernel_phase_begin(k, WL_STEADY);
    begin = wl_tsc();
    sum = run(page, k->config.operations, k->config.seed);
    end = wl_tsc();
    kernel_phase_end(k, WL_STEADY, k->config.operations, begin, end, sum);
}

bool compute_run(struct cpu *cpu, const char *name)
{
    for (unsigned i = 0; i < sizeof computes / sizeof computes[0]; i++) {
        if (!same_text(computes[i].name, name))
            continue;
        measure(cpu->kernel, computes[i].run);
        return true;
    }
    return false;
}
