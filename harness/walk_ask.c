#include "harness/walk_ask.h"

#include "base/parse.h"
#include "harness/walk_memory.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

int walk_ask_value(const char *text, const char *what, uint64_t *value,
                   struct why *why)
{
    const bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    char *end;

    errno = 0;
    *value = strtoull(text, &end, hex ? 16 : 10);
    if (!isdigit((unsigned char)*text) || *end || (hex && !text[2]))
        return why_set(why, EINVAL,
                       "%s: '%.40s' is not a number; write hexadecimal digits "
                       "after 0x, for example 0x7f1234567abc",
                       what, text);
    if (errno == ERANGE)
        return why_set(why, EINVAL, "%s: '%.40s' does not fit 64 bits", what,
                       text);
    return 0;
}

int walk_ask_letters(const char *text, const char *what, const char *letters,
                     unsigned *mask, struct why *why)
{
    const bool none = !strcmp(text, "none");
    const char *bad = text + (none ? 4 : strspn(text, letters));

    *mask = 0;
    for (const char *at = text; !none && at < bad; at++)
        *mask |= 1u << (strchr(letters, *at) - letters);
    if (*bad || !*text)
        return why_set(why, EINVAL,
                       "%s: '%.20s' is not made of the letters %s, nor none",
                       what, text, letters);
    return 0;
}

/* ---- The CPU ------------------------------------------------------------- */

static int set_switch(const char *text, void *arg, struct why *why)
{
    struct walk_question *q = arg;
    const struct {
        const char *name;
        bool *value;
    } switches[] = {
        {"wp", &q->guest.wp},
        {"nxe", &q->guest.nxe},
        {"smep", &q->guest.smep},
        {"smap", &q->guest.smap},
        {"pke", &q->guest.pke},
        {"ac", &q->guest.ac},
        {"1g", &q->guest.pages_1g},
        {"ept-ad", &q->nested.accessed_dirty},
        {"mbec", &q->nested.mbec},
        {"execute-only", &q->nested.execute_only},
        {"advanced", &q->nested.advanced},
    };
    const bool off = *text == '-';

    for (size_t i = 0; i < COUNT(switches); i++)
        if (!strcmp(text + off, switches[i].name)) {
            *switches[i].value = !off;
            return 0;
        }
    return why_set(why, EINVAL,
                   "--state: '%.20s' is none of wp, nxe, smep, smap, pke, ac, "
                   "1g, ept-ad, mbec, execute-only, advanced (a minus before "
                   "it turns it off)",
                   text + off);
}

int walk_ask_state(const char *text, struct walk_question *q, struct why *why)
{
    return parse_list(text, "--state", set_switch, q, why);
}

/* ---- Entries ------------------------------------------------------------- */

/* The level of "pte" to "pml5e", 0 for "leaf", -1 for others. */
static int level_of(const char *name)
{
    if (!strcasecmp(name, "leaf"))
        return 0;
    for (unsigned level = 1; level <= MMU_LEVELS_MAX; level++)
        if (!strcasecmp(name, walk_level_name(level)))
            return (int)level;
    return -1;
}

static int no_entry(const char *name, struct why *why)
{
    return why_set(why, EINVAL,
                   "--entry: '%.30s' is no entry: write leaf, pte, pde, pdpte, "
                   "pml4e or pml5e, with ept- or npt- before it for the second "
                   "dimension (pde/ept-pte: of the walk for the guest's PDE)",
                   name);
}

/* `name` is "pte", "ept-leaf", "pde/ept-pte". */
static int take_name(char *name, const struct walk_question *q,
                     struct walk_change *change, struct why *why)
{
    char *slash = strchr(name, '/'), *last = slash ? slash + 1 : name;
    const bool ept = !strncasecmp(last, "ept-", 4);
    const bool npt = !strncasecmp(last, "npt-", 4);
    int level, guest = 0;

    if ((ept && q->nested.format != EPT_FORMAT_EPT) ||
        (npt && q->nested.format != EPT_FORMAT_NPT))
        return why_set(why, EINVAL,
                       "--entry: the second dimension is %s here (--format)",
                       ept ? "NPT" : "EPT");
    if (slash)
        *slash = '\0';
    level = level_of(ept || npt ? last + 4 : last);
    if (slash)
        guest = level_of(name);
    if (level < 0)
        return no_entry(last, why);
    if (slash && (guest < 1 || !(ept || npt)))
        return no_entry(name, why);
    change->nested = ept || npt;
    change->leaf = level == 0;
    change->level = (unsigned)level;
    change->guest_level = (unsigned)guest;
    return 0;
}

struct flag {
    const char *name;
    uint64_t bits;
};

