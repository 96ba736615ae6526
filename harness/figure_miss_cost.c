/* Nanoseconds an access against the working set, and the TLB reach in it. */
#include "harness/chart.h"
#include "harness/reach.h"

#include "base/parse.h"
#include "mmu/entry.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define POINTS_MAX     64 /* working sets of a curve; more are left out */
#define MARKS_MAX      32
#define LOG_FROM_RANGE 50

/* One curve: a technique, its guest page and host page. */
struct curve {
    enum technique technique;
    uint64_t guest_page_bytes, host_page_bytes;
    char name[96];
    const struct group *points[POINTS_MAX]; /* by working set */
    size_t count;
};

struct curves {
    struct curve *curves;
    size_t count;
};

struct mark {
    struct reach reach;
    char techniques[160];
};

static bool is_point(const struct group *group)
{
    return !strcmp(group->workload, "chase") &&
           !strcmp(group->phase, phase_name(WL_STEADY)) && group->cost.count &&
           group->working_set_bytes && group->guest_page_bytes &&
           group->vcpus == 1;
}

static struct curve *curve_of(struct curves *curves, const struct group *group,
                              enum technique technique)
{
    char series[48], page[24];
    struct curve *curve;

    for (size_t i = 0; i < curves->count; i++) {
        curve = &curves->curves[i];
        if (curve->technique == technique &&
            curve->guest_page_bytes == group->guest_page_bytes &&
            curve->host_page_bytes == group->host_page_bytes)
            return curve;
    }
    curve = reallocarray(curves->curves, curves->count + 1, sizeof *curve);
    if (!curve)
        return NULL;
    curves->curves = curve;
    curve += curves->count++;
    *curve = (struct curve){
        technique, group->guest_page_bytes, group->host_page_bytes, "", {NULL},
        0};
    chart_series_name(group, series, sizeof series);
    format_size(group->guest_page_bytes, page, sizeof page);
    snprintf(curve->name, sizeof curve->name, "%s, %s pages", series, page);
    return curve;
}

static void insert(struct curve *curve, const struct group *group)
{
    size_t at = curve->count;

    if (curve->count == POINTS_MAX)
        return;
    for (size_t i = 0; i < curve->count; i++)
        if (curve->points[i]->working_set_bytes == group->working_set_bytes)
            return;
    while (at && curve->points[at - 1]->working_set_bytes >
                     group->working_set_bytes) {
        curve->points[at] = curve->points[at - 1];
        at--;
    }
    curve->points[at] = group;
    curve->count++;
}

static int collect(const struct figure_rows *rows, struct curves *curves)
{
    for (enum technique t = 0; t < TECHNIQUES; t++)
        for (size_t i = 0; i < rows->groups->count; i++) {
            const struct group *group = &rows->groups->groups[i];
            struct curve *curve;

            if (!figure_takes(rows, group, t) || !is_point(group))
                continue;
            curve = curve_of(curves, group, t);
            if (!curve)
                return -ENOMEM;
            insert(curve, group);
        }
    return 0;
}

/* ---- Reach ------------------------------------------------------------- */

/* The working sets both curves have. */
static size_t pair(const struct curve *small, const struct curve *large,
                   struct reach_point *points)
{
    size_t count = 0, at = 0;

    for (size_t i = 0; i < small->count; i++) {
        uint64_t bytes = small->points[i]->working_set_bytes;

        while (at < large->count &&
               large->points[at]->working_set_bytes < bytes)
            at++;
        if (at < large->count && large->points[at]->working_set_bytes == bytes)
            points[count++] =
                (struct reach_point){bytes, small->points[i]->cost.value,
                                     large->points[at]->cost.value};
    }
    return count;
}

static void add_mark(struct mark *marks, size_t *count,
                     const struct reach *reach, const char *technique)
{
    size_t i = 0, length;

    while (i < *count && marks[i].reach.fits_bytes != reach->fits_bytes)
        i++;
    if (i == MARKS_MAX)
        return;
    if (i == *count)
        marks[(*count)++] = (struct mark){*reach, ""};
    if (strstr(marks[i].techniques, technique))
        return;
    length = strlen(marks[i].techniques);
    snprintf(marks[i].techniques + length, sizeof marks[i].techniques - length,
             "%s%s", length ? ", " : "", technique);
}

static size_t find_marks(const struct curves *curves, struct mark *marks)
{
    struct reach_point points[POINTS_MAX];
    struct reach reaches[REACH_LEVELS_MAX];
    size_t count = 0;

    for (size_t s = 0; s < curves->count; s++)
        for (size_t l = 0; l < curves->count; l++) {
            const struct curve *small = &curves->curves[s];
            const struct curve *large = &curves->curves[l];
            unsigned levels;

            if (small->guest_page_bytes != PAGE_4K ||
                large->guest_page_bytes != PAGE_2M ||
                small->technique != large->technique)
                continue;
            levels = reach_find(points, pair(small, large, points), reaches);
            for (unsigned i = 0; i < levels; i++)
                add_mark(marks, &count, &reaches[i],
                         technique_name(small->technique));
        }
    return count;
}

