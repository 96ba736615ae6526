/*
 * What is found in the guest's text, against objdump; and images in which
 * text, data and lies stand side by side.
 */
#include "tests/test.h"
#include "vmm/decode.h"
#include "vmm/elf.h"
#include "vmm/patch.h"
#include "workloads/guest/layout.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RAM_BYTES  (16u << 20)
#define SITES_MAX  256
#define CODE_BYTES 64
#define SYMBOLS    8

/* ---- The guest --------------------------------------------------------- */

static uint8_t *read_guest(size_t *bytes)
{
    FILE *file = fopen(MEMVIRT_BUILD "/guest.elf", "re");
    uint8_t *image;
    long size;

    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fseek(file, 0, SEEK_END);
    size = ftell(file);
    rewind(file);
    image = malloc((size_t)size);
    *bytes = fread(image, 1, (size_t)size, file);
    fclose(file);
    return image;
}

/* Addresses of the sensitive instructions by objdump's names, AT&T syntax. */
static size_t ask_objdump(uint64_t *addresses)
{
    static const char pattern[] =
        "\\t(s[gi]dt|sldt|str|smsw|pushfw?|popfw?|lar|lsl|ver[rw]|l[sfg]s|"
        "int[13]?|iret|lret|lcall|ljmp|rdpid|rdtscp)[lqw]?( |$)|"
        "\\tmov[lqw]? +(%[cs]s,|.*,%[cs]s$)";
    char *output, *save = NULL;
    size_t count = 0;

    /* grep's status is 1 without a match. */
    CU_ASSERT(test_shell(&output,
                         "objdump -d --no-show-raw-insn %s/guest.elf | "
                         "grep -P '%s'",
                         MEMVIRT_BUILD, pattern) <= 1);
    for (char *line = strtok_r(output, "\n", &save); line && count < SITES_MAX;
         line = strtok_r(NULL, "\n", &save))
        addresses[count++] = strtoull(line, NULL, 16);
    free(output);
    return count;
}

static void as_objdump(void)
{
    uint64_t expected[SITES_MAX];
    size_t bytes, count = ask_objdump(expected);
    uint8_t *image = read_guest(&bytes);
    struct patch_list list;
    struct why why = {""};

    CU_ASSERT_EQUAL(patch_find(image, bytes, &list, &why), 0);
    CU_ASSERT(count > 0);
    CU_ASSERT_EQUAL(list.count, count);
    for (size_t i = 0; i < list.count && i < count; i++)
        CU_ASSERT_EQUAL(list.patches[i].pa, expected[i] - KERNEL_BASE);
    CU_ASSERT(list.summary.functions > 50);
    CU_ASSERT(list.summary.instructions > 1000);
    CU_ASSERT(list.summary.swept > 9 * list.summary.skipped);
    CU_ASSERT_EQUAL(list.summary.sites[INSN_IRET], 1);
    patch_free(&list);
    free(image);
}

/* In RAM the first bytes of the sites change, and nothing else. */
static void guest_patched(void)
{
    uint8_t *before = calloc(1, RAM_BYTES), *after = malloc(RAM_BYTES), *image;
    struct patch_list list;
    size_t bytes, changed = 0;
    uint64_t entry;
    struct why why = {""};

    image = read_guest(&bytes);
    CU_ASSERT_EQUAL(
        elf_load(image, bytes, before, RAM_BYTES, 4096, &entry, &why), 0);
    CU_ASSERT_EQUAL(patch_find(image, bytes, &list, &why), 0);
    memcpy(after, before, RAM_BYTES);
    patch_apply(&list, after, RAM_BYTES);
    for (size_t i = 0; i < RAM_BYTES; i++)
        changed += before[i] != after[i];
    CU_ASSERT_EQUAL(changed, list.count);
    for (size_t i = 0; i < list.count; i++) {
        const struct patch *p = &list.patches[i];

        CU_ASSERT_EQUAL(after[p->pa], PATCH_BYTE);
        CU_ASSERT_EQUAL(memcmp(p->insn.bytes, before + p->pa, p->insn.length),
                        0);
        CU_ASSERT_PTR_EQUAL(patch_lookup(&list, p->pa), &p->insn);
        CU_ASSERT_PTR_NULL(patch_lookup(&list, p->pa + 1));
    }
    memcpy(after, before, RAM_BYTES);
    patch_apply(&list, after, 4096); /* all of them are above */
    CU_ASSERT_EQUAL(memcmp(after, before, RAM_BYTES), 0);
    patch_free(&list);
    free(image);
    free(before);
    free(after);
}

