/*
 * Tables of costs: those that are shipped load, and what is cut off, wrong or
 * unknown is one sentence with file, line and cause.
 */
#include "harness/costs.h"
#include "harness/settings.h"
#include "tests/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char small[] = "costs: {\n"
                            "name = \"small\";\n"
                            "vm_exit = 1;\n"
                            "ept_violation = 2;\n"
                            "hidden_fault = 3;\n"
                            "traced_write = 4;\n"
                            "true_fault = 5;\n"
                            "invlpg = 6;\n"
                            "cr3_load = 7;\n"
                            "resync_entry = 8;\n"
                            "guest_fault = 10000000;\n"
                            "};\n";

static void loads(void)
{
    struct model_costs costs;
    struct why why;

    CU_ASSERT_EQUAL_FATAL(
        costs_parse("x.conf", small, strlen(small), &costs, &why), 0);
    CU_ASSERT_STRING_EQUAL(costs.name, "small");
    CU_ASSERT_EQUAL(costs.vm_exit, 1);
    CU_ASSERT_EQUAL(costs.ept_violation, 2);
    CU_ASSERT_EQUAL(costs.hidden_fault, 3);
    CU_ASSERT_EQUAL(costs.traced_write, 4);
    CU_ASSERT_EQUAL(costs.true_fault, 5);
    CU_ASSERT_EQUAL(costs.invlpg, 6);
    CU_ASSERT_EQUAL(costs.cr3_load, 7);
    CU_ASSERT_EQUAL(costs.resync_entry, 8);
    CU_ASSERT_EQUAL(costs.guest_fault, 10000000);
}

static void refused(const char *from, const char *to, int line,
                    const char *cause)
{
    struct model_costs costs = {.vm_exit = 77};
    const char *at = strstr(small, from);
    char text[512], start[32];
    struct why why = {""};

    CU_ASSERT_PTR_NOT_NULL_FATAL(at);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - small), small, to,
             at + strlen(from));
    snprintf(start, sizeof start, "x.conf:%d: ", line);
    CU_ASSERT(costs_parse("x.conf", text, strlen(text), &costs, &why) < 0);
    if (strncmp(why.text, start, strlen(start)) || !strstr(why.text, cause)) {
        printf("\n    '%s' -> '%s': %s\n", from, to, why.text);
        CU_FAIL("the sentence lacks file, line or cause");
    }
    CU_ASSERT_EQUAL(costs.vm_exit, 77);
}

static void refuses(void)
{
    refused("vm_exit = 1;", "", 1, "vm_exit");
    refused("vm_exit = 1;", "vm_exit = -1;", 3, "vm_exit");
    refused("vm_exit = 1;", "vm_exit = 10000001;", 3, "vm_exit");
    refused("vm_exit = 1;", "vm_exit = 1.5;", 3, "vm_exit");
    refused("vm_exit = 1;", "vm_exit = \"1\";", 3, "vm_exit");
    refused("vm_exit = 1;", "vm_exit = 1; vm_entry = 1;", 3, "vm_entry");
    refused("\"small\"", "7", 2, "name");
    refused("\"small\"", "\"0123456789012345678901234567890123456789\"", 2,
            "name");
    refused("costs:", "profile:", 1, "profile");
    refused("};\n", "", 12, "");
}

/* Each by the name that it has inside. */
static int load(const char *name, void *arg)
{
    struct model_costs costs;
    struct why why;
    int err = costs_load(name, &costs, &why);

    if (err)
        printf("%s\n", why.text);
    else
        CU_ASSERT_STRING_EQUAL(costs.name, name);
    ++*(unsigned *)arg;
    return err;
}

static void shipped(void)
{
    unsigned count = 0;
    struct why why;

    CU_ASSERT_EQUAL(settings_each(COSTS_FOLDER, load, &count, &why), 0);
    CU_ASSERT(count >= 3);
}

TEST_SUITE(costs, {"a table loads", loads},
           {"what is wrong is refused", refuses},
           {"those that are shipped", shipped});
