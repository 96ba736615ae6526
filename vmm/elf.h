/* The ELF64 loader. Images are not trusted. */
#ifndef VMM_ELF_H
#define VMM_ELF_H

#include "base/why.h"

#include <elf.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Copies the PT_LOAD segments of a static x86-64 ELF64 executable to their
 * physical addresses in ram[0 .. ram_bytes) and clears what their p_memsz
 * adds. Segments below `floor` are refused: the VMM's own pages are there.
 * *entry gets e_entry, a virtual address.
 *
 * 0, or -EINVAL with a sentence that names what is wrong; ram may then hold
 * part of the image. ELF-64 Object File Format, version 1.5.
 */
int elf_load(const void *image, size_t bytes, uint8_t *ram, uint64_t ram_bytes,
             uint64_t floor, uint64_t *entry, struct why *why);

/*
 * The header of such an image, once it is known to be one and its table of at
 * most 64 program headers to be in the file. 0, or -EINVAL with a sentence.
 */
int elf_header(const void *image, size_t bytes, Elf64_Ehdr *header,
               struct why *why);

#endif
