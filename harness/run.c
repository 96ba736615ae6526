#include "harness/run.h"

#include "bt/cache.h"
#include "workloads/audit.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Beyond these a spec or record is taken for garbage. KVM's own limit is 4096
 * vCPUs (KVM_MAX_VCPUS). */
#define ROWS_MAX  65536
#define VCPUS_MAX 4096
#define REPS_MAX  1000000
#define LIMIT_MAX (30 * 24 * 3600) /* seconds */

/* ---- Names ------------------------------------------------------------- */

static const char *const technique_names[TECHNIQUES] = {
    [TECH_NATIVE] = "native", [TECH_EMULATION] = "emulation",
    [TECH_SHADOW] = "shadow", [TECH_NESTED] = "nested",
    [TECH_TRAP] = "trap",     [TECH_PV] = "pv",
    [TECH_BT] = "bt",         [TECH_AGILE] = "agile",
    [TECH_FLAT] = "flat",
};
static const char *const policy_names[SHADOW_POLICIES] = {
    [SHADOW_TRACED] = "traced",
    [SHADOW_UNSYNC] = "unsync",
    [SHADOW_VTLB] = "vtlb",
};
static const char *const platform_names[PLATFORMS] = {
    [PLATFORM_HOST] = "host",
    [PLATFORM_LAB_SVM] = "lab-svm",
    [PLATFORM_LAB_VMX] = "lab-vmx",
    [PLATFORM_MODEL] = "model",
};
static const char *const host_page_names[HOST_PAGES] = {
    [HOST_4K] = "4K",
    [HOST_THP] = "thp",
    [HOST_2M] = "2M",
    [HOST_1G] = "1G",
};
static const char *const phase_names[WL_PHASES] = {
    [WL_INIT] = "init",
    [WL_FIRST_TOUCH] = "first_touch",
    [WL_STEADY] = "steady",
};
#define STATUSES 3
static const char *const status_names[STATUSES] = {
    [RUN_OK] = "ok",
    [RUN_FAILED] = "failed",
    [RUN_UNSUPPORTED] = "unsupported",
};

const char *technique_name(enum technique technique)
{
    return technique_names[technique];
}

const char *platform_name(enum platform platform)
{
    return platform_names[platform];
}

const char *host_page_name(enum host_page page)
{
    return host_page_names[page];
}

const char *phase_name(enum wl_phase phase)
{
    return phase_names[phase];
}

const char *shadow_policy_name(enum shadow_policy policy)
{
    return policy_names[policy];
}

const char *status_name(enum run_status status)
{
    return status_names[status];
}

/* The index of `name`, or -EINVAL with a sentence that lists them all. */
static int find_name(const char *what, const char *name,
                     const char *const *names, unsigned count, struct why *why)
{
    char all[160] = "";

    for (unsigned i = 0; i < count; i++) {
        size_t at = strlen(all);

        if (!strcasecmp(name, names[i]))
            return (int)i;
        snprintf(all + at, sizeof all - at, "%s%s", i ? ", " : "", names[i]);
    }
    return why_set(why, EINVAL, "there is no %s '%s': %s", what, name, all);
}

int technique_parse(const char *name, enum technique *technique,
                    struct why *why)
{
    int found = find_name("technique", name, technique_names, TECHNIQUES, why);

    if (found >= 0)
        *technique = (enum technique)found;
    return found < 0 ? found : 0;
}

int shadow_policy_parse(const char *name, enum shadow_policy *policy,
                        struct why *why)
{
    int found =
        find_name("shadow policy", name, policy_names, SHADOW_POLICIES, why);

    if (found >= 0)
        *policy = (enum shadow_policy)found;
    return found < 0 ? found : 0;
}

int platform_parse(const char *name, enum platform *platform, struct why *why)
{
    int found = find_name("platform", name, platform_names, PLATFORMS, why);

    if (found >= 0)
        *platform = (enum platform)found;
    return found < 0 ? found : 0;
}

int host_page_parse(const char *name, enum host_page *page, struct why *why)
{
    int found = find_name("host page", name, host_page_names, HOST_PAGES, why);

    if (found >= 0)
        *page = (enum host_page)found;
    return found < 0 ? found : 0;
}

/* ---- Rows -------------------------------------------------------------- */

