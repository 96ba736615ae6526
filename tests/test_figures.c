#include "harness/figures.h"
#include "harness/reach.h"
#include "harness/results.h"
#include "tests/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- Reach ------------------------------------------------------------- */

#define POINTS 11 /* 64K to 64M */

/* What a level of `entries` costs an access to `pages` random pages when
 * 1 - T/P of them miss. */
static double misses(double pages, double entries, double cost)
{
    return pages > entries ? cost * (1 - entries / pages) : 0;
}

static void curve(struct reach_point *points, double level1, double level2)
{
    for (unsigned i = 0; i < POINTS; i++) {
        uint64_t bytes = 65536ull << i;
        double pages = (double)bytes / 4096;
        double caches = i < 3 ? 1.5 : 1.5 + 2.5 * (i - 2);

        points[i] = (struct reach_point){bytes,
                                         caches + misses(pages, 64, level1) +
                                             misses(pages, 1536, level2),
                                         caches};
    }
}

static void reach_is_found(void)
{
    struct reach_point points[POINTS];
    struct reach reaches[REACH_LEVELS_MAX];

    curve(points, 0, 30);
    CU_ASSERT_EQUAL_FATAL(reach_find(points, POINTS, reaches), 1);
    CU_ASSERT_EQUAL(reaches[0].fits_bytes, 4 << 20);
    CU_ASSERT_EQUAL(reaches[0].exceeds_bytes, 8 << 20);
    curve(points, 6, 60);
    CU_ASSERT_EQUAL_FATAL(reach_find(points, POINTS, reaches), 2);
    CU_ASSERT_EQUAL(reaches[0].fits_bytes, 256 << 10);
    CU_ASSERT_EQUAL(reaches[0].exceeds_bytes, 512 << 10);
    CU_ASSERT_EQUAL(reaches[1].fits_bytes, 4 << 20);
    CU_ASSERT_EQUAL(reaches[1].exceeds_bytes, 8 << 20);
}

/* Caches alone make both curves rise: that is no reach. */
static void flat_has_no_reach(void)
{
    struct reach_point points[POINTS];
    struct reach reaches[REACH_LEVELS_MAX];

    curve(points, 0, 0);
    CU_ASSERT_EQUAL(reach_find(points, POINTS, reaches), 0);
    for (unsigned i = 0; i < POINTS; i++)
        points[i].small_ns *= i % 2 ? 1.03 : 0.97;
    CU_ASSERT_EQUAL(reach_find(points, POINTS, reaches), 0);
}

static void unclear_has_no_reach(void)
{
    struct reach_point points[POINTS];
    struct reach reaches[REACH_LEVELS_MAX];

    curve(points, 0, 0);
    points[5].small_ns *= 3; /* one slow run */
    CU_ASSERT_EQUAL(reach_find(points, POINTS, reaches), 0);
    curve(points, 0, 0);
    points[POINTS - 1].small_ns *= 3; /* nothing behind it confirms it */
    CU_ASSERT_EQUAL(reach_find(points, POINTS, reaches), 0);
    curve(points, 0, 0);
    for (unsigned i = 0; i < 4; i++) /* 2M slow at first, then no difference */
        points[i].large_ns += 1.2;
    CU_ASSERT_EQUAL(reach_find(points, POINTS, reaches), 0);
    curve(points, 6, 30); /* no plateau before the rise */
    CU_ASSERT_EQUAL(reach_find(points + 2, 4, reaches), 0);
    CU_ASSERT_EQUAL(reach_find(points, 3, reaches), 0);
    points[1].working_set_bytes = points[0].working_set_bytes;
    CU_ASSERT_EQUAL(reach_find(points, POINTS, reaches), 0);
}

/* ---- Figures ----------------------------------------------------------- */

struct sample {
    enum technique technique;
    enum platform platform;
    const char *workload;
    uint64_t working_set_bytes, guest_page_bytes;
    double ns;          /* an operation */
    const char *reason; /* one exit an operation, or NULL */
};

static void add(struct results *results, const struct sample *sample)
{
    struct run_spec spec = {
        .technique = sample->technique,
        .platform = sample->platform,
        .working_set_bytes = sample->working_set_bytes,
        .guest_page_bytes = sample->guest_page_bytes,
        .vcpus = 1,
        .rep = 1,
    };
    struct run_record record = {
        .status = RUN_OK,
        .guest_page_bytes = {true, sample->guest_page_bytes},
        .phase_count = 1,
    };
    struct phase_record *phase = &record.phases[0];
    struct exit_row row = {.kind = "vm_exit", .source = "kvm_trace"};
    struct why why;

    snprintf(spec.workload, sizeof spec.workload, "%s", sample->workload);
    if (sample->technique == TECH_SHADOW)
        strcpy(record.kvm, "kvm_pvm");
    phase->phase = WL_STEADY;
    phase->operations = 1000;
    phase->wall_ns = (struct maybe_u64){true, (uint64_t)(sample->ns * 1000)};
    if (sample->reason) {
        snprintf(row.reason, sizeof row.reason, "%s", sample->reason);
        row.count = 1000;
        CU_ASSERT_EQUAL_FATAL(rows_add_exit(&phase->rows, &row), 0);
    }
    CU_ASSERT_EQUAL_FATAL(results_add(results, &spec, &record, &why), 0);
    run_record_free(&record);
}

