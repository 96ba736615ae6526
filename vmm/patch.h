/*
 * What does not trap, made to trap: the sensitive instructions of a guest
 * kernel that CPL 3 executes without a fault, found in its text when it is
 * loaded, get HLT for their first byte.
 */
#ifndef VMM_PATCH_H
#define VMM_PATCH_H

#include "base/why.h"
#include "vmm/monitor/insn.h"

#include <stddef.h>
#include <stdint.h>

#define PATCH_BYTE 0xf4 /* HLT: #GP at CPL 3 */

struct patch {
    uint64_t pa;      /* guest-physical address */
    struct insn insn; /* as it was */
};

/* What was looked at: swept and skipped bytes make up all of the text. */
struct patch_summary {
    size_t functions;        /* places a sweep began at */
    size_t instructions;     /* decoded */
    uint64_t swept, skipped; /* bytes; skipped are data and padding */
    size_t sites[INSN_OPS];
};

struct patch_list {
    struct patch *patches; /* sorted by address, each once */
    size_t count;
    struct patch_summary summary;
};

/*
 * Finds them in the executable sections of an ELF64 image (vmm/elf.h), as its
 * segments load them. Each function of the symbol table is swept from its
 * start to its end; bytes that are no instruction end the sweep until the
 * next symbol, and objects in text are passed over. Without symbols each
 * section is swept from its start, and one that is not code to its end is
 * refused: data can't be told from code then, nor without sections.
 *
 * The image is not trusted. 0, -ENOMEM, or -EINVAL with a sentence; patch_free
 * in any case.
 */
int patch_find(const void *image, size_t bytes, struct patch_list *list,
               struct why *why);
/* Into memory that the image was loaded to: ram[0 .. ram_bytes). */
void patch_apply(const struct patch_list *list, uint8_t *ram,
                 uint64_t ram_bytes);
/* The instruction that was at an address, or NULL. */
const struct insn *patch_lookup(const struct patch_list *list, uint64_t pa);
void patch_free(struct patch_list *list);

#endif