/* Grows by powers of two: an array of 2^n rows is full. */
static int grow(void **rows, unsigned count, size_t size)
{
    void *grown;

    if (count && (count & (count - 1)))
        return 0;
    grown = realloc(*rows, (count ? 2 * (size_t)count : 1) * size);
    if (!grown)
        return -ENOMEM;
    *rows = grown;
    return 0;
}

int rows_add_exit(struct rows *rows, const struct exit_row *row)
{
    int err =
        grow((void **)&rows->exits, rows->exit_count, sizeof *rows->exits);

    if (!err)
        rows->exits[rows->exit_count++] = *row;
    return err;
}

int rows_add_counter(struct rows *rows, const struct counter_row *row)
{
    int err = grow((void **)&rows->counters, rows->counter_count,
                   sizeof *rows->counters);

    if (!err)
        rows->counters[rows->counter_count++] = *row;
    return err;
}

int rows_append(struct rows *to, const struct rows *from)
{
    int err = 0;

    for (unsigned i = 0; !err && i < from->exit_count; i++)
        err = rows_add_exit(to, &from->exits[i]);
    for (unsigned i = 0; !err && i < from->counter_count; i++)
        err = rows_add_counter(to, &from->counters[i]);
    return err;
}

void rows_free(struct rows *rows)
{
    free(rows->exits);
    free(rows->counters);
    *rows = (struct rows){NULL, 0, NULL, 0};
}

void run_record_free(struct run_record *record)
{
    for (unsigned i = 0; i < record->phase_count; i++)
        rows_free(&record->phases[i].rows);
    record->phase_count = 0;
}

void run_stamp(char *text, size_t bytes)
{
    time_t now = time(NULL);
    struct tm utc;

    strftime(text, bytes, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
}

/* ---- Writing JSON ------------------------------------------------------ */

/* JSON's integers are signed 64-bit in jansson, so unsigned ones travel as
 * decimal strings. */
static json_t *from_u64(uint64_t value)
{
    return json_sprintf("%" PRIu64, value);
}

static json_t *from_maybe(struct maybe_u64 value)
{
    return value.known ? from_u64(value.value) : json_null();
}

/* JSON is UTF-8. A message may quote anything; it had better arrive with a
 * few characters replaced than take its row along. */
static json_t *from_text(const char *text)
{
    json_t *json = json_string(text);
    char *copy = json ? NULL : strdup(text);

    if (!copy)
        return json;
    for (char *at = copy; *at; at++)
        if (*at & 0x80)
            *at = '?';
    json = json_string(copy);
    free(copy);
    return json;
}

static char *dump(json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

    json_decref(json);
    return text;
}

char *run_spec_to_json(const struct run_spec *s)
{
    return dump(json_pack(
        "{s:s, s:s, s:s, s:o, s:o, s:s, s:o, s:o, s:o, s:i, s:i, s:i, s:b, "
        "s:b, s:s, s:i, s:b, s:b, s:b, s:i, "
        "s:s, s:s, s:s}",
        "technique", technique_name(s->technique), "platform",
        platform_name(s->platform), "workload", s->workload,
        "working_set_bytes", from_u64(s->working_set_bytes), "guest_page_bytes",
        from_u64(s->guest_page_bytes), "host_page",
        host_page_name(s->host_page), "operations", from_u64(s->operations),
        "seed", from_u64(s->seed), "ram_bytes", from_u64(s->ram_bytes), "vcpus",
        s->vcpus, "rep", s->rep, "time_limit_s", s->time_limit_s, "pcid",
        s->pcid, "uncounted", s->uncounted, "shadow_policy",
        shadow_policy_name(s->shadow_policy), "shadow_roots", s->shadow_roots,
        "tlb_poison", s->tlb_poison, "no_assist", s->no_assist, "no_adaptive",
        s->no_adaptive, "bt_cache_bytes", (int)s->bt_cache_bytes, "cpu", s->cpu,
        "numa", s->numa, "image", s->image));
}

static json_t *exit_to_json(const struct exit_row *row)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "kind", from_text(row->kind),
                     "source", from_text(row->source), "reason",
                     from_text(row->reason), "count", from_u64(row->count),
                     "total_ns", from_maybe(row->total_ns));
}

static json_t *counter_to_json(const struct counter_row *row)
{
    return json_pack("{s:o, s:o, s:o, s:f, s:o}", "source",
                     from_text(row->source), "scope", from_text(row->scope),
                     "name", from_text(row->name), "value", row->value, "unit",
                     from_text(row->unit));
}