static char *folder_of(const struct sample *samples, size_t count)
{
    char *folder = test_folder();
    struct results *results;
    struct why why;

    CU_ASSERT_EQUAL_FATAL(results_create(&results, folder, &why), 0);
    for (size_t i = 0; i < count; i++)
        add(results, &samples[i]);
    CU_ASSERT_EQUAL_FATAL(results_close(results, &why), 0);
    return folder;
}

/* Native and shadow, each figure's rows, with an exit's reason that would
 * break out of a quoted string. */
static char *full_folder(void)
{
    struct sample samples[4 + 2 * 2 * POINTS];
    struct reach_point points[POINTS];
    size_t count = 0;

    samples[count++] = (struct sample){
        TECH_NATIVE, PLATFORM_HOST, "gups", 8 << 20, 4096, 10, NULL};
    samples[count++] = (struct sample){
        TECH_SHADOW, PLATFORM_HOST, "gups", 8 << 20, 4096, 25, "page_fault"};
    samples[count++] = (struct sample){
        TECH_SHADOW, PLATFORM_HOST, "cpuid", 0, 4096, 1300, "a\"b'`c\\d\n"};
    samples[count++] = (struct sample){
        TECH_SHADOW, PLATFORM_LAB_SVM, "chase", 1 << 20, 4096, 12, NULL};
    curve(points, 6, 60);
    for (unsigned i = 0; i < POINTS; i++)
        for (unsigned k = 0; k < 4; k++)
            samples[count++] =
                (struct sample){k & 1 ? TECH_SHADOW : TECH_NATIVE,
                                PLATFORM_HOST,
                                "chase",
                                points[i].working_set_bytes,
                                k & 2 ? 2 << 20 : 4096,
                                k & 2 ? points[i].large_ns : points[i].small_ns,
                                NULL};
    return folder_of(samples, count);
}

static char *read_figure(const char *folder, const char *name, size_t *bytes)
{
    char path[4200], *text = NULL;
    size_t room = 0;
    ssize_t got;
    FILE *file;

    *bytes = 0;
    snprintf(path, sizeof path, "%s/figures/%s", folder, name);
    file = fopen(path, "re");
    if (!file)
        return NULL;
    got = getdelim(&text, &room, EOF, file);
    fclose(file);
    *bytes = got < 0 ? 0 : (size_t)got;
    return text;
}

static bool figure_has(const char *folder, const char *name, const char *what)
{
    size_t bytes;
    char *text = read_figure(folder, name, &bytes);
    bool has = text && memmem(text, bytes, what, strlen(what));

    free(text);
    return has;
}

/* The width an IHDR chunk states (PNG specification, 11.2.2), 0 for what is
 * no PNG. */
static unsigned png_width(const char *folder, const char *name)
{
    static const char signature[] = "\x89PNG\r\n\x1a\n";
    size_t bytes;
    unsigned char *png = (unsigned char *)read_figure(folder, name, &bytes);
    unsigned width = 0;

    if (bytes > 24 && !memcmp(png, signature, 8) &&
        !memcmp(png + 12, "IHDR", 4))
        width =
            (unsigned)png[16] << 24 | png[17] << 16 | png[18] << 8 | png[19];
    free(png);
    return width;
}

static bool have_gnuplot(void)
{
    char *output;
    int status = test_shell(&output, "gnuplot --version");

    free(output);
    if (status)
        test_skip("no gnuplot: install the package gnuplot-nox");
    return !status;
}

static void check_figure(const char *folder, const char *figure)
{
    char name[64];

    snprintf(name, sizeof name, "%s.svg", figure);
    CU_ASSERT(figure_has(folder, name, "<svg"));
    CU_ASSERT(figure_has(folder, name, "</svg>"));
    snprintf(name, sizeof name, "%s.png", figure);
    CU_ASSERT(png_width(folder, name) >= 700);
    snprintf(name, sizeof name, "%s.dat", figure);
    CU_ASSERT(figure_has(folder, name, "# "));
}

