#include "ept/kvm_switch.h"
#include "harness/doctor.h"
#include "harness/environment.h"
#include "tests/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static const struct finding *find(const struct doctor *d, const char *area,
                                  const char *name)
{
    for (unsigned i = 0; i < d->count; i++)
        if (!strcmp(d->findings[i].area, area) &&
            !strcmp(d->findings[i].name, name))
            return &d->findings[i];
    return NULL;
}

static void what_is_missing_has_an_effect(void)
{
    struct doctor d;

    CU_ASSERT_EQUAL_FATAL(doctor_examine(&d), 0);
    for (unsigned i = 0; i < d.count; i++) {
        const struct finding *f = &d.findings[i];

        CU_ASSERT(*f->area && *f->name && *f->found);
        CU_ASSERT(f->state != FINDING_MISSING || *f->effect);
        CU_ASSERT_PTR_NULL(strchr(f->found, '\n'));
    }
    doctor_free(&d);
}

/* Against the shell's view of the same machine. */
static void findings_are_true(void)
{
    const struct finding *f;
    struct doctor d;
    char *output;

    CU_ASSERT_EQUAL_FATAL(doctor_examine(&d), 0);
    f = find(&d, "kvm", "/dev/kvm");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    if (access("/dev/kvm", R_OK | W_OK))
        CU_ASSERT_EQUAL(f->state, FINDING_MISSING);
    f = find(&d, "tools", "qemu-system-x86_64");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    CU_ASSERT_EQUAL(f->state == FINDING_OK,
                    test_shell(&output, "command -v qemu-system-x86_64") == 0);
    free(output);
    f = find(&d, "machine", "kernel");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    CU_ASSERT_EQUAL(test_shell(&output, "printf 'Linux '; uname -r"), 0);
    output[strcspn(output, "\n")] = '\0';
    CU_ASSERT_STRING_EQUAL(f->found, output);
    free(output);
    doctor_free(&d);
}

static void prints_and_speaks_json(void)
{
    char *text = NULL, *table = NULL;
    struct doctor d;
    size_t bytes = 0;
    FILE *stream;
    json_t *json;

    CU_ASSERT_EQUAL_FATAL(doctor_examine(&d), 0);
    json = doctor_json(&d);
    CU_ASSERT_PTR_NOT_NULL_FATAL(json);
    CU_ASSERT_EQUAL(json_array_size(json_object_get(json, "findings")),
                    d.count);
    text = json_dumps(json, 0);
    CU_ASSERT_PTR_NOT_NULL(text);
    free(text);
    json_decref(json);
    stream = open_memstream(&table, &bytes);
    doctor_print(&d, stream);
    fclose(stream);
    CU_ASSERT_PTR_NULL(strchr(table, '\033'));
    CU_ASSERT_PTR_NOT_NULL(strstr(table, "/dev/kvm"));
    free(table);
    doctor_free(&d);
}

static const char *text_at(const json_t *json, const char *part,
                           const char *key)
{
    const char *text =
        json_string_value(json_object_get(json_object_get(json, part), key));

    return text ? text : "";
}

static void environment_is_json(void)
{
    char *folder = test_folder(), path[256];
    struct kvm_state state;
    struct utsname name;
    struct why why;
    json_t *json;

    snprintf(path, sizeof path, "%s/environment.json", folder);
    CU_ASSERT_EQUAL_FATAL(environment_write(path, &why), 0);
    json = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    CU_ASSERT_PTR_NOT_NULL_FATAL(json);
    uname(&name);
    CU_ASSERT_STRING_EQUAL(text_at(json, "kernel", "release"), name.release);
    kvm_state_read(&kvm_host_linux, &state);
    CU_ASSERT_STRING_EQUAL(text_at(json, "kvm", "module"),
                           kvm_flavour_name(state.flavour));
    CU_ASSERT(*text_at(json, "cpu", "model_name"));
    json_decref(json);
    free(folder);
}

static void environment_says_why_not(void)
{
    struct why why = {""};

    CU_ASSERT_EQUAL(environment_write("/nonexistent/environment.json", &why),
                    -ENOENT);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "/nonexistent"));
}

/* /proc/meminfo counts the pool of the default size. */
static void hugepages_agree_with_meminfo(void)
{
    struct hugepage_pool pool = environment_hugepages(2ull << 20);
    unsigned long long total, kilobytes;
    char *output;

    test_shell(&output, "awk '/HugePages_Total|Hugepagesize/ {print $2}' "
                        "/proc/meminfo");
    if (sscanf(output, "%llu %llu", &total, &kilobytes) != 2 ||
        kilobytes != 2048)
        test_skip("the default huge page is not of 2 MiB");
    else
        CU_ASSERT_EQUAL(pool.total, total);
    free(output);
}

TEST_SUITE(doctor,
           {"what is missing has an effect", what_is_missing_has_an_effect},
           {"findings are true", findings_are_true},
           {"prints and speaks JSON", prints_and_speaks_json},
           {"the environment is JSON", environment_is_json},
           {"the environment says why not", environment_says_why_not},
           {"hugepages agree with meminfo", hugepages_agree_with_meminfo});