/* Appends an element that could not be made by making the whole NULL. */
static void append(json_t **array, json_t *element)
{
    if (element && *array && !json_array_append(*array, element)) {
        json_decref(element);
        return;
    }
    json_decref(element);
    json_decref(*array);
    *array = NULL;
}

static json_t *exits_to_json(const struct rows *rows)
{
    json_t *array = json_array();

    for (unsigned i = 0; array && i < rows->exit_count; i++)
        append(&array, exit_to_json(&rows->exits[i]));
    return array;
}

/* A value that is no number says nothing and has no form in JSON. */
static json_t *counters_to_json(const struct rows *rows)
{
    json_t *array = json_array();

    for (unsigned i = 0; array && i < rows->counter_count; i++)
        if (isfinite(rows->counters[i].value))
            append(&array, counter_to_json(&rows->counters[i]));
    return array;
}

static json_t *phase_to_json(const struct phase_record *phase)
{
    return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "phase",
                     phase_name(phase->phase), "operations",
                     from_u64(phase->operations), "checksum",
                     from_u64(phase->checksum), "wall_ns",
                     from_maybe(phase->wall_ns), "guest_tsc_ticks",
                     from_maybe(phase->guest_tsc_ticks), "guest_instructions",
                     from_maybe(phase->guest_instructions), "exits",
                     exits_to_json(&phase->rows), "counters",
                     counters_to_json(&phase->rows));
}

/* Numbers of 64 bits as JSON has them: signed. */
static json_t *audits_to_json(const struct run_record *record)
{
    json_t *audits = json_array();

    for (unsigned i = 0; audits && i < record->audit_count; i++) {
        const struct guest_audit *a = &record->audits[i];

        append(&audits, json_pack("[I, I, I, I]", (json_int_t)a->instruction,
                                  (json_int_t)a->vector, (json_int_t)a->value,
                                  (json_int_t)a->expected));
    }
    return audits;
}

char *run_record_to_json(const struct run_record *record)
{
    json_t *phases = json_array();

    for (unsigned i = 0; phases && i < record->phase_count; i++)
        append(&phases, phase_to_json(&record->phases[i]));
    return dump(json_pack(
        "{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, "
        "s:o}",
        "status", status_name(record->status), "message",
        from_text(record->message), "started_at", from_text(record->started_at),
        "kvm", from_text(record->kvm), "mmu", from_text(record->mmu),
        "shadow_policy", from_text(record->shadow_policy), "assist",
        from_text(record->assist), "shadow_roots",
        from_maybe(record->shadow_roots), "bt_adaptive",
        from_text(record->bt_adaptive), "bt_cache_bytes",
        from_maybe(record->bt_cache_bytes), "guest_page_bytes",
        from_maybe(record->guest_page_bytes), "host_page_bytes",
        from_maybe(record->host_page_bytes), "phases", phases, "audits",
        audits_to_json(record)));
}

/* ---- Reading JSON ------------------------------------------------------ */

/* A reader over one object: the first thing wrong is kept, and everything
 * after it reads as empty. */
struct reader {
    json_t *object;
    struct why *why;
    int err;
};

static void wrong(struct reader *r, const char *key, const char *what)
{
    if (!r->err)
        r->err =
            why_set(r->why, EINVAL, "the JSON's '%s' is not %s", key, what);
}

static void get_text(struct reader *r, const char *key, char *to, size_t room)
{
    const char *text = json_string_value(json_object_get(r->object, key));

    if (!text || strlen(text) >= room)
        wrong(r, key, "a text that fits");
    else
        strcpy(to, text);
}

static bool text_to_u64(const char *text, uint64_t *value)
{
    char *end;

    errno = 0;
    *value = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && !errno;
}

static uint64_t get_u64(struct reader *r, const char *key)
{
    const char *text = json_string_value(json_object_get(r->object, key));
    uint64_t value = 0;

    if (!text || !text_to_u64(text, &value))
        wrong(r, key, "a number in a string");
    return value;
}

static struct maybe_u64 get_maybe(struct reader *r, const char *key)
{
    if (json_is_null(json_object_get(r->object, key)))
        return (struct maybe_u64){false, 0};
    return (struct maybe_u64){true, get_u64(r, key)};
}

