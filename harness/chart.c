#include "harness/chart.h"

#include "base/parse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int chart_add(struct chart *chart, const struct bar *bar)
{
    struct bar *bars;

    for (size_t i = 0; i < chart->count; i++)
        if (!strcmp(chart->bars[i].series, bar->series) &&
            !strcmp(chart->bars[i].slot, bar->slot))
            return 0;
    bars = reallocarray(chart->bars, chart->count + 1, sizeof *bars);
    if (!bars)
        return -ENOMEM;
    chart->bars = bars;
    bars[chart->count++] = *bar;
    return 0;
}

void chart_free(struct chart *chart)
{
    free(chart->bars);
    *chart = (struct chart){NULL, 0};
}

static bool first_of_slot(const struct chart *chart, size_t at)
{
    for (size_t i = 0; i < at; i++)
        if (!strcmp(chart->bars[i].slot, chart->bars[at].slot))
            return false;
    return true;
}

static bool first_of_series(const struct chart *chart, size_t at)
{
    for (size_t i = 0; i < at; i++)
        if (!strcmp(chart->bars[i].series, chart->bars[at].series))
            return false;
    return true;
}

size_t chart_slots(const struct chart *chart)
{
    size_t slots = 0;

    for (size_t i = 0; i < chart->count; i++)
        slots += first_of_slot(chart, i);
    return slots;
}

size_t chart_series(const struct chart *chart)
{
    size_t series = 0;

    for (size_t i = 0; i < chart->count; i++)
        series += first_of_series(chart, i);
    return series;
}

size_t chart_slot(const struct chart *chart, const char *name)
{
    size_t slot = 0;

    for (size_t i = 0; i < chart->count; i++) {
        if (!strcmp(chart->bars[i].slot, name))
            return slot;
        slot += first_of_slot(chart, i);
    }
    return slot;
}

bool chart_range(const struct chart *chart, double *low, double *high)
{
    bool any = false;

    for (size_t i = 0; i < chart->count; i++) {
        double value = chart->bars[i].value.value;

        if (value <= 0)
            continue;
        *low = any && *low < value ? *low : value;
        *high = any && *high > value ? *high : value;
        any = true;
    }
    return any;
}

void chart_slot_name(const struct group *group, char *name, size_t bytes)
{
    char size[24], page[24], vcpus[24] = "";

    format_size(group->working_set_bytes, size, sizeof size);
    format_size(group->guest_page_bytes, page, sizeof page);
    if (group->vcpus > 1)
        snprintf(vcpus, sizeof vcpus, " x%u", group->vcpus);
    snprintf(name, bytes, "%.24s%s%s%s%s%s%s%s%s", group->workload,
             group->working_set_bytes ? " " : "",
             group->working_set_bytes ? size : "",
             group->guest_page_bytes > 4096 ? "/" : "",
             group->guest_page_bytes > 4096 ? page : "", vcpus,
             *group->cpu_profile ? " " : "", group->cpu_profile,
             *group->levels == '5' ? " 5 levels" : "");
}

void chart_series_name(const struct group *group, char *name, size_t bytes)
{
    /* A process has one page size: its slot, or curve, names it. */
    bool native = !strcmp(group->technique, technique_name(TECH_NATIVE));
    char technique[GROUP_TECHNIQUE_MAX], page[24];

    group_technique(group, technique, sizeof technique);
    if (group->host_page_bytes > 4096 && !native)
        snprintf(name, bytes, "%s, host pages %s", technique,
                 format_size(group->host_page_bytes, page, sizeof page));
    else
        snprintf(name, bytes, "%s", technique);
}

static void write_slot(const struct chart *chart, struct figure *figure,
                       const char *name)
{
    fprintf(figure->data, "%zu ", chart_slot(chart, name));
    figure_label(figure, name);
}

static void write_series(const struct chart *chart, struct figure *figure,
                         const char *name)
{
    for (size_t i = 0; i < chart->count; i++) {
        const struct bar *bar = &chart->bars[i];

        if (strcmp(bar->series, name))
            continue;
        write_slot(chart, figure, bar->slot);
        fprintf(figure->data, " %.9g %.9g %.9g %u\n", bar->value.value,
                bar->value.low, bar->value.high, bar->value.count);
    }
}

void chart_write(const struct chart *chart, struct figure *figure,
                 const char *unit)
{
    char variable[32];
    size_t series = 0;

    fprintf(figure->data,
            "# A data set a series: its name, then\n"
            "# slot  \"label\"  median [%s]  low [%s]  high [%s]  samples\n"
            "# low, high: 95 %% bootstrap interval\n"
            "# The last data set: slot  \"label\"\n",
            unit, unit, unit);
    for (size_t i = 0; i < chart->count; i++) {
        if (!first_of_series(chart, i))
            continue;
        fputs(series ? "\n\n" : "\n", figure->data);
        figure_label(figure, chart->bars[i].series);
        fputc('\n', figure->data);
        write_series(chart, figure, chart->bars[i].series);
        snprintf(variable, sizeof variable, "colour_%zu", series++);
        figure_set_number(figure, variable, chart->bars[i].technique);
    }
    fputs("\n\n", figure->data);
    for (size_t i = 0; i < chart->count; i++)
        if (first_of_slot(chart, i)) {
            write_slot(chart, figure, chart->bars[i].slot);
            fputc('\n', figure->data);
        }
    figure_set_number(figure, "series", (double)series);
    figure_set_number(figure, "slots", (double)chart_slots(chart));
}