/* ---- Images of a few bytes --------------------------------------------- */

struct small {
    Elf64_Ehdr header;
    Elf64_Phdr segment;
    uint8_t code[CODE_BYTES];
    Elf64_Sym symbols[SYMBOLS];
    Elf64_Shdr sections[4]; /* none, .text, .symtab, .data */
    uint32_t symbol_count, text_bytes;
};

#define VA 0x400000u
#define PA 0x100000u

static struct small small_image(const void *code, size_t bytes)
{
    struct small s = {
        .header = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64,
                               ELFDATA2LSB, EV_CURRENT},
                   .e_type = ET_EXEC,
                   .e_machine = EM_X86_64,
                   .e_version = EV_CURRENT,
                   .e_entry = VA,
                   .e_phoff = offsetof(struct small, segment),
                   .e_shoff = offsetof(struct small, sections),
                   .e_ehsize = sizeof(Elf64_Ehdr),
                   .e_phentsize = sizeof(Elf64_Phdr),
                   .e_phnum = 1,
                   .e_shentsize = sizeof(Elf64_Shdr),
                   .e_shnum = 4},
        .segment = {.p_type = PT_LOAD,
                    .p_flags = PF_R | PF_X,
                    .p_offset = offsetof(struct small, code),
                    .p_vaddr = VA,
                    .p_paddr = PA,
                    .p_filesz = CODE_BYTES,
                    .p_memsz = CODE_BYTES},
        .sections = {{0},
                     {.sh_type = SHT_PROGBITS,
                      .sh_flags = SHF_ALLOC | SHF_EXECINSTR,
                      .sh_addr = VA,
                      .sh_offset = offsetof(struct small, code),
                      .sh_size = bytes},
                     {.sh_type = SHT_SYMTAB,
                      .sh_offset = offsetof(struct small, symbols),
                      .sh_size = sizeof(Elf64_Sym),
                      .sh_entsize = sizeof(Elf64_Sym)},
                     {.sh_type = SHT_PROGBITS,
                      .sh_flags = SHF_ALLOC,
                      .sh_addr = VA + bytes,
                      .sh_size = CODE_BYTES - bytes}},
        .symbol_count = 1,
        .text_bytes = (uint32_t)bytes,
    };

    memset(s.code, 0x9c, sizeof s.code); /* PUSHF wherever it is not code */
    memcpy(s.code, code, bytes);
    return s;
}

static void symbol(struct small *s, unsigned type, uint64_t at, uint64_t size)
{
    s->symbols[s->symbol_count++] =
        (Elf64_Sym){.st_info = (uint8_t)ELF64_ST_INFO(STB_GLOBAL, type),
                    .st_shndx = 1,
                    .st_value = VA + at,
                    .st_size = size};
    s->sections[2].sh_size += sizeof(Elf64_Sym);
}

/* The sites as offsets in the code: a bit each; or -1 with a sentence. A heap
 * copy, so that a sanitizer sees a byte too far. */
static int64_t sites(const struct small *s, size_t bytes, struct why *why)
{
    uint8_t *copy = malloc(bytes);
    struct patch_list list;
    int64_t found = 0;
    int err;

    memcpy(copy, s, bytes);
    err = patch_find(copy, bytes, &list, why);
    for (size_t i = 0; i < list.count; i++)
        found |= 1ll << (list.patches[i].pa - PA);
    CU_ASSERT(!err || err == -EINVAL);
    CU_ASSERT(err ||
              list.summary.swept + list.summary.skipped == s->text_bytes);
    patch_free(&list);
    free(copy);
    return err ? -1 : found;
}

#define SITES(s) sites(&(s), sizeof(s), &(struct why){""})
#define CODE(b)  small_image(b, sizeof(b) - 1)
#define AT(n)    (1ll << (n))

