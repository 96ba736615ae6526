/* The figures of grouped bars: overhead, nanobenchmarks, phases. */
#include "harness/chart.h"

#include "workloads/catalog.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOG_FROM_RANGE 20 /* a larger range does not show on a linear axis */

static bool is_nano(const struct group *group)
{
    const struct workload *workload = workload_find(group->workload);

    return workload && workload->class == WL_NANO;
}

/* Which groups a figure shows, and what it shows of each. */
typedef const struct estimate *(*pick)(const struct figure_rows *rows,
                                       const struct group *group);

static const struct estimate *pick_overhead(const struct figure_rows *rows,
                                            const struct group *group)
{
    bool shown = strcmp(group->technique, technique_name(TECH_NATIVE)) &&
                 figure_main_phase(rows, group) && figure_largest(rows, group);

    return shown ? &group->over_native : NULL;
}

static const struct estimate *pick_nano(const struct figure_rows *rows,
                                        const struct group *group)
{
    (void)rows;
    return is_nano(group) ? &group->cost : NULL;
}

/* Workloads of one phase have nothing to compare. */
static const struct estimate *pick_phases(const struct figure_rows *rows,
                                          const struct group *group)
{
    if (!figure_largest(rows, group))
        return NULL;
    for (size_t i = 0; i < rows->groups->count; i++) {
        const struct group *other = &rows->groups->groups[i];

        if (!strcmp(other->platform, group->platform) &&
            !strcmp(other->workload, group->workload) && other->cost.count &&
            strcmp(other->phase, group->phase))
            return &group->cost;
    }
    return NULL;
}

static int add_group(struct chart *chart, const struct group *group,
                     enum technique technique, const struct estimate *value,
                     bool with_phase)
{
    struct bar bar = {.technique = technique, .value = *value};

    chart_series_name(group, bar.series, sizeof bar.series);
    chart_slot_name(group, bar.slot, sizeof bar.slot);
    if (with_phase) {
        size_t length = strlen(bar.slot);

        snprintf(bar.slot + length, sizeof bar.slot - length, " %s",
                 group->phase);
    }
    return chart_add(chart, &bar);
}

static int collect(const struct figure_rows *rows, pick choose, bool with_phase,
                   struct chart *chart)
{
    int err = 0;

    for (enum technique t = 0; t < TECHNIQUES; t++)
        for (size_t i = 0; !err && i < rows->groups->count; i++) {
            const struct group *group = &rows->groups->groups[i];
            const struct estimate *value =
                figure_takes(rows, group, t) ? choose(rows, group) : NULL;

            if (value && value->count)
                err = add_group(chart, group, t, value, with_phase);
        }
    return err;
}

/* What the three differ in. */
struct kind {
    const char *name, *title, *ylabel, *unit, *note;
    pick choose;
    bool logarithmic, line_at_1, with_phase;
};

static void describe(const struct figure_rows *rows, const struct kind *kind,
                     const struct chart *chart, struct figure *figure)
{
    char place[256];
    double low = 1, high = 1;

    chart_range(chart, &low, &high);
    figure_set(figure, "title_text", "%s", kind->title);
    figure_set(figure, "place_text", "%s",
               figure_place(rows, place, sizeof place));
    figure_set(figure, "ylabel_text", "%s", kind->ylabel);
    figure_set(figure, "note", "%s", kind->note);
    figure_set_number(figure, "logarithmic",
                      kind->logarithmic || high / low > LOG_FROM_RANGE);
    figure_set_number(figure, "line_at_1", kind->line_at_1);
    figure_set_number(figure, "low", low);
    figure_set_number(figure, "high", high);
    chart_write(chart, figure, kind->unit);
}

static int draw(const struct figure_rows *rows, const struct kind *kind,
                struct why *why)
{
    struct chart chart = {NULL, 0};
    struct figure figure;
    int err = collect(rows, kind->choose, kind->with_phase, &chart);
    bool any = chart.count;

    if (err) {
        why_set(why, -err, "out of memory");
    } else if (any) {
        err = figure_start(&figure, rows->folder, kind->name, rows->platform,
                           "bars.gp", why);
        if (!err) {
            describe(rows, kind, &chart, &figure);
            err = figure_finish(&figure, rows->folder, 0, why);
        }
    }
    chart_free(&chart);
    return err ? err : any;
}

int figure_overhead(const struct figure_rows *rows, struct why *why)
{
    const struct kind kind = {
        .name = "overhead",
        .title = "Cost over native, steady phase",
        .ylabel = rows->platform == PLATFORM_LAB_SVM
                      ? "instructions / native instructions"
                  : rows->platform == PLATFORM_MODEL
                      ? "modelled cycles / native modelled cycles"
                      : "time / native time",
        .unit = "1",
        .note = "1 = native; whiskers: 95 % bootstrap intervals of the ratio "
                "of medians",
        .choose = pick_overhead,
        .line_at_1 = true,
    };

    return draw(rows, &kind, why);
}

static bool has_flavour(const struct figure_rows *rows, const char *kvm)
{
    for (size_t i = 0; i < rows->groups->count; i++)
        if (!strcmp(rows->groups->groups[i].platform,
                    platform_name(rows->platform)) &&
            !strcmp(rows->groups->groups[i].kvm, kvm))
            return true;
    return false;
}

static const char *cost_label(const struct figure_rows *rows)
{
    return rows->platform == PLATFORM_LAB_SVM ? "instructions / operation"
           : rows->platform == PLATFORM_MODEL
               ? "modelled translation cycles / operation"
               : "time / operation (ns)";
}

int figure_nano(const struct figure_rows *rows, struct why *why)
{
    const struct kind kind = {
        .name = "nano",
        .title = "Nanobenchmarks of the guest kernel",
        .ylabel = cost_label(rows),
        .unit = group_cost_unit(platform_name(rows->platform)),
        .note = has_flavour(rows, "kvm_pvm")
                    ? "kvm_pvm emulates the guest's CPL 0: these are costs of "
                      "its emulation, not of hardware"
                    : "whiskers: 95 % bootstrap intervals of the median",
        .choose = pick_nano,
        .logarithmic = true,
    };

    return draw(rows, &kind, why);
}

int figure_phases(const struct figure_rows *rows, struct why *why)
{
    const struct kind kind = {
        .name = "phases",
        .title = "Cost by phase",
        .ylabel = cost_label(rows),
        .unit = group_cost_unit(platform_name(rows->platform)),
        .note = "an operation of first_touch is a page; of init, an element "
                "built; of steady, the workload's own",
        .choose = pick_phases,
        .logarithmic = true,
        .with_phase = true,
    };

    return draw(rows, &kind, why);
}
