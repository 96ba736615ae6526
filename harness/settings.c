#include "harness/settings.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int settings_blame(const struct settings *settings,
                   const config_setting_t *setting, int err, const char *format,
                   ...)
{
    char cause[200];
    va_list args;

    va_start(args, format);
    vsnprintf(cause, sizeof cause, format, args);
    va_end(args);
    return why_set(settings->why, err, "%s:%u: %s", settings->file,
                   config_setting_source_line(setting), cause);
}

/* ---- Settings of one kind ------------------------------------------------*/

const char *settings_name(const config_setting_t *setting)
{
    const char *name = config_setting_name(setting);

    if (name)
        return name;
    return config_setting_is_root(setting) ? "the file" : "an element";
}

int settings_only(const struct settings *settings,
                  const config_setting_t *group, const char *keys)
{
    if (!config_setting_is_group(group))
        return settings_blame(settings, group, EINVAL,
                              "%s is no group; write { KEY = VALUE; ... }",
                              settings_name(group));
    for (int i = 0; i < config_setting_length(group); i++) {
        const config_setting_t *member =
            config_setting_get_elem(group, (unsigned)i);
        const char *name = config_setting_name(member);
        const char *at = keys;
        size_t length = strlen(name);

        while (*at && (strncmp(at, name, length) || at[length] != ' '))
            at = strchr(at, ' ') + 1;
        if (!*at)
            return settings_blame(settings, member, EINVAL,
                                  "unknown key %.40s in %s; there are: %s",
                                  name, settings_name(group), keys);
    }
    return 0;
}

int settings_member(const struct settings *settings,
                    const config_setting_t *group, const char *key,
                    config_setting_t **setting)
{
    *setting = config_setting_get_member(group, key);
    if (!*setting)
        return settings_blame(settings, group, EINVAL, "%s lacks %s",
                              settings_name(group), key);
    return 0;
}

int settings_number(const struct settings *settings,
                    const config_setting_t *group, const char *key,
                    uint64_t max, uint64_t *value)
{
    config_setting_t *setting;
    long long given;
    int err = settings_member(settings, group, key, &setting);

    if (err)
        return err;
    if (config_setting_type(setting) != CONFIG_TYPE_INT &&
        config_setting_type(setting) != CONFIG_TYPE_INT64)
        return settings_blame(settings, setting, EINVAL,
                              "%s is no whole number", key);
    given = config_setting_get_int64(setting);
    if (given < 0 || (uint64_t)given > max)
        return settings_blame(settings, setting, EINVAL,
                              "%s is %lld, not 0 to %llu", key, given,
                              (unsigned long long)max);
    *value = (uint64_t)given;
    return 0;
}

int settings_number32(const struct settings *settings,
                      const config_setting_t *group, const char *key,
                      uint32_t max, uint32_t *value)
{
    uint64_t wide = 0;
    int err = settings_number(settings, group, key, max, &wide);

    *value = (uint32_t)wide;
    return err;
}

int settings_text(const struct settings *settings,
                  const config_setting_t *group, const char *key, char *value,
                  size_t bytes)
{
    config_setting_t *setting;
    int err = settings_member(settings, group, key, &setting);
    const char *given;

    if (err)
        return err;
    given = config_setting_get_string(setting);
    if (!given || !*given || strlen(given) >= bytes)
        return settings_blame(settings, setting, EINVAL,
                              "%s is no text of 1 to %zu characters", key,
                              bytes - 1);
    for (const char *c = given; *c; c++)
        if (*c < ' ' || *c > '~')
            return settings_blame(
                settings, setting, EINVAL,
                "%s has characters that are not printable ASCII", key);
    strcpy(value, given);
    return 0;
}

/* ---- Files ---------------------------------------------------------------*/

static unsigned line_at(const char *text, const char *at)
{
    unsigned line = 1;

    for (; text < at; text++)
        line += *text == '\n';
    return line;
}

/* Past what starts at `at`, a comment or a text; `at` when neither does. */
static const char *skip(const char *at)
{
    const char *end = at;

    if (*at == '#' || !strncmp(at, "//", 2))
        return at + strcspn(at, "\n");
    if (!strncmp(at, "/*", 2)) {
        end = strstr(at + 2, "*/");
        return end ? end + 2 : at + strlen(at);
    }
    if (*at != '"')
        return at;
    for (end++; *end && *end != '"'; end++)
        end += *end == '\\' && end[1];
    return *end ? end + 1 : end;
}

/* A text where the syntax has none, or NULL. libconfig refuses it too, and
 * never frees what it has read of it. */
static const char *stray_text(const char *at)
{
    char before = '\0';

    while (*at) {
        const char *next = skip(at);

        if (*at == '"' && !(before && strchr("=:,[(\"", before)))
            return at;
        if (next == at)
            next++;
        if (*at == '"' || (next == at + 1 && !strchr(" \t\r\n\f\v#", *at)))
            before = *at;
        at = next;
    }
    return NULL;
}

