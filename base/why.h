/*
 * Errors as values: a negative errno for the program, and one sentence with
 * the cause and the cure for the person. The sentence of the innermost
 * failure wins; callers pass it on unchanged.
 */
#ifndef BASE_WHY_H
#define BASE_WHY_H

#include <stdarg.h>

struct why {
    char text[320];
};

/* Stores the sentence in `why` (may be NULL) and returns -err, so that
 * `return why_set(why, EINVAL, "...")` reads as one step. `err` > 0. */
int why_set(struct why *why, int err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
