/* A run's record as its process wrote it. */
#include "tests/fuzz/targets.h"

#include "harness/run.h"

#include <stdlib.h>
#include <string.h>

int fuzz_record(const uint8_t *bytes, size_t count)
{
    char *text = strndup((const char *)bytes, count);
    struct run_record record;
    struct run_spec spec;
    struct why why;

    if (!text)
        return 0;
    if (!run_record_from_json(text, &record, &why)) {
        free(run_record_to_json(&record));
        run_record_free(&record);
    }
    run_spec_from_json(text, &spec, &why);
    free(text);
    return 0;
}
