#include "harness/counters/hist.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* The number after the next colon; `*at` moves behind it. */
static int number_after_colon(const char **at, const char *end, uint64_t *value)
{
    const char *colon = memchr(*at, ':', (size_t)(end - *at));
    char *stop;

    if (!colon)
        return -EPROTO;
    do
        colon++;
    while (colon < end && *colon == ' ');
    if (colon >= end || !isdigit((unsigned char)*colon))
        return -EPROTO;
    errno = 0;
    *value = strtoull(colon, &stop, 0);
    if (errno || stop > end)
        return -EPROTO;
    *at = stop;
    return 0;
}

/* { isa:  2, exit_reason:  123 } hitcount:  1  ns:  4567 */
static int parse_entry(const char *line, const char *end,
                       struct hist_entry *entry)
{
    const char *brace = memchr(line, '}', (size_t)(end - line));
    unsigned key = 0;
    int err = 0;

    *entry = (struct hist_entry){0};
    if (!brace)
        return -EPROTO;
    while (!err && memchr(line, ':', (size_t)(brace - line))) {
        if (key == HIST_KEYS_MAX)
            return -EPROTO;
        err = number_after_colon(&line, brace, &entry->keys[key++]);
    }
    line = brace;
    if (!err)
        err = number_after_colon(&line, end, &entry->hitcount);
    if (!err && memchr(line, ':', (size_t)(end - line)))
        err = number_after_colon(&line, end, &entry->value);
    return err;
}

static int add_entry(struct hist *hist, const char *line, const char *end)
{
    struct hist_entry *grown =
        reallocarray(hist->entries, hist->count + 1u, sizeof *grown);

    if (!grown)
        return -ENOMEM;
    hist->entries = grown;
    return parse_entry(line, end, &grown[hist->count++]);
}

static bool starts(const char *line, const char *end, const char *word)
{
    size_t length = strlen(word);

    return (size_t)(end - line) >= length && !memcmp(line, word, length);
}

/* 1 after the last line of a trigger, 0 before, negative on nonsense. */
static int parse_line(struct hist *hist, const char *line, const char *end)
{
    while (line < end && (*line == ' ' || *line == '\t'))
        line++;
    if (starts(line, end, "{"))
        return add_entry(hist, line, end);
    if (starts(line, end, "Hits:"))
        return number_after_colon(&line, end, &hist->hits);
    if (starts(line, end, "Dropped:")) {
        int err = number_after_colon(&line, end, &hist->dropped);

        return err ? err : 1;
    }
    return 0;
}

static const char *find_trigger(const char *text, const char *keys)
{
    static const char head[] = "# trigger info: hist:keys=";
    size_t length = strlen(keys);

    while ((text = strstr(text, head))) {
        text += sizeof head - 1;
        if (!strncmp(text, keys, length) && text[length] == ':')
            return text;
    }
    return NULL;
}

int hist_parse(const char *text, const char *keys, struct hist *hist)
{
    const char *line = find_trigger(text, keys);
    int done = 0;

    *hist = (struct hist){0};
    if (!line)
        return -ENOENT;
    while (!done && (line = strchr(line, '\n'))) {
        const char *end = strchrnul(++line, '\n');

        done = parse_line(hist, line, end);
    }
    if (done == 1)
        return 0;
    hist_free(hist);
    return done ? done : -EPROTO;
}

void hist_free(struct hist *hist)
{
    free(hist->entries);
    *hist = (struct hist){0};
}
