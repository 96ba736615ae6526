/* ChampSim's records, with and without fetches. */
#include "tests/fuzz/import.h"
#include "tests/fuzz/targets.h"

int fuzz_champsim(const uint8_t *bytes, size_t count)
{
    fuzz_import("champsim", bytes, count);
    return 0;
}
