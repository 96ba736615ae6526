#include "harness/walk_decode.h"

#include "harness/walk_memory.h"

#include <stdio.h>
#include <string.h>

struct bit {
    uint64_t mask;
    const char *name, *meaning;
};

static bool is_ept(const struct walk_question *q, const struct walk_row *row)
{
    return row->tables == WALK_NESTED_TABLES &&
           q->nested.format == EPT_FORMAT_EPT;
}

const char *walk_row_name(const struct walk_question *q,
                          const struct walk_row *row)
{
    static const char *const names[][MMU_LEVELS_MAX + 1] = {
        {"", "PTE", "PDE", "PDPTE", "PML4E", "PML5E"},
        {"", "EPT PTE", "EPT PDE", "EPT PDPTE", "EPT PML4E", "EPT PML5E"},
        {"", "NPT PTE", "NPT PDE", "NPT PDPTE", "NPT PML4E", "NPT PML5E"},
        {"", "shadow PTE", "shadow PDE", "shadow PDPTE", "shadow PML4E",
         "shadow PML5E"},
    };
    const unsigned kind = row->tables == WALK_GUEST_TABLES    ? 0
                          : row->tables == WALK_SHADOW_TABLES ? 3
                          : is_ept(q, row)                    ? 1
                                                              : 2;

    return names[kind][row->level];
}

const char *walk_technique_name(enum walk_technique technique)
{
    static const char *const names[] = {"native", "nested", "shadow"};

    return names[technique];
}

const char *walk_end_name(enum walk_end end)
{
    static const char *const names[WALK_ENDS] = {
        "translated",        "page_fault",     "not_canonical",
        "ept_violation",     "ept_misconfig",  "pml_full",
        "nested_page_fault", "no_memory",      "hidden_page_fault",
        "true_page_fault",   "emulated_write",
    };

    return names[end];
}

/* ---- Entries ------------------------------------------------------------- */

static void add(struct walk_entry *e, const char *name, const char *meaning,
                uint64_t bits)
{
    struct walk_flag *flag = &e->flag[e->flags];

    if (e->flags == WALK_FLAGS_MAX)
        return;
    snprintf(flag->name, sizeof flag->name, "%s", name);
    flag->meaning = meaning;
    flag->bits = bits;
    e->flags++;
}

static void add_bits(struct walk_entry *e, uint64_t entry,
                     const struct bit *bits, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (entry & bits[i].mask)
            add(e, bits[i].name, bits[i].meaning, bits[i].mask);
}

#define ADD_BITS(e, entry, bits) \
    add_bits(e, entry, bits, sizeof(bits) / sizeof(bits)[0])

/* Address bits beyond what the CPU has, and those a large page leaves out. */
static void add_reserved(struct walk_entry *e, uint64_t entry, uint64_t mask)
{
    for (unsigned bit = 0; bit < 64; bit++) {
        char name[12];

        if (!(entry & mask & 1ull << bit))
            continue;
        snprintf(name, sizeof name, "RSVD%u", bit);
        add(e, name, "a reserved bit, which must be 0", 1ull << bit);
        e->reserved = true;
        e->target = 0;
    }
}

static void locate(struct walk_entry *e, uint64_t entry, unsigned level)
{
    e->leaf = level == 1 || (level <= 3 && (entry & PTE_PS));
    e->page_bytes = e->leaf ? 1ull << pt_shift(level) : 0;
    e->target = entry & PTE_ADDR & (e->leaf ? ~(e->page_bytes - 1) : ~0ull);
}

static uint64_t beyond(unsigned physical_bits)
{
    return PTE_ADDR & ~((1ull << physical_bits) - 1);
}

/* PS where no page of that size is. */
static uint64_t no_large_page(unsigned level, bool pages_1g)
{
    return level > 3 || (level == 3 && !pages_1g) ? PTE_PS : 0;
}

static uint64_t inside_page(const struct walk_entry *e)
{
    return e->leaf ? (e->page_bytes - 1) & PTE_ADDR : 0;
}

static void decode_key(struct walk_entry *e, uint64_t entry)
{
    const unsigned key = (entry & PTE_KEY) >> PTE_KEY_SHIFT;
    char name[12];

    if (!key)
        return;
    snprintf(name, sizeof name, "PK=%u", key);
    add(e, name, "protection key, which PKRU has rights for", entry & PTE_KEY);
}

