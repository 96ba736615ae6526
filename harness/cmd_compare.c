/* `memvirt compare`: the shadow paging of several result folders side by
 * side, as KVM counted it and as the model computed it. */
#include "base/parse.h"
#include "harness/commands.h"
#include "harness/groups.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOLDERS_MAX 16

static const char help[] =
    "Usage: memvirt compare FOLDER...\n"
    "\n"
    "Puts the page faults under shadow paging side by side, for every "
    "workload\n"
    "and phase that at least two rows of the result folders have: hidden\n"
    "faults (the shadow was not filled), true faults (the guest's own), and\n"
    "writes to guest tables that were emulated. KVM's are its statistics\n"
    "pf_fixed, pf_guest and pf_emulate; the model's are its exits.\n"
    "\n"
    "Examples:\n"
    "  memvirt lab -- run -t shadow -w mmu,gups --size 1M -o results/kvm\n"
    "  memvirt model -t shadow --shadow-policy traced,unsync,vtlb -w "
    "mmu,gups \\\n"
    "      --size 1M -o results/model\n"
    "  memvirt compare results/kvm results/model\n";

/* What both count, by the names that each gives it. */
static const struct {
    const char *title;
    const char *kvm;
    const char *model[2]; /* added */
} columns[] = {
    {"hidden",
     "pf_fixed",
     {"shadow_hidden_missing", "shadow_hidden_protection"}},
    {"true", "pf_guest", {"shadow_true_faults", NULL}},
    {"emulated", "pf_emulate", {"shadow_traced_writes", NULL}},
};
#define COLUMNS (sizeof columns / sizeof columns[0])

struct line {
    const struct group *group;
    bool known[COLUMNS];
    double values[COLUMNS];
};

static bool take_model(const struct group *group, unsigned column,
                       double *value)
{
    bool known = false;

    *value = 0;
    for (unsigned i = 0; i < 2 && columns[column].model[i]; i++) {
        const struct group_counter *counter =
            group_counter(group, "model", columns[column].model[i]);

        known |= counter != NULL;
        *value += counter ? counter->value : 0;
    }
    return known;
}

static bool take_kvm(const struct group *group, unsigned column, double *value)
{
    const struct group_counter *counter =
        group_counter(group, "kvm_stats", columns[column].kvm);

    *value = counter ? counter->value : 0;
    return counter;
}

static bool take_line(const struct group *group, struct line *line)
{
    bool any = false;

    *line = (struct line){.group = group};
    if (strcmp(group->technique, "shadow"))
        return false;
    for (unsigned i = 0; i < COLUMNS; i++) {
        line->known[i] = *group->shadow_policy
                             ? take_model(group, i, &line->values[i])
                             : take_kvm(group, i, &line->values[i]);
        any |= line->known[i];
    }
    return any;
}

/* By what the same guest did. */
static int by_guest(const struct group *a, const struct group *b)
{
    int order = strcmp(a->workload, b->workload);

    if (!order)
        order = (a->working_set_bytes > b->working_set_bytes) -
                (a->working_set_bytes < b->working_set_bytes);
    if (!order)
        order = (a->guest_page_bytes > b->guest_page_bytes) -
                (a->guest_page_bytes < b->guest_page_bytes);
    return order ? order : strcmp(a->phase, b->phase);
}

static int by_line(const void *x, const void *y)
{
    const struct line *a = x, *b = y;
    int order = by_guest(a->group, b->group);

    return order ? order : (a > b) - (a < b);
}

static size_t collect(const struct groups *folders, unsigned count,
                      struct line *lines)
{
    size_t taken = 0;

    for (unsigned f = 0; f < count; f++)
        for (size_t i = 0; i < folders[f].count; i++)
            taken += take_line(&folders[f].groups[i], &lines[taken]);
    return taken;
}

static void print_line(const struct line *line)
{
    const struct group *g = line->group;
    char size[32], page[32], who[64];

    snprintf(who, sizeof who, "%s %s", *g->shadow_policy ? "model" : g->kvm,
             g->shadow_policy);
    printf("  %-12.24s %6s %4s  %-11s  %-16s", g->workload,
           g->working_set_bytes
               ? format_size(g->working_set_bytes, size, sizeof size)
               : "-",
           format_size(g->guest_page_bytes, page, sizeof page), g->phase, who);
    for (unsigned i = 0; i < COLUMNS; i++)
        if (line->known[i])
            printf(" %12.0f", line->values[i]);
        else
            printf(" %12s", "-");
    putchar('\n');
}

static bool paired(const struct line *lines, size_t count, size_t at)
{
    return (at && !by_guest(lines[at - 1].group, lines[at].group)) ||
           (at + 1 < count && !by_guest(lines[at].group, lines[at + 1].group));
}

static int print(const struct groups *folders, unsigned count)
{
    size_t room = 0, taken, shown = 0;
    struct line *lines;

    for (unsigned f = 0; f < count; f++)
        room += folders[f].count;
    lines = calloc(room + 1, sizeof *lines);
    if (!lines) {
        fputs("memvirt compare: out of memory\n", stderr);
        return 1;
    }
    taken = collect(folders, count, lines);
    qsort(lines, taken, sizeof *lines, by_line);
    for (size_t i = 0; i < taken; i++) {
        if (!paired(lines, taken, i))
            continue;
        if (!shown++)
            printf("  %-12s %6s %4s  %-11s  %-16s %12s %12s %12s\n", "workload",
                   "size", "page", "phase", "shadow tables of",
                   columns[0].title, columns[1].title, columns[2].title);
        else if (i && by_guest(lines[i - 1].group, lines[i].group))
            putchar('\n');
        print_line(&lines[i]);
    }
    free(lines);
    if (!shown)
        fputs("memvirt compare: no two rows are of the same workload, phase, "
              "size and page under shadow paging\n",
              stderr);
    return shown ? 0 : 1;
}

int cmd_compare(int argc, char **argv)
{
    struct groups folders[FOLDERS_MAX];
    struct why why;
    unsigned count = 0;
    int status = 0;

    if (argc > 1 && (!strcmp(argv[1], "-h") || !strcmp(argv[1], "--help"))) {
        fputs(help, stdout);
        return 0;
    }
    if (argc < 2 || argc - 1 > FOLDERS_MAX) {
        fprintf(stderr,
                "memvirt compare: name 1 to %d result folders; see 'memvirt "
                "compare --help'\n",
                FOLDERS_MAX);
        return 2;
    }
    for (int i = 1; !status && i < argc; i++) {
        if (!groups_read(&folders[count], argv[i], &why)) {
            count++;
            continue;
        }
        fprintf(stderr, "memvirt compare: %s\n", why.text);
        status = 1;
    }
    if (!status)
        status = print(folders, count);
    while (count)
        groups_free(&folders[--count]);
    return status;
}
