#include "harness/profile.h"

#include "harness/settings.h"

#include <errno.h>
#include <string.h>

#define CYCLES_MAX  100000u
#define WALKERS_MAX 64u

/* ---- Settings of one kind ------------------------------------------------*/

/* An array of words, as bits in the order of `words` (NULL ends). */
static int set_of(const struct settings *settings,
                  const config_setting_t *group, const char *key,
                  const char *const *words, unsigned *bits)
{
    config_setting_t *setting;
    int err = settings_member(settings, group, key, &setting);

    if (err)
        return err;
    *bits = 0;
    if (!config_setting_is_array(setting) || !config_setting_length(setting))
        return settings_blame(settings, setting, EINVAL,
                              "%s is no array of words, as [\"%s\"]", key,
                              words[0]);
    for (int i = 0; i < config_setting_length(setting); i++) {
        const char *word = config_setting_get_string_elem(setting, i);
        unsigned bit = 0;

        while (word && words[bit] && strcmp(words[bit], word))
            bit++;
        if (!word || !words[bit] || *bits >> bit & 1)
            return settings_blame(
                settings, setting, EINVAL,
                "%s has %.20s, which is unknown or there twice", key,
                word ? word : "a number");
        *bits |= 1u << bit;
    }
    return 0;
}

/* Why a cache can't be: what cache_bytes() said, in words. */
static int impossible(const struct settings *settings,
                      const config_setting_t *setting, int err,
                      uint64_t entries, uint32_t ways)
{
    if (err == -E2BIG)
        return settings_blame(
            settings, setting, E2BIG, "%s: %llu entries are too many",
            settings_name(setting), (unsigned long long)entries);
    if (!entries || !ways)
        return settings_blame(settings, setting, EINVAL, "%s: %s are 0",
                              settings_name(setting),
                              entries ? "ways" : "entries");
    return settings_blame(
        settings, setting, EINVAL, "%s: %u ways do not divide %llu entries",
        settings_name(setting), ways, (unsigned long long)entries);
}

/* Entries and ways that make a cache. */
static int geometry(const struct settings *settings,
                    const config_setting_t *group, uint32_t *entries,
                    uint32_t *ways)
{
    struct cache_shape shape;
    size_t bytes;
    int err =
        settings_number32(settings, group, "entries", UINT32_MAX, entries);

    if (!err)
        err = settings_number32(settings, group, "ways", UINT32_MAX, ways);
    if (err)
        return err;
    shape = (struct cache_shape){.entries = *entries, .ways = *ways};
    err = cache_bytes(&shape, &bytes);
    return err ? impossible(settings, group, err, *entries, *ways) : 0;
}

/* ---- The parts of a profile ----------------------------------------------*/

static int read_structure(const struct settings *settings,
                          const config_setting_t *group,
                          struct tlb_structure *structure)
{
    static const char *const accesses[] = {"read", "write", "fetch", NULL};
    static const char *const pages[] = {"4K", "2M", "1G", NULL};
    int err = settings_only(settings, group,
                            "name level accesses pages entries ways cycles ");

    if (!err)
        err = settings_text(settings, group, "name", structure->name,
                            sizeof structure->name);
    if (!err)
        err = settings_number32(settings, group, "level", TLB_LEVELS,
                                &structure->level);
    if (!err && !structure->level)
        err = settings_blame(settings, group, EINVAL, "level is 0, not 1 or 2");
    if (!err)
        err =
            set_of(settings, group, "accesses", accesses, &structure->accesses);
    if (!err)
        err = set_of(settings, group, "pages", pages, &structure->sizes);
    if (!err)
        err = settings_number32(settings, group, "cycles", CYCLES_MAX,
                                &structure->cycles);
    return err ? err
               : geometry(settings, group, &structure->entries,
                          &structure->ways);
}

static int read_splinters(const struct settings *settings,
                          const config_setting_t *group,
                          struct tlb_config *config)
{
    config_setting_t *setting;
    int err = settings_member(settings, group, "splinters", &setting);

