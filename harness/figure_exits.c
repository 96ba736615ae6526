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

/* The figure's bars, from left to right. */
struct bars {
    const struct group **groups;
    size_t count;
};

static bool takes(const struct figure_rows *rows, const struct group *group)
{
    return !strcmp(group->platform, platform_name(rows->platform)) &&
           figure_main_phase(rows, group) && figure_largest(rows, group) &&
           exit_sum(group) > 0;
}

static bool same_slot(const struct group *a, const struct group *b)
{
    char x[64], y[64];

    chart_slot_name(a, x, sizeof x);
    chart_slot_name(b, y, sizeof y);
    return !strcmp(x, y);
}

/* The techniques of one workload side by side: each bar goes behind the last
 * of its slot. */
static void insert(struct bars *bars, const struct group *group)
{
    size_t at = bars->count;

    for (size_t i = bars->count; i-- > 0;)
        if (same_slot(bars->groups[i], group)) {
            at = i + 1;
            break;
        }
    for (size_t i = bars->count; i > at; i--)
        bars->groups[i] = bars->groups[i - 1];
    bars->groups[at] = group;
    bars->count++;
}

static int collect(const struct figure_rows *rows, struct bars *bars)
{
    bars->groups =
        calloc(rows->groups->count + 1, sizeof(const struct group *));
    if (!bars->groups)
        return -ENOMEM;
    for (enum technique t = 0; t < TECHNIQUES; t++)
        for (size_t i = 0; i < rows->groups->count; i++)
            if (figure_takes(rows, &rows->groups->groups[i], t) &&
                takes(rows, &rows->groups->groups[i]))
                insert(bars, &rows->groups->groups[i]);
    return 0;
}

static void write_label(const struct group *group, struct figure *figure)
{
    char slot[64], series[48], label[128];

    chart_slot_name(group, slot, sizeof slot);
    chart_series_name(group, series, sizeof series);
    snprintf(label, sizeof label, "%s, %s", slot, series);
    figure_label(figure, label);
}

/* ---- Reasons ----------------------------------------------------------- */

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

static int rank(const struct bars *bars, struct reasons *reasons)
{
    int err = 0;

    for (size_t b = 0; b < bars->count; b++) {
        const struct group *group = bars->groups[b];

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

/* One data set: the segments of one reason, bar by bar. */
static void write_reason(const struct bars *bars, const struct reasons *reasons,
                         size_t rank, struct figure *figure)
{
    for (size_t b = 0; b < bars->count; b++) {
        const struct group *group = bars->groups[b];
        double below = 0;

        for (size_t r = 0; r < rank; r++)
            below += exits_of(group, reasons, r);
        fprintf(figure->data, "%zu ", b);
        write_label(group, figure);
        fprintf(figure->data, " %.9g %.9g %.9g\n",
                exits_of(group, reasons, rank), below, exit_sum(group));
    }
}

/* KVM's statistics may know the sum alone (kvm_pvm's do). */
static const char *legend(const struct reasons *reasons, size_t rank)
{
    if (rank == REASONS_SHOWN)
        return "other";
    return strcmp(reasons->reasons[rank].name, "all")
               ? reasons->reasons[rank].name
               : "reason unknown";
}

static void write_data(const struct bars *bars, const struct reasons *reasons,
                       struct figure *figure)
{
    size_t series =
        reasons->count <= REASONS_SHOWN ? reasons->count : REASONS_SHOWN + 1;

    fputs("# A data set a reason: its name, then\n"
          "# slot  \"label\"  exits [1/operation]  exits of the reasons before "
          "it [1/operation]  exits of all reasons [1/operation]\n",
          figure->data);
    for (size_t r = 0; r < series; r++) {
        fputs(r ? "\n\n" : "\n", figure->data);
        figure_label(figure, legend(reasons, r));
        fputc('\n', figure->data);
        write_reason(bars, reasons, r, figure);
    }
    figure_set_number(figure, "series", (double)series);
    figure_set_number(figure, "slots", (double)bars->count);
}

static void describe(const struct figure_rows *rows, const struct bars *bars,
                     struct figure *figure)
{
    double low = INFINITY, high = 0;
    char place[256];

    for (size_t b = 0; b < bars->count; b++) {
        low = fmin(low, exit_sum(bars->groups[b]));
        high = fmax(high, exit_sum(bars->groups[b]));
    }
    figure_set(figure, "title_text", "VM exits by reason");
    figure_set(figure, "place_text", "%s",
               figure_place(rows, place, sizeof place));
    figure_set_number(figure, "low", low);
    figure_set_number(figure, "high", high);
}

static int draw(const struct figure_rows *rows, const struct bars *bars,
                const struct reasons *reasons, struct why *why)
{
    struct figure figure;
    int err = figure_start(&figure, rows->folder, "exits", rows->platform,
                           "exits.gp", why);

    if (err)
        return err;
    write_data(bars, reasons, &figure);
    describe(rows, bars, &figure);
    return figure_finish(&figure, rows->folder, 0, why);
}

int figure_exits(const struct figure_rows *rows, struct why *why)
{
    struct reasons reasons = {NULL, 0};
    struct bars bars = {NULL, 0};
    int err = collect(rows, &bars);

    if (!err)
        err = rank(&bars, &reasons);
    if (err)
        why_set(why, -err, "out of memory");
    else if (bars.count)
        err = draw(rows, &bars, &reasons, why);
    free(reasons.reasons);
    free(bars.groups);
    return err ? err : bars.count > 0;
}
