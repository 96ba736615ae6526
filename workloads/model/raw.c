/* Bare accesses: one range over the whole user half, filled on demand. */
#include "workloads/model/tracer.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define AT_ONCE 1024

static void one_access(const struct raw_access *a, uint64_t end)
{
    uint64_t last = a->va + (a->bytes ? a->bytes - 1 : 0);

    if (a->va >= end || last >= end || last < a->va)
        tracer_fail(EINVAL,
                    "an access of %u bytes at 0x%" PRIx64 ": with %u levels, "
                    "user addresses are below 0x%" PRIx64,
                    a->bytes, a->va, tracer->mmu.levels, end);
    if (a->access > MMU_FETCH)
        tracer_fail(EINVAL, "an access of kind %u: there is none", a->access);
    for (uint64_t va = a->va; va <= last; va = (va | (PAGE_4K - 1)) + 1)
        tracer_user(va, (enum mmu_access)a->access, tracer->page_shift);
}

void model_run_raw(struct raw_source *raw, uint64_t page_bytes)
{
    uint64_t end = 1ull << (pt_shift(tracer->mmu.levels + 1) - 1), done = 0;
    struct raw_access accesses[AT_ONCE];
    struct why why;
    long count;

    tracer->page_shift = pt_shift(pt_leaf_level(page_bytes));
    tracer_space()->vmas[0] = (struct vma){
        0, end, page_bytes, WL_PROT_READ | WL_PROT_WRITE | SPACE_EXEC};
    model_phase_begin(WL_STEADY);
    while ((count = raw->read(raw, accesses, AT_ONCE, &why)) > 0) {
        for (long i = 0; i < count; i++)
            one_access(&accesses[i], end);
        done += (uint64_t)count;
    }
    if (count < 0)
        tracer_fail((int)-count, "%s", why.text);
    model_phase_end(WL_STEADY, done, 0);
}