/* Of guests, shadows and NPT. */
static void decode_long_mode(const struct walk_question *q,
                             const struct walk_row *row, struct walk_entry *e)
{
    static const struct bit all[] = {
        {PTE_P, "P", "present: the other bits count"},
        {PTE_RW, "R/W", "writes allowed"},
        {PTE_US, "U/S", "user mode allowed"},
        {PTE_PWT, "PWT", "page-level write-through"},
        {PTE_PCD, "PCD", "page-level cache disable"},
        {PTE_A, "A", "accessed: a walk has used this entry"},
    };
    static const struct bit leaf[] = {
        {PTE_D, "D", "dirty: the page was written"},
        {PTE_G, "G", "global: kept when CR3 changes"},
    };
    static const struct bit large[] = {
        {PTE_PS, "PS", "maps a large page, not a table"},
        {PTE_PAT_LARGE, "PAT", "page attribute table"},
    };
    static const struct bit small[] = {
        {PTE_PAT, "PAT", "page attribute table"}};
    static const struct bit last[] = {
        {PTE_XD, "XD", "execute-disable (AMD: NX)"}};
    const uint64_t entry = row->entry;
    const bool nested = row->tables == WALK_NESTED_TABLES;
    const bool nxe = nested                              ? q->nested.nxe
                     : row->tables == WALK_SHADOW_TABLES ? true
                                                         : q->guest.nxe;

    e->present = entry & PTE_P;
    if (!e->present)
        return;
    locate(e, entry, row->level);
    ADD_BITS(e, entry, all);
    if (e->leaf)
        ADD_BITS(e, entry, leaf);
    if (e->leaf && row->level > 1)
        ADD_BITS(e, entry, large);
    else if (e->leaf)
        ADD_BITS(e, entry, small);
    if (e->leaf)
        decode_key(e, entry);
    add_reserved(
        e, entry,
        beyond(nested ? q->nested.physical_bits : q->guest.physical_bits) |
            (inside_page(e) & ~PTE_PAT_LARGE) |
            no_large_page(row->level,
                          nested ? q->nested.pages_1g : q->guest.pages_1g) |
            (nxe ? 0 : PTE_XD));
    if (nxe)
        ADD_BITS(e, entry, last);
}

static void decode_type(struct walk_entry *e, uint64_t entry)
{
    static const struct bit types[] = {
        {0, "UC", "memory type: uncacheable"},
        {0, "WC", "memory type: write-combining"},
        {0, "type 2", "a reserved memory type"},
        {0, "type 3", "a reserved memory type"},
        {0, "WT", "memory type: write-through"},
        {0, "WP", "memory type: write-protected"},
        {0, "WB", "memory type: write-back"},
        {0, "type 7", "a reserved memory type"},
    };
    const struct bit *type = &types[ept_entry_type(entry)];

    add(e, type->name, type->meaning, EPT_TYPE(7));
}

static void decode_ept(const struct walk_question *q,
                       const struct walk_row *row, struct walk_entry *e)
{
    static const struct bit rights[] = {
        {EPT_R, "R", "reads allowed"},
        {EPT_W, "W", "writes allowed"},
        {EPT_X, "X", "instruction fetches allowed"},
    };
    static const struct bit user[] = {
        {EPT_XU, "XU", "fetches from user-mode addresses allowed"}};
    static const struct bit used[] = {
        {EPT_A, "A", "accessed: a walk has used this entry"}};
    static const struct bit leaf[] = {
        {EPT_D, "D", "dirty: the page was written"},
        {EPT_IPAT, "IPAT", "the guest's PAT is ignored"},
    };
    static const struct bit large[] = {
        {EPT_PS, "PS", "maps a large page, not a table"}};
    static const struct bit last[] = {{EPT_SUPPRESS_VE, "SVE", "suppress #VE"}};
    const uint64_t entry = row->entry;
    const uint64_t mbec = q->nested.mbec ? EPT_XU : 0;

    e->present = entry & (EPT_RWX | mbec);
    if (!e->present)
        return;
    locate(e, entry, row->level);
    ADD_BITS(e, entry, rights);
    if (mbec)
        ADD_BITS(e, entry, user);
    if (e->leaf)
        decode_type(e, entry);
    ADD_BITS(e, entry, used);
    if (e->leaf)
        ADD_BITS(e, entry, leaf);
    if (e->leaf && row->level > 1)
        ADD_BITS(e, entry, large);
    add_reserved(e, entry,
                 beyond(q->nested.physical_bits) | inside_page(e) |
                     (e->leaf ? 0 : EPT_TYPE(7) | EPT_IPAT) |
                     no_large_page(row->level, q->nested.pages_1g));
    ADD_BITS(e, entry, last);
}

