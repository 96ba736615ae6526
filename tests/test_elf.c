/* The ELF loader against images made wrong one field at a time. */
#include "tests/images.h"
#include "tests/test.h"
#include "vmm/elf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RAM_BYTES (2u << 20)

static int load(const void *image, size_t bytes, uint8_t *ram, struct why *why)
{
    uint64_t entry;

    return elf_load(image, bytes, ram, RAM_BYTES, 0x100000, &entry, why);
}

/* Loads a copy of a good image after one change, expects a refusal whose
 * sentence has `expected` in it. */
#define REFUSED(expected, ...)                                    \
    do {                                                          \
        struct test_image image = test_image("\xf4", 1);          \
        size_t bytes = sizeof image;                              \
        uint8_t *ram = calloc(1, RAM_BYTES);                      \
        struct why why = {""};                                    \
                                                                  \
        __VA_ARGS__;                                              \
        CU_ASSERT_EQUAL(load(&image, bytes, ram, &why), -EINVAL); \
        CU_ASSERT_PTR_NOT_NULL(strstr(why.text, expected));       \
        free(ram);                                                \
    } while (0)

static void good_image(void)
{
    struct test_image image = test_image("\x90\xf4", 2);
    uint8_t *ram = malloc(RAM_BYTES);
    uint64_t entry = 0;
    struct why why;

    memset(ram, 0xaa, RAM_BYTES);
    CU_ASSERT_EQUAL(
        elf_load(&image, sizeof image, ram, RAM_BYTES, 0x100000, &entry, &why),
        0);
    CU_ASSERT_EQUAL(entry, 0x100000);
    CU_ASSERT_EQUAL(memcmp(ram + 0x100000, "\x90\xf4", 2), 0);
    CU_ASSERT_EQUAL(ram[0x100000 + 256], 0); /* p_memsz is cleared ... */
    CU_ASSERT_EQUAL(ram[0x100000 + 8191], 0);
    CU_ASSERT_EQUAL(ram[0x100000 + 8192], 0xaa); /* ... and no more */
    CU_ASSERT_EQUAL(ram[0xfffff], 0xaa);
    free(ram);
}

static void bad_headers(void)
{
    REFUSED("not an ELF", image.header.e_ident[0] = 0);
    REFUSED("not an ELF", bytes = 3);
    REFUSED("not an ELF", bytes = 0);
    REFUSED("another machine", image.header.e_machine = EM_AARCH64);
    REFUSED("another machine", image.header.e_ident[EI_CLASS] = ELFCLASS32);
    REFUSED("another machine", image.header.e_ident[EI_DATA] = ELFDATA2MSB);
    REFUSED("static executable", image.header.e_type = ET_DYN);
    REFUSED("program headers", image.header.e_phentsize = 32);
    REFUSED("program headers", image.header.e_phnum = 0);
    REFUSED("program headers", image.header.e_phnum = 65535);
    REFUSED("truncated", image.header.e_phoff = UINT64_MAX);
    REFUSED("truncated", bytes = sizeof(Elf64_Ehdr) + 1);
}

static void bad_segments(void)
{
    REFUSED("truncated", image.segment.p_offset = UINT64_MAX);
    REFUSED("truncated", image.segment.p_filesz = UINT64_MAX);
    REFUSED("truncated", bytes = sizeof image - 1);
    REFUSED("larger in the file", image.segment.p_memsz = 1);
    REFUSED("behind the VM's memory", image.segment.p_paddr = RAM_BYTES);
    REFUSED("behind the VM's memory", image.segment.p_memsz = UINT64_MAX);
    REFUSED("behind the VM's memory", image.segment.p_paddr = UINT64_MAX - 4);
    REFUSED("are the VMM's", image.segment.p_paddr = 0x1000);
    REFUSED("nothing to load", image.segment.p_type = PT_NOTE);
}

TEST_SUITE(elf, {"a good image is loaded", good_image},
           {"bad headers are refused", bad_headers},
           {"bad segments are refused", bad_segments});
