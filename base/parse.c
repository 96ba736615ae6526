#include "base/parse.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The power of two a unit stands for, or -1. */
static int unit_shift(const char *unit)
{
    static const char letters[] = "KMGT";
    const char *letter;

    if (!*unit || !strcasecmp(unit, "B"))
        return 0;
    letter = strchr(letters, toupper((unsigned char)*unit));
    if (!letter)
        return -1;
    unit++;
    if (*unit && strcasecmp(unit, "B") && strcasecmp(unit, "iB"))
        return -1;
    return 10 * (int)(letter - letters + 1);
}

int parse_size(const char *text, uint64_t *bytes, struct why *why)
{
    char *end;
    int shift;

    if (!isdigit((unsigned char)*text))
        return why_set(why, EINVAL,
                       "'%s' is not a size: write a number and K, M, G or T, "
                       "for example 64M",
                       text);
    errno = 0;
    *bytes = strtoull(text, &end, 10);
    while (*end == ' ')
        end++;
    shift = unit_shift(end);
    if (shift < 0)
        return why_set(why, EINVAL,
                       "'%s' is not a size: '%s' is no unit (K, M, G or T)",
                       text, end);
    if (errno == ERANGE || *bytes > UINT64_MAX >> shift)
        return why_set(why, ERANGE, "the size '%s' does not fit 64 bits", text);
    *bytes <<= shift;
    return 0;
}

int parse_number(const char *text, const char *what, uint64_t min, uint64_t max,
                 uint64_t *value, struct why *why)
{
    char *end;

    errno = 0;
    *value = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end)
        return why_set(why, EINVAL, "%s: '%s' is not a whole number", what,
                       text);
    if (errno == ERANGE || *value < min || *value > max)
        return why_set(why, ERANGE,
                       "%s: %s is out of range, %" PRIu64 " to %" PRIu64, what,
                       text, min, max);
    return 0;
}

int parse_list(const char *text, const char *what,
               int (*item)(const char *text, void *arg, struct why *why),
               void *arg, struct why *why)
{
    char *copy = strdup(text), *rest = copy, *one;
    int err = 0;

    if (!copy)
        return why_set(why, ENOMEM, "out of memory");
    while (!err && (one = strsep(&rest, ",")))
        err = *one ? item(one, arg, why)
                   : why_set(why, EINVAL, "%s: '%s' has an empty element", what,
                             text);
    free(copy);
    return err;
}

const char *format_size(uint64_t bytes, char *buffer, unsigned length)
{
    static const char units[] = "BKMGT";
    unsigned unit = 0;

    while (unit < 4 && bytes && !(bytes & 1023)) {
        bytes >>= 10;
        unit++;
    }
    if (unit)
        snprintf(buffer, length, "%" PRIu64 "%c", bytes, units[unit]);
    else
        snprintf(buffer, length, "%" PRIu64, bytes);
    return buffer;
}
