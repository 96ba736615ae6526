/*
 * The decoder against binutils' disassembler, which shares nothing with it,
 * and the addresses it reads from ModR/M against what the CPU makes of them.
 */
#include "tests/test.h"
#include "vmm/decode.h"
#include "workloads/api.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SLOT_BYTES 16
#ifdef __SANITIZE_ADDRESS__
#define RANDOM_SLOTS 6000
#define STEP         3
#else
#define RANDOM_SLOTS 20000
#define STEP         1
#endif
#define SLOTS_MAX 60000
#define ADDRESSES 4000

/* ---- What is decoded --------------------------------------------------- */

static const uint8_t legacy[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e,
                                 0x36, 0x3e, 0x26, 0x64, 0x65};

struct slots {
    uint8_t (*bytes)[SLOT_BYTES];
    size_t count;
};

static void fill(uint8_t *slot, size_t used, uint64_t *random)
{
    for (size_t i = used; i < INSN_BYTES_MAX; i++)
        slot[i] = (uint8_t)wl_below(random, 256);
    slot[INSN_BYTES_MAX] = 0x90;
}

/* Every opcode of the two first maps with every ModR/M.reg, in memory and in
 * a register, behind some prefixes. */
static void systematic(struct slots *slots, uint64_t *random)
{
    static const char *const prefixes[] = {"", "\x48", "\x66", "\xf3\x41"};

    for (unsigned n = 0; n < 512u * 16 * 4; n += STEP) {
        uint8_t *slot = slots->bytes[slots->count++];
        const char *prefix = prefixes[n & 3];
        unsigned reg = n >> 2 & 7, mode = n >> 5 & 1 ? 0xc0 : 0x40;
        unsigned opcode = n >> 6;
        size_t used = strlen(prefix);

        for (size_t i = 0; i < used; i++)
            slot[i] = (uint8_t)prefix[i];
        if (opcode > 255)
            slot[used++] = 0x0f;
        slot[used++] = (uint8_t)opcode;
        slot[used++] =
            (uint8_t)(mode | reg << 3 | (mode == 0xc0 ? reg : reg & 3));
        fill(slot, used, random);
    }
}

static void at_random(struct slots *slots, uint64_t *random)
{
    for (unsigned n = 0; n < RANDOM_SLOTS; n++) {
        uint8_t *slot = slots->bytes[slots->count++];
        size_t used = wl_below(random, n % 16 ? 5 : 15);

        for (size_t i = 0; i < used; i++)
            slot[i] = legacy[wl_below(random, sizeof legacy)];
        if (wl_below(random, 2))
            slot[used++] = (uint8_t)(0x40 + wl_below(random, 16));
        if (used < 14 && wl_below(random, 2))
            slot[used++] = 0x0f;
        fill(slot, used, random);
    }
}

/* ---- objdump ----------------------------------------------------------- */

struct other {
    unsigned length; /* 0: bad */
    char text[96];
};

static bool is_prefix(const char *text, size_t length)
{
    static const char *const names[] = {
        "data16", "addr32",  "lock",     "rep",     "repz", "repnz",
        "cs",     "ds",      "es",       "ss",      "fs",   "gs",
        "bnd",    "notrack", "xacquire", "xrelease"};

    if (length >= 3 && !strncmp(text, "rex", 3))
        return true;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (length == strlen(names[i]) && !strncmp(text, names[i], length))
            return true;
    return false;
}

/* Behind the prefixes that objdump spells out. */
static const char *mnemonic(const char *text)
{
    for (;;) {
        size_t length = strcspn(text, " ");

        if (!length || !is_prefix(text, length))
            return text;
        text += length;
        text += strspn(text, " ");
    }
}

/* One line of output. objdump gives prefixes that mean nothing lines of their
 * own: they belong to the instruction that follows. */
static void take_line(char *line, struct slots *slots, struct other *others)
{
    char *bytes, *text, *end;
    size_t at = strtoul(line, &end, 16), slot = at / SLOT_BYTES;
    struct other *o;

    if (*end != ':' || end[1] != '\t' || slot >= slots->count)
        return;
    bytes = end + 2;
    text = strchr(bytes, '\t');
    if (!text)
        return;
    *text++ = 0;
    o = &others[slot];
    if (at % SLOT_BYTES != o->length || (o->length && *mnemonic(o->text)))
        return;
    for (; *bytes; bytes += 3, o->length++)
        if (!isxdigit(bytes[0]) || !isxdigit(bytes[1]))
            break;
    snprintf(o->text + strlen(o->text), sizeof o->text - strlen(o->text),
             "%s%s", *o->text ? " " : "", text);
}