static const struct flag long_mode_flags[] = {
    {"p", PTE_P},     {"rw", PTE_RW}, {"us", PTE_US}, {"pwt", PTE_PWT},
    {"pcd", PTE_PCD}, {"a", PTE_A},   {"d", PTE_D},   {"ps", PTE_PS},
    {"g", PTE_G},     {"xd", PTE_XD}, {"nx", PTE_XD},
};

static const struct flag ept_flags[] = {
    {"r", EPT_R},   {"w", EPT_W},       {"x", EPT_X},
    {"xu", EPT_XU}, {"ps", EPT_PS},     {"a", EPT_A},
    {"d", EPT_D},   {"ipat", EPT_IPAT}, {"sve", EPT_SUPPRESS_VE},
};

/* "bit51", "key3", "type2": the number after `prefix`, up to `max`. */
static bool numbered(const char *name, const char *prefix, uint64_t max,
                     uint64_t *number)
{
    const size_t length = strlen(prefix);
    struct why unused;

    return !strncasecmp(name, prefix, length) &&
           !parse_number(name + length, prefix, 0, max, number, &unused);
}

/* The bits that are set, and those that go with them. */
static bool flag_bits(const char *name, bool ept, uint64_t *set, uint64_t *all)
{
    const struct flag *flags = ept ? ept_flags : long_mode_flags;
    const size_t count = ept ? COUNT(ept_flags) : COUNT(long_mode_flags);
    uint64_t number;

    for (size_t i = 0; i < count; i++)
        if (!strcasecmp(name, flags[i].name)) {
            *set = *all = flags[i].bits;
            return true;
        }
    if (numbered(name, "bit", 63, &number)) {
        *set = *all = 1ull << number;
    } else if (!ept && numbered(name, "key", 15, &number)) {
        *set = number << PTE_KEY_SHIFT;
        *all = PTE_KEY;
    } else if (ept && numbered(name, "type", 7, &number)) {
        *set = EPT_TYPE(number);
        *all = EPT_TYPE(7);
    } else {
        return false;
    }
    return true;
}

static int take_flag(const char *name, bool on, bool ept,
                     struct walk_change *change, struct why *why)
{
    uint64_t set, all;

    if (!flag_bits(name, ept, &set, &all))
        return why_set(why, EINVAL,
                       "--entry: '%.20s' is no flag of this entry: %s, or bitN",
                       name,
                       ept ? "r, w, x, xu, ps, a, d, ipat, sve, typeN"
                           : "p, rw, us, pwt, pcd, a, d, ps, g, xd, keyN");
    change->set &= ~all;
    change->clear |= all;
    if (on)
        change->set |= set;
    return 0;
}

/* `text` is "+rw-xd" or "=0x123". */
static int take_changes(char *text, bool ept, struct walk_change *change,
                        struct why *why)
{
    int err = 0;

    if (*text == '=') {
        change->whole = true;
        return walk_ask_value(text + 1, "--entry", &change->set, why);
    }
    if (*text != '+' && *text != '-')
        return why_set(why, EINVAL,
                       "--entry: write what changes after a colon: +flag, "
                       "-flag or =VALUE, for example pte:-rw+xd");
    while (!err && *text) {
        const bool on = *text == '+';
        char *end = text + 1 + strcspn(text + 1, "+-,");
        const char next = *end;

        *end = '\0';
        err = take_flag(text + 1, on, ept, change, why);
        *end = next;
        text = end + (next == ',');
        if (!err && next == ',' && *text != '+' && *text != '-')
            err = why_set(why, EINVAL,
                          "--entry: after a comma comes +flag or -flag");
    }
    return err;
}

int walk_ask_entry(const char *text, struct walk_question *q, struct why *why)
{
    struct walk_change change = {0};
    char copy[128], *colon;
    int err;

    if (q->changes == WALK_CHANGES_MAX)
        return why_set(why, EINVAL, "--entry: at most %d changes",
                       WALK_CHANGES_MAX);
    if (strlen(text) >= sizeof copy)
        return why_set(why, EINVAL, "--entry: '%.30s...' is too long", text);
    strcpy(copy, text);
    colon = strchr(copy, ':');
    if (colon)
        *colon = '\0';
    err = take_name(copy, q, &change, why);
    if (!err)
        err = take_changes(colon ? colon + 1 : copy + strlen(copy),
                           change.nested && q->nested.format == EPT_FORMAT_EPT,
                           &change, why);
    if (!err)
        q->change[q->changes++] = change;
    return err;
}

/* ---- Endings ------------------------------------------------------------- */

#define ANY_ACCESS (-1)

