/* Files read whole into memory, with a bound. */
#ifndef HARNESS_IMAGE_H
#define HARNESS_IMAGE_H

#include "base/why.h"

#include <stddef.h>

/* The guest images that belong to this command: the one for every technique,
 * and the one whose kernel makes hypercalls. */
const char *image_default_path(void);
const char *image_pv_path(void);

/* Maps the file read-only. -EFBIG above 1 GiB, -EINVAL when empty or no
 * regular file, or what open says; a sentence each. image_close undoes it. */
int image_open(const char *path, const void **bytes, size_t *length,
               struct why *why);
void image_close(const void *bytes, size_t length);

#endif
