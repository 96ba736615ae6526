#include "harness/figures.h"

#include "harness/figure.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SCRIPTS MEMVIRT_ROOT "/scripts/figures"

extern char **environ;

/* ---- One figure -------------------------------------------------------- */

static int file_name(char *path, size_t bytes, const char *folder,
                     const char *name, const char *suffix, struct why *why)
{
    int length = snprintf(path, bytes, "%s/%s%s", folder, name, suffix);

    return length < 0 || (size_t)length >= bytes
               ? why_set(why, ENAMETOOLONG,
                         "the path of the folder %s is too long", folder)
               : 0;
}

int figure_start(struct figure *figure, const char *folder, const char *kind,
                 enum platform platform, const char *script, struct why *why)
{
    char path[4200];
    int err;

    *figure = (struct figure){.script = script};
    snprintf(figure->name, sizeof figure->name, "%s-%s", kind,
             platform_name(platform));
    err = file_name(path, sizeof path, folder, figure->name, ".dat", why);
    if (err)
        return err;
    figure->settings =
        open_memstream(&figure->statements, &figure->statements_bytes);
    if (!figure->settings)
        return why_set(why, ENOMEM, "out of memory");
    figure->data = fopen(path, "we");
    if (!figure->data)
        err = why_set(why, errno, "cannot write %s: %s", path, strerror(errno));
    if (err)
        return figure_finish(figure, folder, err, why);
    figure_set(figure, "name", "%s", figure->name);
    figure_set(figure, "scripts", "%s", SCRIPTS);
    return 0;
}

/* gnuplot takes everything literally between single quotes but the quote
 * itself, which doubles. */
void figure_set(struct figure *figure, const char *variable, const char *format,
                ...)
{
    char text[4200];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(figure->settings, "%s = '", variable);
    for (const char *at = text; *at; at++) {
        if (*at == '\'')
            fputc('\'', figure->settings);
        fputc((unsigned char)*at < ' ' ? ' ' : *at, figure->settings);
    }
    fputs("'; ", figure->settings);
}

void figure_set_number(struct figure *figure, const char *variable,
                       double value)
{
    fprintf(figure->settings, "%s = %.17g; ", variable, value);
}

void figure_label(struct figure *figure, const char *text)
{
    fputc('"', figure->data);
    for (; *text; text++) {
        bool plain = (unsigned char)*text >= ' ' && !strchr("\"\\`", *text);

        fputc(plain ? *text : '?', figure->data);
    }
    fputc('"', figure->data);
}

/* ---- gnuplot ----------------------------------------------------------- */

/* Reads to the end, so that the writer never waits, and keeps the first line
 * that says something: gnuplot points at the error with lines of blanks and
 * carets. */
static void read_complaint(int fd, char *line, size_t bytes)
{
    FILE *stream = fdopen(fd, "r");
    char *text = NULL;
    size_t room = 0;

    line[0] = 0;
    if (!stream) {
        close(fd);
        return;
    }
    while (getline(&text, &room, stream) > 0) {
        char *start = text + strspn(text, " \t^");

        start[strcspn(start, "\r\n")] = 0;
        if (!line[0] && *start && !strncmp(start, "\"", 1))
            snprintf(line, bytes, "%s", start);
    }
    free(text);
    fclose(stream);
}

static int spawn_gnuplot(const char *folder, const char *statements, int err_fd,
                         pid_t *pid)
{
    static const char script[] = SCRIPTS "/figure.gp";
    char *argv[] = {"gnuplot",          "--default-settings", "-e",
                    (char *)statements, (char *)script,       NULL};
    posix_spawn_file_actions_t actions;
    int err;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null",
                                     O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, err_fd, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err_fd, STDERR_FILENO);
    posix_spawn_file_actions_addchdir_np(&actions, folder);
    err = posix_spawnp(pid, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    return -err;
}

static int gnuplot(const struct figure *figure, const char *folder,
                   struct why *why)
{
    char complaint[160];
    int fds[2], err, status = 0;
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC))
        return why_set(why, errno, "no pipe for gnuplot: %s", strerror(errno));
    err = spawn_gnuplot(folder, figure->statements, fds[1], &pid);
    close(fds[1]);
    if (err) {
        close(fds[0]);
        return err == -ENOENT
                   ? why_set(why, ENOENT,
                             "there is no gnuplot: install the package "
                             "gnuplot-nox, then 'memvirt figures' draws the "
                             "figures")
                   : why_set(why, -err, "cannot start gnuplot: %s",
                             strerror(-err));
    }
    read_complaint(fds[0], complaint, sizeof complaint);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status ? why_set(why, EIO, "gnuplot could not draw %s: %s",
                            figure->name,
                            complaint[0] ? complaint : "it did not say why")
                  : 0;
}