/* ---- Writing ----------------------------------------------------------- */

static void write_curve(const struct curve *curve, struct figure *figure)
{
    figure_label(figure, curve->name);
    fputc('\n', figure->data);
    for (size_t i = 0; i < curve->count; i++) {
        const struct group *group = curve->points[i];

        fprintf(figure->data, "%llu %.9g %.9g %.9g %u\n",
                (unsigned long long)group->working_set_bytes, group->cost.value,
                group->cost.low, group->cost.high, group->cost.count);
    }
}

static void set_mark(struct figure *figure, size_t number,
                     const struct reach *reach, const char *label)
{
    char variable[32];

    snprintf(variable, sizeof variable, "fits_%zu", number);
    figure_set_number(figure, variable, (double)reach->fits_bytes);
    snprintf(variable, sizeof variable, "exceeds_%zu", number);
    figure_set_number(figure, variable, (double)reach->exceeds_bytes);
    snprintf(variable, sizeof variable, "mark_%zu", number);
    figure_set(figure, variable, "%s", label);
}

static void write_marks(const struct mark *marks, size_t count,
                        struct figure *figure)
{
    char fits[24], exceeds[24], label[256];

    for (size_t i = 0; i < count; i++) {
        const struct reach *reach = &marks[i].reach;

        format_size(reach->fits_bytes, fits, sizeof fits);
        format_size(reach->exceeds_bytes, exceeds, sizeof exceeds);
        snprintf(label, sizeof label, "%s to %s (%s)", fits, exceeds,
                 marks[i].techniques);
        fprintf(figure->data, "%s%llu %llu ", i ? "" : "\n\n",
                (unsigned long long)reach->fits_bytes,
                (unsigned long long)reach->exceeds_bytes);
        figure_label(figure, label);
        fputc('\n', figure->data);
        set_mark(figure, i, reach, label);
    }
}

static void set_range(const struct curves *curves, struct figure *figure)
{
    const struct group *first = curves->curves[0].points[0];
    uint64_t smallest = first->working_set_bytes, largest = smallest;
    double low = first->cost.value, high = low;

    for (size_t i = 0; i < curves->count; i++)
        for (size_t p = 0; p < curves->curves[i].count; p++) {
            uint64_t bytes = curves->curves[i].points[p]->working_set_bytes;
            double cost = curves->curves[i].points[p]->cost.value;

            smallest = bytes < smallest ? bytes : smallest;
            largest = bytes > largest ? bytes : largest;
            low = fmin(low, cost);
            high = fmax(high, cost);
        }
    figure_set_number(figure, "smallest", (double)smallest);
    figure_set_number(figure, "largest", (double)largest);
    figure_set_number(figure, "low", low);
    figure_set_number(figure, "high", high);
    figure_set_number(figure, "logarithmic",
                      low > 0 && high / low > LOG_FROM_RANGE);
}

static void write_data(const struct figure_rows *rows,
                       const struct curves *curves, struct figure *figure)
{
    struct mark marks[MARKS_MAX];
    size_t count = find_marks(curves, marks);
    char place[256], variable[32];

    fputs("# A data set a curve: its name, then\n"
          "# working set [bytes]  median [ns/access]  low [ns/access]  high "
          "[ns/access]  samples\n"
          "# low, high: 95 % bootstrap interval\n"
          "# After the curves, if any was found: TLB reaches in 4 KiB pages\n"
          "# fits [bytes]  exceeds [bytes]  \"label\"\n\n",
          figure->data);
    for (size_t i = 0; i < curves->count; i++) {
        fputs(i ? "\n\n" : "", figure->data);
        write_curve(&curves->curves[i], figure);
        snprintf(variable, sizeof variable, "colour_%zu", i);
        figure_set_number(figure, variable, curves->curves[i].technique);
    }
    write_marks(marks, count, figure);
    set_range(curves, figure);
    figure_set_number(figure, "series", (double)curves->count);
    figure_set_number(figure, "marks", (double)count);
    figure_set(figure, "title_text",
               "Pointer chase: cost of an access, steady phase");
    figure_set(figure, "place_text", "%s",
               figure_place(rows, place, sizeof place));
}

/* In the labs cost counts instructions or emulated time: neither knows of
 * misses. */
int figure_miss_cost(const struct figure_rows *rows, struct why *why)
{
    struct curves curves = {NULL, 0};
    struct figure figure;
    bool any;
    int err;

    if (rows->platform != PLATFORM_HOST)
        return 0;
    err = collect(rows, &curves);
    any = curves.count;
    if (err) {
        why_set(why, -err, "out of memory");
    } else if (any) {
        err = figure_start(&figure, rows->folder, "miss-cost", rows->platform,
                           "miss-cost.gp", why);
        if (!err) {
            write_data(rows, &curves, &figure);
            err = figure_finish(&figure, rows->folder, 0, why);
        }
    }
    free(curves.curves);
    return err ? err : any;
}
