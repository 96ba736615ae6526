/*
 * Test suites on CUnit. A suite registers itself:
 *
 *     static void sizes_parse(void) { CU_ASSERT_EQUAL(...); }
 *     TEST_SUITE(parse, {"sizes parse", sizes_parse});
 *
 * `memvirt-tests [SUITE...]` runs them, or all but `-SUITE`; it ends with "N
 * passed, N failed, N skipped" counted in test functions.
 */
#ifndef TESTS_TEST_H
#define TESTS_TEST_H

#include <CUnit/CUnit.h>
#include <stddef.h>

struct test_case {
    const char *name;
    void (*run)(void);
};

struct test_suite {
    const char *name;
    const struct test_case *cases;
    size_t count;
    struct test_suite *next;
};

void test_register(struct test_suite *suite);

#define TEST_SUITE(id, ...)                                                \
    static const struct test_case id##_cases[] = {__VA_ARGS__};            \
    static struct test_suite id##_suite = {.name = #id,                    \
                                           .cases = id##_cases,            \
                                           .count = sizeof id##_cases /    \
                                                    sizeof id##_cases[0]}; \
    __attribute__((constructor)) static void id##_register(void)           \
    {                                                                      \
        test_register(&id##_suite);                                        \
    }                                                                      \
    _Static_assert(sizeof id##_cases, "a suite has cases")

/* Marks the running test as skipped and says why; the test returns after. */
void test_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Runs a shell command; returns its exit status (128 + signal when killed)
 * and its standard output and error together, to be freed by the caller. The
 * environment variable MEMVIRT holds the path of the command under test. */
int test_shell(char **output, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* A fresh empty folder, removed when the program ends; freed by the caller. */
char *test_folder(void);

#endif
