/*
 * What Valgrind prints for --tool=lackey --trace-mem=yes: "I  ADDRESS,SIZE"
 * for an instruction, " L ", " S " and " M " for a load, a store and a
 * modification of data; the address is hexadecimal, the size decimal.
 */
#include "trace/formats.h"

#include <errno.h>
#include <string.h>

/* The next line, without its end, `*count` characters; 1, 0 at the end, or a
 * negative errno. A line that does not fit is given in part, `*whole` false.
 */
static int next_line(struct import *import, const char **line, size_t *count,
                     bool *whole, struct why *why)
{
    const uint8_t *from = import->text + import->at;
    const uint8_t *end = memchr(from, '\n', import->end - import->at);

    if (!end) {
        long got = import_refill(import, why);

        if (got < 0)
            return (int)got;
        from = import->text;
        end = memchr(from, '\n', import->end);
        if (!end && !import->end)
            return 0;
    }
    *whole = end != NULL;
    *line = (const char *)from;
    *count = end ? (size_t)(end - from) : import->end - import->at;
    import->at += *count + (end ? 1 : 0);
    return 1;
}

/* Valgrind's own lines: "==PID== ...", and the same with -- and **. */
static bool valgrinds(const char *line, size_t count)
{
    size_t i = 2;

    if (count < 5 || line[1] != line[0] ||
        (line[0] != '=' && line[0] != '-' && line[0] != '*'))
        return false;
    while (i < count && line[i] >= '0' && line[i] <= '9')
        i++;
    return i > 2 && i + 1 < count && line[i] == line[0] &&
           line[i + 1] == line[0];
}

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : 16;
}

/* A number of at most `digits` digits; how many it has, 0 for none. */
static size_t number(const char *text, size_t count, int base, size_t digits,
                     uint64_t *value)
{
    size_t i = 0;

    *value = 0;
    while (i < count && i < digits && digit(text[i]) < base)
        *value = *value * (unsigned)base + (unsigned)digit(text[i++]);
    return i;
}

static int add_line(struct import *import, char kind, uint64_t va,
                    uint64_t bytes, struct why *why)
{
    int err = 0;

    if (kind == 'I')
        return import->options.fetches
                   ? import_add(import, MMU_FETCH, va, bytes, why)
                   : 0;
    if (kind != 'S')
        err = import_add(import, MMU_READ, va, bytes, why);
    if (!err && kind != 'L')
        err = import_add(import, MMU_WRITE, va, bytes, why);
    return err;
}

/* Whether the line is an access, and which. */
static bool parse(const char *line, size_t count, uint64_t *va, uint64_t *bytes)
{
    size_t digits;

    if (count < 6 ||
        (memcmp(line, "I  ", 3) != 0 && memcmp(line, " L ", 3) != 0 &&
         memcmp(line, " S ", 3) != 0 && memcmp(line, " M ", 3) != 0))
        return false;
    line += 3;
    count -= 3;
    digits = number(line, count, 16, 16, va);
    if (!digits || digits == count || line[digits] != ',')
        return false;
    line += digits + 1;
    count -= digits + 1;
    digits = number(line, count, 10, 9, bytes);
    return digits && digits == count;
}

/* The rest of a line of which a part was given. */
static int skip_line(struct import *import, struct why *why)
{
    const char *line;
    size_t count;
    bool whole = false;
    int more = 1;

    while (!whole && more > 0)
        more = next_line(import, &line, &count, &whole, why);
    return more;
}

static int lackey_next(struct import *import, struct why *why)
{
    uint64_t va, bytes;
    const char *line;
    size_t count;
    bool whole;
    int more = next_line(import, &line, &count, &whole, why);

    if (more <= 0)
        return more;
    import->position++;
    if (valgrinds(line, count))
        return whole ? 1 : skip_line(import, why);
    if (!whole && count < IMPORT_TEXT)
        return import_wrong(import, why, "ends within the line: truncated");
    if (!parse(line, count, &va, &bytes))
        return import_wrong(import, why,
                            "not a line of lackey's; valgrind's --log-file "
                            "keeps the program's own output apart");
    more = add_line(import, line[0] == 'I' ? 'I' : line[1], va, bytes, why);
    return more ? more : 1;
}

const struct import_format import_lackey = {
    .name = "lackey",
    .unit = "line",
    .next = lackey_next,
    .none = "valgrind needs --tool=lackey --trace-mem=yes",
};
