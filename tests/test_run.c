/*
 * Specs and records as JSON. Read back they are what they were, to the last
 * bit; the text itself is looked at with jansson, and every way to damage it
 * is refused with a sentence that names the field.
 */
#include "harness/run.h"
#include "tests/test.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct run_spec any_spec(void)
{
    return (struct run_spec){
        .technique = TECH_NESTED,
        .platform = PLATFORM_LAB_VMX,
        .workload = "gups",
        .working_set_bytes = UINT64_MAX,
        .guest_page_bytes = 1ull << 30,
        .host_page = HOST_THP,
        .operations = (1ull << 63) + 1,
        .seed = 0x9e3779b97f4a7c15,
        .ram_bytes = 1,
        .vcpus = 4,
        .rep = 3,
        .time_limit_s = 120,
        .pcid = true,
        .no_adaptive = true,
        .bt_cache_bytes = 65536,
        .cpu = "core:0",
        .numa = "0-1",
        .image = "/a \"quoted\" \\ path/\xc3\xa9.elf",
    };
}

/* The caller frees it with run_record_free. */
static struct run_record any_record(void)
{
    struct run_record record = {
        .status = RUN_OK,
        .message = "two\nlines, \"quoted\"",
        .started_at = "2024-01-01T00:00:00Z",
        .kvm = "kvm_amd",
        .mmu = "nested",
        .bt_adaptive = "off",
        .bt_cache_bytes = {true, 65536},
        .guest_page_bytes = {true, 4096},
        .phase_count = 2,
        .phases = {{.phase = WL_FIRST_TOUCH,
                    .operations = UINT64_MAX,
                    .checksum = 0xfedcba9876543210,
                    .wall_ns = {true, 0}},
                   {.phase = WL_STEADY,
                    .operations = 1000,
                    .guest_tsc_ticks = {true, (1ull << 53) + 1},
                    .guest_instructions = {true, UINT64_MAX}}},
    };
    struct exit_row untimed = {"vm_exit", "kvm_stats", "all", UINT64_MAX, {0}};
    struct exit_row timed = {
        "vm_exit", "kvm_trace", "npf", 1000, {true, 1234567890123456789}};
    struct counter_row counter = {"papi", "guest_user", "dtlb_load_misses", 0.1,
                                  "events"};

    rows_add_exit(&record.phases[1].rows, &untimed);
    rows_add_exit(&record.phases[1].rows, &timed);
    rows_add_counter(&record.phases[1].rows, &counter);
    return record;
}

/* ---- Round trips ------------------------------------------------------- */

static void specs(void)
{
    struct run_spec spec = any_spec(), read;
    char *text = run_spec_to_json(&spec), *again;
    struct why why = {""};

    if (!text)
        abort();
    CU_ASSERT_EQUAL(run_spec_from_json(text, &read, &why), 0);
    CU_ASSERT_STRING_EQUAL(why.text, "");
    CU_ASSERT_EQUAL(read.technique, TECH_NESTED);
    CU_ASSERT_EQUAL(read.platform, PLATFORM_LAB_VMX);
    CU_ASSERT_EQUAL(read.host_page, HOST_THP);
    CU_ASSERT_EQUAL(read.working_set_bytes, UINT64_MAX);
    CU_ASSERT_EQUAL(read.operations, (1ull << 63) + 1);
    CU_ASSERT_EQUAL(read.seed, spec.seed);
    CU_ASSERT_EQUAL(read.vcpus, 4);
    CU_ASSERT_EQUAL(read.rep, 3);
    CU_ASSERT(read.pcid);
    CU_ASSERT(read.no_adaptive);
    CU_ASSERT_EQUAL(read.bt_cache_bytes, 65536);
    CU_ASSERT_STRING_EQUAL(read.workload, spec.workload);
    CU_ASSERT_STRING_EQUAL(read.image, spec.image);
    again = run_spec_to_json(&read);
    CU_ASSERT_STRING_EQUAL(text, again);
    free(text);
    free(again);
}

