/*
 * Data files in libconfig's syntax, read strictly: a key nobody knows, a value
 * of another type or out of range is an error with file, line and cause. A
 * file has one group, which is all of it, so that one that was cut off is
 * never a shorter one.
 */
#ifndef HARNESS_SETTINGS_H
#define HARNESS_SETTINGS_H

#include "base/why.h"

#include <libconfig.h>
#include <stddef.h>
#include <stdint.h>

#define SETTINGS_BYTES_MAX 65536
#define SETTINGS_SUFFIX    ".conf"

/* One file under way. */
struct settings {
    const char *file; /* as sentences call it */
    const char *what; /* "profile": the group's name, too */
    struct why *why;
};

/* What a file is read into: 0, or a negative errno with the sentence. */
typedef int settings_take(const struct settings *settings,
                          const config_setting_t *group, void *to);

/* Reads `count` bytes called `settings->file`. What take() left in `to` after
 * an error is not to be used. */
int settings_parse(const struct settings *settings, const void *bytes,
                   size_t count, settings_take *take, void *to);

/* The same of a file: NAME of `folder`, or a path when there is a slash in
 * `name`. */
int settings_load(const char *name, const char *folder, const char *what,
                  settings_take *take, void *to, struct why *why);

/* Calls item(name, arg) for every such file in the folder, sorted; stops at
 * the first that returns non-zero and returns that. -errno when the folder
 * can't be read. */
int settings_each(const char *folder, int (*item)(const char *name, void *arg),
                  void *arg, struct why *why);

/* -err, and "FILE:LINE: cause" with the setting's line. */
int settings_blame(const struct settings *settings,
                   const config_setting_t *setting, int err, const char *format,
                   ...) __attribute__((format(printf, 4, 5)));

const char *settings_name(const config_setting_t *setting);

/* `keys` are all that may be in the group, one space after each. */
int settings_only(const struct settings *settings,
                  const config_setting_t *group, const char *keys);

int settings_member(const struct settings *settings,
                    const config_setting_t *group, const char *key,
                    config_setting_t **setting);

/* Whole numbers from 0 to `max`, and printable ASCII that fits. */
int settings_number(const struct settings *settings,
                    const config_setting_t *group, const char *key,
                    uint64_t max, uint64_t *value);
int settings_number32(const struct settings *settings,
                      const config_setting_t *group, const char *key,
                      uint32_t max, uint32_t *value);
int settings_text(const struct settings *settings,
                  const config_setting_t *group, const char *key, char *value,
                  size_t bytes);

#endif