static struct other *disassemble(struct slots *slots)
{
    char *folder = test_folder(), path[512], *output, *save = NULL;
    struct other *others = calloc(slots->count, sizeof *others);
    FILE *file;

    snprintf(path, sizeof path, "%s/slots.s", folder);
    file = fopen(path, "we");
    for (size_t i = 0; i < slots->count; i++) {
        fprintf(file, "s%zu: .byte 0x%02x", i, slots->bytes[i][0]);
        for (unsigned n = 1; n < SLOT_BYTES; n++)
            fprintf(file, ",0x%02x", slots->bytes[i][n]);
        fputc('\n', file);
    }
    fclose(file);
    CU_ASSERT_EQUAL(test_shell(&output,
                               "cd %s && as -o slots.o slots.s && objdump -d "
                               "-M intel,intel64 --insn-width=16 slots.o",
                               folder),
                    0);
    for (char *line = strtok_r(output, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save))
        take_line(line, slots, others);
    free(output);
    free(folder);
    return others;
}

/* ---- What the two must agree on ---------------------------------------- */

struct class
{
    const char *names; /* separated by spaces */
    uint8_t op;
};

static const struct class classes[] = {
    {"hlt", INSN_HLT},
    {"cli", INSN_CLI},
    {"sti", INSN_STI},
    {"lmsw", INSN_LMSW},
    {"clts", INSN_CLTS},
    {"invlpg", INSN_INVLPG},
    {"invpcid", INSN_INVPCID},
    {"rdmsr", INSN_RDMSR},
    {"wrmsr", INSN_WRMSR},
    {"lgdt", INSN_LGDT},
    {"lidt", INSN_LIDT},
    {"lldt", INSN_LLDT},
    {"ltr", INSN_LTR},
    {"swapgs", INSN_SWAPGS},
    {"sysretd sysretq", INSN_SYSRET},
    {"wbinvd invd wbnoinvd", INSN_WBINVD},
    {"in", INSN_IN},
    {"out", INSN_OUT},
    {"ins", INSN_INS},
    {"outs", INSN_OUTS},
    {"xsetbv", INSN_XSETBV},
    {"rdtsc", INSN_RDTSC},
    {"rdtscp", INSN_RDTSCP},
    {"rdpid", INSN_RDPID},
    {"rdpmc", INSN_RDPMC},
    {"monitor", INSN_MONITOR},
    {"mwait", INSN_MWAIT},
    {"sgdt", INSN_SGDT},
    {"sidt", INSN_SIDT},
    {"sldt", INSN_SLDT},
    {"str", INSN_STR},
    {"smsw", INSN_SMSW},
    {"pushf pushfw", INSN_PUSHF},
    {"popf popfw", INSN_POPF},
    {"lar", INSN_LAR},
    {"lsl", INSN_LSL},
    {"verr", INSN_VERR},
    {"verw", INSN_VERW},
    {"lss lfs lgs", INSN_LOAD_FAR},
    {"retf retfw retfq", INSN_RET_FAR},
    {"int int1 int3", INSN_INT},
    {"iret iretw iretq", INSN_IRET},
    {"ud0 ud1 ud2", INSN_UNDEFINED},
    {"movabs", INSN_MOV},
    {"add", INSN_ADD},
    {"or", INSN_OR},
    {"adc", INSN_ADC},
    {"sbb", INSN_SBB},
    {"and", INSN_AND},
    {"sub", INSN_SUB},
    {"xor", INSN_XOR},
    {"inc", INSN_INC},
    {"dec", INSN_DEC},
    {"not", INSN_NOT},
    {"neg", INSN_NEG},
    {"bts", INSN_BTS},
    {"btr", INSN_BTR},
    {"btc", INSN_BTC},
    {"xchg", INSN_XCHG},
    {"xadd", INSN_XADD},
    {"cmpxchg", INSN_CMPXCHG},
    {"cmpxchg8b cmpxchg16b", INSN_CMPXCHG8B},
    {"movnti", INSN_MOVNTI},
    {"stos", INSN_STOS},
    {"movs", INSN_MOVS},
};

