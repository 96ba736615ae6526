#include "vmm/patch.h"

#include "vmm/decode.h"
#include "vmm/elf.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define PATCHES_MAX (1u << 20)

/* A symbol in text, or a section's start where there are none. In the order
 * in which they are believed at one address. */
enum kind { KIND_FUNCTION, KIND_OBJECT, KIND_LABEL };

struct start {
    uint32_t section;
    enum kind kind;
    uint64_t offset, size; /* in the section; size 0: to the next start */
};

struct image {
    const uint8_t *bytes;
    size_t size;
    Elf64_Ehdr header;
    struct start *starts; /* sorted by section, then offset */
    size_t start_count;
    bool named; /* by symbols */
    struct patch_list *list;
    size_t room;
    struct why *why;
};

/* The loaded bytes of a section. */
struct text {
    const uint8_t *code;
    uint64_t va, pa, size;
};

/* ---- The image --------------------------------------------------------- */

static bool inside(uint64_t offset, uint64_t length, uint64_t limit)
{
    return offset <= limit && length <= limit - offset;
}

/* Copied out, because nothing says that tables are aligned. */
static bool read_entry(const struct image *im, uint64_t table, uint64_t index,
                       void *entry, size_t each)
{
    if (table > im->size || index >= (im->size - table) / each)
        return false;
    memcpy(entry, im->bytes + table + index * each, each);
    return true;
}

static bool read_section(const struct image *im, unsigned n, Elf64_Shdr *s)
{
    return read_entry(im, im->header.e_shoff, n, s, sizeof *s);
}

static bool is_text(const Elf64_Shdr *s)
{
    uint64_t flags = SHF_ALLOC | SHF_EXECINSTR;

    return s->sh_type == SHT_PROGBITS && s->sh_size &&
           (s->sh_flags & flags) == flags;
}

static int bad(const struct image *im, const char *what)
{
    return why_set(im->why, EINVAL, "the guest image's %s is out of the file",
                   what);
}

/* Overlapping sections could make the work any multiple of the file. */
static int check_sections(const struct image *im)
{
    const Elf64_Ehdr *h = &im->header;
    uint64_t text = 0;

    if (!h->e_shoff || !h->e_shnum)
        return why_set(im->why, EINVAL,
                       "the guest image has no sections, which 'trap' needs to "
                       "tell code from data: use an image that was not "
                       "stripped");
    if (h->e_shentsize != sizeof(Elf64_Shdr))
        return bad(im, "section header table");
    for (unsigned i = 0; i < h->e_shnum; i++) {
        Elf64_Shdr s;

        if (!read_section(im, i, &s))
            return bad(im, "section header table");
        if (!is_text(&s))
            continue;
        if (!inside(text, s.sh_size, im->size))
            return bad(im, "text");
        text += s.sh_size;
    }
    return 0;
}

/* By its segment: what is loaded counts, not what the section says. */
static int find_text(const struct image *im, const Elf64_Shdr *s,
                     struct text *text)
{
    for (unsigned i = 0; i < im->header.e_phnum; i++) {
        uint64_t into;
        Elf64_Phdr p;

        if (!read_entry(im, im->header.e_phoff, i, &p, sizeof p))
            return bad(im, "program header table");
        into = s->sh_addr - p.p_vaddr;
        if (p.p_type != PT_LOAD || s->sh_addr < p.p_vaddr ||
            !inside(into, s->sh_size, p.p_filesz))
            continue;
        if (!inside(p.p_offset, p.p_filesz, im->size) ||
            !inside(p.p_paddr, p.p_filesz, UINT64_MAX))
            return bad(im, "text");
        *text = (struct text){im->bytes + p.p_offset + into, s->sh_addr,
                              p.p_paddr + into, s->sh_size};
        return 0;
    }
    return why_set(im->why, EINVAL,
                   "the guest image's text at 0x%" PRIx64
                   " is in no segment that is loaded",
                   s->sh_addr);
}

/* ---- Where instructions begin ------------------------------------------ */

static int compare_starts(const void *a, const void *b)
{
    const struct start *x = a, *y = b;

    if (x->section != y->section)
        return x->section < y->section ? -1 : 1;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return (int)x->kind - (int)y->kind;
}

static void take_symbol(struct image *im, const Elf64_Sym *symbol)
{
    unsigned type = ELF64_ST_TYPE(symbol->st_info);
    struct start start = {
        .section = symbol->st_shndx,
        .kind = type == STT_FUNC     ? KIND_FUNCTION
                : type == STT_OBJECT ? KIND_OBJECT
                                     : KIND_LABEL,
        .size = symbol->st_size,
    };
    Elf64_Shdr s;

    if ((type != STT_FUNC && type != STT_OBJECT && type != STT_NOTYPE) ||
        !start.section || start.section >= im->header.e_shnum ||
        !read_section(im, start.section, &s) || !is_text(&s))
        return;
    start.offset = symbol->st_value - s.sh_addr;
    if (symbol->st_value < s.sh_addr || start.offset >= s.sh_size)
        return;
    if (start.kind == KIND_LABEL)
        start.size = 0;
    im->named |= start.kind != KIND_OBJECT;
    im->starts[im->start_count++] = start;
}

static int take_symbols(struct image *im, const Elf64_Shdr *table)
{
    size_t count = table->sh_size / sizeof(Elf64_Sym);

    if (!inside(table->sh_offset, table->sh_size, im->size))
        return bad(im, "symbol table");
    im->starts = calloc(count + 1, sizeof *im->starts);
    if (!im->starts)
        return why_set(im->why, ENOMEM, "out of memory");
    for (size_t i = 0; i < count; i++) {
        Elf64_Sym symbol;

        if (read_entry(im, table->sh_offset, i, &symbol, sizeof symbol))
            take_symbol(im, &symbol);
    }
    return 0;
}

