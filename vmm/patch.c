#include "vmm/patch.h"

#include "vmm/decode.h"

#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define PATCHES_MAX (1u << 20)

struct image {
    const uint8_t *bytes;
    size_t size;
    const Elf64_Ehdr *header;
    const Elf64_Phdr *segments;
    const Elf64_Shdr *sections;
    struct patch_list *list;
    size_t room;
    struct why *why;
};

/* ---- The image --------------------------------------------------------- */

static const void *at(const struct image *im, uint64_t offset, uint64_t count,
                      uint64_t each)
{
    if (each && count > im->size / each)
        return NULL;
    if (offset > im->size || count * each > im->size - offset || offset % 8)
        return NULL;
    return im->bytes + offset;
}

static int bad(const struct image *im, const char *what)
{
    return why_set(im->why, EINVAL, "the guest image's %s is out of the file",
                   what);
}

static int open_image(struct image *im)
{
    const Elf64_Ehdr *h = at(im, 0, 1, sizeof *h);

    if (!h || memcmp(h->e_ident, ELFMAG, SELFMAG) ||
        h->e_ident[EI_CLASS] != ELFCLASS64)
        return why_set(im->why, EINVAL, "the guest image is not ELF64");
    im->header = h;
    im->segments = at(im, h->e_phoff, h->e_phnum, sizeof *im->segments);
    im->sections = at(im, h->e_shoff, h->e_shnum, sizeof *im->sections);
    if (!im->segments || h->e_phentsize != sizeof *im->segments)
        return bad(im, "program header table");
    if (!im->sections || h->e_shentsize != sizeof *im->sections)
        return bad(im, "section header table");
    return 0;
}

/* Where a loaded address is in physical memory. */
static bool physical(const struct image *im, uint64_t va, uint64_t *pa)
{
    for (unsigned i = 0; i < im->header->e_phnum; i++) {
        const Elf64_Phdr *p = &im->segments[i];

        if (p->p_type != PT_LOAD || va < p->p_vaddr ||
            va - p->p_vaddr >= p->p_filesz)
            continue;
        *pa = p->p_paddr + (va - p->p_vaddr);
        return true;
    }
    return false;
}

/* ---- Where instructions begin ------------------------------------------ */

struct starts {
    uint64_t *va;
    size_t count;
};

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static bool is_code(const struct image *im, const Elf64_Shdr *section)
{
    (void)im;
    return section->sh_type == SHT_PROGBITS &&
           (section->sh_flags & (SHF_ALLOC | SHF_EXECINSTR)) ==
               (SHF_ALLOC | SHF_EXECINSTR);
}

static bool names_code(const struct image *im, const Elf64_Sym *s)
{
    unsigned type = ELF64_ST_TYPE(s->st_info);

    return (type == STT_FUNC || type == STT_NOTYPE) && s->st_shndx &&
           s->st_shndx < im->header->e_shnum &&
           is_code(im, &im->sections[s->st_shndx]);
}

static int find_starts(const struct image *im, struct starts *starts)
{
    for (unsigned i = 0; i < im->header->e_shnum; i++) {
        const Elf64_Shdr *section = &im->sections[i];
        size_t count = section->sh_size / sizeof(Elf64_Sym);
        const Elf64_Sym *symbols;

        if (section->sh_type != SHT_SYMTAB || !count)
            continue;
        symbols = at(im, section->sh_offset, count, sizeof *symbols);
        if (!symbols)
            return bad(im, "symbol table");
        starts->va = calloc(count, sizeof *starts->va);
        if (!starts->va)
            return why_set(im->why, ENOMEM, "out of memory");
        for (size_t n = 0; n < count; n++)
            if (names_code(im, &symbols[n]))
                starts->va[starts->count++] = symbols[n].st_value;
        qsort(starts->va, starts->count, sizeof *starts->va, compare);
        return 0;
    }
    return why_set(im->why, EINVAL,
                   "the guest image has no symbols, which 'trap' needs to tell "
                   "code from data: use an image that was not stripped");
}

/* ---- Sites ------------------------------------------------------------- */

static int add_site(struct image *im, uint64_t va, const struct insn *insn)
{
    struct patch_list *list = im->list;
    uint64_t pa;

    if (!physical(im, va, &pa))
        return 0;
    if (list->count == PATCHES_MAX)
        return why_set(im->why, EINVAL,
                       "the guest image has too many sensitive instructions");
    if (list->count == im->room) {
        size_t room = im->room ? 2 * im->room : 64;
        void *grown = realloc(list->patches, room * sizeof *list->patches);

        if (!grown)
            return why_set(im->why, ENOMEM, "out of memory");
        list->patches = grown;
        im->room = room;
    }
    list->patches[list->count++] = (struct patch){pa, *insn};
    return 0;
}

/* From one symbol to the next. */
static int sweep(struct image *im, const uint8_t *code, uint64_t va,
                 uint64_t end)
{
    while (va < end) {
        struct insn insn;
        int err = decode_insn(code, end - va, &insn);

        if (err)
            return 0; /* it would go on in the next function: data */
        if (insn_is_sensitive(&insn))
            err = add_site(im, va, &insn);
        if (err)
            return err;
        va += insn.length;
        code += insn.length;
    }
    return 0;
}

static int sweep_section(struct image *im, const Elf64_Shdr *section,
                         const struct starts *starts)
{
    const uint8_t *code;
    int err = 0;

    if (section->sh_offset > im->size ||
        section->sh_size > im->size - section->sh_offset)
        return bad(im, "text");
    code = im->bytes + section->sh_offset;
    for (size_t i = 0; !err && i < starts->count; i++) {
        uint64_t start = starts->va[i] - section->sh_addr,
                 next = section->sh_size;

        if (start >= section->sh_size)
            continue;
        if (i + 1 < starts->count &&
            starts->va[i + 1] - section->sh_addr < next)
            next = starts->va[i + 1] - section->sh_addr;
        err = sweep(im, code + start, section->sh_addr + start,
                    section->sh_addr + next);
    }
    return err;
}

static int compare_patches(const void *a, const void *b)
{
    return compare(&((const struct patch *)a)->pa,
                   &((const struct patch *)b)->pa);
}

int patch_find(const void *bytes, size_t size, struct patch_list *list,
               struct why *why)
{
    struct image im = {.bytes = bytes, .size = size, .list = list, .why = why};
    struct starts starts = {NULL, 0};
    int err;

    *list = (struct patch_list){NULL, 0};
    err = open_image(&im);
    if (!err)
        err = find_starts(&im, &starts);
    for (unsigned i = 0; !err && i < im.header->e_shnum; i++)
        if (is_code(&im, &im.sections[i]))
            err = sweep_section(&im, &im.sections[i], &starts);
    free(starts.va);
    if (list->count)
        qsort(list->patches, list->count, sizeof *list->patches,
              compare_patches);
    return err;
}

void patch_apply(const struct patch_list *list, uint8_t *ram,
                 uint64_t ram_bytes)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->patches[i].pa < ram_bytes)
            ram[list->patches[i].pa] = PATCH_BYTE;
}

const struct insn *patch_lookup(const struct patch_list *list, uint64_t pa)
{
    const struct patch key = {.pa = pa}, *found;

    if (!list->count)
        return NULL;
    found =
        bsearch(&key, list->patches, list->count, sizeof key, compare_patches);
    return found ? &found->insn : NULL;
}

void patch_free(struct patch_list *list)
{
    free(list->patches);
    *list = (struct patch_list){NULL, 0};
}
