/* What lackey prints, with and without fetches. */
#include "tests/fuzz/import.h"
#include "tests/fuzz/targets.h"

int fuzz_lackey(const uint8_t *bytes, size_t count)
{
    fuzz_import("lackey", bytes, count);
    return 0;
}
