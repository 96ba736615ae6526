/* One target, FUZZ_TARGET, as libFuzzer wants it. */
#include "tests/fuzz/targets.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    return FUZZ_TARGET(bytes, count);
}
