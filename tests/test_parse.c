/* Numbers, sizes and lists as they stand on a command line. */
#include "base/parse.h"
#include "tests/test.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static uint64_t size_of(const char *text)
{
    struct why why = {""};
    uint64_t bytes = 0;

    CU_ASSERT_EQUAL(parse_size(text, &bytes, &why), 0);
    return bytes;
}

static void sizes(void)
{
    CU_ASSERT_EQUAL(size_of("0"), 0);
    CU_ASSERT_EQUAL(size_of("4096"), 4096);
    CU_ASSERT_EQUAL(size_of("4096B"), 4096);
    CU_ASSERT_EQUAL(size_of("4K"), 4096);
    CU_ASSERT_EQUAL(size_of("4k"), 4096);
    CU_ASSERT_EQUAL(size_of("64M"), 67108864);
    CU_ASSERT_EQUAL(size_of("2 MB"), 2097152);
    CU_ASSERT_EQUAL(size_of("1GiB"), 1073741824);
    CU_ASSERT_EQUAL(size_of("3T"), 3298534883328);
    CU_ASSERT_EQUAL(size_of("18446744073709551615"), UINT64_MAX);
    CU_ASSERT_EQUAL(size_of("16777215T"), UINT64_MAX - 0xffffffffff);
}

static void refuses_size(const char *text, int err)
{
    struct why why = {""};
    uint64_t bytes;

    CU_ASSERT_EQUAL(parse_size(text, &bytes, &why), err);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, text));
}

static void bad_sizes(void)
{
    static const char *const wrong[] = {"",     "M",    "-1",   "+1",  " 1",
                                        "1X",   "1.5G", "0x10", "1KK", "1Ki",
                                        "1MBB", "64M,", "1iB"};

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        refuses_size(wrong[i], -EINVAL);
    refuses_size("18446744073709551616", -ERANGE);
    refuses_size("16777216T", -ERANGE);
    refuses_size("99999999999999999999K", -ERANGE);
}

/* What is printed reads back as the same number. */
static void sizes_print(void)
{
    static const uint64_t bytes[] = {0,        1,          1000,       1024,
                                     1536,     4096,       UINT64_MAX, 1u << 21,
                                     1u << 30, 1ull << 40, 1ull << 50};
    char text[32];

    CU_ASSERT_STRING_EQUAL(format_size(4096, text, sizeof text), "4K");
    CU_ASSERT_STRING_EQUAL(format_size(1u << 30, text, sizeof text), "1G");
    CU_ASSERT_STRING_EQUAL(format_size(1000, text, sizeof text), "1000");
    for (size_t i = 0; i < sizeof bytes / sizeof bytes[0]; i++)
        CU_ASSERT_EQUAL(size_of(format_size(bytes[i], text, sizeof text)),
                        bytes[i]);
}

static void numbers(void)
{
    struct why why = {""};
    uint64_t value;

    CU_ASSERT_EQUAL(parse_number("7", "--reps", 1, 9, &value, &why), 0);
    CU_ASSERT_EQUAL(value, 7);
    CU_ASSERT_EQUAL(parse_number("18446744073709551615", "--seed", 0,
                                 UINT64_MAX, &value, &why),
                    0);
    CU_ASSERT_EQUAL(value, UINT64_MAX);
}

static void refuses_number(const char *text, int err)
{
    struct why why = {""};
    uint64_t value;

    CU_ASSERT_EQUAL(parse_number(text, "--reps", 1, 9, &value, &why), err);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "--reps"));
}

static void bad_numbers(void)
{
    refuses_number("", -EINVAL);
    refuses_number("-1", -EINVAL);
    refuses_number("1K", -EINVAL);
    refuses_number(" 1", -EINVAL);
    refuses_number("0", -ERANGE);
    refuses_number("10", -ERANGE);
    refuses_number("18446744073709551616", -ERANGE);
}

struct seen {
    char text[64];
    const char *stop_at;
};

static int collect(const char *text, void *arg, struct why *why)
{
    struct seen *seen = arg;

    (void)why;
    strcat(seen->text, "<");
    strcat(seen->text, text);
    strcat(seen->text, ">");
    return seen->stop_at && !strcmp(seen->stop_at, text) ? 42 : 0;
}

static void lists(void)
{
    struct seen all = {"", NULL}, some = {"", "b"};
    struct why why;

    CU_ASSERT_EQUAL(parse_list("a,bc,d", "-w", collect, &all, &why), 0);
    CU_ASSERT_STRING_EQUAL(all.text, "<a><bc><d>");
    CU_ASSERT_EQUAL(parse_list("a,b,c", "-w", collect, &some, &why), 42);
    CU_ASSERT_STRING_EQUAL(some.text, "<a><b>");
}

static void bad_lists(void)
{
    static const char *const wrong[] = {"", ",", "a,", ",a", "a,,b"};

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct seen seen = {"", NULL};
        struct why why = {""};

        CU_ASSERT_EQUAL(parse_list(wrong[i], "-w", collect, &seen, &why),
                        -EINVAL);
        CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "-w"));
    }
}

TEST_SUITE(parse, {"sizes", sizes}, {"sizes that are none", bad_sizes},
           {"sizes print as they read", sizes_print}, {"numbers", numbers},
           {"numbers that are none", bad_numbers}, {"lists", lists},
           {"lists with holes", bad_lists});