/* An image has one symbol table (gABI, Sections). */
static int find_symbols(struct image *im)
{
    for (unsigned i = 0; i < im->header.e_shnum; i++) {
        Elf64_Shdr s;

        if (read_section(im, i, &s) && s.sh_type == SHT_SYMTAB)
            return take_symbols(im, &s);
    }
    return 0;
}

static int find_starts(struct image *im)
{
    int err = find_symbols(im);

    if (err)
        return err;
    if (!im->named) {
        free(im->starts);
        im->start_count = 0;
        im->starts = calloc(im->header.e_shnum, sizeof *im->starts);
        if (!im->starts)
            return why_set(im->why, ENOMEM, "out of memory");
    }
    for (unsigned i = 0; !im->named && i < im->header.e_shnum; i++) {
        Elf64_Shdr s;

        if (read_section(im, i, &s) && is_text(&s))
            im->starts[im->start_count++] =
                (struct start){.section = i, .kind = KIND_LABEL};
    }
    if (im->start_count)
        qsort(im->starts, im->start_count, sizeof *im->starts, compare_starts);
    return 0;
}

/* ---- Sites ------------------------------------------------------------- */

static int add_site(struct image *im, uint64_t pa, const struct insn *insn)
{
    struct patch_list *list = im->list;

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

/* No instruction at all; UD2 and its like are some. */
static bool is_data(const struct insn *insn)
{
    return insn->op == INSN_UNDEFINED && insn->length == 1;
}

/* Of text[from .. to); *end is where it stopped. */
static int sweep(struct image *im, const struct text *text, uint64_t from,
                 uint64_t to, uint64_t *end)
{
    struct patch_summary *summary = &im->list->summary;

    summary->functions++;
    for (*end = from; *end < to;) {
        struct insn insn;

        if (decode_insn(text->code + *end, to - *end, &insn) || is_data(&insn))
            return 0;
        if (insn_is_sensitive(&insn)) {
            int err = add_site(im, text->pa + *end, &insn);

            if (err)
                return err;
        }
        summary->instructions++;
        summary->swept += insn.length;
        *end += insn.length;
    }
    return 0;
}

static int sweep_start(struct image *im, const struct text *text,
                       const struct start *start, uint64_t next)
{
    uint64_t to = next, end;
    int err;

    if (start->size && start->size < to - start->offset)
        to = start->offset + start->size;
    err = sweep(im, text, start->offset, to, &end);
    if (!err && !im->named && end < to)
        return why_set(im->why, EINVAL,
                       "the guest image has no symbols, and its text is no "
                       "instruction at 0x%" PRIx64 ": 'trap' needs an image "
                       "that was not stripped to tell code from data",
                       text->va + end);
    return err;
}

/* The starts of one section: starts[0 .. count). Symbols inside an object
 * are its own. */
static int sweep_section(struct image *im, const struct text *text,
                         const struct start *starts, size_t count)
{
    uint64_t object_end = 0;
    int err = 0;

    for (size_t i = 0; !err && i < count; i++) {
        const struct start *s = &starts[i];
        size_t after = i + 1;
        uint64_t next;

        if (i && s->offset == s[-1].offset)
            continue;
        while (after < count && starts[after].offset == s->offset)
            after++;
        next = after < count ? starts[after].offset : text->size;
        if (s->kind == KIND_OBJECT && inside(s->offset, s->size, text->size))
            object_end = s->offset + s->size;
        if (s->kind == KIND_FUNCTION ||
            (s->kind == KIND_LABEL && s->offset >= object_end))
            err = sweep_start(im, text, s, next);
    }
    return err;
}

static int sweep_all(struct image *im)
{
    uint64_t total = 0;
    size_t at = 0;
    int err = 0;

    for (unsigned i = 0; !err && i < im->header.e_shnum; i++) {
        size_t first = at;
        struct text text;
        Elf64_Shdr s;

        while (at < im->start_count && im->starts[at].section == i)
            at++;
        if (!read_section(im, i, &s) || !is_text(&s))
            continue;
        err = find_text(im, &s, &text);
        if (!err)
            err = sweep_section(im, &text, im->starts + first, at - first);
        total += s.sh_size;
    }
    im->list->summary.skipped = total - im->list->summary.swept;
    return err;
}

/* ---- The list ---------------------------------------------------------- */

static int compare_patches(const void *a, const void *b)
{
    uint64_t x = ((const struct patch *)a)->pa,
             y = ((const struct patch *)b)->pa;

    return x < y ? -1 : x > y;
}

static void finish(struct patch_list *list)
{
    size_t kept = 0;

    if (list->count)
        qsort(list->patches, list->count, sizeof *list->patches,
              compare_patches);
    for (size_t i = 0; i < list->count; i++) {
        if (kept && list->patches[kept - 1].pa == list->patches[i].pa)
            continue;
        list->patches[kept++] = list->patches[i];
        list->summary.sites[list->patches[i].insn.op]++;
    }
    list->count = kept;
}

int patch_find(const void *image, size_t bytes, struct patch_list *list,
               struct why *why)
{
    struct image im = {.bytes = image, .size = bytes, .list = list, .why = why};
    int err;

    *list = (struct patch_list){.patches = NULL};
    err = elf_header(image, bytes, &im.header, why);
    if (!err)
        err = check_sections(&im);
    if (!err)
        err = find_starts(&im);
    if (!err)
        err = sweep_all(&im);
    free(im.starts);
    finish(list);
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
    *list = (struct patch_list){.patches = NULL};
}