static bool has_word(const char *words, const char *word, size_t length)
{
    for (const char *at = words; *at; at += strspn(at, " ")) {
        size_t each = strcspn(at, " ");

        if (each == length && !strncmp(at, word, length))
            return true;
        at += each;
    }
    return false;
}

/* Of a MOV, by the register that an operand begins with. */
static uint8_t mov_class(const char *operands)
{
    static const struct {
        const char *names;
        uint8_t from, to;
    } kinds[] = {{"cr", INSN_MOV_FROM_CR, INSN_MOV_TO_CR},
                 {"dr db", INSN_MOV_FROM_DR, INSN_MOV_TO_DR}};
    const char *second = strchr(operands, ',');

    for (unsigned i = 0; second && i < 2; i++) {
        if (has_word(kinds[i].names, operands, 2))
            return kinds[i].to;
        if (has_word(kinds[i].names, second + 1, 2))
            return kinds[i].from;
    }
    if (strcspn(operands, ",") == 2 && operands[1] == 's')
        return INSN_MOV_TO_SEG;
    if (second && second[1] && second[2] == 's' && strcspn(second, " ") == 3)
        return INSN_MOV_FROM_SEG;
    return INSN_MOV;
}

static uint8_t class_of(const char *text)
{
    const char *name = mnemonic(text);
    size_t length = strcspn(name, " ");
    const char *operands = name + length + strspn(name + length, " ");
    bool segment = has_word("fs gs", operands, strcspn(operands, " "));

    if (has_word("mov", name, length))
        return mov_class(operands);
    if (has_word("push pushw", name, length))
        return segment ? INSN_PUSH_SEG : INSN_PUSH;
    if (has_word("pop popw", name, length))
        return segment ? INSN_POP_SEG : INSN_POP;
    if (has_word("call", name, length))
        return strstr(operands, "FWORD") || strstr(operands, "TBYTE") ||
                       (strstr(operands, " DWORD") || *operands == 'D')
                   ? INSN_CALL_FAR
                   : INSN_CALL;
    if (has_word("jmp", name, length) &&
        (strstr(operands, "FWORD") || strstr(operands, "TBYTE") ||
         *operands == 'D'))
        return INSN_JMP_FAR;
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++)
        if (has_word(classes[i].names, name, length))
            return classes[i].op;
    return INSN_UNSUPPORTED;
}

/* The prefix bytes, and what the manual makes of them (SDM vol. 2, 2.1.1). */
struct prefixes {
    size_t count;
    bool operand, address, lock;
    bool nop;       /* 90, with any prefixes but REX.B */
    bool stray_rex; /* objdump forgets the prefixes before one */
    uint8_t repeat, segment;
    uint8_t opcode;
};

static struct prefixes scan(const uint8_t *bytes)
{
    struct prefixes p = {.segment = 0};
    uint8_t rex = 0;

    for (; p.count < INSN_BYTES_MAX; p.count++) {
        uint8_t byte = bytes[p.count];

        if (!memchr(legacy, byte, sizeof legacy))
            break;
        p.operand |= byte == 0x66;
        p.address |= byte == 0x67;
        p.lock |= byte == 0xf0;
        if (byte == 0xf2 || byte == 0xf3)
            p.repeat = byte;
        if (byte == 0x64 || byte == 0x65)
            p.segment = byte;
    }
    if (p.count < INSN_BYTES_MAX && (bytes[p.count] & 0xf0) == 0x40)
        rex = bytes[p.count++];
    p.opcode = p.count < INSN_BYTES_MAX ? bytes[p.count] : 0;
    p.nop = p.opcode == 0x90 && !(rex & 1);
    p.stray_rex =
        p.count && (bytes[p.count - 1] & 0xf0) == 0x40 &&
        ((p.opcode & 0xf0) == 0x40 || memchr(legacy, p.opcode, sizeof legacy));
    return p;
}

/* Where LOCK is allowed (SDM vol. 2, LOCK), which objdump does not ask. */
static bool lock_allowed(const struct other *o)
{
    const char *name = mnemonic(o->text);
    size_t length = strcspn(name, " ");
    const char *memory = strchr(name, '[');
    const char *comma = strchr(name, ',');

    if (!memory)
        memory = strstr(name, "s:0x");
    return memory &&
           (!comma || memory < comma || has_word("xchg", name, length)) &&
           has_word("add adc and btc btr bts cmpxchg cmpxchg8b cmpxchg16b dec "
                    "inc neg not or sbb sub xor xadd xchg",
                    name, length);
}