void walk_decode_entry(const struct walk_question *q,
                       const struct walk_row *row, struct walk_entry *e)
{
    memset(e, 0, sizeof *e);
    if (is_ept(q, row))
        decode_ept(q, row, e);
    else
        decode_long_mode(q, row, e);
}

/* ---- Error codes --------------------------------------------------------- */

static unsigned take_bits(uint64_t value, const struct bit *bits, size_t count,
                          struct walk_flag *flags)
{
    unsigned taken = 0;

    for (size_t i = 0; i < count; i++) {
        if (!(value & bits[i].mask))
            continue;
        snprintf(flags[taken].name, sizeof flags->name, "%s", bits[i].name);
        flags[taken].meaning = bits[i].meaning;
        flags[taken++].bits = bits[i].mask;
    }
    return taken;
}

unsigned walk_decode_error(uint64_t error,
                           struct walk_flag flags[static WALK_FLAGS_MAX])
{
    static const struct bit bits[] = {
        {PF_P, "P", "a present page denies the access"},
        {PF_W, "W/R", "a write"},
        {PF_U, "U/S", "in user mode"},
        {PF_RS, "RSVD", "a reserved bit was set"},
        {PF_I, "I/D", "an instruction fetch"},
        {PF_PK, "PK", "denied by the protection key"},
        {NPF_FINAL, "final", "while translating the access's own address"},
        {NPF_TABLE, "table", "while translating a guest table's address"},
    };

    return take_bits(error, bits, sizeof bits / sizeof bits[0], flags);
}

unsigned walk_decode_qualification(
    uint64_t qualification, struct walk_flag flags[static WALK_FLAGS_MAX])
{
    static const struct bit bits[] = {
        {EPTQ_READ, "read", "the access was a data read"},
        {EPTQ_WRITE, "write", "the access was a data write"},
        {EPTQ_FETCH, "fetch", "the access was an instruction fetch"},
        {EPTQ_READABLE, "readable", "EPT allows reads there"},
        {EPTQ_WRITABLE, "writable", "EPT allows writes there"},
        {EPTQ_EXECUTABLE, "executable", "EPT allows fetches there"},
        {EPTQ_USER_EXEC, "user_exec", "and from user-mode addresses"},
        {EPTQ_GLA_VALID, "gla_valid", "a guest-linear address is behind it"},
        {EPTQ_TRANSLATED, "translated",
         "of the access itself, not of a guest table's entry"},
        {EPTQ_GLA_USER, "gla_user", "the guest's tables: a user address"},
        {EPTQ_GLA_WRITE, "gla_write", "the guest's tables: writable"},
        {EPTQ_GLA_XD, "gla_xd", "the guest's tables: execute-disable"},
    };

    return take_bits(qualification, bits, sizeof bits / sizeof bits[0], flags);
}

/* ---- How it ended -------------------------------------------------------- */

static const struct walk_row *last_row(const struct walk_pass *pass)
{
    return pass->rows ? &pass->row[pass->rows - 1] : NULL;
}

static const char *access_name(const struct mmu_request *request)
{
    static const char *const names[] = {"read", "write", "fetch"};

    return names[request->access];
}

/* The first entry of the guest's path, from the top, that lacks the bit (or,
 * for XD, has it); NULL. */
static const struct walk_row *without(const struct walk_pass *pass,
                                      uint64_t bit)
{
    for (unsigned i = 0; i < pass->rows; i++) {
        const struct walk_row *row = &pass->row[i];

        if (row->tables != WALK_NESTED_TABLES &&
            (bit == PTE_XD) == !!(row->entry & bit))
            return row;
    }
    return NULL;
}

