/* A CSV file of a result folder, every cell read both ways. */
#include "harness/table.h"
#include "tests/fuzz/targets.h"

#include <string.h>

int fuzz_csv(const uint8_t *bytes, size_t count)
{
    static volatile size_t sink;
    struct table *table;
    struct why why;
    double number;

    if (table_parse(&table, "fuzz.csv", bytes, count, &why))
        return 0;
    for (size_t row = 0; row < table_rows(table) && row < 64; row++)
        for (int column = -1; column < 64; column++) {
            sink += strlen(table_cell(table, row, column));
            sink += table_number(table, row, column, &number);
        }
    table_column(table, "run_id");
    table_free(table);
    return 0;
}
