#include "tests/test.h"

#include <CUnit/Basic.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define FOLDERS_MAX 256

static struct test_suite *suites;
static bool skipped_now;
static unsigned passed, failed, skipped;
static char *folders[FOLDERS_MAX];
static unsigned folder_count;

void test_register(struct test_suite *suite)
{
    struct test_suite **at = &suites;

    while (*at && strcmp((*at)->name, suite->name) < 0)
        at = &(*at)->next;
    suite->next = *at;
    *at = suite;
}

void test_skip(const char *format, ...)
{
    va_list args;

    skipped_now = true;
    printf("\n    skipped: ");
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
}

int test_shell(char **output, const char *format, ...)
{
    char *command, *redirected;
    size_t length = 0;
    va_list args;
    FILE *pipe;
    int status;

    va_start(args, format);
    if (vasprintf(&command, format, args) < 0)
        abort();
    va_end(args);
    if (asprintf(&redirected, "{ %s\n} 2>&1 </dev/null", command) < 0)
        abort();
    fflush(stdout);
    pipe = popen(redirected, "r");
    if (!pipe)
        abort();
    *output = NULL;
    if (getdelim(output, &length, EOF, pipe) < 0) {
        free(*output);
        *output = strdup("");
    }
    status = pclose(pipe);
    free(command);
    free(redirected);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

char *test_folder(void)
{
    char path[] = "/tmp/memvirt-test-XXXXXX";

    if (folder_count == FOLDERS_MAX || !mkdtemp(path))
        abort();
    folders[folder_count++] = strdup(path);
    return strdup(path);
}

static int remove_entry(const char *path, const struct stat *st, int type,
                        struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static void remove_folders(void)
{
    while (folder_count) {
        char *path = folders[--folder_count];

        nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
        free(path);
    }
}

static void before_test(const CU_pTest test, const CU_pSuite suite)
{
    printf("%s: %s ... ", suite->pName, test->pName);
    fflush(stdout);
    skipped_now = false;
}

static void after_test(const CU_pTest test, const CU_pSuite suite,
                       const CU_pFailureRecord failures)
{
    (void)test, (void)suite;
    if (failures) {
        failed++;
        puts("FAILED");
        for (CU_pFailureRecord f = failures; f; f = f->pNext)
            printf("    %s:%u: %s\n", f->strFileName, f->uiLineNumber,
                   f->strCondition);
    } else if (skipped_now) {
        skipped++;
        puts("");
    } else {
        passed++;
        puts("passed");
    }
    fflush(stdout);
}

/* Named, or not left out ("-name") where none is named. */
static bool wanted(const char *name, int argc, char **argv)
{
    bool named = false, some_named = false;

    for (int i = 1; i < argc; i++) {
        if (argv[i][0] == '-' && !strcmp(argv[i] + 1, name))
            return false;
        some_named |= argv[i][0] != '-';
        named |= !strcmp(argv[i], name);
    }
    return named || !some_named;
}

static void add_suite(const struct test_suite *suite)
{
    CU_pSuite added = CU_add_suite(suite->name, NULL, NULL);

    if (!added)
        abort();
    for (size_t i = 0; i < suite->count; i++)
        if (!CU_add_test(added, suite->cases[i].name, suite->cases[i].run))
            abort();
}

int main(int argc, char **argv)
{
    setenv("MEMVIRT", MEMVIRT_BUILD "/memvirt", 0);
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    for (const struct test_suite *s = suites; s; s = s->next)
        if (wanted(s->name, argc, argv))
            add_suite(s);
    CU_set_test_start_handler(before_test);
    CU_set_test_complete_handler(after_test);
    CU_run_all_tests();
    CU_cleanup_registry();
    remove_folders();
    printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
    return failed || !(passed + skipped);
}
