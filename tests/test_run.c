/* Specs and records as JSON: there and back, and texts that are neither. */
#include "harness/run.h"
#include "tests/test.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct run_spec some_spec(void)
{
    struct run_spec spec;

    memset(&spec, 0, sizeof spec); /* compared as bytes */
    spec.technique = TECH_SHADOW;
    spec.platform = PLATFORM_LAB_VMX;
    strcpy(spec.workload, "gups");
    spec.working_set_bytes = UINT64_MAX;
    spec.guest_page_bytes = 4096;
    spec.host_page = HOST_THP;
    spec.operations = UINT64_C(1) << 63;
    spec.seed = 42;
    spec.ram_bytes = 1;
    spec.vcpus = 4;
    spec.rep = 3;
    spec.time_limit_s = INT32_MAX;
    spec.pcid = true;
    strcpy(spec.cpu, "core:0 \"quoted\"\n");
    strcpy(spec.numa, "\xc3\xa9");
    memset(spec.image, 'i', sizeof spec.image - 1);
    return spec;
}

static struct run_record some_record(void)
{
    struct run_record record = {
        .status = RUN_UNSUPPORTED,
        .message = "no EPT: \"reload\" kvm_intel",
        .started_at = "2024-01-01T00:00:00Z",
        .kvm = "kvm_intel",
        .mmu = "shadow",
        .guest_page_bytes = {true, 0},
        .phase_count = 2,
        .phases = {{.phase = WL_FIRST_TOUCH,
                    .operations = UINT64_MAX,
                    .checksum = UINT64_MAX,
                    .wall_ns = {true, 7}},
                   {.phase = WL_STEADY, .guest_instructions = {true, 9}}},
    };

    for (unsigned i = 0; i < 5; i++) {
        rows_add_exit(
            &record.phases[1].rows,
            &(struct exit_row){
                "vm_exit", "kvm_trace", "cpuid", UINT64_MAX - i, {i % 2, i}});
        rows_add_counter(&record.phases[1].rows,
                         &(struct counter_row){"papi", "guest", "cycles",
                                               0.1 * i, "cycles"});
    }
    return record;
}

static void spec_round_trip(void)
{
    struct run_spec spec = some_spec(), back;
    char *text = run_spec_to_json(&spec), *again;
    struct why why = {""};

    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    memset(&back, 0, sizeof back);
    CU_ASSERT_EQUAL(run_spec_from_json(text, &back, &why), 0);
    CU_ASSERT_EQUAL(back.working_set_bytes, UINT64_MAX);
    CU_ASSERT_EQUAL(back.operations, UINT64_C(1) << 63);
    CU_ASSERT_EQUAL(back.host_page, HOST_THP);
    CU_ASSERT_EQUAL(back.platform, PLATFORM_LAB_VMX);
    CU_ASSERT_EQUAL(back.technique, TECH_SHADOW);
    CU_ASSERT_EQUAL(back.time_limit_s, INT32_MAX);
    CU_ASSERT_TRUE(back.pcid);
    CU_ASSERT_STRING_EQUAL(back.cpu, spec.cpu);
    CU_ASSERT_STRING_EQUAL(back.numa, spec.numa);
    CU_ASSERT_STRING_EQUAL(back.image, spec.image);
    again = run_spec_to_json(&back);
    CU_ASSERT_STRING_EQUAL(again, text);
    free(text);
    free(again);
}

static void record_round_trip(void)
{
    struct run_record record = some_record(), back;
    char *text = run_record_to_json(&record), *again;
    struct why why = {""};

    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    CU_ASSERT_EQUAL_FATAL(run_record_from_json(text, &back, &why), 0);
    CU_ASSERT_EQUAL(back.status, RUN_UNSUPPORTED);
    CU_ASSERT_STRING_EQUAL(back.message, record.message);
    CU_ASSERT_TRUE(back.guest_page_bytes.known);
    CU_ASSERT_FALSE(back.host_page_bytes.known);
    CU_ASSERT_EQUAL(back.phase_count, 2);
    CU_ASSERT_EQUAL(back.phases[0].checksum, UINT64_MAX);
    CU_ASSERT_FALSE(back.phases[0].guest_tsc_ticks.known);
    CU_ASSERT_EQUAL_FATAL(back.phases[1].rows.exit_count, 5);
    CU_ASSERT_EQUAL_FATAL(back.phases[1].rows.counter_count, 5);
    for (unsigned i = 0; i < 5; i++) {
        const struct exit_row *row = &back.phases[1].rows.exits[i];

        CU_ASSERT_EQUAL(row->count, UINT64_MAX - i);
        CU_ASSERT_EQUAL(row->total_ns.known, i % 2);
        CU_ASSERT_EQUAL(back.phases[1].rows.counters[i].value, 0.1 * i);
    }
    again = run_record_to_json(&back);
    CU_ASSERT_STRING_EQUAL(again, text);
    free(text);
    free(again);
    run_record_free(&record);
    run_record_free(&back);
    CU_ASSERT_EQUAL(back.phase_count, 0);
}

/* ---- Hostile texts ----------------------------------------------------- */

static int read_spec(const char *text, struct why *why)
{
    struct run_spec spec;

    return run_spec_from_json(text, &spec, why);
}

static int read_record(const char *text, struct why *why)
{
    struct run_record record;
    int err = run_record_from_json(text, &record, why);

    CU_ASSERT(!err || !record.phase_count);
    run_record_free(&record);
    return err;
}