static void phases_equal(const struct phase_record *a,
                         const struct phase_record *b)
{
    CU_ASSERT_EQUAL(a->phase, b->phase);
    CU_ASSERT_EQUAL(a->operations, b->operations);
    CU_ASSERT_EQUAL(a->checksum, b->checksum);
    CU_ASSERT_EQUAL(a->wall_ns.known, b->wall_ns.known);
    CU_ASSERT_EQUAL(a->guest_tsc_ticks.known, b->guest_tsc_ticks.known);
    CU_ASSERT_EQUAL(a->guest_tsc_ticks.value, b->guest_tsc_ticks.value);
    CU_ASSERT_EQUAL(a->guest_instructions.value, b->guest_instructions.value);
    CU_ASSERT_EQUAL_FATAL(a->rows.exit_count, b->rows.exit_count);
    for (unsigned i = 0; i < a->rows.exit_count; i++) {
        const struct exit_row *x = &a->rows.exits[i], *y = &b->rows.exits[i];

        CU_ASSERT_STRING_EQUAL(x->reason, y->reason);
        CU_ASSERT_EQUAL(x->count, y->count);
        CU_ASSERT_EQUAL(x->total_ns.known, y->total_ns.known);
        CU_ASSERT_EQUAL(x->total_ns.value, y->total_ns.value);
    }
    CU_ASSERT_EQUAL_FATAL(a->rows.counter_count, b->rows.counter_count);
    for (unsigned i = 0; i < a->rows.counter_count; i++)
        CU_ASSERT_EQUAL(a->rows.counters[i].value, b->rows.counters[i].value);
}

static void records(void)
{
    struct run_record record = any_record(), read;
    char *text = run_record_to_json(&record), *again;
    struct why why = {""};

    if (!text)
        abort();
    CU_ASSERT_EQUAL_FATAL(run_record_from_json(text, &read, &why), 0);
    CU_ASSERT_EQUAL(read.status, RUN_OK);
    CU_ASSERT_STRING_EQUAL(read.message, record.message);
    CU_ASSERT_EQUAL(read.guest_page_bytes.value, 4096);
    CU_ASSERT(!read.host_page_bytes.known);
    CU_ASSERT_STRING_EQUAL(read.bt_adaptive, "off");
    CU_ASSERT_EQUAL(read.bt_cache_bytes.value, 65536);
    CU_ASSERT_EQUAL_FATAL(read.phase_count, 2);
    phases_equal(&record.phases[0], &read.phases[0]);
    phases_equal(&record.phases[1], &read.phases[1]);
    again = run_record_to_json(&read);
    CU_ASSERT_STRING_EQUAL(text, again);
    free(text);
    free(again);
    run_record_free(&record);
    run_record_free(&read);
    CU_ASSERT_EQUAL(read.phase_count, 0);
}

/* What is not known is null, what is 0 is "0": looked at with jansson. */
static void unknown_is_not_zero(void)
{
    struct run_record record = any_record();
    char *text = run_record_to_json(&record);
    json_t *json = json_loads(text, 0, NULL);
    json_t *phase = json_array_get(json_object_get(json, "phases"), 0);

    CU_ASSERT(json_is_null(json_object_get(json, "host_page_bytes")));
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(phase, "wall_ns")),
                           "0");
    CU_ASSERT(json_is_null(json_object_get(phase, "guest_tsc_ticks")));
    json_decref(json);
    free(text);
    run_record_free(&record);
}

/* Text that is not UTF-8 and values that are no number do not lose a row. */
static void odd_contents(void)
{
    struct run_record record = any_record(), read;
    struct counter_row nothing = {"papi", "host", "none", NAN, "events"};
    struct why why;
    char *text;

    rows_add_counter(&record.phases[1].rows, &nothing);
    strcpy(record.message, "cut \xc3");
    text = run_record_to_json(&record);
    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    CU_ASSERT_EQUAL_FATAL(run_record_from_json(text, &read, &why), 0);
    CU_ASSERT_STRING_EQUAL(read.message, "cut ?");
    CU_ASSERT_EQUAL(read.phases[1].rows.counter_count, 1);
    free(text);
    run_record_free(&record);
    run_record_free(&read);
}

