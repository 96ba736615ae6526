/* Bytes of a foreign file: as they are, or unpacked from gzip or zstd. */
#ifndef TRACE_INPUT_H
#define TRACE_INPUT_H

#include "base/why.h"

#include <stddef.h>
#include <stdint.h>

struct input;

/* Opens `path`, or standard input when it is "-". `kind` is the import's name,
 * for the cure when the file is packed with something else (xz, lz4, zip):
 * -EINVAL. -errno of opening and reading, -ENOMEM. */
int input_open(const char *path, const char *kind, struct input **input,
               struct why *why);

/* Up to `room` bytes, fewer at the end only, where it is 0; -EINVAL for a
 * packed file that is damaged or truncated, -EIO. */
long input_read(struct input *input, void *bytes, size_t room, struct why *why);

/* What sentences call it. */
const char *input_name(const struct input *input);

/* Frees it; NULL does nothing. */
void input_close(struct input *input);

#endif
