/* The CSV reader: what RFC 4180 allows, and files that nobody should trust. */
#include "harness/table.h"
#include "tests/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct table *parsed(const char *text)
{
    struct table *table;
    struct why why = {""};

    CU_ASSERT_EQUAL_FATAL(
        table_parse(&table, "t.csv", text, strlen(text), &why), 0);
    return table;
}

static void refused(const void *bytes, size_t count, const char *expected)
{
    struct table *table;
    struct why why = {""};

    CU_ASSERT_EQUAL(table_parse(&table, "t.csv", bytes, count, &why), -EINVAL);
    CU_ASSERT_PTR_NULL(table);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, expected));
    if (!strstr(why.text, expected))
        printf("'%s' is not in '%s'\n", expected, why.text);
}

static void refused_text(const char *text, const char *expected)
{
    refused(text, strlen(text), expected);
}

static void cells(void)
{
    struct table *t = parsed("a,b,c\r\n1,,\"x, \"\"y\"\"\r\nz\"\r\n 4 ,5,6");

    CU_ASSERT_EQUAL(table_rows(t), 2);
    CU_ASSERT_EQUAL(table_column(t, "a"), 0);
    CU_ASSERT_EQUAL(table_column(t, "c"), 2);
    CU_ASSERT_EQUAL(table_column(t, "d"), -1);
    CU_ASSERT_STRING_EQUAL(table_cell(t, 0, 0), "1");
    CU_ASSERT_STRING_EQUAL(table_cell(t, 0, 1), "");
    CU_ASSERT_STRING_EQUAL(table_cell(t, 0, 2), "x, \"y\"\r\nz");
    CU_ASSERT_STRING_EQUAL(table_cell(t, 1, 0), " 4 ");
    CU_ASSERT_STRING_EQUAL(table_cell(t, 1, 2), "6");
    table_free(t);
}

static void outside(void)
{
    struct table *t = parsed("a,b\n1,2\n");

    CU_ASSERT_STRING_EQUAL(table_cell(t, 0, -1), "");
    CU_ASSERT_STRING_EQUAL(table_cell(t, 0, 2), "");
    CU_ASSERT_STRING_EQUAL(table_cell(t, 1, 0), "");
    table_free(t);
    t = parsed("a,b\n");
    CU_ASSERT_EQUAL(table_rows(t), 0);
    CU_ASSERT_STRING_EQUAL(table_cell(t, 0, 0), "");
    table_free(t);
    table_free(NULL);
}

static void numbers(void)
{
    struct table *t = parsed("good,bad\n12,\n-1.5e3,1x\n0,nan\n"
                             "18446744073709551615,0x10\n.5, 1\n1,1e999\n");
    const double expected[] = {12, -1500, 0, 18446744073709551615.0, 0.5, 1};
    double value;

    for (size_t i = 0; i < 6; i++) {
        CU_ASSERT(table_number(t, i, 0, &value));
        CU_ASSERT_EQUAL(value, expected[i]);
        CU_ASSERT_FALSE(table_number(t, i, 1, &value));
    }
    CU_ASSERT_FALSE(table_number(t, 0, -1, &value));
    CU_ASSERT_FALSE(table_number(t, 9, 0, &value));
    table_free(t);
}

static void damage(void)
{
    refused_text("", "no header");
    refused_text("\r\n\r\n", "no header");
    refused_text("a,b\r\n1,2\r\n3\r\n", "t.csv, line 3: 1 cells where");
    refused_text("a,b\n1,2,3\n", "t.csv, line 2: 3 cells where");
    refused_text("a,b\r\n\"1\r\n2\",3\r\n4", "line 4: 1 cells");
    refused_text("a,b\n1,\"2\n", "never closed");
    refused_text("a,b\n1,2\"3\n", "line 2: a quotation mark");
    refused_text("a,b\n1,\"2\"3\n", "line 2: a quotation mark");
    refused("a,b\n1,\0\n", 8, "line 2: has a NUL byte");
}

/* Noise, one long cell, and a header of empty cells. */
static void large(void)
{
    enum { BYTES = 4 << 20 };
    char *bytes = malloc(BYTES);
    unsigned state = 1;
    struct table *t;
    struct why why;

    CU_ASSERT_PTR_NOT_NULL_FATAL(bytes);
    for (size_t i = 0; i < BYTES; i++)
        bytes[i] = (char)((state = state * 1664525 + 1013904223) >> 24);
    CU_ASSERT_EQUAL(table_parse(&t, "noise", bytes, BYTES, &why), -EINVAL);
    memset(bytes, 'x', BYTES);
    memcpy(bytes, "a\n", 2);
    CU_ASSERT_EQUAL_FATAL(table_parse(&t, "long", bytes, BYTES, &why), 0);
    CU_ASSERT_EQUAL(strlen(table_cell(t, 0, 0)), BYTES - 2);
    table_free(t);
    memset(bytes, ',', BYTES);
    CU_ASSERT_EQUAL_FATAL(table_parse(&t, "wide", bytes, BYTES, &why), 0);
    CU_ASSERT_EQUAL(table_rows(t), 0);
    table_free(t);
    free(bytes);
}

static void file_refused(const char *path, int expected, const char *sentence)
{
    struct table *table;
    struct why why = {""};

    CU_ASSERT_EQUAL(table_read(&table, path, &why), expected);
    CU_ASSERT_PTR_NULL(table);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, sentence));
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, path));
}

static void files(void)
{
    char *folder = test_folder(), path[512];
    struct table *table;
    struct why why;
    FILE *file;

    snprintf(path, sizeof path, "%s/t.csv", folder);
    file_refused(path, -ENOENT, "No such file");
    file = fopen(path, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fputs("number\r\n", file);
    for (unsigned i = 0; i < 40000; i++) /* more than one chunk */
        fprintf(file, "%u\r\n", i);
    fclose(file);
    CU_ASSERT_EQUAL_FATAL(table_read(&table, path, &why), 0);
    CU_ASSERT_EQUAL(table_rows(table), 40000);
    CU_ASSERT_STRING_EQUAL(table_cell(table, 39999, 0), "39999");
    table_free(table);
    file_refused(folder, -EINVAL, "not a regular file");
    file_refused("/dev/zero", -EINVAL, "not a regular file");
    snprintf(path, sizeof path, "%s/pipe", folder);
    CU_ASSERT_EQUAL(mkfifo(path, 0600), 0);
    file_refused(path, -EINVAL, "not a regular file");
    free(folder);
}

/* One byte above the limit, all of it a hole. */
static void huge_file(void)
{
    char *folder = test_folder(), path[512];
    int fd;

    snprintf(path, sizeof path, "%s/huge.csv", folder);
    fd = open(path, O_WRONLY | O_CREAT, 0600);
    CU_ASSERT_FATAL(fd >= 0);
    CU_ASSERT_EQUAL(ftruncate(fd, ((off_t)1 << 30) + 1), 0);
    close(fd);
    file_refused(path, -EINVAL, "above 1 GiB");
    free(folder);
}

TEST_SUITE(table, {"cells, quotes and line ends", cells},
           {"cells that are not there", outside}, {"numbers", numbers},
           {"damaged text", damage}, {"large input", large}, {"files", files},
           {"a huge file", huge_file});
