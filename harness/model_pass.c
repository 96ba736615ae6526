#include "harness/model_pass.h"

#include "harness/model_source.h"
#include "trace/source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WORDS     (1u << 16)
#define TELL_EACH 1000000000ll /* ns */

/* One machine on its way through the stream. */
struct follower {
    struct machine *machine; /* NULL: it failed */
    struct run_record record;
    struct run_spec spec;
};

struct pass {
    const struct model_pass *plan;
    struct event_source *source;
    struct follower *followers;
    const struct model_watch *watch;
    uint64_t *words;
    uint64_t accesses;
    int64_t told;
};

/* ---- Rows ---------------------------------------------------------------- */

static const struct {
    enum technique technique;
    const char *mmu;
} columns[MODEL_TECHNIQUES] = {
    [MODEL_NATIVE] = {TECH_NATIVE, "1d"},
    [MODEL_SHADOW] = {TECH_SHADOW, "shadow"},
    [MODEL_NESTED] = {TECH_NESTED, "nested"},
    [MODEL_AGILE] = {TECH_AGILE, "agile"},
    [MODEL_FLAT] = {TECH_FLAT, "flat"},
};

static void describe_record(const struct machine_config *config,
                            uint64_t page_bytes, unsigned guest_levels,
                            struct run_record *record)
{
    *record = (struct run_record){
        .status = RUN_OK,
        .guest_page_bytes = {page_bytes, page_bytes},
        .host_page_bytes = {true, config->host_page_bytes},
    };
    run_stamp(record->started_at, sizeof record->started_at);
    if (config->technique == MODEL_NATIVE)
        record->host_page_bytes = record->guest_page_bytes;
    snprintf(record->mmu, sizeof record->mmu, "%s",
             columns[config->technique].mmu);
    snprintf(record->cpu_profile, sizeof record->cpu_profile, "%s",
             config->profile->name);
    snprintf(record->costs, sizeof record->costs, "%s", config->costs->name);
    if (config->technique == MODEL_SHADOW)
        snprintf(record->shadow_policy, sizeof record->shadow_policy, "%s",
                 shadow_policy_name(config->shadow_policy));
    if (config->nested_levels)
        snprintf(record->levels, sizeof record->levels, "%u+%u",
                 guest_levels & 7, config->nested_levels & 7);
    else
        snprintf(record->levels, sizeof record->levels, "%u", guest_levels & 7);
}

static void describe(const struct pass *p, const struct machine_config *config,
                     struct follower *f)
{
    struct wl_params params;

    model_source_params(p->plan, p->source, &params);
    describe_record(config, params.page_bytes, p->source->guest.levels,
                    &f->record);
    f->spec = (struct run_spec){
        .technique = columns[config->technique].technique,
        .platform = PLATFORM_MODEL,
        .working_set_bytes = params.working_set_bytes,
        .guest_page_bytes = params.page_bytes,
        .seed = params.seed,
        .vcpus = 1,
        .rep = 1,
    };
    memcpy(f->spec.workload, p->plan->label, sizeof f->spec.workload);
}

static int add_counter(struct rows *rows, const char *name, double value,
                       const char *unit)
{
    struct counter_row row = {.source = "model", .scope = "vm", .value = value};

    snprintf(row.name, sizeof row.name, "%s", name);
    snprintf(row.unit, sizeof row.unit, "%s", unit);
    return rows_add_counter(rows, &row);
}

static int add_exit(struct rows *rows, const struct machine_exit *exit)
{
    struct exit_row row = {
        .kind = "vm_exit", .source = "model", .count = exit->count};
    char name[64];

    snprintf(row.reason, sizeof row.reason, "%s", exit->reason);
    snprintf(name, sizeof name, "cycles_exit_%s", exit->reason);
    if (rows_add_exit(rows, &row))
        return -ENOMEM;
    return add_counter(rows, name, (double)exit->cycles, "cycles");
}

static int take_counts(const struct follower *f, struct rows *rows)
{
    struct machine_counts *counts = malloc(sizeof *counts);
    int err = counts ? 0 : -ENOMEM;

    if (counts)
        machine_counts(f->machine, counts);
    for (unsigned i = 0; !err && i < counts->exits; i++)
        err = add_exit(rows, &counts->exit[i]);
    for (unsigned i = 0; !err && i < counts->counters; i++)
        err = add_counter(rows, counts->counter[i].name,
                          (double)counts->counter[i].value,
                          counts->counter[i].unit);
    free(counts);
    return err;
}

/* ---- Following ----------------------------------------------------------- */

static void fail(struct follower *f, const char *sentence)
{
    run_record_free(&f->record);
    f->record.status = RUN_FAILED;
    f->record.phase_count = 0;
    snprintf(f->record.message, sizeof f->record.message, "%s", sentence);
    machine_destroy(f->machine);
    f->machine = NULL;
}