    if (err)
        return err;
    if (!config_setting_is_array(setting) ||
        config_setting_length(setting) != TLB_LEVELS ||
        config_setting_type(config_setting_get_elem(setting, 0)) !=
            CONFIG_TYPE_BOOL)
        return settings_blame(settings, setting, EINVAL,
                              "splinters is no array of %d truth values",
                              TLB_LEVELS);
    for (int level = 0; level < TLB_LEVELS; level++)
        config->splinters[level] = config_setting_get_bool_elem(setting, level);
    return 0;
}

static int read_tlb(const struct settings *settings,
                    const config_setting_t *group, struct tlb_config *config)
{
    config_setting_t *list = NULL;
    size_t bytes;
    int err = settings_only(settings, group, "splinters structures ");

    if (!err)
        err = read_splinters(settings, group, config);
    if (!err)
        err = settings_member(settings, group, "structures", &list);
    if (err)
        return err;
    if (!config_setting_is_list(list) ||
        config_setting_length(list) > TLB_STRUCTURES_MAX)
        return settings_blame(settings, list, EINVAL,
                              "structures is no list of at most %d groups",
                              TLB_STRUCTURES_MAX);
    config->count = (unsigned)config_setting_length(list);
    for (unsigned i = 0; !err && i < config->count; i++)
        err = read_structure(settings, config_setting_get_elem(list, i),
                             &config->structure[i]);
    if (!err && tlb_bytes(config, &bytes, NULL))
        err = settings_blame(settings, list, EINVAL,
                             "no level 1 TLB takes 4K pages for some access");
    return err;
}

static int read_psc_level(const struct settings *settings,
                          const config_setting_t *group, const char *key,
                          uint32_t *entries, uint32_t *ways)
{
    const config_setting_t *setting = config_setting_get_member(group, key);
    int err;

    if (!setting)
        return 0;
    err = settings_only(settings, setting, "entries ways ");
    return err ? err : geometry(settings, setting, entries, ways);
}

static int read_psc(const struct settings *settings,
                    const config_setting_t *group, struct psc_config *config)
{
    static const char *const keys[] = {"",      "",      "pde",
                                       "pdpte", "pml4e", "pml5e"};
    int err =
        settings_only(settings, group, "cycles pde pdpte pml4e pml5e unified ");

    if (!err)
        err = settings_number32(settings, group, "cycles", CYCLES_MAX,
                                &config->cycles);
    if (!err)
        err = read_psc_level(settings, group, "unified",
                             &config->unified.entries, &config->unified.ways);
    for (unsigned level = PSC_LEVEL_MIN; !err && level <= MMU_LEVELS_MAX;
         level++) {
        err = read_psc_level(settings, group, keys[level],
                             &config->level[level].entries,
                             &config->level[level].ways);
        if (!err && config->unified.entries && config->level[level].entries)
            err = settings_blame(settings, group, EINVAL,
                                 "%s has unified and also %s",
                                 settings_name(group), keys[level]);
    }
    return err;
}

static int read_nested_tlb(const struct settings *settings,
                           const config_setting_t *group,
                           struct mmu_profile *profile)
{
    int err = settings_only(settings, group, "entries ways cycles ");

    if (err || !config_setting_length(group)) /* {}: the CPU has none */
        return err;
    err = settings_number32(settings, group, "cycles", CYCLES_MAX,
                            &profile->nested_tlb.cycles);
    return err ? err
               : geometry(settings, group, &profile->nested_tlb.entries,
                          &profile->nested_tlb.ways);
}

static int read_data_cache(const struct settings *settings,
                           const config_setting_t *group,
                           struct dcache_config *config, unsigned level)
{
    struct dcache_config alone = {.levels = 1,
                                  .line_bytes = config->line_bytes};
    uint64_t lines;
    size_t bytes;
    int err = settings_only(settings, group, "bytes ways cycles ");

    if (!err)
        err = settings_number(settings, group, "bytes", INT64_MAX,
                              &config->level[level].bytes);
    if (!err)
        err = settings_number32(settings, group, "ways", UINT32_MAX,
                                &config->level[level].ways);
    if (!err)
        err = settings_number32(settings, group, "cycles", CYCLES_MAX,
                                &config->level[level].cycles);
    if (err)
        return err;
    lines = config->level[level].bytes / config->line_bytes;
    if (config->level[level].bytes % config->line_bytes)
        return settings_blame(settings, group, EINVAL,
                              "bytes are no whole number of %u-byte lines",
                              config->line_bytes);
    alone.level[0] = config->level[level];
    err = dcache_bytes(&alone, &bytes, NULL);
    return err ? impossible(settings, group, err, lines, alone.level[0].ways)
               : 0;
}

