/* The decoder on every offset of the input, in copies that end where the
 * bytes do. */
#include "tests/fuzz/targets.h"
#include "vmm/decode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void check(const struct insn *insn, const uint8_t *bytes)
{
    if (!insn->length || insn->length > INSN_BYTES_MAX ||
        insn->op >= INSN_OPS || memcmp(insn->bytes, bytes, insn->length))
        abort();
    for (unsigned n = 0; n < 2; n++)
        if (insn->operand[n].kind == INSN_OPERAND_MEMORY &&
            ((insn->base > INSN_REG_RIP && insn->base != INSN_REG_NONE) ||
             (insn->index > 15 && insn->index != INSN_REG_NONE) ||
             insn->segment > INSN_GS))
            if (insn->op != INSN_UNSUPPORTED)
                abort();
}

int fuzz_decode(const uint8_t *bytes, size_t count)
{
    for (size_t at = 0; at < count; at++) {
        size_t left = count - at < INSN_BYTES_MAX ? count - at : INSN_BYTES_MAX;
        uint8_t *exact = malloc(left);
        struct insn insn;
        int err;

        if (!exact)
            return 0;
        memcpy(exact, bytes + at, left);
        err = decode_insn(exact, left, &insn);
        if (!err)
            check(&insn, exact);
        else if (err != -ENODATA || left == INSN_BYTES_MAX)
            abort();
        free(exact);
    }
    return 0;
}