static void figures_appear(void)
{
    struct why why = {""};
    size_t bytes;
    char *folder, *text;

    if (!have_gnuplot())
        return;
    folder = full_folder();
    CU_ASSERT_EQUAL(figures_draw(folder, &why), 0);
    CU_ASSERT_STRING_EQUAL(why.text, "");
    check_figure(folder, "overhead-host");
    check_figure(folder, "exits-host");
    check_figure(folder, "nano-host");
    check_figure(folder, "miss-cost-host");
    CU_ASSERT(figure_has(folder, "overhead-host.dat", "\"gups 8M\" 2.5 "));
    CU_ASSERT(figure_has(folder, "overhead-host.svg", "kvm_pvm"));
    CU_ASSERT(figure_has(folder, "nano-host.svg", "emulates the guest"));
    CU_ASSERT(figure_has(folder, "exits-host.svg", "page_fault"));
    CU_ASSERT(figure_has(folder, "miss-cost-host.dat",
                         "\"256K to 512K (native, shadow)\""));
    /* Instructions say nothing of misses; and nobody ran nano there. */
    text = read_figure(folder, "miss-cost-lab-svm.dat", &bytes);
    CU_ASSERT_PTR_NULL(text);
    text = read_figure(folder, "nano-lab-svm.dat", &bytes);
    CU_ASSERT_PTR_NULL(text);
    /* Again, over what is there. */
    CU_ASSERT_EQUAL(figures_draw(folder, &why), 0);
    free(folder);
}

static void nothing_to_draw(void)
{
    struct why why = {""};
    char *folder = folder_of(NULL, 0);

    CU_ASSERT_EQUAL(figures_draw(folder, &why), -ENODATA);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "nothing to draw"));
    free(folder);
    why.text[0] = 0;
    CU_ASSERT(figures_draw("/nonexistent", &why) < 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "/nonexistent"));
}

static int draw_with_path(const char *folder, const char *path, struct why *why)
{
    char *before = strdup(getenv("PATH"));
    int err;

    setenv("PATH", path, 1);
    err = figures_draw(folder, why);
    setenv("PATH", before, 1);
    free(before);
    return err;
}

static void gnuplot_missing(void)
{
    struct why why = {""};
    char *folder = full_folder(), *empty = test_folder();

    CU_ASSERT_EQUAL(draw_with_path(folder, empty, &why), -ENOENT);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "gnuplot-nox"));
    free(folder);
    free(empty);
}

/* A gnuplot that fails has its words in the sentence, and half a drawing does
 * not stay. */
static void gnuplot_fails(void)
{
    char *folder = full_folder(), *bin = test_folder(), *output;
    struct why why = {""};
    size_t bytes;

    CU_ASSERT_EQUAL(
        test_shell(&output,
                   "printf '#!/bin/sh\\n>overhead-host.svg\\n"
                   "echo \"\\\\\"x.gp\\\\\" line 3: no such terminal\" >&2\\n"
                   "exit 1\\n' >%s/gnuplot && chmod +x %s/gnuplot",
                   bin, bin),
        0);
    free(output);
    CU_ASSERT_EQUAL(draw_with_path(folder, bin, &why), -EIO);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "line 3: no such terminal"));
    CU_ASSERT_PTR_NULL(read_figure(folder, "overhead-host.svg", &bytes));
    free(folder);
    free(bin);
}

static void command_line(void)
{
    char *output;

    if (access(getenv("MEMVIRT"), X_OK)) {
        test_skip("no memvirt command: build it with 'make'");
        return;
    }
    CU_ASSERT_EQUAL(test_shell(&output, "$MEMVIRT figures --help"), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(output, "Examples:"));
    free(output);
    CU_ASSERT_EQUAL(test_shell(&output, "$MEMVIRT figures"), 2);
    free(output);
    CU_ASSERT_EQUAL(test_shell(&output, "$MEMVIRT figures a b"), 2);
    free(output);
    CU_ASSERT_EQUAL(test_shell(&output, "$MEMVIRT figures --x a"), 2);
    free(output);
    CU_ASSERT_EQUAL(test_shell(&output, "$MEMVIRT figures /nonexistent"), 1);
    CU_ASSERT_PTR_NOT_NULL(strstr(output, "/nonexistent"));
    free(output);
}

TEST_SUITE(figures, {"a known reach is found", reach_is_found},
           {"flat curves have no reach", flat_has_no_reach},
           {"unclear curves have no reach", unclear_has_no_reach},
           {"figures appear as SVG and PNG", figures_appear},
           {"a folder without rows", nothing_to_draw},
           {"gnuplot missing", gnuplot_missing},
           {"gnuplot failing", gnuplot_fails},
           {"the command line", command_line});
