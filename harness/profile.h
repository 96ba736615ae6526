/* CPU profiles for the model: data files in libconfig's syntax. The keys are
 * described in mmu/profiles/README. */
#ifndef HARNESS_PROFILE_H
#define HARNESS_PROFILE_H

#include "base/why.h"
#include "mmu/profile.h"

#include <stddef.h>

#define PROFILE_FOLDER MEMVIRT_ROOT "/mmu/profiles"

/*
 * Reads a profile by name ("zen4", from PROFILE_FOLDER) or, when there is a
 * slash in it, by path. The sentence of an error has the file, the line where
 * one is to blame, and the cause: -ENOENT and other errnos of reading, -EINVAL
 * for what is no profile, -E2BIG for a file or a geometry that is too large.
 * `profile` is written on success only.
 */
int profile_load(const char *name, struct mmu_profile *profile,
                 struct why *why);

/* The same for `count` bytes that are called `file` in sentences. */
int profile_parse(const char *file, const void *bytes, size_t count,
                  struct mmu_profile *profile, struct why *why);

/* Calls item(name, arg) for every profile in PROFILE_FOLDER, sorted; stops at
 * the first that returns non-zero and returns that. -errno when the folder
 * can't be read. */
int profile_each(int (*item)(const char *name, void *arg), void *arg,
                 struct why *why);

#endif
