/* A guest of direct paging does what the bytes say, 16 for an operation; an
 * oracle looks at each. */
#include "tests/direct_oracle.h"
#include "tests/fuzz/targets.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int fuzz_direct(const uint8_t *bytes, size_t count)
{
    struct direct_guest *g = direct_guest_new();
    const char *wrong = NULL;
    uint64_t word[2];

    if (!g)
        return 0;
    for (; !wrong && count >= sizeof word; count -= sizeof word) {
        memcpy(word, bytes, sizeof word);
        bytes += sizeof word;
        wrong = direct_guest_step(g, word[0], word[1]);
    }
    if (!wrong)
        wrong = direct_guest_check_all(g);
    if (wrong) {
        fprintf(stderr, "direct paging: %s\n", wrong);
        abort();
    }
    direct_guest_free(g);
    return 0;
}