static const struct ending {
    const char *name, *says;
    const char *flags, *npt_flags; /* of the leaf, or after the '@' */
    bool nested;                   /* of EPT or NPT */
    bool ept;                      /* which only EPT has */
    int access;                    /* enum mmu_access */
} endings[] = {
    {"not-present", "an entry is not present", "-p", "-p", false, false,
     ANY_ACCESS},
    {"read-only", "a write, and R/W is clear", "-rw", "-rw", false, false,
     MMU_WRITE},
    {"supervisor", "a user's access, and U/S is clear", "-us", "-us", false,
     false, ANY_ACCESS},
    {"no-execute", "a fetch, and XD is set", "+xd", "+xd", false, false,
     MMU_FETCH},
    {"reserved", "a reserved bit is set", "+bit51", "+bit51", false, false,
     ANY_ACCESS},
    {"protection-key", "PKRU denies the page's key", "+key1", "+key1", false,
     false, MMU_READ},
    {"violation", "EPT violation, or nested page fault: nothing is mapped",
     "-r-w-x", "-p", true, false, ANY_ACCESS},
    {"write-violation", "the same: a write, which the host's entry denies",
     "-w", "-rw", true, false, MMU_WRITE},
    {"misconfiguration", "EPT misconfiguration: writable and not readable",
     "-r+w", NULL, true, true, ANY_ACCESS},
    {"log-full", "EPT's page-modification log has no room", NULL, NULL, true,
     true, MMU_WRITE},
    {"non-canonical", "the address is none", NULL, NULL, false, false,
     ANY_ACCESS},
};

void walk_ask_ends(FILE *to)
{
    for (size_t i = 0; i < COUNT(endings); i++)
        fprintf(to, "      %-17s %s\n", endings[i].name, endings[i].says);
}

static const struct ending *find_ending(const char *text, size_t length)
{
    for (size_t i = 0; i < COUNT(endings); i++)
        if (strlen(endings[i].name) == length &&
            !strncmp(text, endings[i].name, length))
            return &endings[i];
    return NULL;
}

static int check_ending(const struct ending *ending, const char *text,
                        const struct walk_question *q, struct why *why)
{
    if (!ending)
        return why_set(why, EINVAL,
                       "--end: there is no ending '%.30s'; 'memvirt walk "
                       "--help' lists them",
                       text);
    if (ending->nested && q->technique != WALK_NESTED)
        return why_set(why, EINVAL,
                       "--end: %s is of nested paging; add --technique nested",
                       ending->name);
    if (ending->ept && q->nested.format != EPT_FORMAT_EPT)
        return why_set(why, EINVAL,
                       "--end: NPT has no %s; leave out --format npt",
                       ending->name);
    if (!strcmp(ending->name, "supervisor") && !q->request.user)
        return why_set(why, EINVAL,
                       "--end: supervisor is how a user's access ends; leave "
                       "out --kernel");
    return 0;
}

static int change_entry(const struct ending *ending, const char *at,
                        struct walk_question *q, struct why *why)
{
    const bool npt = q->nested.format == EPT_FORMAT_NPT;
    const char *flags =
        npt && ending->nested ? ending->npt_flags : ending->flags;
    char change[96];

    if (!flags)
        return at ? why_set(why, EINVAL, "--end: %s is of no one entry",
                            ending->name)
                  : 0;
    if (!at)
        at = !ending->nested ? "leaf" : npt ? "npt-leaf" : "ept-leaf";
    snprintf(change, sizeof change, "%.60s:%s", at, flags);
    return walk_ask_entry(change, q, why);
}

/* The lowest bit that has to repeat the one below does not. */
static void make_non_canonical(struct walk_question *q)
{
    const unsigned bit = pt_shift(q->guest.levels + 1);

    q->request.va &= ~(1ull << bit);
    q->request.va |= (~q->request.va >> (bit - 1) & 1) << bit;
}

int walk_ask_end(const char *text, struct walk_question *q, struct why *why)
{
    const size_t length = strcspn(text, "@");
    const struct ending *ending = find_ending(text, length);
    int err = check_ending(ending, text, q, why);

    if (!err)
        err = change_entry(ending, text[length] ? text + length + 1 : NULL, q,
                           why);
    if (err)
        return err;
    if (ending->access != ANY_ACCESS)
        q->request.access = (enum mmu_access)ending->access;
    if (!strcmp(ending->name, "protection-key")) {
        q->guest.pke = true;
        q->guest.pkru = PKRU_AD(1);
        q->rights |= PTE_US; /* keys guard user pages */
    } else if (!strcmp(ending->name, "non-canonical")) {
        make_non_canonical(q);
    } else if (!strcmp(ending->name, "log-full")) {
        q->pml_full = true;
    }
    return 0;
}
