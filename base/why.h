/*
 * Errors as values: a negative errno for the program, and one sentence with
 * the cause and the cure for the person. The sentence of the innermost
 * failure wins; callers pass it on unchanged.
 */
#ifndef BASE_WHY_H
#define BASE_WHY_H

struct why {
    char text[320];
};

/* Stores the sentence in `why`, which may be NULL. */
void why_say(struct why *why, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The same, and its value is -err, so that `return why_set(why, EINVAL,
 * "...")` reads as one step. A macro, so that compilers and analyzers see
 * that it is negative. `err` > 0; it is evaluated before the sentence. */
#define why_set(why, err, ...)     \
    ({                             \
        const int why_err = (err); \
        why_say(why, __VA_ARGS__); \
        -why_err;                  \
    })

#endif