/* Which entry or control register denies what a present page could give. */
static void say_protection(const struct walk_question *q,
                           const struct walk_pass *pass, unsigned error,
                           char *text, size_t bytes)
{
    const struct walk_row *row = NULL;
    const char *what = "CR4.SMAP keeps the supervisor out of user pages";

    if (error & PF_PK) {
        snprintf(text, bytes, "PKRU denies the page's protection key");
        return;
    }
    if ((error & PF_U) && (row = without(pass, PTE_US)))
        what = "has U/S clear: a supervisor's page";
    else if (q->request.access == MMU_FETCH && (row = without(pass, PTE_XD)))
        what = "has XD set: no fetches";
    else if ((error & PF_W) && (row = without(pass, PTE_RW)))
        what = "has R/W clear: read-only";
    else if (q->request.access == MMU_FETCH)
        what = "CR4.SMEP keeps the supervisor from executing user pages";
    if (row)
        snprintf(text, bytes, "the %s %s", walk_row_name(q, row), what);
    else
        snprintf(text, bytes, "%s", what);
}

static void say_page_fault(const struct walk_question *q,
                           const struct walk_pass *pass, char *text,
                           size_t bytes)
{
    const struct walk_row *row = last_row(pass);
    const unsigned error = (unsigned)pass->error;
    const char *name = row ? walk_row_name(q, row) : "entry";

    if (!(error & PF_P))
        snprintf(text, bytes, "the %s is not present", name);
    else if (error & PF_RS)
        snprintf(text, bytes, "the %s has a reserved bit set", name);
    else
        say_protection(q, pass, error, text, bytes);
}

static const char *who_handles(const struct walk_question *q,
                               const struct walk_pass *pass)
{
    if (q->technique == WALK_NATIVE)
        return "The operating system's #PF handler runs.";
    if (q->technique == WALK_NESTED)
        return "The guest's own #PF handler runs; the hypervisor sees "
               "nothing of it.";
    if (pass->by == WALK_BY_CPU)
        return "An exit: the hypervisor's shadow MMU has to look why.";
    return "A true page fault: the hypervisor injects #PF into the guest.";
}

/* Of an EPT misconfiguration (SDM vol. 3C, 29.3.3.1). */
static const char *misconfiguration(const struct walk_question *q,
                                    const struct walk_row *row)
{
    const unsigned type = ept_entry_type(row->entry);

    if (!(row->entry & EPT_R) && (row->entry & EPT_W))
        return "allows writes but no reads";
    if (!(row->entry & EPT_R) && !q->nested.execute_only)
        return "allows fetches but no reads, which this CPU lacks";
    if (ept_is_leaf(row->entry, row->level) &&
        (type == 2 || type == 3 || type == 7))
        return "has a reserved memory type";
    return "has a reserved bit set";
}

/* The first entry of the last translation that lacks the right. */
static const struct walk_row *nested_without(const struct walk_pass *pass,
                                             uint64_t bit)
{
    const struct walk_row *last = last_row(pass);

    for (unsigned i = 0; i < pass->rows; i++) {
        const struct walk_row *row = &pass->row[i];

        if (row->tables == WALK_NESTED_TABLES &&
            row->guest_level == last->guest_level &&
            (bit == PTE_XD) == !!(row->entry & bit))
            return row;
    }
    return NULL;
}

/* Under MBEC the linear address's mode picks it (SDM vol. 3C, 29.3.3.2). */
static uint64_t execute_right(const struct walk_question *q,
                              const struct walk_pass *pass)
{
    return q->nested.mbec && !without(pass, PTE_US) ? EPT_XU : EPT_X;
}

/* The right that the access needed, as a bit of the format's entries. */
static const struct walk_row *lacking(const struct walk_question *q,
                                      const struct walk_pass *pass,
                                      const char **right)
{
    const uint64_t error = pass->exit_info1, access = pass->qualification;
    const bool npt = pass->end == WALK_NESTED_FAULT;
    const struct walk_row *row = NULL;

    if (npt ? error & PF_W : access & EPTQ_WRITE) {
        *right = npt ? "has R/W clear" : "allows no writes";
        row = nested_without(pass, npt ? PTE_RW : EPT_W);
    } else if (npt ? error & PF_I : access & EPTQ_FETCH) {
        *right = npt ? "has XD set" : "allows no fetches";
        row = nested_without(pass, npt ? PTE_XD : execute_right(q, pass));
    }
    if (!row) {
        *right = npt ? "has U/S clear" : "allows no reads";
        row = nested_without(pass, npt ? PTE_US : EPT_R);
    }
    return row;
}