static void rows_grow(void)
{
    struct rows rows = {NULL, 0, NULL, 0};

    for (unsigned i = 0; i < 1000; i++) {
        struct exit_row row = {.kind = "vm_exit", .count = i};
        struct counter_row counter = {.name = "n", .value = i};

        CU_ASSERT_EQUAL_FATAL(rows_add_exit(&rows, &row), 0);
        CU_ASSERT_EQUAL_FATAL(rows_add_counter(&rows, &counter), 0);
    }
    CU_ASSERT_EQUAL(rows.exit_count, 1000);
    for (unsigned i = 0; i < 1000; i++) {
        CU_ASSERT_EQUAL(rows.exits[i].count, i);
        CU_ASSERT_EQUAL(rows.counters[i].value, i);
    }
    rows_free(&rows);
    CU_ASSERT_PTR_NULL(rows.exits);
    CU_ASSERT_EQUAL(rows.counter_count, 0);
}

/* ---- Damage ------------------------------------------------------------ */

/* Which reader, and what it reads. */
struct subject {
    const char *name;
    char *text;
    int (*read)(const char *text, struct why *why);
};

static int read_spec(const char *text, struct why *why)
{
    struct run_spec spec;

    return run_spec_from_json(text, &spec, why);
}

static int read_record(const char *text, struct why *why)
{
    struct run_record record;
    int err = run_record_from_json(text, &record, why);

    run_record_free(&record);
    return err;
}

static struct subject spec_subject(void)
{
    struct run_spec spec = any_spec();

    return (struct subject){"spec", run_spec_to_json(&spec), read_spec};
}

static struct subject record_subject(void)
{
    struct run_record record = any_record();
    struct subject subject = {"record", run_record_to_json(&record),
                              read_record};

    run_record_free(&record);
    return subject;
}

/* Reads `json` and expects a refusal that names `key`. */
static void refused(const struct subject *subject, const json_t *json,
                    const char *key)
{
    char *text = json_dumps(json, 0);
    struct why why = {""};
    bool right = subject->read(text, &why) == -EINVAL && strstr(why.text, key);

    CU_ASSERT(right);
    if (!right)
        printf("\n    %s, %s: '%s'", subject->name, key, why.text);
    free(text);
}

/* The object in a fresh copy of the subject that `path` leads to. */
static json_t *at(json_t *json, const char *const *path)
{
    for (; *path; path++)
        json = json_is_array(json) ? json_array_get(json, (size_t)atoi(*path))
                                   : json_object_get(json, *path);
    return json;
}

/* Every field of the object: absent, and of a type that none of them has. */
static void damage_fields(const struct subject *subject,
                          const char *const *path)
{
    json_t *original = json_loads(subject->text, 0, NULL), *value;
    const char *key;

    CU_ASSERT(json_object_size(at(original, path)) >= 5);
    json_object_foreach(at(original, path), key, value)
    {
        json_t *copy = json_deep_copy(original);

        json_object_set_new(at(copy, path), key, json_object());
        refused(subject, copy, key);
        json_object_set_new(at(copy, path), key, json_real(1.5));
        if (strcmp(key, "value"))
            refused(subject, copy, key);
        json_object_del(at(copy, path), key);
        refused(subject, copy, key);
        json_decref(copy);
    }
    json_decref(original);
}

static void damaged_fields(void)
{
    struct subject spec = spec_subject(), record = record_subject();

    damage_fields(&spec, (const char *const[]){NULL});
    damage_fields(&record, (const char *const[]){NULL});
    damage_fields(&record, (const char *const[]){"phases", "1", NULL});
    damage_fields(&record,
                  (const char *const[]){"phases", "1", "exits", "1", NULL});
    damage_fields(&record,
                  (const char *const[]){"phases", "1", "counters", "0", NULL});
    free(spec.text);
    free(record.text);
}

/* One field of the spec set to `value`, which is consumed. */
static void refuses_value(const char *key, json_t *value)
{
    struct subject spec = spec_subject();
    json_t *json = json_loads(spec.text, 0, NULL);

    json_object_set_new(json, key, value);
    refused(&spec, json, key);
    json_decref(json);
    free(spec.text);
}