static unsigned get_unsigned(struct reader *r, const char *key, int min,
                             int max)
{
    json_t *value = json_object_get(r->object, key);
    char range[48];

    snprintf(range, sizeof range, "a number from %d to %d", min, max);
    if (!json_is_integer(value) || json_integer_value(value) < min ||
        json_integer_value(value) > max)
        wrong(r, key, range);
    return (unsigned)json_integer_value(value);
}

static bool get_bool(struct reader *r, const char *key)
{
    json_t *value = json_object_get(r->object, key);

    if (!json_is_boolean(value))
        wrong(r, key, "true or false");
    return json_is_true(value);
}

static unsigned get_name(struct reader *r, const char *key,
                         const char *const *names, unsigned count)
{
    const char *text = json_string_value(json_object_get(r->object, key));
    int found = -1;

    if (text)
        found = find_name(key, text, names, count, NULL);
    if (found < 0)
        wrong(r, key, "a known name");
    return found < 0 ? 0 : (unsigned)found;
}

static json_t *parse_object(const char *text, struct why *why)
{
    json_error_t error;
    json_t *json =
        text ? json_loads(text, JSON_REJECT_DUPLICATES, &error) : NULL;

    if (!json)
        why_set(why, EINVAL, "not JSON: %s", text ? error.text : "empty");
    return json;
}

int run_spec_from_json(const char *text, struct run_spec *s, struct why *why)
{
    struct reader r = {parse_object(text, why), why, 0};

    if (!r.object)
        return -EINVAL;
    *s = (struct run_spec){
        .technique = get_name(&r, "technique", technique_names, TECHNIQUES),
        .platform = get_name(&r, "platform", platform_names, PLATFORMS),
        .host_page = get_name(&r, "host_page", host_page_names, HOST_PAGES),
        .working_set_bytes = get_u64(&r, "working_set_bytes"),
        .guest_page_bytes = get_u64(&r, "guest_page_bytes"),
        .operations = get_u64(&r, "operations"),
        .seed = get_u64(&r, "seed"),
        .ram_bytes = get_u64(&r, "ram_bytes"),
        .vcpus = get_unsigned(&r, "vcpus", 1, VCPUS_MAX),
        .rep = get_unsigned(&r, "rep", 0, REPS_MAX),
        .time_limit_s = get_unsigned(&r, "time_limit_s", 0, LIMIT_MAX),
        .pcid = get_bool(&r, "pcid"),
        .uncounted = get_bool(&r, "uncounted"),
        .shadow_policy =
            get_name(&r, "shadow_policy", policy_names, SHADOW_POLICIES),
        .shadow_roots = get_unsigned(&r, "shadow_roots", 0, SHADOW_ROOTS_MAX),
        .no_assist = get_bool(&r, "no_assist"),
        .no_adaptive = get_bool(&r, "no_adaptive"),
        .bt_cache_bytes = get_unsigned(&r, "bt_cache_bytes", 0, BT_CODE_MAX),
        .tlb_poison = get_bool(&r, "tlb_poison"),
    };
    get_text(&r, "workload", s->workload, sizeof s->workload);
    get_text(&r, "cpu", s->cpu, sizeof s->cpu);
    get_text(&r, "numa", s->numa, sizeof s->numa);
    get_text(&r, "image", s->image, sizeof s->image);
    json_decref(r.object);
    return r.err;
}

static int read_exit(json_t *json, struct rows *rows, struct why *why)
{
    struct reader r = {json, why, 0};
    struct exit_row row = {.count = get_u64(&r, "count"),
                           .total_ns = get_maybe(&r, "total_ns")};

    get_text(&r, "kind", row.kind, sizeof row.kind);
    get_text(&r, "source", row.source, sizeof row.source);
    get_text(&r, "reason", row.reason, sizeof row.reason);
    if (!r.err && rows_add_exit(rows, &row))
        r.err = why_set(why, ENOMEM, "out of memory");
    return r.err;
}

static int read_counter(json_t *json, struct rows *rows, struct why *why)
{
    struct reader r = {json, why, 0};
    json_t *value = json_object_get(json, "value");
    struct counter_row row = {.value = json_number_value(value)};

    if (!json_is_number(value))
        wrong(&r, "value", "a number");
    get_text(&r, "source", row.source, sizeof row.source);
    get_text(&r, "scope", row.scope, sizeof row.scope);
    get_text(&r, "name", row.name, sizeof row.name);
    get_text(&r, "unit", row.unit, sizeof row.unit);
    if (!r.err && rows_add_counter(rows, &row))
        r.err = why_set(why, ENOMEM, "out of memory");
    return r.err;
}