static int read_dcache(const struct settings *settings,
                       const config_setting_t *group,
                       struct dcache_config *config)
{
    config_setting_t *list;
    int err =
        settings_only(settings, group, "line_bytes levels memory_cycles ");

    if (!err)
        err = settings_number32(settings, group, "line_bytes", 4096,
                                &config->line_bytes);
    if (!err && (config->line_bytes < 8 ||
                 config->line_bytes & (config->line_bytes - 1)))
        err = settings_blame(settings, group, EINVAL,
                             "line_bytes is %u, no power of two from 8 to 4096",
                             config->line_bytes);
    if (!err)
        err = settings_number32(settings, group, "memory_cycles", CYCLES_MAX,
                                &config->memory_cycles);
    if (!err)
        err = settings_member(settings, group, "levels", &list);
    if (err)
        return err;
    if (!config_setting_is_list(list) ||
        config_setting_length(list) > DCACHE_LEVELS_MAX)
        return settings_blame(settings, list, EINVAL,
                              "levels is no list of at most %d groups",
                              DCACHE_LEVELS_MAX);
    config->levels = (unsigned)config_setting_length(list);
    for (unsigned i = 0; !err && i < config->levels; i++)
        err = read_data_cache(settings, config_setting_get_elem(list, i),
                              config, i);
    return err;
}

static int read_parts(const struct settings *settings,
                      const config_setting_t *group,
                      struct mmu_profile *profile)
{
    config_setting_t *part;
    int err;

    if ((err = settings_member(settings, group, "tlb", &part)) ||
        (err = read_tlb(settings, part, &profile->tlb)) ||
        (err = settings_member(settings, group, "psc", &part)) ||
        (err = read_psc(settings, part, &profile->psc)) ||
        (err = settings_member(settings, group, "psc_nested", &part)) ||
        (err = read_psc(settings, part, &profile->psc_nested)) ||
        (err = settings_member(settings, group, "nested_tlb", &part)) ||
        (err = read_nested_tlb(settings, part, profile)) ||
        (err = settings_member(settings, group, "data_caches", &part)))
        return err;
    return read_dcache(settings, part, &profile->dcache);
}

static int read_profile(const struct settings *settings,
                        const config_setting_t *group, void *to)
{
    struct mmu_profile *profile = to;
    int err;

    if ((err = settings_only(settings, group,
                             "name cpu walkers tlb psc psc_nested nested_tlb "
                             "data_caches ")) ||
        (err = settings_text(settings, group, "name", profile->name,
                             sizeof profile->name)) ||
        (err = settings_text(settings, group, "cpu", profile->cpu,
                             sizeof profile->cpu)) ||
        (err = settings_number32(settings, group, "walkers", WALKERS_MAX,
                                 &profile->walkers)))
        return err;
    if (!profile->walkers)
        return settings_blame(settings, group, EINVAL, "walkers are 0");
    return read_parts(settings, group, profile);
}

/* ---- Files ---------------------------------------------------------------*/

int profile_parse(const char *file, const void *bytes, size_t count,
                  struct mmu_profile *profile, struct why *why)
{
    const struct settings settings = {
        .file = file, .what = "profile", .why = why};
    struct mmu_profile read = {.walkers = 0};
    int err = settings_parse(&settings, bytes, count, read_profile, &read);

    if (!err)
        *profile = read;
    return err;
}

int profile_load(const char *name, struct mmu_profile *profile, struct why *why)
{
    struct mmu_profile read = {.walkers = 0};
    int err = settings_load(name, PROFILE_FOLDER, "profile", read_profile,
                            &read, why);

    if (!err)
        *profile = read;
    return err;
}

int profile_each(int (*item)(const char *name, void *arg), void *arg,
                 struct why *why)
{
    return settings_each(PROFILE_FOLDER, item, arg, why);
}
