#include "base/parse.h"
#include "harness/walk_decode.h"
#include "harness/walk_memory.h"
#include "harness/walk_print.h"

#include <string.h>

typedef unsigned long long ull;

/* ---- The question -------------------------------------------------------- */

static const char *size_text(uint64_t bytes)
{
    return bytes == PAGE_4K ? "4K" : bytes == PAGE_2M ? "2M" : "1G";
}

static const char *format_name(const struct walk_question *q)
{
    return q->nested.format == EPT_FORMAT_EPT ? "EPT" : "NPT";
}

static void print_question(FILE *to, const struct walk_question *q)
{
    static const char *const accesses[] = {"read", "write", "fetch"};
    static const char *const techniques[] = {", native", " under nested paging",
                                             " under shadow paging"};

    fprintf(to, "A %s %s of %#llx%s\n", q->request.user ? "user" : "supervisor",
            accesses[q->request.access], (ull)q->request.va,
            techniques[q->technique]);
    fprintf(to, "%s: %u levels, %s page",
            q->technique == WALK_NATIVE ? "Tables" : "Guest", q->guest.levels,
            size_text(q->guest_page));
    if (q->technique == WALK_NESTED)
        fprintf(to, "; host: %s, %u levels, %s pages", format_name(q),
                q->nested.levels, size_text(q->host_page));
    else if (q->technique == WALK_SHADOW)
        fprintf(to, "; host: %s pages", size_text(q->host_page));
    fputs("\n\n", to);
}

/* The address cut into its indices. */
static void print_address(FILE *to, const struct walk_question *q)
{
    const unsigned leaf = pt_leaf_level(q->guest_page);

    fputs("  bits     ", to);
    for (unsigned level = q->guest.levels; level >= leaf; level--)
        fprintf(to, "  %2u:%2u", pt_shift(level) + 8, pt_shift(level));
    fprintf(to, "  %2u:0\n  value    ", pt_shift(leaf) - 1);
    for (unsigned level = q->guest.levels; level >= leaf; level--)
        fprintf(to, "  %5u", pt_index(q->request.va, level));
    fprintf(to, "  %#llx\n  index of ",
            (ull)(q->request.va & (q->guest_page - 1)));
    for (unsigned level = q->guest.levels; level >= leaf; level--)
        fprintf(to, "  %5s", walk_level_name(level));
    fputs("  offset in the page\n\n", to);
}

/* ---- Rows ---------------------------------------------------------------- */

static void print_flags(FILE *to, const struct walk_entry *e)
{
    if (!e->present)
        fputs("not present", to);
    for (unsigned i = 0; i < e->flags; i++)
        fprintf(to, "%s%s", i ? " " : "", e->flag[i].name);
}

static void print_sets(FILE *to, const struct walk_question *q,
                       const struct walk_row *row)
{
    struct walk_row set = *row;
    struct walk_entry before, after;

    if (!row->sets)
        return;
    walk_decode_entry(q, row, &before);
    set.entry |= row->sets;
    walk_decode_entry(q, &set, &after);
    fputs(", sets", to);
    for (unsigned i = 0; i < after.flags; i++)
        if (after.flag[i].bits & row->sets)
            fprintf(to, " %s", after.flag[i].name);
}

static int name_width(const struct walk_question *q)
{
    return q->technique == WALK_NATIVE   ? 5
           : q->technique == WALK_NESTED ? 9
                                         : 12;
}

static void print_row(FILE *to, const struct walk_question *q,
                      const struct walk_row *row, unsigned number, uint64_t at)
{
    struct walk_entry e;
    char target[40] = "";

    walk_decode_entry(q, row, &e);
    if (e.target)
        snprintf(target, sizeof target, "%s 0x%09llx",
                 e.leaf ? "page " : "table", (ull)e.target);
    fprintf(to, "%4u  %-*s %3u  0x%09llx  0x%016llx  %-17s  ", number,
            name_width(q), walk_row_name(q, row), row->index, (ull)at,
            (ull)row->entry, target);
    print_flags(to, &e);
    print_sets(to, q, row);
    fputc('\n', to);
}

