#include "harness/profile.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libconfig.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CYCLES_MAX  100000u
#define WALKERS_MAX 64u
#define SUFFIX      ".conf"

struct reader {
    const char *file;
    struct why *why;
};

/* -err, and "FILE:LINE: cause" with the setting's line. */
static int blame(const struct reader *reader, const config_setting_t *setting,
                 int err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static int blame(const struct reader *reader, const config_setting_t *setting,
                 int err, const char *format, ...)
{
    char cause[200];
    va_list args;

    va_start(args, format);
    vsnprintf(cause, sizeof cause, format, args);
    va_end(args);
    return why_set(reader->why, err, "%s:%u: %s", reader->file,
                   config_setting_source_line(setting), cause);
}

/* ---- Settings of one kind ------------------------------------------------*/

static const char *name_of(const config_setting_t *setting)
{
    const char *name = config_setting_name(setting);

    if (name)
        return name;
    return config_setting_is_root(setting) ? "the file" : "an element";
}

/* `keys` are all that may be in the group, one space after each. */
static int only(const struct reader *reader, const config_setting_t *group,
                const char *keys)
{
    if (!config_setting_is_group(group))
        return blame(reader, group, EINVAL,
                     "%s is no group; write { KEY = VALUE; ... }",
                     name_of(group));
    for (int i = 0; i < config_setting_length(group); i++) {
        const config_setting_t *member =
            config_setting_get_elem(group, (unsigned)i);
        const char *name = config_setting_name(member);
        const char *at = keys;
        size_t length = strlen(name);

        while (*at && (strncmp(at, name, length) || at[length] != ' '))
            at = strchr(at, ' ') + 1;
        if (!*at)
            return blame(reader, member, EINVAL,
                         "unknown key %.40s in %s; there are: %s", name,
                         name_of(group), keys);
    }
    return 0;
}

static int member(const struct reader *reader, const config_setting_t *group,
                  const char *key, config_setting_t **setting)
{
    *setting = config_setting_get_member(group, key);
    if (!*setting)
        return blame(reader, group, EINVAL, "%s lacks %s", name_of(group), key);
    return 0;
}

static int number(const struct reader *reader, const config_setting_t *group,
                  const char *key, uint64_t max, uint64_t *value)
{
    config_setting_t *setting;
    long long given;
    int err = member(reader, group, key, &setting);

    if (err)
        return err;
    if (config_setting_type(setting) != CONFIG_TYPE_INT &&
        config_setting_type(setting) != CONFIG_TYPE_INT64)
        return blame(reader, setting, EINVAL, "%s is no whole number", key);
    given = config_setting_get_int64(setting);
    if (given < 0 || (uint64_t)given > max)
        return blame(reader, setting, EINVAL, "%s is %lld, not 0 to %llu", key,
                     given, (unsigned long long)max);
    *value = (uint64_t)given;
    return 0;
}

static int number32(const struct reader *reader, const config_setting_t *group,
                    const char *key, uint32_t max, uint32_t *value)
{
    uint64_t wide = 0;
    int err = number(reader, group, key, max, &wide);

    *value = (uint32_t)wide;
    return err;
}

static int text(const struct reader *reader, const config_setting_t *group,
                const char *key, char *value, size_t bytes)
{
    config_setting_t *setting;
    int err = member(reader, group, key, &setting);
    const char *given;

    if (err)
        return err;
    given = config_setting_get_string(setting);
    if (!given || !*given || strlen(given) >= bytes)
        return blame(reader, setting, EINVAL,
                     "%s is no text of 1 to %zu characters", key, bytes - 1);
    for (const char *c = given; *c; c++)
        if (*c < ' ' || *c > '~')
            return blame(reader, setting, EINVAL,
                         "%s has characters that are not printable ASCII", key);
    strcpy(value, given);
    return 0;
}

/* An array of words, as bits in the order of `words` (NULL ends). */
static int set_of(const struct reader *reader, const config_setting_t *group,
                  const char *key, const char *const *words, unsigned *bits)
{
    config_setting_t *setting;
    int err = member(reader, group, key, &setting);

    if (err)
        return err;
    *bits = 0;
    if (!config_setting_is_array(setting) || !config_setting_length(setting))
        return blame(reader, setting, EINVAL,
                     "%s is no array of words, as [\"%s\"]", key, words[0]);
    for (int i = 0; i < config_setting_length(setting); i++) {
        const char *word = config_setting_get_string_elem(setting, i);
        unsigned bit = 0;

        while (word && words[bit] && strcmp(words[bit], word))
            bit++;
        if (!word || !words[bit] || *bits >> bit & 1)
            return blame(reader, setting, EINVAL,
                         "%s has %.20s, which is unknown or there twice", key,
                         word ? word : "a number");
        *bits |= 1u << bit;
    }
    return 0;
}

/* Why a cache can't be: what cache_bytes() said, in words. */
static int impossible(const struct reader *reader,
                      const config_setting_t *setting, int err,
                      uint64_t entries, uint32_t ways)
{
    if (err == -E2BIG)
        return blame(reader, setting, E2BIG, "%s: %llu entries are too many",
                     name_of(setting), (unsigned long long)entries);
    if (!entries || !ways)
        return blame(reader, setting, EINVAL, "%s: %s are 0", name_of(setting),
                     entries ? "ways" : "entries");
    return blame(reader, setting, EINVAL,
                 "%s: %u ways do not divide %llu entries", name_of(setting),
                 ways, (unsigned long long)entries);
}

/* Entries and ways that make a cache. */
static int geometry(const struct reader *reader, const config_setting_t *group,
                    uint32_t *entries, uint32_t *ways)
{
    struct cache_shape shape;
    size_t bytes;
    int err = number32(reader, group, "entries", UINT32_MAX, entries);

    if (!err)
        err = number32(reader, group, "ways", UINT32_MAX, ways);
    if (err)
        return err;
    shape = (struct cache_shape){.entries = *entries, .ways = *ways};
    err = cache_bytes(&shape, &bytes);
    return err ? impossible(reader, group, err, *entries, *ways) : 0;
}

/* ---- The parts of a profile ----------------------------------------------*/

static int read_structure(const struct reader *reader,
                          const config_setting_t *group,
                          struct tlb_structure *structure)
{
    static const char *const accesses[] = {"read", "write", "fetch", NULL};
    static const char *const pages[] = {"4K", "2M", "1G", NULL};
    int err =
        only(reader, group, "name level accesses pages entries ways cycles ");

    if (!err)
        err = text(reader, group, "name", structure->name,
                   sizeof structure->name);
    if (!err)
        err = number32(reader, group, "level", TLB_LEVELS, &structure->level);
    if (!err && !structure->level)
        err = blame(reader, group, EINVAL, "level is 0, not 1 or 2");
    if (!err)
        err = set_of(reader, group, "accesses", accesses, &structure->accesses);
    if (!err)
        err = set_of(reader, group, "pages", pages, &structure->sizes);
    if (!err)
        err = number32(reader, group, "cycles", CYCLES_MAX, &structure->cycles);
    return err ? err
               : geometry(reader, group, &structure->entries, &structure->ways);
}

static int read_splinters(const struct reader *reader,
                          const config_setting_t *group,
                          struct tlb_config *config)
{
    config_setting_t *setting;
    int err = member(reader, group, "splinters", &setting);

    if (err)
        return err;
    if (!config_setting_is_array(setting) ||
        config_setting_length(setting) != TLB_LEVELS ||
        config_setting_type(config_setting_get_elem(setting, 0)) !=
            CONFIG_TYPE_BOOL)
        return blame(reader, setting, EINVAL,
                     "splinters is no array of %d truth values", TLB_LEVELS);
    for (int level = 0; level < TLB_LEVELS; level++)
        config->splinters[level] = config_setting_get_bool_elem(setting, level);
    return 0;
}

static int read_tlb(const struct reader *reader, const config_setting_t *group,
                    struct tlb_config *config)
{
    config_setting_t *list = NULL;
    size_t bytes;
    int err = only(reader, group, "splinters structures ");

    if (!err)
        err = read_splinters(reader, group, config);
    if (!err)
        err = member(reader, group, "structures", &list);
    if (err)
        return err;
    if (!config_setting_is_list(list) ||
        config_setting_length(list) > TLB_STRUCTURES_MAX)
        return blame(reader, list, EINVAL,
                     "structures is no list of at most %d groups",
                     TLB_STRUCTURES_MAX);
    config->count = (unsigned)config_setting_length(list);
    for (unsigned i = 0; !err && i < config->count; i++)
        err = read_structure(reader, config_setting_get_elem(list, i),
                             &config->structure[i]);
    if (!err && tlb_bytes(config, &bytes, NULL))
        err = blame(reader, list, EINVAL,
                    "no level 1 TLB takes 4K pages for some access");
    return err;
}

static int read_psc_level(const struct reader *reader,
                          const config_setting_t *group, const char *key,
                          uint32_t *entries, uint32_t *ways)
{
    const config_setting_t *setting = config_setting_get_member(group, key);
    int err;

    if (!setting)
        return 0;
    err = only(reader, setting, "entries ways ");
    return err ? err : geometry(reader, setting, entries, ways);
}

static int read_psc(const struct reader *reader, const config_setting_t *group,
                    struct psc_config *config)
{
    static const char *const keys[] = {"",      "",      "pde",
                                       "pdpte", "pml4e", "pml5e"};
    int err = only(reader, group, "cycles pde pdpte pml4e pml5e unified ");

    if (!err)
        err = number32(reader, group, "cycles", CYCLES_MAX, &config->cycles);
    if (!err)
        err = read_psc_level(reader, group, "unified", &config->unified.entries,
                             &config->unified.ways);
    for (unsigned level = PSC_LEVEL_MIN; !err && level <= MMU_LEVELS_MAX;
         level++) {
        err = read_psc_level(reader, group, keys[level],
                             &config->level[level].entries,
                             &config->level[level].ways);
        if (!err && config->unified.entries && config->level[level].entries)
            err = blame(reader, group, EINVAL, "%s has unified and also %s",
                        name_of(group), keys[level]);
    }
    return err;
}

static int read_nested_tlb(const struct reader *reader,
                           const config_setting_t *group,
                           struct mmu_profile *profile)
{
    int err = only(reader, group, "entries ways cycles ");

    if (err || !config_setting_length(group)) /* {}: the CPU has none */
        return err;
    err = number32(reader, group, "cycles", CYCLES_MAX,
                   &profile->nested_tlb.cycles);
    return err ? err
               : geometry(reader, group, &profile->nested_tlb.entries,
                          &profile->nested_tlb.ways);
}

static int read_data_cache(const struct reader *reader,
                           const config_setting_t *group,
                           struct dcache_config *config, unsigned level)
{
    struct dcache_config alone = {.levels = 1,
                                  .line_bytes = config->line_bytes};
    uint64_t lines;
    size_t bytes;
    int err = only(reader, group, "bytes ways cycles ");

    if (!err)
        err = number(reader, group, "bytes", INT64_MAX,
                     &config->level[level].bytes);
    if (!err)
        err = number32(reader, group, "ways", UINT32_MAX,
                       &config->level[level].ways);
    if (!err)
        err = number32(reader, group, "cycles", CYCLES_MAX,
                       &config->level[level].cycles);
    if (err)
        return err;
    lines = config->level[level].bytes / config->line_bytes;
    if (config->level[level].bytes % config->line_bytes)
        return blame(reader, group, EINVAL,
                     "bytes are no whole number of %u-byte lines",
                     config->line_bytes);
    alone.level[0] = config->level[level];
    err = dcache_bytes(&alone, &bytes, NULL);
    return err ? impossible(reader, group, err, lines, alone.level[0].ways) : 0;
}

static int read_dcache(const struct reader *reader,
                       const config_setting_t *group,
                       struct dcache_config *config)
{
    config_setting_t *list;
    int err = only(reader, group, "line_bytes levels memory_cycles ");

    if (!err)
        err = number32(reader, group, "line_bytes", 4096, &config->line_bytes);
    if (!err && (config->line_bytes < 8 ||
                 config->line_bytes & (config->line_bytes - 1)))
        err = blame(reader, group, EINVAL,
                    "line_bytes is %u, no power of two from 8 to 4096",
                    config->line_bytes);
    if (!err)
        err = number32(reader, group, "memory_cycles", CYCLES_MAX,
                       &config->memory_cycles);
    if (!err)
        err = member(reader, group, "levels", &list);
    if (err)
        return err;
    if (!config_setting_is_list(list) ||
        config_setting_length(list) > DCACHE_LEVELS_MAX)
        return blame(reader, list, EINVAL,
                     "levels is no list of at most %d groups",
                     DCACHE_LEVELS_MAX);
    config->levels = (unsigned)config_setting_length(list);
    for (unsigned i = 0; !err && i < config->levels; i++)
        err = read_data_cache(reader, config_setting_get_elem(list, i), config,
                              i);
    return err;
}

static int read_parts(const struct reader *reader,
                      const config_setting_t *group,
                      struct mmu_profile *profile)
{
    config_setting_t *part;
    int err;

    if ((err = member(reader, group, "tlb", &part)) ||
        (err = read_tlb(reader, part, &profile->tlb)) ||
        (err = member(reader, group, "psc", &part)) ||
        (err = read_psc(reader, part, &profile->psc)) ||
        (err = member(reader, group, "psc_nested", &part)) ||
        (err = read_psc(reader, part, &profile->psc_nested)) ||
        (err = member(reader, group, "nested_tlb", &part)) ||
        (err = read_nested_tlb(reader, part, profile)) ||
        (err = member(reader, group, "data_caches", &part)))
        return err;
    return read_dcache(reader, part, &profile->dcache);
}

/* Everything is in one group, so that a file that was cut off is never a
 * shorter profile. */
static int read_profile(const struct reader *reader,
                        const config_setting_t *root,
                        struct mmu_profile *profile)
{
    config_setting_t *group;
    int err;

    if ((err = only(reader, root, "profile ")))
        return err;
    group = config_setting_get_member(root, "profile");
    if (!group)
        return why_set(reader->why, EINVAL,
                       "%s:1: there is no profile: { ... } in it",
                       reader->file);
    if ((err = only(reader, group,
                    "name cpu walkers tlb psc psc_nested nested_tlb "
                    "data_caches ")) ||
        (err = text(reader, group, "name", profile->name,
                    sizeof profile->name)) ||
        (err = text(reader, group, "cpu", profile->cpu, sizeof profile->cpu)) ||
        (err = number32(reader, group, "walkers", WALKERS_MAX,
                        &profile->walkers)))
        return err;
    if (!profile->walkers)
        return blame(reader, group, EINVAL, "walkers are 0");
    return read_parts(reader, group, profile);
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
static int check_bytes(const struct reader *reader, const char *copy,
                       size_t count)
{
    const char *bad = memchr(copy, 0, count);

    if (bad)
        return why_set(reader->why, EINVAL,
                       "%s:%u: a NUL byte: this is no text file", reader->file,
                       line_at(copy, bad));
    bad = strstr(copy, "@include");
    if (bad)
        return why_set(reader->why, EINVAL,
                       "%s:%u: @include is not allowed in a profile",
                       reader->file, line_at(copy, bad));
    bad = stray_text(copy);
    if (bad)
        return why_set(reader->why, EINVAL,
                       "%s:%u: a text where a key or a separator belongs",
                       reader->file, line_at(copy, bad));
    return 0;
}

static int parse_text(const struct reader *reader, const char *copy,
                      struct mmu_profile *profile)
{
    struct mmu_profile read = {.walkers = 0};
    config_t config;
    int err;

    config_init(&config);
    if (config_read_string(&config, copy) != CONFIG_TRUE)
        err = why_set(reader->why, EINVAL, "%s:%d: %s", reader->file,
                      config_error_line(&config), config_error_text(&config));
    else
        err = read_profile(reader, config_root_setting(&config), &read);
    config_destroy(&config);
    if (!err)
        *profile = read;
    return err;
}

int profile_parse(const char *file, const void *bytes, size_t count,
                  struct mmu_profile *profile, struct why *why)
{
    struct reader reader = {.file = file, .why = why};
    char *copy;
    int err;

    if (count > PROFILE_BYTES_MAX)
        return why_set(why, E2BIG, "%s: more than %d bytes: this is no profile",
                       file, PROFILE_BYTES_MAX);
    copy = calloc(1, count + 1);
    if (!copy)
        return why_set(why, ENOMEM, "%s: out of memory", file);
    if (count)
        memcpy(copy, bytes, count);

    err = check_bytes(&reader, copy, count);
    if (!err)
        err = parse_text(&reader, copy, profile);
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

int profile_load(const char *name, struct mmu_profile *profile, struct why *why)
{
    char path[4096];
    char *buffer;
    ssize_t count;
    int err;

    if (snprintf(path, sizeof path, "%s%s%s",
                 strchr(name, '/') ? "" : PROFILE_FOLDER "/", name,
                 strchr(name, '/') ? "" : SUFFIX) >= (int)sizeof path)
        return why_set(why, ENAMETOOLONG, "the profile's name is too long");
    buffer = calloc(1, PROFILE_BYTES_MAX + 1);
    if (!buffer)
        return why_set(why, ENOMEM, "%s: out of memory", path);
    count = read_file(path, buffer, PROFILE_BYTES_MAX + 1);
    if (count == -EINVAL)
        err = why_set(why, EINVAL, "%s: no regular file", path);
    else if (count < 0)
        err = why_set(why, (int)-count,
                      "%s: %s; name a profile of " PROFILE_FOLDER
                      " or a path with a slash",
                      path, strerror((int)-count));
    else
        err = profile_parse(path, buffer, (size_t)count, profile, why);
    free(buffer);
    return err;
}

static int is_profile(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name), suffix = strlen(SUFFIX);

    return entry->d_name[0] != '.' && length > suffix &&
           !strcmp(entry->d_name + length - suffix, SUFFIX);
}

int profile_each(int (*item)(const char *name, void *arg), void *arg,
                 struct why *why)
{
    struct dirent **entries;
    int count = scandir(PROFILE_FOLDER, &entries, is_profile, alphasort);
    int err = 0;

    if (count < 0)
        return why_set(why, errno, PROFILE_FOLDER ": %s", strerror(errno));
    for (int i = 0; i < count; i++) {
        char *name = entries[i]->d_name;

        name[strlen(name) - strlen(SUFFIX)] = '\0';
        if (!err)
            err = item(name, arg);
        free(entries[i]);
    }
    free(entries);
    return err;
}
