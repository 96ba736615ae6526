/* The ELF loader, into a small RAM that a sanitizer watches. */
#include "tests/fuzz/targets.h"
#include "vmm/elf.h"

#include <stdlib.h>

#define RAM_BYTES (1u << 18)

int fuzz_elf(const uint8_t *bytes, size_t count)
{
    uint8_t *ram = malloc(RAM_BYTES);
    uint64_t entry;
    struct why why;

    if (ram)
        elf_load(bytes, count, ram, RAM_BYTES, 4096, &entry, &why);
    free(ram);
    return 0;
}
