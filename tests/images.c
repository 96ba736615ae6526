#include "tests/images.h"

#include <string.h>

struct test_image test_image(const void *code, size_t bytes)
{
    struct test_image image = {
        .header =
            {
                .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64,
                            ELFDATA2LSB, EV_CURRENT},
                .e_type = ET_EXEC,
                .e_machine = EM_X86_64,
                .e_version = EV_CURRENT,
                .e_entry = 0x100000,
                .e_phoff = offsetof(struct test_image, segment),
                .e_ehsize = sizeof(Elf64_Ehdr),
                .e_phentsize = sizeof(Elf64_Phdr),
                .e_phnum = 1,
            },
        .segment =
            {
                .p_type = PT_LOAD,
                .p_flags = PF_R | PF_W | PF_X,
                .p_offset = offsetof(struct test_image, code),
                .p_paddr = 0x100000,
                .p_vaddr = 0x100000,
                .p_filesz = sizeof image.code,
                .p_memsz = 8192,
            },
    };

    memcpy(image.code, code, bytes);
    return image;
}