static void print_header(FILE *to, const struct walk_question *q,
                         const char *at)
{
    fprintf(to, "   #  %-*s %3s  %-11s  %-18s  %-17s  %s\n", name_width(q),
            "entry", "idx", at, "value read", "refers to", "flags");
}

/* Nested: what a run of rows is for. */
static void print_purpose(FILE *to, const struct walk_question *q,
                          const struct walk_row *row)
{
    const char *level = walk_level_name(row->guest_level);

    if (!row->guest_level)
        fprintf(to, "\n  The page: where is guest-physical 0x%09llx?\n",
                (ull)row->gpa);
    else if (row->guest_level == q->guest.levels)
        fprintf(to,
                "\n  The guest's %s: CR3's table + 8 x %u = "
                "guest-physical 0x%09llx. Where is that?\n",
                level, pt_index(q->request.va, row->guest_level),
                (ull)row->gpa);
    else
        fprintf(to,
                "\n  The guest's %s: its table + 8 x %u = guest-physical "
                "0x%09llx. Where is that?\n",
                level, pt_index(q->request.va, row->guest_level),
                (ull)row->gpa);
}

static void print_nested(FILE *to, const struct walk_question *q,
                         const struct walk_pass *pass)
{
    unsigned before = MMU_LEVELS_MAX + 1;

    if (pass->rows)
        print_header(to, q, "at (host)");
    for (unsigned i = 0; i < pass->rows; i++) {
        const struct walk_row *row = &pass->row[i];

        if (row->guest_level != before)
            print_purpose(to, q, row);
        before = row->guest_level;
        print_row(to, q, row, i + 1, row->pa);
    }
}

static void print_one_dimension(FILE *to, const struct walk_question *q,
                                const struct walk_pass *pass)
{
    const bool software = pass->by == WALK_BY_SHADOW_MMU;

    if (software)
        fputs("The hypervisor's shadow MMU reads the guest's tables:\n", to);
    else if (q->technique == WALK_SHADOW)
        fputs("The CPU walks the shadow tables:\n", to);
    if (pass->rows)
        print_header(to, q,
                     software                      ? "at (guest)"
                     : q->technique == WALK_SHADOW ? "at (host)"
                                                   : "at");
    for (unsigned i = 0; i < pass->rows; i++)
        print_row(to, q, &pass->row[i], i + 1,
                  software ? pass->row[i].gpa : pass->row[i].pa);
}

/* ---- Shadow: both tables side by side ------------------------------------ */

static const struct walk_row *row_of(const struct walk_pass *pass,
                                     unsigned level)
{
    for (unsigned i = 0; i < pass->rows; i++)
        if (pass->row[i].level == level)
            return &pass->row[i];
    return NULL;
}

static void print_cell(FILE *to, const struct walk_question *q,
                       const struct walk_row *row, bool last)
{
    struct walk_entry e;
    char text[64] = "-";
    size_t used = 0;

    if (row) {
        walk_decode_entry(q, row, &e);
        used =
            (size_t)snprintf(text, sizeof text, "0x%016llx", (ull)row->entry);
        for (unsigned i = 0; i < e.flags && used < sizeof text; i++)
            used += (size_t)snprintf(text + used, sizeof text - used, " %s",
                                     e.flag[i].name);
    }
    fprintf(to, last ? "%s" : "%-42s  ", text);
}

static void print_side_by_side(FILE *to, const struct walk_question *q,
                               const struct walk_answer *answer)
{
    const struct walk_pass *guest = &answer->pass[answer->passes - 2];
    const struct walk_pass *cpu = &answer->pass[answer->passes - 1];

    fprintf(to, "\nSide by side, as read last:\n  %-5s  %-42s  %s\n", "level",
            "the guest's, guest-physical", "the shadow's, host-physical");
    for (unsigned level = q->guest.levels; level; level--) {
        const struct walk_row *left = row_of(guest, level);
        const struct walk_row *right = row_of(cpu, level);

        if (!left && !right)
            continue;
        fprintf(to, "  %-5s  ", walk_level_name(level));
        print_cell(to, q, left, false);
        print_cell(to, q, right, true);
        fputc('\n', to);
    }
}