static void bad_values(void)
{
    char long_text[5000];

    memset(long_text, 'a', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    refuses_value("image", json_string(long_text));
    refuses_value("workload", json_string("0123456789abcdefghijklmnopqrstuv"
                                          "0123456789abcdefghijklmnopqrstuv"));
    refuses_value("technique", json_string("magic"));
    refuses_value("platform", json_string(""));
    refuses_value("host_page", json_string("4"));
    refuses_value("seed", json_string("18446744073709551616"));
    refuses_value("seed", json_string("-1"));
    refuses_value("seed", json_string(" 1"));
    refuses_value("seed", json_string("1x"));
    refuses_value("seed", json_string(""));
    refuses_value("vcpus", json_integer(0));
    refuses_value("vcpus", json_integer(-1));
    refuses_value("vcpus", json_integer(1 << 20));
    refuses_value("rep", json_integer(INT64_MAX));
    refuses_value("time_limit_s", json_integer(1ll << 40));
    refuses_value("pcid", json_string("true"));
    refuses_value("bt_cache_bytes", json_integer(-1));
    refuses_value("bt_cache_bytes", json_integer(1 << 30));
}

/* Which of the two would hold? */
static void field_twice(void)
{
    struct subject spec = spec_subject();
    struct why why = {""};
    char *text;

    if (asprintf(&text, "{\"seed\":\"1\",%s", spec.text + 1) < 0)
        abort();
    CU_ASSERT_EQUAL(read_spec(text, &why), -EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "seed"));
    free(text);
    free(spec.text);
}

/* More phases or rows than any run has. */
static void absurd_counts(void)
{
    struct subject record = record_subject();
    json_t *json = json_loads(record.text, 0, NULL);
    json_t *phases = json_object_get(json, "phases");
    json_t *exits = json_object_get(json_array_get(phases, 1), "exits");

    for (unsigned i = 0; i <= 65536; i++)
        json_array_append(exits, json_array_get(exits, 0));
    refused(&record, json, "exits");
    json_array_clear(exits);
    while (json_array_size(phases) <= RUN_PHASES_MAX)
        json_array_append(phases, json_array_get(phases, 0));
    refused(&record, json, "phases");
    json_decref(json);
    free(record.text);
}

static void refuses_text(const char *text)
{
    struct why why = {""};

    CU_ASSERT_EQUAL(read_spec(text, &why), -EINVAL);
    CU_ASSERT(strlen(why.text) > 8);
    strcpy(why.text, "");
    CU_ASSERT_EQUAL(read_record(text, &why), -EINVAL);
    CU_ASSERT(strlen(why.text) > 8);
}

static void not_json(void)
{
    refuses_text(NULL);
    refuses_text("");
    refuses_text("[]");
    refuses_text("{}");
    refuses_text("null");
    refuses_text("\"text\"");
    refuses_text("\xff\xfe");
}

/* Cut off anywhere, nothing is taken for complete; nor with more behind. */
static void truncated(void)
{
    struct subject record = record_subject();
    size_t length = strlen(record.text);
    struct why why;
    char *more;

    for (size_t i = 0; i < length; i++) {
        char *part = strndup(record.text, i);

        CU_ASSERT_EQUAL(read_record(part, &why), -EINVAL);
        free(part);
    }
    if (asprintf(&more, "%s{}", record.text) < 0)
        abort();
    CU_ASSERT_EQUAL(read_record(more, &why), -EINVAL);
    free(more);
    free(record.text);
}

/* ---- Names ------------------------------------------------------------- */

static void names(void)
{
    struct why why = {""};
    enum technique technique;
    enum platform platform;
    enum host_page page;

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
    for (unsigned i = 0; i < TECHNIQUES; i++)
        CU_ASSERT_PTR_NOT_NULL(strstr(why.text, technique_name(i)));
    CU_ASSERT_STRING_EQUAL(phase_name(WL_FIRST_TOUCH), "first_touch");
    CU_ASSERT_STRING_EQUAL(status_name(RUN_UNSUPPORTED), "unsupported");
}

TEST_SUITE(run, {"specs survive JSON", specs},
           {"records survive JSON", records},
           {"unknown is null and 0 is 0", unknown_is_not_zero},
           {"odd text and values lose no row", odd_contents},
           {"rows grow", rows_grow},
           {"every field absent or of another type", damaged_fields},
           {"values out of bounds", bad_values}, {"a field twice", field_twice},
           {"absurd counts", absurd_counts}, {"what is no JSON", not_json},
           {"cut off anywhere", truncated}, {"names", names});
