/* VM exits an operation, by reason. */
#include "harness/chart.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define REASONS_SHOWN 6 /* as many patterns as can be told apart, and other */

struct reason {
    const char *name;
    double weight; /* sum of its shares of all bars */
};

struct reasons {
    struct reason *reasons;
    size_t count;
};

static double exit_sum(const struct group *group)
{
    double sum = 0;

    for (size_t i = 0; i < group->exit_count; i++)
        sum += group->exits[i].per_operation.value;
    return sum;
}

/* A bar for a group: its slot's name when the figure shows it, else NULL. */
static const char *bar_name(const struct figure_rows *rows,
                            const struct group *group, char *name, size_t bytes)
{
    char series[48];
    size_t length;

    if (strcmp(group->platform, platform_name(rows->platform)) ||
        !figure_main_phase(rows, group) || !(exit_sum(group) > 0))
        return NULL;
    chart_slot_name(group, name, bytes);
    chart_series_name(group, series, sizeof series);
    length = strlen(name);
    snprintf(name + length, bytes - length, ", %s", series);
    return name;
}

/* Shares are weighed, not counts: else the workload with the most exits
 * would choose the reasons for all. */
static int weigh(struct reasons *reasons, const char *name, double share)
{
    struct reason *more;

    for (size_t i = 0; i < reasons->count; i++)
        if (!strcmp(reasons->reasons[i].name, name)) {
            reasons->reasons[i].weight += share;
            return 0;
        }
    more = reallocarray(reasons->reasons, reasons->count + 1, sizeof *more);
    if (!more)
        return -ENOMEM;
    reasons->reasons = more;
    more[reasons->count++] = (struct reason){name, share};
    return 0;
}

static int by_weight(const void *a, const void *b)
{
    const struct reason *x = a, *y = b;

    return (x->weight < y->weight) - (x->weight > y->weight);
}

static int rank(const struct figure_rows *rows, struct reasons *reasons)
{
    char name[128];
    int err = 0;

    for (size_t g = 0; g < rows->groups->count; g++) {
        const struct group *group = &rows->groups->groups[g];

        if (!bar_name(rows, group, name, sizeof name))
            continue;
        for (size_t i = 0; !err && i < group->exit_count; i++)
            err = weigh(reasons, group->exits[i].reason,
                        group->exits[i].per_operation.value / exit_sum(group));
    }
    if (reasons->count)
        qsort(reasons->reasons, reasons->count, sizeof *reasons->reasons,
              by_weight);
    return err;
}

/* Exits of the reason ranked `rank`; of all further ones when it is
 * REASONS_SHOWN. */
static double exits_of(const struct group *group, const struct reasons *reasons,
                       size_t rank)
{
    double sum = 0;

    for (size_t i = 0; i < group->exit_count; i++)
        for (size_t r = 0; r < reasons->count; r++)
            if ((r < REASONS_SHOWN ? r : REASONS_SHOWN) == rank &&
                !strcmp(group->exits[i].reason, reasons->reasons[r].name))
                sum += group->exits[i].per_operation.value;
    return sum;
}

/* One data set: the segments of one reason, slot by slot. */
static unsigned write_reason(const struct figure_rows *rows,
                             const struct reasons *reasons, size_t rank,
                             struct figure *figure)
{
    unsigned slot = 0;
    char name[128];

    for (size_t g = 0; g < rows->groups->count; g++) {
        const struct group *group = &rows->groups->groups[g];
        double below = 0, here = exits_of(group, reasons, rank);

        if (!bar_name(rows, group, name, sizeof name))
            continue;
        for (size_t r = 0; r < rank; r++)
            below += exits_of(group, reasons, r);
        fprintf(figure->data, "%u ", slot++);
        figure_label(figure, name);
        fprintf(figure->data, " %.9g %.9g %.9g\n", here, below,
                exit_sum(group));
    }
    return slot;
}

static void write_data(const struct figure_rows *rows,
                       const struct reasons *reasons, struct figure *figure)
{
    size_t series =
        reasons->count <= REASONS_SHOWN ? reasons->count : REASONS_SHOWN + 1;
    unsigned slots = 0;

    fputs("# A data set a reason: its name, then\n"
          "# slot  \"label\"  exits [1/operation]  exits of the reasons before "
          "it [1/operation]  exits of all reasons [1/operation]\n",
          figure->data);
    for (size_t r = 0; r < series; r++) {
        fputs(r ? "\n\n" : "\n", figure->data);
        figure_label(figure,
                     r < REASONS_SHOWN ? reasons->reasons[r].name : "other");
        fputc('\n', figure->data);
        slots = write_reason(rows, reasons, r, figure);
    }
    figure_set_number(figure, "series", (double)series);
    figure_set_number(figure, "slots", slots);
}

static void describe(const struct figure_rows *rows, struct figure *figure)
{
    double low = INFINITY, high = 0;
    char name[256];

    for (size_t g = 0; g < rows->groups->count; g++) {
        const struct group *group = &rows->groups->groups[g];

        if (!bar_name(rows, group, name, sizeof name))
            continue;
        low = fmin(low, exit_sum(group));
        high = fmax(high, exit_sum(group));
    }
    figure_set(figure, "title_text", "VM exits by reason, %s",
               figure_place(rows, name, sizeof name));
    figure_set_number(figure, "low", low);
    figure_set_number(figure, "high", high);
}

int figure_exits(const struct figure_rows *rows, struct why *why)
{
    struct reasons reasons = {NULL, 0};
    struct figure figure;
    int err = rank(rows, &reasons);
    bool any = reasons.count;

    if (err) {
        why_set(why, -err, "out of memory");
    } else if (any) {
        err = figure_start(&figure, rows->folder, "exits", rows->platform,
                           "exits.gp", why);
        if (!err) {
            write_data(rows, &reasons, &figure);
            describe(rows, &figure);
            err = figure_finish(&figure, rows->folder, 0, why);
        }
    }
    free(reasons.reasons);
    return err ? err : any;
}