/* Half a drawing would pass for one. */
static void remove_drawings(const struct figure *figure, const char *folder)
{
    static const char *const suffixes[] = {".svg", ".png"};
    char path[4200];

    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++)
        if (!file_name(path, sizeof path, folder, figure->name, suffixes[i],
                       NULL))
            unlink(path);
}

int figure_finish(struct figure *figure, const char *folder, int err,
                  struct why *why)
{
    bool bad = figure->data && (ferror(figure->data) | fclose(figure->data));

    if (!err && bad)
        err = why_set(why, EIO, "cannot write %s/%s.dat: is the disk full?",
                      folder, figure->name);
    if (fprintf(figure->settings, "script = '%s'", figure->script) < 0 && !err)
        err = why_set(why, ENOMEM, "out of memory");
    if (fclose(figure->settings) && !err)
        err = why_set(why, ENOMEM, "out of memory");
    if (!err)
        err = gnuplot(figure, folder, why);
    if (err)
        remove_drawings(figure, folder);
    free(figure->statements);
    return err;
}

/* ---- What figures have in common --------------------------------------- */

bool figure_takes(const struct figure_rows *rows, const struct group *group,
                  enum technique technique)
{
    return !strcmp(group->platform, platform_name(rows->platform)) &&
           !strcmp(group->technique, technique_name(technique));
}

static void add_flavour(char *text, size_t bytes, const char *kvm)
{
    size_t length = strlen(text);

    if (*kvm && !strstr(text, kvm))
        snprintf(text + length, bytes - length, "%s%s", length ? ", " : "",
                 kvm);
}

const char *figure_place(const struct figure_rows *rows, char *text,
                         size_t bytes)
{
    const char *platform = platform_name(rows->platform);
    char flavours[80] = "";

    for (size_t i = 0; i < rows->groups->count; i++)
        if (!strcmp(rows->groups->groups[i].platform, platform))
            add_flavour(flavours, sizeof flavours, rows->groups->groups[i].kvm);
    if (rows->platform == PLATFORM_MODEL) {
        snprintf(text, bytes, "model: computed cycles of translation alone");
        return text;
    }
    snprintf(text, bytes, "%s (%s)%s", platform,
             flavours[0] ? flavours : "no KVM",
             rows->platform == PLATFORM_LAB_SVM
                 ? ": costs are counts of instructions, not time"
                 : "");
    return text;
}

bool figure_main_phase(const struct figure_rows *rows,
                       const struct group *group)
{
    const char *steady = phase_name(WL_STEADY);

    if (!strcmp(group->phase, steady))
        return true;
    if (strcmp(group->phase, phase_name(WL_FIRST_TOUCH)))
        return false;
    for (size_t i = 0; i < rows->groups->count; i++)
        if (!strcmp(rows->groups->groups[i].platform, group->platform) &&
            !strcmp(rows->groups->groups[i].workload, group->workload) &&
            !strcmp(rows->groups->groups[i].phase, steady))
            return false;
    return true;
}

bool figure_largest(const struct figure_rows *rows, const struct group *group)
{
    for (size_t i = 0; i < rows->groups->count; i++) {
        const struct group *other = &rows->groups->groups[i];

        if (!strcmp(other->platform, group->platform) &&
            !strcmp(other->workload, group->workload) && other->cost.count &&
            other->working_set_bytes > group->working_set_bytes)
            return false;
    }
    return true;
}

/* ---- All of a folder --------------------------------------------------- */

static int draw_platform(const struct figure_rows *rows, struct why *why)
{
    static int (*const figures[])(const struct figure_rows *, struct why *) = {
        figure_overhead, figure_exits,     figure_nano,
        figure_phases,   figure_miss_cost,
    };
    int drawn = 0;

    for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++) {
        int result = figures[i](rows, why);

        if (result < 0)
            return result;
        drawn += result;
    }
    return drawn;
}

static int draw_all(const struct groups *groups, const char *folder,
                    struct why *why)
{
    char path[4200];
    int err = file_name(path, sizeof path, folder, "figures", "", why);
    int drawn = 0;

    if (err)
        return err;
    if (mkdir(path, 0777) && errno != EEXIST)
        return why_set(why, errno, "cannot create %s: %s", path,
                       strerror(errno));
    for (enum platform p = 0; p < PLATFORMS; p++) {
        struct figure_rows rows = {groups, path, p};
        int result = draw_platform(&rows, why);

        if (result < 0)
            return result;
        drawn += result;
    }
    return drawn ? 0
                 : why_set(why, ENODATA,
                           "%s has nothing to draw: no finished run has a "
                           "cost, a ratio or exits",
                           folder);
}

int figures_draw(const char *folder, struct why *why)
{
    struct groups groups;
    int err = groups_read(&groups, folder, why);

    if (err)
        return err;
    err = draw_all(&groups, folder, why);
    groups_free(&groups);
    return err;
}
