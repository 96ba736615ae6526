/* Numbers, sizes and lists of the command line. */
#include "base/parse.h"
#include "tests/test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void sizes(void)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"0", 0},
        {"4096", 4096},
        {"1B", 1},
        {"64M", UINT64_C(64) << 20},
        {"64m", UINT64_C(64) << 20},
        {"1GiB", UINT64_C(1) << 30},
        {"2 MB", UINT64_C(2) << 20},
        {"3T", UINT64_C(3) << 40},
        {"18446744073709551615", UINT64_MAX},
        {"16777215T", UINT64_C(16777215) << 40},
    };
    struct why why;
    uint64_t bytes;

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        CU_ASSERT_EQUAL(parse_size(good[i].text, &bytes, &why), 0);
        CU_ASSERT_EQUAL(bytes, good[i].bytes);
    }
}

static void bad_sizes(void)
{
    static const char *const bad[] = {"",    "M",   "-1",  "+1",   " 1",  "1X",
                                      "1MM", "1Mi", "1 2", "0x10", "1.5M"},
                             *const large[] = {"18446744073709551616",
                                               "16777216T", "99999999999G"};
    struct why why;
    uint64_t bytes;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        strcpy(why.text, "");
        CU_ASSERT_EQUAL(parse_size(bad[i], &bytes, &why), -EINVAL);
        CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "is not a size"));
    }
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        CU_ASSERT_EQUAL(parse_size(large[i], &bytes, &why), -ERANGE);
        CU_ASSERT_PTR_NOT_NULL(strstr(why.text, large[i]));
    }
}

static void sizes_round_trip(void)
{
    struct why why;
    char text[32];
    uint64_t bytes;

    for (unsigned shift = 0; shift < 64; shift++)
        for (int off = -1; off <= 1; off++) {
            uint64_t expected = (UINT64_C(1) << shift) + (uint64_t)off;

            CU_ASSERT_PTR_EQUAL(format_size(expected, text, sizeof text), text);
            CU_ASSERT_EQUAL(parse_size(text, &bytes, &why), 0);
            CU_ASSERT_EQUAL(bytes, expected);
        }
    CU_ASSERT_STRING_EQUAL(format_size(4096, text, sizeof text), "4K");
    CU_ASSERT_STRING_EQUAL(format_size(2 << 20, text, sizeof text), "2M");
    CU_ASSERT_STRING_EQUAL(format_size(12345, text, sizeof text), "12345");
    CU_ASSERT_STRING_EQUAL(format_size(0, text, sizeof text), "0");
}

static void numbers(void)
{
    struct why why;
    uint64_t n;

    CU_ASSERT_EQUAL(parse_number("7", "reps", 1, 9, &n, &why), 0);
    CU_ASSERT_EQUAL(n, 7);
    CU_ASSERT_EQUAL(parse_number("1", "reps", 1, 9, &n, &why), 0);
    CU_ASSERT_EQUAL(parse_number("9", "reps", 1, 9, &n, &why), 0);
    CU_ASSERT_EQUAL(parse_number("0", "reps", 1, 9, &n, &why), -ERANGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "reps: 0 is out of range, 1 to 9"));
    CU_ASSERT_EQUAL(parse_number("10", "reps", 1, 9, &n, &why), -ERANGE);
    CU_ASSERT_EQUAL(
        parse_number("18446744073709551616", "x", 0, UINT64_MAX, &n, &why),
        -ERANGE);
    CU_ASSERT_EQUAL(parse_number("", "x", 0, 9, &n, &why), -EINVAL);
    CU_ASSERT_EQUAL(parse_number("-1", "x", 0, UINT64_MAX, &n, &why), -EINVAL);
    CU_ASSERT_EQUAL(parse_number("1x", "x", 0, 9, &n, &why), -EINVAL);
}

static int join(const char *text, void *arg, struct why *why)
{
    if (!strcmp(text, "stop"))
        return why_set(why, EPERM, "stopped");
    strcat(strcat(arg, "<"), text);
    return 0;
}

static void lists(void)
{
    char all[64] = "";
    struct why why;

    CU_ASSERT_EQUAL(parse_list("a,bc,d", "list", join, all, &why), 0);
    CU_ASSERT_STRING_EQUAL(all, "<a<bc<d");
    CU_ASSERT_EQUAL(parse_list("x,stop,y", "list", join, all, &why), -EPERM);
    CU_ASSERT_STRING_EQUAL(all, "<a<bc<d<x");
    CU_ASSERT_STRING_EQUAL(why.text, "stopped");
    CU_ASSERT_EQUAL(parse_list("", "list", join, all, &why), -EINVAL);
    CU_ASSERT_EQUAL(parse_list("a,,b", "list", join, all, &why), -EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "list: 'a,,b' has an empty"));
    CU_ASSERT_EQUAL(parse_list("a,", "list", join, all, &why), -EINVAL);
}

TEST_SUITE(parse, {"sizes", sizes}, {"what is no size", bad_sizes},
           {"sizes round trip", sizes_round_trip}, {"numbers", numbers},
           {"lists", lists});
