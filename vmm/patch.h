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

struct patch_list {
    struct patch *patches; /* sorted by address */
    size_t count;
};

/* Finds them in the functions of an ELF64 image (vmm/elf.h) that its symbol
 * table names; the image is not trusted. 0, or -EINVAL with a sentence: one
 * without such symbols can't be told from data. patch_free in either case. */
int patch_find(const void *image, size_t bytes, struct patch_list *list,
               struct why *why);
/* Into memory that the image was loaded to: ram[0 .. ram_bytes). */
void patch_apply(const struct patch_list *list, uint8_t *ram,
                 uint64_t ram_bytes);
/* The instruction that was at an address, or NULL. */
const struct insn *patch_lookup(const struct patch_list *list, uint64_t pa);
void patch_free(struct patch_list *list);

#endif