typedef int read_text(const char *text, struct why *why);

static void refused(read_text *read, const char *text)
{
    struct why why = {""};

    CU_ASSERT_EQUAL(read(text, &why), -EINVAL);
    CU_ASSERT(why.text[0] != 0);
}

static void no_json(void)
{
    static const char *const texts[] = {
        "",     "{",       "null",
        "[]",   "{}",      "\"status\"",
        "17",   "{\"a\":", "{\"a\":\"\\ud800\"}",
        "{}{}", "\xff\xfe"};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        refused(read_spec, texts[i]);
        refused(read_record, texts[i]);
    }
    refused(read_spec, NULL);
    refused(read_record, NULL);
}

/* Every field in turn missing, and of every other type. */
static void wrong_fields(read_text *read, const char *text)
{
    static const char *const values[] = {NULL,     "null", "-1",
                                         "1e99",   "[{}]", "{}",
                                         "\"-1\"", "true", "\"\\u0001 \""};
    json_t *good = json_loads(text, 0, NULL), *value;
    const char *key;

    json_object_foreach(good, key, value)
    {
        for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
            json_t *bad = json_deep_copy(good);
            char *bad_text;
            struct why why = {""};
            int err;

            if (values[i])
                json_object_set_new(
                    bad, key, json_loads(values[i], JSON_DECODE_ANY, NULL));
            else
                json_object_del(bad, key);
            bad_text = json_dumps(bad, 0);
            err = read(bad_text, &why);
            CU_ASSERT(err == 0 || err == -EINVAL);
            CU_ASSERT(err == 0 || why.text[0]);
            CU_ASSERT(values[i] || err); /* nothing may be missing */
            free(bad_text);
            json_decref(bad);
        }
    }
    json_decref(good);
}

static void wrong_specs(void)
{
    struct run_spec spec = some_spec();
    char *text = run_spec_to_json(&spec);

    wrong_fields(read_spec, text);
    free(text);
}

static void wrong_records(void)
{
    struct run_record record = some_record();
    char *text = run_record_to_json(&record);

    wrong_fields(read_record, text);
    free(text);
    run_record_free(&record);
}

/* Replaces `from` in a good record and expects a refusal. */
static void with(const char *from, const char *to)
{
    struct run_record record = some_record();
    char *text = run_record_to_json(&record), *bad, *at = strstr(text, from);

    CU_ASSERT_PTR_NOT_NULL_FATAL(at);
    CU_ASSERT_FATAL(asprintf(&bad, "%.*s%s%s", (int)(at - text), text, to,
                             at + strlen(from)) > 0);
    refused(read_record, bad);
    free(bad);
    free(text);
    run_record_free(&record);
}

static void wrong_values(void)
{
    char long_text[512];

    with("\"steady\"", "\"lunch\"");
    with("\"unsupported\"", "\"splendid\"");
    with("\"18446744073709551615\"", "\"18446744073709551616\"");
    with("\"18446744073709551615\"", "\"-1\"");
    with("\"18446744073709551615\"", "\"\"");
    with("\"18446744073709551615\"", "18446744073709551615");
    with("\"counters\":[]", "\"counters\":{}");
    with("\"exits\":[]", "\"exits\":[3]");
    with("\"cpuid\"", "null");
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[0] = long_text[sizeof long_text - 2] = '"';
    long_text[sizeof long_text - 1] = 0;
    with("\"cpuid\"", long_text);
    with("\"kvm_intel\"", long_text);
}

static void deep_and_many(void)
{
    char *text = malloc(1 << 20);

    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    memset(text, '[', (1 << 20) - 1);
    text[(1 << 20) - 1] = 0;
    refused(read_spec, text);
    refused(read_record, text);
    strcpy(text, "{}");
    for (unsigned i = 0; i < RUN_PHASES_MAX; i++)
        strcat(text, ",{}");
    {
        char *phases;

        CU_ASSERT_FATAL(asprintf(&phases, "\"phases\":[%s,", text) > 0);
        with("\"phases\":[", phases);
        free(phases);
    }
    free(text);
}

static void names(void)
{
    enum technique technique;
    enum platform platform;
    enum host_page page;
    struct why why;

    for (unsigned i = 0; i < TECHNIQUES; i++) {
        CU_ASSERT_EQUAL(technique_parse(technique_name(i), &technique, &why),
                        0);
        CU_ASSERT_EQUAL(technique, i);
    }
    for (unsigned i = 0; i < PLATFORMS; i++) {
        CU_ASSERT_EQUAL(platform_parse(platform_name(i), &platform, &why), 0);
        CU_ASSERT_EQUAL(platform, i);
    }
    for (unsigned i = 0; i < HOST_PAGES; i++) {
        CU_ASSERT_EQUAL(host_page_parse(host_page_name(i), &page, &why), 0);
        CU_ASSERT_EQUAL(page, i);
    }
    CU_ASSERT_EQUAL(technique_parse("magic", &technique, &why), -EINVAL);
    CU_ASSERT_PTR_NOT_NULL(
        strstr(why.text, "native, emulation, shadow, nested"));
}

TEST_SUITE(run, {"a spec there and back", spec_round_trip},
           {"a record there and back", record_round_trip},
           {"texts that are no object", no_json},
           {"specs with a wrong field", wrong_specs},
           {"records with a wrong field", wrong_records},
           {"records with a wrong value", wrong_values},
           {"deep and many", deep_and_many}, {"names", names});