/* Registers that are none: CS as a destination, CR1, CR5 to CR7, CR9 to CR15,
 * DR8 to DR15. */
static bool no_register(const char *name)
{
    if (!isdigit((unsigned char)name[0]) && isdigit((unsigned char)name[2])) {
        if (!strncmp(name, "cr", 2))
            return !strchr("02348", name[2]) || isdigit(name[3]);
        if (!strncmp(name, "dr", 2) || !strncmp(name, "db", 2))
            return name[2] > '7' || isdigit(name[3]);
    }
    return false;
}

static bool bad_register(const char *text)
{
    const char *operands = mnemonic(text);

    if (strchr(operands, '?'))
        return true;
    if (strncmp(operands, "mov ", 4))
        return false;
    operands += 3 + strspn(operands + 3, " ");
    if (!strncmp(operands, "cs,", 3))
        return true;
    return no_register(operands) || no_register(strchr(operands, ',') + 1);
}

static bool is_bad(const struct other *o, const struct prefixes *p)
{
    return !o->length || o->length > INSN_BYTES_MAX ||
           strstr(o->text, "(bad)") || strstr(o->text, ".byte") ||
           bad_register(o->text) || (p->lock && !lock_allowed(o));
}

static bool is_string_op(unsigned op)
{
    return op == INSN_INS || op == INSN_OUTS || op == INSN_STOS ||
           op == INSN_MOVS;
}

static bool flags_agree(const struct insn *insn, const struct prefixes *p)
{
    bool string = is_string_op(insn->op);

    return !(insn->flags & INSN_REP) == !(string && p->repeat == 0xf3) &&
           !(insn->flags & INSN_REPNE) == !(string && p->repeat == 0xf2) &&
           !(insn->flags & INSN_LOCK) == !p->lock &&
           !(insn->flags & INSN_ADDRESS_32) == !p->address;
}

/* Of the memory operand of an instruction that stores or loads. */
static bool memory_agrees(const struct insn *insn, const char *text)
{
    static const struct {
        const char *name;
        uint8_t size;
    } sizes[] = {{"OWORD PTR", 16},
                 {"QWORD PTR", 8},
                 {"DWORD PTR", 4},
                 {"WORD PTR", 2},
                 {"BYTE PTR", 1}};
    unsigned n = insn->operand[0].kind != INSN_OPERAND_MEMORY;

    if (insn->operand[n].kind != INSN_OPERAND_MEMORY || insn->op < INSN_MOV)
        return true;
    for (unsigned i = 0; i < 5; i++)
        if (strstr(text, sizes[i].name)) {
            if (insn->operand[n].size != sizes[i].size)
                return false;
            break;
        }
    return !strstr(text, "fs:") == (insn->segment != INSN_FS) &&
           !strstr(text, "gs:") == (insn->segment != INSN_GS);
}

static bool immediate_agrees(const struct insn *insn, const char *text)
{
    const char *last = strrchr(text, ',');
    unsigned size = insn->operand[1].size;
    uint64_t mask = size >= 8 ? ~0ull : (1ull << 8 * size) - 1, value;

    if (insn->op < INSN_MOV || insn->operand[1].kind != INSN_OPERAND_IMM)
        return true;
    if (!last || strncmp(last, ",0x", 3))
        return false;
    value = strtoull(last + 1, NULL, 16);
    return insn->operand[0].size == size &&
           value == ((uint64_t)insn->imm & mask);
}

