/* A CSV file read back: cells by row and column name. Files are not trusted. */
#ifndef HARNESS_TABLE_H
#define HARNESS_TABLE_H

#include "base/why.h"

#include <stdbool.h>
#include <stddef.h>

struct table;

/* RFC 4180 with a header line. Extra columns are fine; a row with another
 * number of cells than the header, no header, or a file above 1 GiB is
 * -EINVAL with a sentence that has the file and the line. */
int table_read(struct table **table, const char *path, struct why *why);
/* The same from memory; `name` stands for the file in sentences. */
int table_parse(struct table **table, const char *name, const void *bytes,
                size_t count, struct why *why);
void table_free(struct table *table);

size_t table_rows(const struct table *table);
/* The column's index, or -1. */
int table_column(const struct table *table, const char *name);
/* "" for an empty cell and for column -1; valid until table_free. */
const char *table_cell(const struct table *table, size_t row, int column);
/* False when the cell is empty or no number. */
bool table_number(const struct table *table, size_t row, int column,
                  double *value);

#endif
