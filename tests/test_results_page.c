/* The reader of the guest's results page against pages a guest scribbled. */
#include "tests/test.h"
#include "vmm/results.h"
#include "workloads/api.h"

#include <errno.h>
#include <string.h>

static struct guest_results good(void)
{
    return (struct guest_results){
        .magic = GUEST_RESULTS_MAGIC,
        .version = GUEST_ABI_VERSION,
        .state = GUEST_DONE,
        .phases = 1,
        .phase = {{.phase = WL_STEADY, .operations = 3, .tsc_end = 7}},
        .message = "fine",
    };
}

#define REFUSED(expected, change)                                           \
    do {                                                                    \
        struct guest_results page = good(), out;                            \
        struct why why = {""};                                              \
                                                                            \
        change;                                                             \
        CU_ASSERT_EQUAL(guest_results_read(&page, sizeof page, &out, &why), \
                        -EINVAL);                                           \
        CU_ASSERT_PTR_NOT_NULL(strstr(why.text, expected));                 \
    } while (0)

static void good_page(void)
{
    struct guest_results page = good(), out;
    struct why why;

    CU_ASSERT_EQUAL(guest_results_read(&page, sizeof page, &out, &why), 0);
    CU_ASSERT_EQUAL(out.phase[0].operations, 3);
    CU_ASSERT_STRING_EQUAL(out.message, "fine");
    CU_ASSERT_EQUAL(guest_results_read(&page, sizeof page - 1, &out, &why),
                    -EINVAL);
}

static void scribbled_pages(void)
{
    REFUSED("left no results", page.magic++);
    REFUSED("left no results", page.version = 99);
    REFUSED("scribbled", page.state = 0);
    REFUSED("scribbled", page.state = 77);
    REFUSED("scribbled", page.phases = GUEST_PHASES_MAX + 1);
    REFUSED("scribbled", page.phase[0].phase = WL_PHASES);
    REFUSED("ends before it begins", page.phase[0].tsc_begin = 8);
}

static void wild_message(void)
{
    struct guest_results page = good(), out;
    struct why why;

    memset(page.message, 0xff, sizeof page.message);
    memcpy(page.message, "a\nb", 3);
    CU_ASSERT_EQUAL(guest_results_read(&page, sizeof page, &out, &why), 0);
    CU_ASSERT_EQUAL(strlen(out.message), GUEST_MESSAGE_MAX - 1);
    CU_ASSERT_EQUAL(strncmp(out.message, "a?b??", 5), 0);
}

TEST_SUITE(results_page, {"a good page is read", good_page},
           {"scribbled pages are refused", scribbled_pages},
           {"messages become printable", wild_message});
