/* The results page, and what is made of it. */
#include "tests/fuzz/targets.h"

#include "harness/technique.h"
#include "vmm/results.h"

#include <stdlib.h>
#include <string.h>

int fuzz_results(const uint8_t *bytes, size_t count)
{
    struct run_record record = {.status = RUN_OK};
    struct guest_results results;
    struct why why;

    if (guest_results_read(bytes, count, &results, &why))
        return 0;
    if (memchr(results.message, 0, sizeof results.message) == NULL)
        abort();
    run_take_results(&results, 1000000, "tsc_ticks", &record, &why);
    free(run_record_to_json(&record));
    run_record_free(&record);
    return 0;
}
