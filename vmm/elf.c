#include "vmm/elf.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#define SEGMENTS_MAX 64

static bool inside(uint64_t offset, uint64_t length, uint64_t limit)
{
    return offset <= limit && length <= limit - offset;
}

static int check_header(const Elf64_Ehdr *header, size_t bytes, struct why *why)
{
    if (bytes < sizeof *header || memcmp(header->e_ident, ELFMAG, SELFMAG))
        return why_set(why, EINVAL, "the guest image is not an ELF file");
    if (header->e_ident[EI_CLASS] != ELFCLASS64 ||
        header->e_ident[EI_DATA] != ELFDATA2LSB ||
        header->e_machine != EM_X86_64)
        return why_set(why, EINVAL,
                       "the guest image is for another machine (class %u, "
                       "machine %u): an x86-64 ELF64 is needed",
                       header->e_ident[EI_CLASS], header->e_machine);
    if (header->e_type != ET_EXEC)
        return why_set(why, EINVAL,
                       "the guest image is of type %u: link it as a static "
                       "executable (ET_EXEC)",
                       header->e_type);
    if (header->e_phentsize != sizeof(Elf64_Phdr) || !header->e_phnum ||
        header->e_phnum > SEGMENTS_MAX)
        return why_set(why, EINVAL,
                       "the guest image has %u program headers of %u bytes: "
                       "1 to %u of %zu are valid",
                       header->e_phnum, header->e_phentsize, SEGMENTS_MAX,
                       sizeof(Elf64_Phdr));
    if (!inside(header->e_phoff, header->e_phnum * sizeof(Elf64_Phdr), bytes))
        return why_set(why, EINVAL,
                       "the guest image is truncated: its program headers "
                       "end behind its %zu bytes",
                       bytes);
    return 0;
}

static int load_segment(const uint8_t *image, size_t bytes,
                        const Elf64_Phdr *segment, unsigned index, uint8_t *ram,
                        uint64_t ram_bytes, uint64_t floor, struct why *why)
{
    if (!inside(segment->p_offset, segment->p_filesz, bytes))
        return why_set(why, EINVAL,
                       "the guest image is truncated: segment %u needs %" PRIu64
                       " bytes at offset %" PRIu64 ", the file has %zu",
                       index, segment->p_filesz, segment->p_offset, bytes);
    if (segment->p_filesz > segment->p_memsz)
        return why_set(why, EINVAL,
                       "segment %u of the guest image is larger in the file "
                       "than in memory",
                       index);
    if (!inside(segment->p_paddr, segment->p_memsz, ram_bytes))
        return why_set(why, EINVAL,
                       "segment %u of the guest image ends at 0x%" PRIx64
                       "+0x%" PRIx64 ", behind the VM's memory",
                       index, segment->p_paddr, segment->p_memsz);
    if (segment->p_paddr < floor)
        return why_set(why, EINVAL,
                       "segment %u of the guest image is at 0x%" PRIx64
                       ": the pages below 0x%" PRIx64 " are the VMM's",
                       index, segment->p_paddr, floor);
    memcpy(ram + segment->p_paddr, image + segment->p_offset,
           segment->p_filesz);
    memset(ram + segment->p_paddr + segment->p_filesz, 0,
           segment->p_memsz - segment->p_filesz);
    return 0;
}

int elf_header(const void *image, size_t bytes, Elf64_Ehdr *header,
               struct why *why)
{
    *header = (Elf64_Ehdr){0};
    memcpy(header, image, bytes < sizeof *header ? bytes : sizeof *header);
    return check_header(header, bytes, why);
}

int elf_load(const void *image, size_t bytes, uint8_t *ram, uint64_t ram_bytes,
             uint64_t floor, uint64_t *entry, struct why *why)
{
    Elf64_Ehdr header;
    unsigned loaded = 0;
    int err = elf_header(image, bytes, &header, why);

    for (unsigned i = 0; !err && i < header.e_phnum; i++) {
        Elf64_Phdr segment;

        memcpy(&segment,
               (const uint8_t *)image + header.e_phoff + i * sizeof segment,
               sizeof segment);
        if (segment.p_type != PT_LOAD || !segment.p_memsz)
            continue;
        err =
            load_segment(image, bytes, &segment, i, ram, ram_bytes, floor, why);
        loaded++;
    }
    if (!err && !loaded)
        return why_set(why, EINVAL, "the guest image has nothing to load");
    *entry = header.e_entry;
    return err;
}