/* Of a violation or a nested fault. */
static void say_denied(const struct walk_question *q,
                       const struct walk_pass *pass, char *text, size_t bytes)
{
    const struct walk_row *row = last_row(pass);
    const char *right = "is not present";
    struct walk_entry e;

    if (!row || row->tables != WALK_NESTED_TABLES || row->gpa != pass->gpa) {
        snprintf(text, bytes, "%u levels do not reach that far",
                 q->nested.levels);
        return;
    }
    walk_decode_entry(q, row, &e);
    if (e.present && (pass->exit_info1 & PF_RS))
        right = "has a reserved bit set";
    else if (e.present)
        row = lacking(q, pass, &right);
    snprintf(text, bytes, "the %s %s", row ? walk_row_name(q, row) : "path",
             right);
}

static void say_nested(const struct walk_question *q,
                       const struct walk_pass *pass, char *text, size_t bytes)
{
    const struct walk_row *row = last_row(pass);
    const unsigned long long gpa = pass->gpa;
    char cause[160];

    switch (pass->end) {
    case WALK_MISCONFIGURATION:
        snprintf(text, bytes,
                 "EPT misconfiguration (exit reason 49) at guest-physical "
                 "%#llx: the %s %s. An exit: the hypervisor made this entry "
                 "so, by mistake or as a mark for a device's page.",
                 gpa, row ? walk_row_name(q, row) : "entry",
                 row ? misconfiguration(q, row) : "is malformed");
        break;
    case WALK_PML_FULL:
        snprintf(text, bytes,
                 "Page-modification log full (exit reason 62): a flag has to "
                 "be set at guest-physical %#llx, and the log has no room. An "
                 "exit: the hypervisor empties it.",
                 gpa);
        break;
    default:
        say_denied(q, pass, cause, sizeof cause);
        snprintf(text, bytes,
                 "%s at guest-physical %#llx: %s. An exit: the hypervisor maps "
                 "the page or gives the right, and the instruction runs again.",
                 pass->end == WALK_VIOLATION
                     ? "EPT violation (exit reason 48)"
                     : "Nested page fault (VMEXIT_NPF, exit code 400h)",
                 gpa, cause);
    }
}

static void say_translated(const struct walk_question *q,
                           const struct walk_pass *pass, char *text,
                           size_t bytes)
{
    const unsigned long long va = q->request.va, gpa = pass->gpa, pa = pass->pa;

    if (q->technique == WALK_NESTED)
        snprintf(text, bytes,
                 "Translated: guest-virtual %#llx is guest-physical %#llx is "
                 "host-physical %#llx.",
                 va, gpa, pa);
    else
        snprintf(text, bytes, "Translated: virtual %#llx is physical %#llx.",
                 va, pa);
}

void walk_decode_end(const struct walk_question *q,
                     const struct walk_pass *pass, char *text, size_t bytes)
{
    char cause[160];

    switch (pass->end) {
    case WALK_TRANSLATED:
        say_translated(q, pass, text, bytes);
        break;
    case WALK_PAGE_FAULT:
    case WALK_TRUE_FAULT:
        say_page_fault(q, pass, cause, sizeof cause);
        snprintf(text, bytes, "Page fault on a %s %s, error code %#x: %s. %s",
                 q->request.user ? "user" : "supervisor",
                 access_name(&q->request), pass->error, cause,
                 who_handles(q, pass));
        break;
    case WALK_NOT_CANONICAL:
        snprintf(text, bytes,
                 "Not canonical: bits 63:%u of the address are not all equal. "
                 "#GP (#SS through the stack segment) before any table is "
                 "read.",
                 pt_shift(q->guest.levels + 1) - 1);
        break;
    case WALK_HIDDEN_FAULT:
        snprintf(text, bytes,
                 "A hidden page fault: the guest's tables allow the access. "
                 "The shadow has it now, and the instruction runs again.");
        break;
    case WALK_EMULATE:
        snprintf(text, bytes,
                 "The guest may write here, the shadow may not: the "
                 "hypervisor does the write itself, to guest-physical %#llx.",
                 (unsigned long long)pass->gpa);
        break;
    case WALK_NO_MEMORY:
        snprintf(text, bytes,
                 "No memory: the last entry read leads to where no table of "
                 "this example is. A real CPU would read whatever is there.");
        break;
    default:
        say_nested(q, pass, text, bytes);
    }
}