static void functions(void)
{
    struct small s = CODE("\x9c\x5b\x48\xcf" /* 0: function of 4 */
                          "\x9c\x9c"         /* 4: what is behind it */
                          "\x9d\xc3");       /* 6: label */

    symbol(&s, STT_FUNC, 0, 4);
    symbol(&s, STT_NOTYPE, 6, 0);
    CU_ASSERT_EQUAL(SITES(s), AT(0) | AT(2) | AT(6));
    symbol(&s, STT_NOTYPE, 0, 0); /* another name for it changes nothing */
    CU_ASSERT_EQUAL(SITES(s), AT(0) | AT(2) | AT(6));
    s.symbols[1].st_size = 0; /* to the next symbol then */
    CU_ASSERT_EQUAL(SITES(s), AT(0) | AT(2) | AT(4) | AT(5) | AT(6));
    s.symbols[1].st_size = UINT64_MAX;
    CU_ASSERT_EQUAL(SITES(s), AT(0) | AT(2) | AT(4) | AT(5) | AT(6));
}

static void data_in_text(void)
{
    struct small s = CODE("\x90\x06\x9c\xcf" /* 0: undecodable at 1 */
                          "\x9c\x9c\x9c\x9c" /* 4: an object with a label */
                          "\x0f\x0b\x9c\xc3" /* 8: UD2 is an instruction */
                          "\x90\x48\xb8\x9c" /* 12: goes on beyond the next */
                          "\xcf\xc3");       /* 16 */

    symbol(&s, STT_FUNC, 0, 0);
    symbol(&s, STT_OBJECT, 4, 4);
    symbol(&s, STT_NOTYPE, 6, 0);
    symbol(&s, STT_FUNC, 8, 0);
    symbol(&s, STT_NOTYPE, 12, 0);
    symbol(&s, STT_NOTYPE, 16, 0);
    CU_ASSERT_EQUAL(SITES(s), AT(10) | AT(16));
}

static void no_symbols(void)
{
    struct small s = CODE("\x9c\x5b\x48\xcf"), bad = CODE("\x9c\x5b\x06\xcf");
    struct why why = {""};

    CU_ASSERT_EQUAL(SITES(s), AT(0) | AT(2));
    s.sections[2].sh_type = SHT_NULL;
    CU_ASSERT_EQUAL(SITES(s), AT(0) | AT(2));
    CU_ASSERT_EQUAL(sites(&bad, sizeof bad, &why), -1);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "no symbols"));
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "0x400002"));
}

#define REFUSED(expected, ...)                                \
    do {                                                      \
        struct small s = CODE("\x9c\x5b\x48\xcf");            \
        size_t bytes = sizeof s;                              \
        struct why why = {""};                                \
                                                              \
        symbol(&s, STT_FUNC, 0, 4);                           \
        __VA_ARGS__;                                          \
        CU_ASSERT_EQUAL(sites(&s, bytes, &why), -1);          \
        CU_ASSERT_PTR_NOT_NULL(strstr(why.text, (expected))); \
    } while (0)

static void hostile(void)
{
    REFUSED("not an ELF", bytes = 0);
    REFUSED("not an ELF", bytes = 10);
    REFUSED("another machine", s.header.e_machine = EM_ARM);
    REFUSED("no sections", s.header.e_shnum = 0);
    REFUSED("no sections", s.header.e_shoff = 0);
    REFUSED("section header table", s.header.e_shoff = UINT64_MAX - 8);
    REFUSED("section header table", s.header.e_shnum = 65535);
    REFUSED("section header table", s.header.e_shentsize = 8);
    REFUSED("symbol table", s.sections[2].sh_size = UINT64_MAX);
    REFUSED("symbol table", s.sections[2].sh_offset = UINT64_MAX);
    REFUSED("text is out", s.sections[1].sh_size = UINT64_MAX);
    REFUSED("in no segment", s.sections[1].sh_addr = VA + CODE_BYTES - 1);
    REFUSED("in no segment", s.sections[1].sh_addr = UINT64_MAX - 1);
    REFUSED("in no segment", s.segment.p_type = PT_NOTE);
    REFUSED("text is out", s.segment.p_offset = UINT64_MAX);
    REFUSED("text is out", s.segment.p_paddr = UINT64_MAX - 2);
    /* So much text would take any multiple of the file's time. */
    REFUSED("text is out", s.sections[1].sh_size = sizeof s / 2 + 1,
            s.sections[3] = s.sections[1]);
}

