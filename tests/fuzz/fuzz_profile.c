/* A CPU profile: whatever is accepted describes caches that can be. */
#include "harness/profile.h"
#include "tests/fuzz/targets.h"

#include <stdlib.h>

int fuzz_profile(const uint8_t *bytes, size_t count)
{
    struct mmu_profile profile;
    struct why why;
    size_t size;

    if (profile_parse("fuzz.conf", bytes, count, &profile, &why))
        return 0;
    if (tlb_bytes(&profile.tlb, &size, NULL) ||
        psc_bytes(&profile.psc, &size, NULL) ||
        psc_bytes(&profile.psc_nested, &size, NULL) ||
        dcache_bytes(&profile.dcache, &size, NULL))
        abort();
    return 0;
}