/* ---- The end ------------------------------------------------------------- */

/* At most 98 columns, at blanks. */
static void print_wrapped(FILE *to, const char *text)
{
    while (*text) {
        size_t length = strlen(text);

        if (length > 98) {
            length = 98;
            while (length && text[length] != ' ')
                length--;
            length = length ? length : 98;
        }
        fprintf(to, "%.*s\n", (int)length, text);
        text += length;
        text += *text == ' ';
    }
}

static void print_bits(FILE *to, const char *title, uint64_t value,
                       const struct walk_flag *flags, unsigned count)
{
    fprintf(to, "  %s %#llx\n", title, (ull)value);
    for (unsigned i = 0; i < count; i++)
        fprintf(to, "    %-11s %s\n", flags[i].name, flags[i].meaning);
}

static void print_rights(FILE *to, const struct walk_pass *pass)
{
    fprintf(to, "  the path allows: read%s%s, by %s; a TLB keeps a %s page\n",
            pass->writable ? ", write" : "", pass->executable ? ", fetch" : "",
            pass->user ? "user mode too" : "the supervisor only",
            size_text(pass->guest_page < pass->host_page ? pass->guest_page
                                                         : pass->host_page));
}

/* The number the CPU tells software, bit by bit. */
static void print_code(FILE *to, const struct walk_pass *pass)
{
    struct walk_flag flags[WALK_FLAGS_MAX] = {0};
    unsigned count;

    switch (pass->end) {
    case WALK_PAGE_FAULT:
    case WALK_TRUE_FAULT:
        count = walk_decode_error(pass->error, flags);
        print_bits(to, "error code", pass->error, flags, count);
        break;
    case WALK_VIOLATION:
        count = walk_decode_qualification(pass->qualification, flags);
        print_bits(to, "exit qualification", pass->qualification, flags, count);
        break;
    case WALK_NESTED_FAULT:
        count = walk_decode_error(pass->exit_info1, flags);
        print_bits(to, "EXITINFO1", pass->exit_info1, flags, count);
        break;
    default:
        break;
    }
}

static void print_end(FILE *to, const struct walk_question *q,
                      const struct walk_pass *pass)
{
    char text[640];

    walk_decode_end(q, pass, text, sizeof text);
    if (pass->rows)
        fputc('\n', to);
    print_wrapped(to, text);
    if (pass->end == WALK_TRANSLATED)
        print_rights(to, pass);
    else
        print_code(to, pass);
}

/* ---- Legend and caches --------------------------------------------------- */

struct legend {
    unsigned count;
    struct walk_flag flag[WALK_FLAGS_MAX];
};

static void learn(struct legend *legend, const struct walk_flag *flag)
{
    for (unsigned i = 0; i < legend->count; i++)
        if (!strcmp(legend->flag[i].name, flag->name))
            return;
    if (legend->count < WALK_FLAGS_MAX)
        legend->flag[legend->count++] = *flag;
}

static void print_legend(FILE *to, const struct walk_question *q,
                         const struct walk_answer *answer)
{
    struct legend legend = {0};

    for (unsigned p = 0; p < answer->passes; p++)
        for (unsigned i = 0; i < answer->pass[p].rows; i++) {
            struct walk_row row = answer->pass[p].row[i];
            struct walk_entry e;

            row.entry |= row.sets;
            walk_decode_entry(q, &row, &e);
            for (unsigned f = 0; f < e.flags; f++)
                learn(&legend, &e.flag[f]);
        }
    if (legend.count)
        fputs("\nFlags:\n", to);
    for (unsigned i = 0; i < legend.count; i++)
        fprintf(to, "  %-6s  %s\n", legend.flag[i].name,
                legend.flag[i].meaning);
}