/* Symbols that name nothing are none; tables need no alignment. */
static void odd_symbols(void)
{
    struct small s = CODE("\x9c\x5b\x48\xcf"), moved;

    symbol(&s, STT_FUNC, 0, 0);
    symbol(&s, STT_FUNC, UINT64_MAX, 0);
    symbol(&s, STT_FUNC, 4, 16); /* behind the text: PUSHF in the file */
    symbol(&s, STT_SECTION, 1, 0);
    symbol(&s, STT_NOTYPE, 1, 0);
    s.symbols[5].st_shndx = SHN_ABS;
    symbol(&s, STT_NOTYPE, 1, 0);
    s.symbols[6].st_shndx = 3;
    symbol(&s, STT_FUNC, 20, 16);
    CU_ASSERT_EQUAL(SITES(s), AT(0) | AT(2));
    moved = s;
    moved.header.e_shoff++;
    memmove((uint8_t *)&moved + moved.header.e_shoff, s.sections,
            sizeof s.sections);
    CU_ASSERT_EQUAL(SITES(moved), AT(0) | AT(2));
}

/* ---- Which are sensitive ----------------------------------------------- */

/* By Robin and Irvine's table 2 and the manuals, 64-bit mode. */
static void sensitive(void)
{
    static const struct {
        const char *bytes, *name;
    } yes[] = {
        {"\x0f\x01\x00", "SGDT"},
        {"\x0f\x01\x08", "SIDT"},
        {"\x0f\x00\xc0", "SLDT"},
        {"\x0f\x01\xe0", "SMSW"},
        {"\x9c", "PUSHF"},
        {"\x9d", "POPF"},
        {"\x0f\x02\xc0", "LAR"},
        {"\x0f\x03\xc0", "LSL"},
        {"\x0f\x00\xe0", "VERR"},
        {"\x0f\x00\xe8", "VERW"},
        {"\xff\x18", "far CALL"},
        {"\xff\x28", "far JMP"},
        {"\xcd\x80", "INT n"},
        {"\xcb", "far RET"},
        {"\x0f\x00\xc8", "STR"},
        {"\x8c\xc8", "MOV from CS"},
        {"\x8c\xd0", "MOV from SS"},
        {"\x8e\xd0", "MOV to SS"},
        {"\x48\xcf", "IRETQ"},
        {"\xcc", "INT3"},
        {"\xf1", "INT1"},
        {"\x0f\xb2\x07", "LSS"},
        {"\x0f\x01\xf9", "RDTSCP"},
        {"\xf3\x0f\xc7\xf8", "RDPID"},
    };
    /* Privileged; or the CPU's own answer is the guest's. */
    static const char *const no[] = {
        "\xfa",         "\xfb",     "\xf4",         "\x0f\x32",
        "\x0f\x20\xc0", "\x8c\xd8", "\x8e\xd8",     "\x0f\xa0",
        "\x0f\xa9",     "\xc3",     "\x0f\x01\xd0", "\x0f\xb4\x07",
        "\x90",         "\xe8",     "\x0f\x05",     "\x0f\xa2"};

    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++) {
        uint8_t bytes[15] = {0};
        struct insn insn;

        memcpy(bytes, yes[i].bytes, strnlen(yes[i].bytes, 4));
        CU_ASSERT_EQUAL(decode_insn(bytes, 15, &insn), 0);
        CU_ASSERT(insn_is_sensitive(&insn));
        if (!insn_is_sensitive(&insn))
            printf("\n    %s", yes[i].name);
    }
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++) {
        uint8_t bytes[15] = {0};
        struct insn insn;

        memcpy(bytes, no[i], strnlen(no[i], 4));
        CU_ASSERT_EQUAL(decode_insn(bytes, 15, &insn), 0);
        CU_ASSERT_FALSE(insn_is_sensitive(&insn));
    }
}

TEST_SUITE(patch, {"the guest's sites are objdump's", as_objdump},
           {"only sites change", guest_patched},
           {"functions and labels", functions}, {"data in text", data_in_text},
           {"without symbols", no_symbols}, {"hostile images", hostile},
           {"odd symbols", odd_symbols}, {"sensitive instructions", sensitive});
