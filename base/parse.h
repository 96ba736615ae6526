/* Numbers and lists as people write them on a command line. */
#ifndef BASE_PARSE_H
#define BASE_PARSE_H

#include "base/why.h"

#include <stdint.h>

/* "64M", "4096", "1GiB", "2 MB": binary multiples, K M G T. -EINVAL for
 * anything else, -ERANGE for what does not fit 64 bits. */
int parse_size(const char *text, uint64_t *bytes, struct why *why);

/* A decimal number in [min, max]. `what` names it in the sentence. */
int parse_number(const char *text, const char *what, uint64_t min, uint64_t max,
                 uint64_t *value, struct why *why);

/* Calls item(text, arg, why) for each element of a comma-separated list;
 * stops at the first that returns non-zero and returns that. An empty list or
 * element is -EINVAL. */
int parse_list(const char *text, const char *what,
               int (*item)(const char *text, void *arg, struct why *why),
               void *arg, struct why *why);

/* "4K", "2M", "1G", or "12345" when no unit divides it: what parse_size reads
 * back as the same number. Returns `buffer`. */
const char *format_size(uint64_t bytes, char *buffer, unsigned length);

#endif