static int read_rows(json_t *object, const char *key, struct rows *rows,
                     int (*read)(json_t *json, struct rows *rows,
                                 struct why *why),
                     struct why *why)
{
    json_t *array = json_object_get(object, key);
    size_t count = json_array_size(array);
    int err = 0;

    if (!json_is_array(array) || count > ROWS_MAX)
        return why_set(why, EINVAL,
                       "the JSON's '%s' is not a list of at most %d rows", key,
                       ROWS_MAX);
    for (size_t i = 0; !err && i < count; i++)
        err = read(json_array_get(array, i), rows, why);
    return err;
}

static int read_phase(json_t *json, struct phase_record *phase, struct why *why)
{
    struct reader r = {json, why, 0};

    *phase = (struct phase_record){
        .phase = get_name(&r, "phase", phase_names, WL_PHASES),
        .operations = get_u64(&r, "operations"),
        .checksum = get_u64(&r, "checksum"),
        .wall_ns = get_maybe(&r, "wall_ns"),
        .guest_tsc_ticks = get_maybe(&r, "guest_tsc_ticks"),
        .guest_instructions = get_maybe(&r, "guest_instructions"),
    };
    if (!r.err)
        r.err = read_rows(json, "exits", &phase->rows, read_exit, why);
    if (!r.err)
        r.err = read_rows(json, "counters", &phase->rows, read_counter, why);
    return r.err;
}

static void read_audits(struct reader *r, struct run_record *record)
{
    const json_t *audits = json_object_get(r->object, "audits");
    size_t count = json_array_size(audits);

    if (!json_is_array(audits) || count > GUEST_AUDITS_MAX)
        wrong(r, "audits", "a list of at most 32");
    for (size_t i = 0; !r->err && i < count; i++) {
        const json_t *audit = json_array_get(audits, i);
        uint64_t part[4];

        for (size_t n = 0; n < 4; n++) {
            const json_t *value = json_array_get(audit, n);

            if (!json_is_integer(value))
                wrong(r, "audits", "lists of 4 integers");
            part[n] = (uint64_t)json_integer_value(value);
        }
        if (part[0] >= AUDIT_INSTRUCTIONS || part[1] > GUEST_NO_VECTOR)
            wrong(r, "audits", "of known instructions and vectors");
        record->audits[record->audit_count++] = (struct guest_audit){
            (uint32_t)part[0], (uint32_t)part[1], part[2], part[3]};
    }
}

int run_record_from_json(const char *text, struct run_record *record,
                         struct why *why)
{
    struct reader r = {parse_object(text, why), why, 0};
    json_t *phases;

    *record = (struct run_record){.status = RUN_FAILED};
    if (!r.object)
        return -EINVAL;
    record->status = get_name(&r, "status", status_names, STATUSES);
    get_text(&r, "message", record->message, sizeof record->message);
    get_text(&r, "started_at", record->started_at, sizeof record->started_at);
    get_text(&r, "kvm", record->kvm, sizeof record->kvm);
    get_text(&r, "mmu", record->mmu, sizeof record->mmu);
    get_text(&r, "shadow_policy", record->shadow_policy,
             sizeof record->shadow_policy);
    get_text(&r, "assist", record->assist, sizeof record->assist);
    record->shadow_roots = get_maybe(&r, "shadow_roots");
    get_text(&r, "bt_adaptive", record->bt_adaptive,
             sizeof record->bt_adaptive);
    record->bt_cache_bytes = get_maybe(&r, "bt_cache_bytes");
    record->guest_page_bytes = get_maybe(&r, "guest_page_bytes");
    record->host_page_bytes = get_maybe(&r, "host_page_bytes");
    phases = json_object_get(r.object, "phases");
    if (!json_is_array(phases) || json_array_size(phases) > RUN_PHASES_MAX)
        wrong(&r, "phases", "a list of at most 8");
    for (size_t i = 0; !r.err && i < json_array_size(phases); i++) {
        record->phase_count++;
        r.err = read_phase(json_array_get(phases, i), &record->phases[i], why);
    }
    if (!r.err)
        read_audits(&r, record);
    json_decref(r.object);
    if (r.err)
        run_record_free(record);
    return r.err;
}