/* Empty, or in what they differ. */
static const char *difference(const struct insn *insn, const struct other *o,
                              const struct prefixes *p)
{
    bool known = insn->op != INSN_UNSUPPORTED && insn->op != INSN_UNDEFINED;

    if (is_bad(o, p)) {
        /* 66 and F2 do not change WBINVD (SDM vol. 2 lists neither). */
        if (insn->op == INSN_WBINVD && (p->operand || p->repeat == 0xf2))
            return "";
        return known ? "it is no instruction" : "";
    }
    if (insn->op == INSN_UNDEFINED && insn->length == 1) {
        uint8_t class = class_of(o->text);

        /* MONITOR and MWAIT have no 66; the rest is not emulated, and which
         * prefixes SSE takes is a matter of its own. */
        return class == INSN_UNSUPPORTED || class == INSN_UNDEFINED ||
                       class == INSN_MONITOR || class == INSN_MWAIT
                   ? ""
                   : "it is an instruction";
    }
    if (insn->length != o->length)
        return "length";
    if (insn->op != (p->nop ? INSN_UNSUPPORTED : class_of(o->text)))
        return "operation";
    if (!known)
        return "";
    return !flags_agree(insn, p)              ? "prefixes"
           : !memory_agrees(insn, o->text)    ? "memory operand"
           : !immediate_agrees(insn, o->text) ? "immediate"
                                              : "";
}

static void as_objdump(void)
{
    struct slots slots = {calloc(SLOTS_MAX, SLOT_BYTES), 0};
    size_t seen[INSN_OPS] = {0}, missing = 0, differ = 0;
    uint64_t random = 1;
    struct other *others;

    systematic(&slots, &random);
    at_random(&slots, &random);
    others = disassemble(&slots);
    for (size_t i = 0; i < slots.count; i++) {
        const uint8_t *bytes = slots.bytes[i];
        struct prefixes p = scan(bytes);
        struct insn insn;
        const char *what;

        /* objdump joins FWAIT and what follows. */
        if (p.opcode == 0x9b || p.stray_rex)
            continue;
        CU_ASSERT_EQUAL(decode_insn(bytes, INSN_BYTES_MAX, &insn), 0);
        what = difference(&insn, &others[i], &p);
        seen[insn.op]++;
        if (*what && differ++ < 20)
            printf("\n    %s: %s, %u bytes; objdump: %s, %u bytes", what,
                   insn_op_name(insn.op), insn.length, others[i].text,
                   others[i].length);
    }
    for (unsigned op = 0; op < INSN_OPS; op++)
        missing += !seen[op] && op != INSN_INVPCID && op != INSN_SWAPGS &&
                   op != INSN_XSETBV && op != INSN_RDTSCP && op != INSN_RDPID &&
                   op != INSN_MONITOR && op != INSN_MWAIT;
    CU_ASSERT_EQUAL(differ, 0);
    CU_ASSERT_EQUAL(missing, 0);
    free(others);
    free(slots.bytes);
}

/* ---- Prefixes and lengths ---------------------------------------------- */

static bool same_but_length(const struct insn *a, const struct insn *b)
{
    struct insn x = *a, y = *b;

    x.length = y.length = 0;
    memset(x.bytes, 0, sizeof x.bytes);
    memset(y.bytes, 0, sizeof y.bytes);
    return !memcmp(&x, &y, sizeof x);
}

/* A REX that is not directly before the opcode is ignored (SDM vol. 2,
 * 2.2.1), so it adds to the length and to nothing else. */
static void stray_rex(void)
{
    uint64_t random = 2;
    unsigned compared = 0;

    for (unsigned n = 0; n < 20000; n++) {
        uint8_t with[SLOT_BYTES], without[SLOT_BYTES], byte;
        size_t k = 1 + wl_below(&random, 3), w = 0, o = 0;
        struct insn a, b;

        for (size_t i = 0; i < k; i++) {
            byte = legacy[wl_below(&random, sizeof legacy)];
            with[w++] = (uint8_t)(0x40 + wl_below(&random, 16));
            with[w++] = without[o++] = byte;
        }
        for (size_t i = 0; w < sizeof with; i++) {
            byte = (uint8_t)wl_below(&random, 256);
            with[w++] = without[o++] = byte;
        }
        if (decode_insn(without, o, &b) || b.length == 1 || b.length + k > 15)
            continue;
        CU_ASSERT_EQUAL(decode_insn(with, 15, &a), 0);
        CU_ASSERT_EQUAL(a.length, b.length + k);
        CU_ASSERT(same_but_length(&a, &b));
        compared++;
    }
    CU_ASSERT(compared > 1000);
}

/* With fewer bytes than it has an instruction is not there yet, and what
 * follows it changes nothing. */