static void follow(struct pass *p, const uint64_t *words, size_t count)
{
    struct why why;

    for (size_t i = 0; count && i < p->plan->machine_count; i++) {
        struct follower *f = &p->followers[i];

        if (f->machine && machine_run(f->machine, words, count, &why))
            fail(f, why.text);
    }
}

static void begin_phase(struct pass *p)
{
    for (size_t i = 0; i < p->plan->machine_count; i++)
        if (p->followers[i].machine)
            machine_reset_counts(p->followers[i].machine);
}

/* `event`: EVENT_PHASE_END and its words. */
static void end_phase(struct pass *p, const uint64_t *event)
{
    for (size_t i = 0; i < p->plan->machine_count; i++) {
        struct follower *f = &p->followers[i];
        struct phase_record *phase;

        if (!f->machine)
            continue;
        if (f->record.phase_count == RUN_PHASES_MAX) {
            fail(f, "the stream has more phases than a run can have");
            continue;
        }
        phase = &f->record.phases[f->record.phase_count++];
        *phase = (struct phase_record){
            .phase = (enum wl_phase)event_argument(event[0]),
            .operations = event[1],
            .checksum = event[2],
        };
        if (take_counts(f, &phase->rows))
            fail(f, "out of memory");
    }
}

/* Splits what was read at the phases. */
static void take_words(struct pass *p, const uint64_t *words, size_t count)
{
    size_t from = 0, at = 0;

    while (at < count) {
        unsigned kind = event_kind(words[at]);
        unsigned length = event_words(kind);

        p->accesses += kind <= EVENT_KERNEL_FETCH;
        if (kind == EVENT_PHASE_BEGIN || kind == EVENT_PHASE_END) {
            follow(p, words + from, at - from);
            from = at + length;
            if (kind == EVENT_PHASE_BEGIN)
                begin_phase(p);
            else
                end_phase(p, words + at);
        }
        at += length;
    }
    follow(p, words + from, count - from);
}

static void tell(struct pass *p)
{
    struct timespec ts;
    int64_t now;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    now = ts.tv_sec * 1000000000ll + ts.tv_nsec;
    if (now - p->told < TELL_EACH)
        return;
    p->told = now;
    p->watch->tell(p->watch->arg, p->plan, p->accesses);
}

static int follow_stream(struct pass *p, struct why *why)
{
    long count;

    while ((count = p->source->read(p->source, p->words, WORDS, why)) > 0) {
        take_words(p, p->words, (size_t)count);
        tell(p);
        if (*p->watch->stop)
            return -EINTR;
    }
    return (int)count;
}

/* ---- The pass ------------------------------------------------------------ */

static int set_up(struct pass *p, struct why *why)
{
    const struct model_pass *plan = p->plan;
    int err;

    p->words = malloc(WORDS * sizeof *p->words);
    p->followers = calloc(plan->machine_count, sizeof *p->followers);
    if (!p->words || !p->followers)
        return why_set(why, ENOMEM, "out of memory");
    err = model_source_open(plan, &p->source, why);
    for (size_t i = 0; !err && i < plan->machine_count; i++) {
        struct follower *f = &p->followers[i];
        struct why cause;

        describe(p, &plan->machines[i], f);
        if (machine_create(&f->machine, &plan->machines[i], &p->source->guest,
                           &cause))
            fail(f, cause.text);
    }
    return err;
}

static int write_rows(struct pass *p, struct results *results, unsigned *failed,
                      struct why *why)
{
    int err = 0;

    for (size_t i = 0; !err && i < p->plan->machine_count; i++) {
        struct follower *f = &p->followers[i];

        *failed += f->record.status == RUN_FAILED;
        err = results_add(results, &f->spec, &f->record, why);
    }
    return err;
}

static void tear_down(struct pass *p)
{
    for (size_t i = 0; p->followers && i < p->plan->machine_count; i++) {
        machine_destroy(p->followers[i].machine);
        run_record_free(&p->followers[i].record);
    }
    if (p->source)
        p->source->close(p->source);
    free(p->followers);
    free(p->words);
}

int model_pass_run(const struct model_pass *plan, struct results *results,
                   const struct model_watch *watch, unsigned *failed,
                   struct why *why)
{
    struct pass p = {.plan = plan, .watch = watch};
    struct why write_why;
    int err = set_up(&p, why), write_err = 0;

    if (!err) {
        err = follow_stream(&p, why);
        for (size_t i = 0; err && i < plan->machine_count; i++)
            fail(&p.followers[i], err == -EINTR ? "interrupted" : why->text);
        write_err = write_rows(&p, results, failed, &write_why);
        if (write_err && !err)
            err = why_set(why, -write_err, "%s", write_why.text);
    }
    tear_down(&p);
    return err;
}