static void print_replays(FILE *to, const struct walk_question *q,
                          const struct walk_answer *answer)
{
    if (!answer->replays)
        return;
    fprintf(to,
            "\nThe same access made again, with what %s caches:\n"
            "  %-42s        references  saved\n",
            q->profile ? q->profile->name : "no CPU", "");
    for (unsigned i = 0; i < answer->replays; i++) {
        const struct walk_replay *r = &answer->replay[i];

        fprintf(to, "  %-42s  %-4s  %10u", r->caches,
                r->which > WALK_CACHES_EMPTY ? "warm" : "", r->references);
        if (i)
            fprintf(to, "  %5d",
                    (int)answer->replay[0].references - (int)r->references);
        fputc('\n', to);
    }
}

void walk_print_text(FILE *to, const struct walk_question *q,
                     const struct walk_answer *answer)
{
    char text[640];

    print_question(to, q);
    if (answer->pass[0].end != WALK_NOT_CANONICAL)
        print_address(to, q);
    for (unsigned i = 0; i < answer->passes; i++) {
        if (i)
            fputc('\n', to);
        if (q->technique == WALK_NESTED)
            print_nested(to, q, &answer->pass[i]);
        else
            print_one_dimension(to, q, &answer->pass[i]);
        print_end(to, q, &answer->pass[i]);
    }
    if (q->technique == WALK_SHADOW && answer->passes > 1 &&
        answer->pass[answer->passes - 1].by == WALK_BY_CPU)
        print_side_by_side(to, q, answer);
    print_legend(to, q, answer);
    print_replays(to, q, answer);
    walk_summary(q, answer, text, sizeof text);
    fputc('\n', to);
    print_wrapped(to, text);
}

/* ---- Summary ------------------------------------------------------------- */

static const struct walk_replay *replay_of(const struct walk_answer *answer,
                                           enum walk_caches which)
{
    for (unsigned i = 0; i < answer->replays; i++)
        if (answer->replay[i].which == which)
            return &answer->replay[i];
    return NULL;
}

void walk_summary(const struct walk_question *q,
                  const struct walk_answer *answer, char *text, size_t bytes)
{
    static const char *const words[] = {
        [WALK_CACHES_EMPTY] = "with every cache empty at the start",
        [WALK_CACHES_WALK] = "with the paging-structure caches warm",
        [WALK_CACHES_NESTED] = "with the nested TLB warm too",
        [WALK_CACHES_TLB] = "with a warm TLB",
    };
    const struct walk_pass *last = &answer->pass[answer->passes - 1];
    size_t used =
        (size_t)snprintf(text, bytes, "%u references cold", last->rows);

    if (!answer->replays)
        snprintf(text, bytes,
                 "%u reference%s%s; the access ended in an event and nothing "
                 "is cached",
                 last->rows, last->rows == 1 ? "" : "s",
                 last->by == WALK_BY_SHADOW_MMU ? " by the shadow MMU" : "");
    for (unsigned which = WALK_CACHES_EMPTY; which <= WALK_CACHES_TLB;
         which++) {
        const struct walk_replay *r = replay_of(answer, which);

        if (r && which != WALK_CACHES_ONE && used < bytes)
            used += (size_t)snprintf(text + used, bytes - used, "; %u %s%s",
                                     r->references, words[which],
                                     which == WALK_CACHES_WALK &&
                                             q->technique == WALK_NESTED
                                         ? " in both dimensions"
                                         : "");
    }
    if (q->technique == WALK_SHADOW && answer->passes > 1 && used < bytes &&
        answer->replays)
        snprintf(text + used, bytes - used,
                 "; before them %u by the CPU and %u by the shadow MMU for the "
                 "hidden fault",
                 answer->pass[0].rows, answer->pass[1].rows);
}