static void cut_short(void)
{
    struct slots slots = {calloc(SLOTS_MAX, SLOT_BYTES), 0};
    uint64_t random = 3;

    at_random(&slots, &random);
    for (size_t i = 0; i < slots.count; i += 5) {
        const uint8_t *bytes = slots.bytes[i];
        struct insn whole, part;

        CU_ASSERT_EQUAL(decode_insn(bytes, 15, &whole), 0);
        CU_ASSERT(whole.length >= 1 && whole.length <= 15);
        CU_ASSERT_EQUAL(memcmp(whole.bytes, bytes, whole.length), 0);
        if (whole.length == 1)
            continue;
        CU_ASSERT_EQUAL(decode_insn(bytes, whole.length, &part), 0);
        CU_ASSERT_EQUAL(memcmp(&part, &whole, sizeof part), 0);
        for (unsigned n = 0; n < whole.length; n++)
            CU_ASSERT_EQUAL(decode_insn(bytes, n, &part), -ENODATA);
    }
    free(slots.bytes);
}

static struct insn one(const char *bytes, size_t count)
{
    struct insn insn = {0};

    CU_ASSERT_EQUAL(decode_insn((const uint8_t *)bytes, count, &insn), 0);
    return insn;
}

#define ONE(bytes) one(bytes, sizeof(bytes) - 1)

static void sizes(void)
{
    CU_ASSERT_EQUAL(ONE("\x48\x83\x20\xfe").operand[1].size, 8); /* AND -2 */
    CU_ASSERT_EQUAL(ONE("\x48\x83\x20\xfe").imm, -2);
    CU_ASSERT_EQUAL(ONE("\x66\x83\x20\xfe").operand[1].size, 2);
    CU_ASSERT_EQUAL(ONE("\x48\x6d").size, 4);
    CU_ASSERT_EQUAL(ONE("\x48\xed").size, 4);
    CU_ASSERT_EQUAL(ONE("\x66\x48\xcf").size, 8);
    CU_ASSERT_EQUAL(ONE("\x48\x66\xcf").size, 2);
    CU_ASSERT_EQUAL(ONE("\x66\x9c").size, 2);
    CU_ASSERT_EQUAL(ONE("\x48\x0f\x07").size, 8);
    CU_ASSERT_EQUAL(ONE("\x0f\x07").size, 4);
    CU_ASSERT_EQUAL(ONE("\x8c\x18").operand[0].size, 2);
    CU_ASSERT_EQUAL(ONE("\x48\x8c\xd8").operand[0].size, 8);
    CU_ASSERT_EQUAL(ONE("\x0f\x01\x00").operand[0].size, 10);
    CU_ASSERT_EQUAL(ONE("\x88\x20").operand[1].reg, INSN_REG_HIGH | 0);
    CU_ASSERT_EQUAL(ONE("\x40\x88\x20").operand[1].reg, 4);
    CU_ASSERT_EQUAL(ONE("\x66\x0f\x38\x82\x01").op, INSN_INVPCID);
    CU_ASSERT_EQUAL(ONE("\x0f\x01\xf8").op, INSN_SWAPGS);
    CU_ASSERT_EQUAL(ONE("\x0f\x01\xd1").op, INSN_XSETBV);
    CU_ASSERT_EQUAL(ONE("\x0f\x01\xf9").op, INSN_RDTSCP);
    CU_ASSERT_EQUAL(ONE("\xf3\x0f\xc7\xf8").op, INSN_RDPID);
    CU_ASSERT_EQUAL(ONE("\x44\x0f\x20\xc0").number, 8);
    CU_ASSERT_EQUAL(ONE("\xcd\x80").number, 0x80);
    CU_ASSERT_EQUAL(ONE("\xcc").number, 3);
    CU_ASSERT_EQUAL(ONE("\xf1").number, 1);
    CU_ASSERT_EQUAL(ONE("\xf3\x90").op, INSN_UNSUPPORTED);
    CU_ASSERT_EQUAL(ONE("\x41\x90").op, INSN_XCHG);
}

static void names(void)
{
    for (unsigned op = 0; op < INSN_OPS; op++) {
        const char *name = insn_op_name(op);

        CU_ASSERT_PTR_NOT_NULL(name);
        if (!name)
            continue;
        CU_ASSERT_EQUAL(strspn(name, "abcdefghijklmnopqrstuvwxyz_0123456789"),
                        strlen(name));
        for (unsigned n = 0; n < op; n++) {
            const char *other = insn_op_name(n);

            CU_ASSERT(other && strcmp(name, other) != 0);
        }
    }
    CU_ASSERT_PTR_NULL(insn_op_name(INSN_OPS));
}