/* libconfig's text ends at a NUL, and it would open what @include names. */
static int check_bytes(const struct settings *settings, const char *copy,
                       size_t count)
{
    const char *bad = memchr(copy, 0, count);

    if (bad)
        return why_set(settings->why, EINVAL,
                       "%s:%u: a NUL byte: this is no text file",
                       settings->file, line_at(copy, bad));
    bad = strstr(copy, "@include");
    if (bad)
        return why_set(settings->why, EINVAL, "%s:%u: @include is not allowed",
                       settings->file, line_at(copy, bad));
    bad = stray_text(copy);
    if (bad)
        return why_set(settings->why, EINVAL,
                       "%s:%u: a text where a key or a separator belongs",
                       settings->file, line_at(copy, bad));
    return 0;
}

static int take_group(const struct settings *settings,
                      const config_setting_t *root, settings_take *take,
                      void *to)
{
    config_setting_t *group;
    char keys[40];
    int err;

    snprintf(keys, sizeof keys, "%s ", settings->what);
    err = settings_only(settings, root, keys);
    if (err)
        return err;
    group = config_setting_get_member(root, settings->what);
    if (!group)
        return why_set(settings->why, EINVAL,
                       "%s:1: there is no %s: { ... } in it", settings->file,
                       settings->what);
    return take(settings, group, to);
}

static int parse_text(const struct settings *settings, const char *copy,
                      settings_take *take, void *to)
{
    config_t config;
    int err;

    config_init(&config);
    if (config_read_string(&config, copy) != CONFIG_TRUE)
        err = why_set(settings->why, EINVAL, "%s:%d: %s", settings->file,
                      config_error_line(&config), config_error_text(&config));
    else
        err = take_group(settings, config_root_setting(&config), take, to);
    config_destroy(&config);
    return err;
}

int settings_parse(const struct settings *settings, const void *bytes,
                   size_t count, settings_take *take, void *to)
{
    char *copy;
    int err;

    if (count > SETTINGS_BYTES_MAX)
        return why_set(settings->why, E2BIG,
                       "%s: more than %d bytes: this is no %s", settings->file,
                       SETTINGS_BYTES_MAX, settings->what);
    copy = calloc(1, count + 1);
    if (!copy)
        return why_set(settings->why, ENOMEM, "%s: out of memory",
                       settings->file);
    if (count)
        memcpy(copy, bytes, count);
    err = check_bytes(settings, copy, count);
    if (!err)
        err = parse_text(settings, copy, take, to);
    free(copy);
    return err;
}

/* At most `bytes` of a regular file; how many, or -errno. */
static ssize_t read_file(const char *path, char *buffer, size_t bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    size_t total = 0;
    struct stat stat;
    ssize_t got = 1;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &stat) || !S_ISREG(stat.st_mode))
        got = -EINVAL;
    while (got > 0 && total < bytes) {
        got = read(fd, buffer + total, bytes - total);
        if (got < 0)
            got = -errno;
        else
            total += (size_t)got;
    }
    close(fd);
    return got < 0 ? got : (ssize_t)total;
}

int settings_load(const char *name, const char *folder, const char *what,
                  settings_take *take, void *to, struct why *why)
{
    bool path_given = strchr(name, '/');
    struct settings settings = {.what = what, .why = why};
    char path[4096];
    char *buffer;
    ssize_t count;
    int err;

    if (snprintf(path, sizeof path, "%s%s%s%s", path_given ? "" : folder,
                 path_given ? "" : "/", name,
                 path_given ? "" : SETTINGS_SUFFIX) >= (int)sizeof path)
        return why_set(why, ENAMETOOLONG, "the %s's name is too long", what);
    buffer = calloc(1, SETTINGS_BYTES_MAX + 1);
    if (!buffer)
        return why_set(why, ENOMEM, "%s: out of memory", path);
    settings.file = path;
    count = read_file(path, buffer, SETTINGS_BYTES_MAX + 1);
    if (count == -EINVAL)
        err = why_set(why, EINVAL, "%s: no regular file", path);
    else if (count < 0)
        err = why_set(why, (int)-count,
                      "%s: %s; name a %s of %s or a path with a slash", path,
                      strerror((int)-count), what, folder);
    else
        err = settings_parse(&settings, buffer, (size_t)count, take, to);
    free(buffer);
    return err;
}

static int is_settings(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name), suffix = strlen(SETTINGS_SUFFIX);

    return entry->d_name[0] != '.' && length > suffix &&
           !strcmp(entry->d_name + length - suffix, SETTINGS_SUFFIX);
}

int settings_each(const char *folder, int (*item)(const char *name, void *arg),
                  void *arg, struct why *why)
{
    struct dirent **entries;
    int count = scandir(folder, &entries, is_settings, alphasort);
    int err = 0;

    if (count < 0)
        return why_set(why, errno, "%s: %s", folder, strerror(errno));
    for (int i = 0; i < count; i++) {
        char *name = entries[i]->d_name;

        name[strlen(name) - strlen(SETTINGS_SUFFIX)] = '\0';
        if (!err)
            err = item(name, arg);
        free(entries[i]);
    }
    free(entries);
    return err;
}
