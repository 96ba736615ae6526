#include "harness/table.h"

#include <csv.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES_MAX (UINT64_C(1) << 30)
#define CHUNK_BYTES    65536
#define CELL_BLOCK     (1u << 20) /* a long cell grows by that */

/* The cells stand behind each other, each ended by a NUL; only where a row
 * begins is remembered, so a table takes little more room than its file. The
 * first row is the header. */
struct table {
    char *text;
    size_t text_count, text_room;
    uint32_t *rows; /* offsets; a file of 1 GiB has less than 2 GiB of text */
    size_t row_count, row_room;
    int columns;
};

struct parser {
    struct csv_parser csv;
    struct table *table;
    const char *name;
    struct why *why;
    size_t line;    /* of the bytes being parsed, from 1 */
    uint64_t bytes; /* parsed so far */
    size_t row_at;  /* where the row being read begins in the text */
    unsigned cells; /* it has so far */
    int err;        /* the first thing wrong; nothing is kept after it */
};

/* ---- Filling the table ------------------------------------------------- */

static int out_of_memory(struct parser *p)
{
    return p->err = why_set(p->why, ENOMEM,
                            "%s, line %zu: out of memory for the table",
                            p->name, p->line);
}

static int make_room(void **array, size_t needed, size_t *room, size_t size)
{
    size_t grown = *room ? *room : 64;
    void *moved;

    while (grown < needed)
        grown += grown / 2;
    if (grown == *room)
        return 0;
    moved = realloc(*array, grown * size);
    if (!moved)
        return -ENOMEM;
    *array = moved;
    *room = grown;
    return 0;
}

static void on_cell(void *bytes, size_t count, void *arg)
{
    struct parser *p = arg;
    struct table *t = p->table;

    if (p->err)
        return;
    if (make_room((void **)&t->text, t->text_count + count + 1, &t->text_room,
                  1)) {
        out_of_memory(p);
        return;
    }
    if (count)
        memcpy(t->text + t->text_count, bytes, count);
    t->text[t->text_count + count] = 0;
    t->text_count += count + 1;
    p->cells++;
}

static void on_row(int end, void *arg)
{
    struct parser *p = arg;
    struct table *t = p->table;

    (void)end;
    if (p->err)
        return;
    if (!t->row_count) {
        t->columns = (int)p->cells;
    } else if (p->cells != (unsigned)t->columns) {
        p->err = why_set(p->why, EINVAL,
                         "%s, line %zu: %u cells where the header has %d; the "
                         "line is damaged or cut off",
                         p->name, p->line, p->cells, t->columns);
        return;
    }
    if (make_room((void **)&t->rows, t->row_count + 1, &t->row_room,
                  sizeof *t->rows)) {
        out_of_memory(p);
        return;
    }
    t->rows[t->row_count++] = (uint32_t)p->row_at;
    p->row_at = t->text_count;
    p->cells = 0;
}

/* ---- Parsing ----------------------------------------------------------- */

/* RFC 4180 keeps the spaces that libcsv would strip. */
static int no_space(unsigned char c)
{
    (void)c;
    return 0;
}

static int parser_open(struct parser *p, const char *name, struct why *why)
{
    *p = (struct parser){.name = name, .why = why, .line = 1};
    p->table = calloc(1, sizeof *p->table);
    if (!p->table)
        return out_of_memory(p);
    if (csv_init(&p->csv, CSV_STRICT | CSV_STRICT_FINI)) {
        free(p->table);
        return out_of_memory(p);
    }
    csv_set_space_func(&p->csv, no_space);
    csv_set_blk_size(&p->csv, CELL_BLOCK);
    return 0;
}

static void check_csv(struct parser *p, bool fine)
{
    if (fine || p->err)
        return;
    if (csv_error(&p->csv) == CSV_EPARSE)
        p->err = why_set(p->why, EINVAL,
                         "%s, line %zu: a quotation mark is out of place or "
                         "never closed",
                         p->name, p->line);
    else
        out_of_memory(p);
}

static int too_large(const char *name, struct why *why)
{
    return why_set(why, EINVAL,
                   "%s is above 1 GiB: too large for a table of results", name);
}