/* ---- Addresses: the CPU's LEA ------------------------------------------ */

struct code {
    uint8_t *at;
};

static void put(struct code *code, const void *bytes, size_t count)
{
    memcpy(code->at, bytes, count);
    code->at += count;
}

/* MOV [rip + to slot], reg */
static void store(struct code *code, unsigned reg, const uint64_t *slot)
{
    const uint8_t head[] = {(uint8_t)(0x48 | (reg >> 3) << 2), 0x89,
                            (uint8_t)(5 | (reg & 7) << 3)};
    int32_t offset;

    put(code, head, sizeof head);
    offset = (int32_t)((const uint8_t *)slot - (code->at + 4));
    put(code, &offset, 4);
}

/* LEA with every register but RSP set, as MOV would address. */
static uint64_t run_lea(uint8_t *page, const uint8_t *bytes, size_t length,
                        unsigned reg, const uint64_t *regs, uint64_t *rsp,
                        uint64_t *next)
{
    uint64_t *slots = (uint64_t *)(page + 2048);
    struct code code = {page};

    put(&code, "\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57", 10);
    for (unsigned i = 0; i < 16; i++) {
        uint8_t head[] = {(uint8_t)(0x48 | i >> 3), (uint8_t)(0xb8 | (i & 7))};

        if (i == 4)
            continue;
        put(&code, head, 2);
        put(&code, &regs[i], 8);
    }
    store(&code, 4, &slots[0]);
    put(&code, bytes, length);
    *next = (uint64_t)code.at;
    store(&code, reg, &slots[1]);
    put(&code, "\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3", 11);
    ((void (*)(void))(uintptr_t)page)();
    *rsp = slots[0];
    return slots[1];
}

static uint64_t address(const struct insn *insn, const uint64_t *regs,
                        uint64_t rsp, uint64_t next)
{
    uint64_t sum = (uint64_t)insn->disp;

    if (insn->base == INSN_REG_RIP)
        sum += next;
    else if (insn->base != INSN_REG_NONE)
        sum += insn->base == 4 ? rsp : regs[insn->base];
    if (insn->index != INSN_REG_NONE)
        sum += regs[insn->index] * insn->scale;
    return insn->flags & INSN_ADDRESS_32 ? (uint32_t)sum : sum;
}

static void addresses(void)
{
    uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t random = 4, regs[16];

    CU_ASSERT_FATAL(page != MAP_FAILED);
    for (unsigned n = 0; n < ADDRESSES; n++) {
        uint8_t bytes[15], *opcode;
        uint64_t rsp, next, got;
        struct insn insn;
        unsigned reg;

        for (unsigned i = 0; i < 15; i++)
            bytes[i] = (uint8_t)wl_below(&random, 256);
        for (unsigned i = 0; i < 16; i++)
            regs[i] = wl_random(&random);
        opcode = bytes;
        if (n & 1)
            *opcode++ = 0x67;
        opcode[0] = 0x48 | (opcode[0] & 7);
        opcode[1] = 0x8b; /* MOV, which is LEA's address and no more */
        opcode[2] = (uint8_t)((opcode[2] & 0x3f) | wl_below(&random, 3) << 6);
        reg = (opcode[2] >> 3 & 7) | (opcode[0] & 4 ? 8 : 0);
        if (reg == 4)
            continue;
        CU_ASSERT_EQUAL(decode_insn(bytes, 15, &insn), 0);
        CU_ASSERT_EQUAL(insn.op, INSN_MOV);
        opcode[1] = 0x8d;
        got = run_lea(page, bytes, insn.length, reg, regs, &rsp, &next);
        CU_ASSERT_EQUAL(got, address(&insn, regs, rsp, next));
        CU_ASSERT_EQUAL(insn.operand[0].reg, reg);
    }
    munmap(page, 4096);
}

TEST_SUITE(decode, {"as objdump decodes", as_objdump},
           {"a stray REX is ignored", stray_rex},
           {"instructions cut short", cut_short}, {"sizes and numbers", sizes},
           {"names", names}, {"addresses are the CPU's", addresses});