/* Feeds libcsv line by line: it does not tell where it is. */
static int parser_feed(struct parser *p, const char *bytes, size_t count)
{
    p->bytes += count;
    if (p->bytes > FILE_BYTES_MAX)
        return p->err = too_large(p->name, p->why);
    while (count && !p->err) {
        const char *newline = memchr(bytes, '\n', count);
        size_t now = newline ? (size_t)(newline - bytes) + 1 : count;

        if (memchr(bytes, 0, now))
            return p->err = why_set(p->why, EINVAL,
                                    "%s, line %zu: has a NUL byte, so it is "
                                    "no CSV text",
                                    p->name, p->line);
        check_csv(p, csv_parse(&p->csv, bytes, now, on_cell, on_row, p) == now);
        p->line += newline != NULL;
        bytes += now;
        count -= now;
    }
    return p->err;
}

static int parser_close(struct parser *p, struct table **table)
{
    if (!p->err)
        check_csv(p, !csv_fini(&p->csv, on_cell, on_row, p));
    if (!p->err && !p->table->row_count)
        p->err = why_set(p->why, EINVAL, "%s, line 1: there is no header line",
                         p->name);
    csv_free(&p->csv);
    *table = p->err ? NULL : p->table;
    if (p->err)
        table_free(p->table);
    return p->err;
}

int table_parse(struct table **table, const char *name, const void *bytes,
                size_t count, struct why *why)
{
    struct parser p;
    int err = parser_open(&p, name, why);

    *table = NULL;
    if (err)
        return err;
    parser_feed(&p, bytes, count);
    return parser_close(&p, table);
}

/* ---- Files ------------------------------------------------------------- */

/* A named pipe would wait for a writer for ever, a device may have no end. */
static int open_regular(const char *path, struct why *why)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), err;
    struct stat st;

    if (fd < 0 || fstat(fd, &st))
        err = why_set(why, errno, "cannot read %s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        err = why_set(why, EINVAL, "cannot read %s: it is not a regular file",
                      path);
    else if ((uint64_t)st.st_size > FILE_BYTES_MAX)
        err = too_large(path, why);
    else
        return fd;
    if (fd >= 0)
        close(fd);
    return err;
}

static int feed_file(struct parser *p, int fd)
{
    char chunk[CHUNK_BYTES];
    ssize_t count;

    do {
        count = read(fd, chunk, sizeof chunk);
        if (count < 0 && errno != EINTR)
            return p->err = why_set(p->why, errno, "cannot read %s: %s",
                                    p->name, strerror(errno));
        if (count > 0 && parser_feed(p, chunk, (size_t)count))
            return p->err;
    } while (count);
    return 0;
}

int table_read(struct table **table, const char *path, struct why *why)
{
    int fd = open_regular(path, why), err;
    struct parser p;

    *table = NULL;
    if (fd < 0)
        return fd;
    err = parser_open(&p, path, why);
    if (!err) {
        feed_file(&p, fd);
        err = parser_close(&p, table);
    }
    close(fd);
    return err;
}

void table_free(struct table *table)
{
    if (!table)
        return;
    free(table->text);
    free(table->rows);
    free(table);
}

/* ---- Cells ------------------------------------------------------------- */

size_t table_rows(const struct table *table)
{
    return table->row_count - 1;
}

int table_column(const struct table *table, const char *name)
{
    const char *cell = table->text;

    for (int i = 0; i < table->columns; i++, cell += strlen(cell) + 1)
        if (!strcmp(cell, name))
            return i;
    return -1;
}

const char *table_cell(const struct table *table, size_t row, int column)
{
    const char *cell;

    if (column < 0 || column >= table->columns || row >= table_rows(table))
        return "";
    cell = table->text + table->rows[row + 1];
    while (column--)
        cell += strlen(cell) + 1;
    return cell;
}

bool table_number(const struct table *table, size_t row, int column,
                  double *value)
{
    const char *cell = table_cell(table, row, column);
    char *end;

    /* strtod would also take spaces, hexadecimal, "inf" and "nan". */
    if (!*cell || cell[strspn(cell, "0123456789+-.eE")])
        return false;
    *value = strtod(cell, &end);
    return !*end && isfinite(*value);
}
