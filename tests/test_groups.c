/* Result folders brought together, from synthetic records, and the table that
 * is printed of them. */
#include "harness/groups.h"
#include "harness/nano_published.h"
#include "harness/results.h"
#include "harness/summary.h"
#include "tests/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct folder {
    char *base, path[256];
    struct results *results;
};

static struct folder folder_open(void)
{
    struct folder f = {.base = test_folder()};
    struct why why = {""};

    snprintf(f.path, sizeof f.path, "%s/out", f.base);
    CU_ASSERT_EQUAL_FATAL(results_create(&f.results, f.path, &why), 0);
    return f;
}

static struct groups folder_read(struct folder *f)
{
    struct groups groups;
    struct why why = {""};

    CU_ASSERT_EQUAL(results_close(f->results, &why), 0);
    f->results = NULL;
    CU_ASSERT_EQUAL_FATAL(groups_read(&groups, f->path, &why), 0);
    return groups;
}

static void folder_close(struct folder *f, struct groups *groups)
{
    groups_free(groups);
    free(f->base);
}

struct exits {
    const char *source, *reason;
    uint64_t count;
};

/* One run of 100 operations in `steady`; exits end at a NULL source. */
static void add(struct folder *f, enum platform platform,
                enum technique technique, unsigned rep, uint64_t wall_ns,
                const struct exits *exits)
{
    struct run_spec spec = {.technique = technique,
                            .platform = platform,
                            .workload = "gups",
                            .working_set_bytes = 64 << 20,
                            .guest_page_bytes = 4096,
                            .vcpus = 1,
                            .rep = rep};
    struct run_record record = {
        .status = RUN_OK,
        .started_at = "2024-01-01T00:00:00Z",
        .guest_page_bytes = {true, 4096},
        .host_page_bytes = {true, 4096},
        .phase_count = 1,
        .phases = {{.phase = WL_STEADY,
                    .operations = 100,
                    .wall_ns = {wall_ns != 0, wall_ns}}},
    };
    struct why why;

    if (technique != TECH_NATIVE)
        strcpy(record.kvm, "kvm_amd");
    for (; exits && exits->source; exits++) {
        struct exit_row row = {.kind = "vm_exit", .count = exits->count};

        strcpy(row.source, exits->source);
        strcpy(row.reason, exits->reason);
        rows_add_exit(&record.phases[0].rows, &row);
    }
    CU_ASSERT_EQUAL(results_add(f->results, &spec, &record, &why), 0);
    run_record_free(&record);
}

static void add_bad(struct folder *f, enum run_status status,
                    const char *message)
{
    struct run_spec spec = {
        .technique = TECH_NESTED, .workload = "gups", .vcpus = 1};
    struct run_record record = {.status = status};
    struct why why;

    snprintf(record.message, sizeof record.message, "%s", message);
    CU_ASSERT_EQUAL(results_add(f->results, &spec, &record, &why), 0);
}

static const struct group *find(const struct groups *groups,
                                const char *platform, const char *technique)
{
    for (size_t i = 0; i < groups->count; i++)
        if (!strcmp(groups->groups[i].platform, platform) &&
            !strcmp(groups->groups[i].technique, technique))
            return &groups->groups[i];
    CU_FAIL_FATAL("no such group");
    return NULL;
}

static void repetitions(void)
{
    struct folder f = folder_open();
    struct groups groups;
    const struct group *native, *shadow;

    for (unsigned rep = 1; rep <= 5; rep++) {
        add(&f, PLATFORM_HOST, TECH_NATIVE, rep, 1000 + rep * 10, NULL);
        add(&f, PLATFORM_HOST, TECH_SHADOW, rep, 2000 + rep * 20, NULL);
    }
    groups = folder_read(&f);
    CU_ASSERT_EQUAL(groups.count, 2);
    native = find(&groups, "host", "native");
    shadow = find(&groups, "host", "shadow");
    CU_ASSERT_EQUAL(native->runs, 5);
    CU_ASSERT_EQUAL(native->cost.count, 5);
    CU_ASSERT_DOUBLE_EQUAL(native->cost.value, 10.3, 1e-9);
    CU_ASSERT(native->cost.low >= 10.1 && native->cost.low < 10.3);
    CU_ASSERT(native->cost.high <= 10.5 && native->cost.high > 10.3);
    CU_ASSERT_DOUBLE_EQUAL(native->costs[4], 10.5, 1e-9);
    CU_ASSERT_EQUAL(native->over_native.count, 0);
    CU_ASSERT_EQUAL(shadow->over_native.count, 5);
    CU_ASSERT_DOUBLE_EQUAL(shadow->over_native.value, 2, 1e-9);
    CU_ASSERT(shadow->over_native.low < 2 && shadow->over_native.high > 2);
    CU_ASSERT_STRING_EQUAL(shadow->kvm, "kvm_amd");
    CU_ASSERT_EQUAL(shadow->working_set_bytes, 64 << 20);
    CU_ASSERT_EQUAL(shadow->host_page_bytes, 4096);
    folder_close(&f, &groups);
}

static void no_ratio_across_platforms(void)
{
    struct folder f = folder_open();
    struct groups groups;

    add(&f, PLATFORM_HOST, TECH_NATIVE, 1, 1000, NULL);
    add(&f, PLATFORM_HOST, TECH_SHADOW, 1, 3000, NULL);
    add(&f, PLATFORM_LAB_SVM, TECH_NESTED, 1, 5000, NULL);
    add(&f, PLATFORM_LAB_VMX, TECH_NATIVE, 1, 1000, NULL);
    add(&f, PLATFORM_LAB_VMX, TECH_NESTED, 1, 5000, NULL);
    groups = folder_read(&f);
    CU_ASSERT_EQUAL(find(&groups, "host", "shadow")->over_native.value, 3);
    CU_ASSERT_EQUAL(find(&groups, "lab-svm", "nested")->over_native.count, 0);
    CU_ASSERT_EQUAL(find(&groups, "lab-svm", "nested")->cost.value, 50);
    CU_ASSERT_EQUAL(find(&groups, "lab-vmx", "nested")->cost.count, 0);
    CU_ASSERT_EQUAL(find(&groups, "lab-vmx", "nested")->over_native.count, 0);
    folder_close(&f, &groups);
    CU_ASSERT_STRING_EQUAL(group_cost_unit("host"), "ns");
    CU_ASSERT_STRING_EQUAL(group_cost_unit("lab-svm"), "instructions");
    CU_ASSERT_STRING_EQUAL(group_cost_unit("lab-vmx"), "");
}

static void unmeasured(void)
{
    struct folder f = folder_open();
    struct groups groups;
    const struct group *shadow;

    add(&f, PLATFORM_HOST, TECH_NATIVE, 1, 0, NULL);
    add(&f, PLATFORM_HOST, TECH_SHADOW, 1, 3000, NULL);
    groups = folder_read(&f);
    shadow = find(&groups, "host", "shadow");
    CU_ASSERT_EQUAL(find(&groups, "host", "native")->cost.count, 0);
    CU_ASSERT_EQUAL(shadow->over_native.count, 0);
    CU_ASSERT_EQUAL(shadow->vm_exits.count, 0);
    CU_ASSERT_EQUAL(shadow->exit_count, 0);
    folder_close(&f, &groups);
}

static void failures(void)
{
    struct folder f = folder_open();
    struct groups groups;
    const struct group *nested;

    add_bad(&f, RUN_FAILED, "triple fault");
    add_bad(&f, RUN_FAILED, "time limit");
    add_bad(&f, RUN_UNSUPPORTED, "no EPT");
    groups = folder_read(&f);
    nested = find(&groups, "host", "nested");
    CU_ASSERT_EQUAL(groups.count, 1);
    CU_ASSERT_EQUAL(nested->runs, 3);
    CU_ASSERT_EQUAL(nested->failed, 2);
    CU_ASSERT_EQUAL(nested->unsupported, 1);
    CU_ASSERT_EQUAL(nested->cost.count, 0);
    CU_ASSERT_STRING_EQUAL(nested->message, "triple fault");
    CU_ASSERT_STRING_EQUAL(nested->phase, "");
    folder_close(&f, &groups);
}

static void exits_of_one_source(void)
{
    static const struct exits one[] = {{"kvm_trace", "io", 100},
                                       {"kvm_trace", "cpuid", 200},
                                       {"kvm_stats", "all", 310},
                                       {"papi", "all", 999},
                                       {NULL, NULL, 0}},
                              two[] = {{"kvm_trace", "cpuid", 400},
                                       {"kvm_stats", "all", 430},
                                       {NULL, NULL, 0}},
                              papi[] = {{"papi", "all", 50}, {NULL, NULL, 0}};
    struct folder f = folder_open();
    struct groups groups;
    const struct group *shadow, *nested;

    add(&f, PLATFORM_HOST, TECH_SHADOW, 1, 1, one);
    add(&f, PLATFORM_HOST, TECH_SHADOW, 2, 1, two);
    add(&f, PLATFORM_HOST, TECH_NESTED, 1, 1, papi);
    groups = folder_read(&f);
    shadow = find(&groups, "host", "shadow");
    CU_ASSERT_EQUAL_FATAL(shadow->exit_count, 2);
    CU_ASSERT_STRING_EQUAL(shadow->exits[0].reason, "cpuid");
    CU_ASSERT_STRING_EQUAL(shadow->exits[0].source, "kvm_trace");
    CU_ASSERT_EQUAL(shadow->exits[0].per_operation.value, 3);
    CU_ASSERT_EQUAL(shadow->exits[0].per_operation.count, 2);
    /* The second run had no io exit: a count of 0, not a missing one. */
    CU_ASSERT_EQUAL(shadow->exits[1].per_operation.value, 0.5);
    CU_ASSERT_EQUAL(shadow->exits[1].per_operation.count, 2);
    CU_ASSERT_DOUBLE_EQUAL(shadow->vm_exits.value, 3.7, 1e-9);
    nested = find(&groups, "host", "nested");
    CU_ASSERT_STRING_EQUAL_FATAL(nested->exits[0].source, "papi");
    CU_ASSERT_EQUAL(nested->vm_exits.value, 0.5);
    folder_close(&f, &groups);
}

static void silent_tracepoint(void)
{
    static const struct exits some[] = {{"kvm_trace", "interrupt", 1},
                                        {"kvm_stats", "all", 1},
                                        {NULL, NULL, 0}},
                              none[] = {{"kvm_stats", "all", 0},
                                        {NULL, NULL, 0}};
    struct folder f = folder_open();
    struct groups groups;
    const struct group *nested;

    add(&f, PLATFORM_HOST, TECH_NESTED, 1, 1, some);
    add(&f, PLATFORM_HOST, TECH_NESTED, 2, 1, none);
    add(&f, PLATFORM_HOST, TECH_NESTED, 3, 1, none);
    groups = folder_read(&f);
    nested = find(&groups, "host", "nested");
    CU_ASSERT_EQUAL_FATAL(nested->exit_count, 1);
    CU_ASSERT_EQUAL(nested->exits[0].per_operation.count, 3);
    CU_ASSERT_EQUAL(nested->exits[0].per_operation.value, 0);
    CU_ASSERT_EQUAL(nested->vm_exits.value, 0);
    CU_ASSERT_EQUAL(nested->vm_exits.count, 3);
    folder_close(&f, &groups);
}

static void overwrite(const struct folder *f, const char *file,
                      const char *text)
{
    char path[300];
    FILE *to;

    snprintf(path, sizeof path, "%s/%s", f->path, file);
    to = fopen(path, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(to);
    fputs(text, to);
    fclose(to);
}

/* ---- The model's rows -------------------------------------------------- */

#define MODEL_ROW(id, technique, policy, profile, levels)          \
    id ",model,," technique ",shadow," policy ",gups,steady,4096," \
       "4096,4096,1,10,,ok,," profile "," levels "\n"

/* Its cost is its cycles, and only the same CPU and guest is a baseline. */
static void modelled(void)
{
    struct folder f = folder_open();
    const struct group_counter *walks;
    struct groups groups;

    overwrite(&f, "runs.csv",
              "run_id,platform,kvm,technique,mmu,shadow_policy,workload,phase,"
              "working_set_bytes,guest_page_bytes,host_page_bytes,vcpus,"
              "operations,wall_ns,status,message,cpu_profile,levels\n" //
              MODEL_ROW("model-1", "native", "", "zen4", "4")          //
              MODEL_ROW("model-2", "nested", "", "zen4", "4+5")        //
              MODEL_ROW("model-3", "nested", "", "zen3", "4+4")        //
              MODEL_ROW("model-4", "shadow", "vtlb", "zen4", "4")      //
              MODEL_ROW("model-5", "shadow", "traced", "zen4", "4"));
    overwrite(&f, "exits.csv",
              "run_id,kind,source,reason,count\n"
              "model-4,vm_exit,model,hidden_fault,30\n");
    overwrite(&f, "counters.csv",
              "run_id,source,scope,name,value,unit\n"
              "model-1,model,vm,cycles_total,100,cycles\n"
              "model-1,model,vm,walks,5,walks\n"
              "model-1,papi,vm,walks,7,walks\n"
              "model-2,model,vm,cycles_total,250,cycles\n"
              "model-9,model,vm,walks,5,walks\n"
              "model-4,model,vm,walks,many,walks\n");
    groups = folder_read(&f);
    CU_ASSERT_EQUAL_FATAL(groups.count, 5);
    CU_ASSERT_EQUAL(groups.groups[0].cost.value, 10);
    walks = group_counter(&groups.groups[0], "model", "walks");
    CU_ASSERT_PTR_NOT_NULL_FATAL(walks);
    CU_ASSERT_EQUAL(walks->value, 5);
    CU_ASSERT_EQUAL(walks->per_operation, 0.5);
    CU_ASSERT_PTR_NULL(group_counter(&groups.groups[3], "model", "walks"));
    CU_ASSERT_EQUAL(groups.groups[1].over_native.value, 2.5);
    CU_ASSERT_EQUAL(groups.groups[2].over_native.count, 0);
    CU_ASSERT_EQUAL(groups.groups[3].vm_exits.value, 3);
    CU_ASSERT_STRING_EQUAL(groups.groups[3].exits[0].source, "model");
    folder_close(&f, &groups);
}

/* ---- Damaged folders --------------------------------------------------- */

/* ---- Damaged folders --------------------------------------------------- */

static void damaged(const char *file, const char *text, const char *expected)
{
    struct folder f = folder_open();
    struct groups groups;
    struct why why = {""};

    results_close(f.results, NULL);
    overwrite(&f, file, text);
    CU_ASSERT_EQUAL(groups_read(&groups, f.path, &why), -EINVAL);
    CU_ASSERT_PTR_NULL(groups.groups);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, expected));
    free(f.base);
}

#define ROW(vcpus, workload, status)                                      \
    "run_id,platform,kvm,technique,mmu,workload,phase,working_set_bytes," \
    "guest_page_bytes,host_page_bytes,vcpus,operations,wall_ns,status,"   \
    "message\nhost-1,host,,native,1d," workload                           \
    ",steady,4096,4096,4096," vcpus ",1,1," status ",\n"

static void damaged_folders(void)
{
    struct groups groups;
    struct why why;

    damaged("runs.csv", "", "no header");
    damaged("runs.csv", "run_id,platform\n", "no column");
    damaged("exits.csv", "run_id,kind\n", "no column 'source'");
    damaged("runs.csv", ROW("-1", "gups", "ok"), "row 1: vcpus");
    damaged("runs.csv", ROW("5000000000", "gups", "ok"), "out of range");
    damaged("runs.csv", ROW("1", "gups", "fine"), "no status 'fine'");
    damaged("runs.csv",
            ROW("1",
                "a-workload-with-much-too-long-a-name-as-only-a-trace-of-some-"
                "body-could-have",
                "ok"),
            "too long");
    CU_ASSERT_EQUAL(groups_read(&groups, "/nonexistent", &why), -ENOENT);
}

/* Exits of runs that are not there, and counts that are none. */
static void stray_exits(void)
{
    struct folder f = folder_open();
    struct groups groups;

    overwrite(&f, "runs.csv", ROW("1", "gups", "ok"));
    overwrite(&f, "exits.csv",
              "run_id,kind,source,reason,count\n"
              "host-7,vm_exit,kvm_trace,io,1\n"
              "host-1,vm_exit,kvm_trace,io,many\n"
              "host-1,vm_exit,kvm_trace,io,-4\n"
              "host-1,vm_exit,guess,io,4\n"
              "host-1,user_exit,kvm_trace,io,4\n");
    groups = folder_read(&f);
    CU_ASSERT_EQUAL(groups.count, 1);
    CU_ASSERT_EQUAL(groups.groups[0].exit_count, 0);
    CU_ASSERT_EQUAL(groups.groups[0].vm_exits.count, 0);
    folder_close(&f, &groups);
}

/* ---- The printed table ------------------------------------------------- */

static char *printed(struct folder *f)
{
    char *text = NULL;
    size_t count;
    FILE *to = open_memstream(&text, &count);
    struct why why = {""};

    results_close(f->results, NULL);
    CU_ASSERT_EQUAL(summary_print(f->path, to, &why), 0);
    fclose(to);
    free(f->base);
    return text;
}

static void has(const char *text, const char *expected)
{
    CU_ASSERT_PTR_NOT_NULL(strstr(text, expected));
    if (!strstr(text, expected))
        printf("'%s' is not in:\n%s", expected, text);
}

static void table_of_platforms(void)
{
    static const struct exits exits[] = {
        {"kvm_trace", "io", 25}, {"kvm_trace", "cpuid", 100}, {NULL, NULL, 0}};
    struct folder f = folder_open();
    char *text;

    add(&f, PLATFORM_HOST, TECH_SHADOW, 1, 1234567800, exits);
    add(&f, PLATFORM_HOST, TECH_NATIVE, 1, 1000, NULL);
    add(&f, PLATFORM_LAB_VMX, TECH_NESTED, 1, 77700, exits);
    add_bad(&f, RUN_FAILED, "triple\033c fault");
    add_bad(&f, RUN_FAILED, "triple\033c fault");
    add_bad(&f, RUN_UNSUPPORTED, "no EPT");
    text = printed(&f);
    has(text, "host: time measured on this machine (kvm_amd)\n");
    has(text, " ns/op ");
    has(text,
        "\n  gups       64M  4K               steady  native           10 "
        "        -            -  -\n");
    has(text,
        "\n  gups       64M  4K/4K            steady  shadow     12350000 "
        "  1235000         1.25  cpuid 1, io 0.25\n");
    has(text, "lab-vmx: exit counts only");
    has(text, "steady  nested            1.25  cpuid 1, io 0.25\n");
    CU_ASSERT_PTR_NULL(strstr(text, "777"));
    CU_ASSERT_PTR_NULL(strstr(text, "[")); /* one run has no interval */
    CU_ASSERT_PTR_NULL(strstr(text, "vCPUs"));
    has(text, "2 runs failed (first: host nested gups): triple ");
    CU_ASSERT_PTR_NULL(strchr(text, '\033'));
    has(text, "1 run unsupported (host nested gups): no EPT\n");
    free(text);
}

static void table_with_intervals(void)
{
    struct folder f = folder_open();
    char *text;

    for (unsigned rep = 1; rep <= 3; rep++) {
        add(&f, PLATFORM_LAB_SVM, TECH_NATIVE, rep, 1000, NULL);
        add(&f, PLATFORM_LAB_SVM, TECH_NESTED, rep, 2000 + rep * 100, NULL);
    }
    text = printed(&f);
    has(text, "lab-svm: instructions counted");
    has(text, "instructions/op");
    has(text, "22  [21, 23]       2.2  [2.1, 2.3]");
    CU_ASSERT_PTR_NULL(strstr(text, " ns/op"));
    free(text);
}

static void table_of_nothing(void)
{
    struct folder f = folder_open();
    char *text = printed(&f);

    has(text, "has no runs yet");
    free(text);
}

/* ---- The software VMM's choices ----------------------------------------- */

static void add_choice(struct folder *f, enum technique technique,
                       const char *workload, const char *adaptive,
                       uint64_t cache, uint64_t cost)
{
    struct run_spec spec = {
        .technique = technique, .platform = PLATFORM_LAB_SVM, .vcpus = 1};
    struct run_record record = {
        .status = RUN_OK,
        .bt_cache_bytes = {cache != 0, cache},
        .phase_count = 1,
        .phases = {{.phase = WL_STEADY,
                    .operations = 10,
                    .wall_ns = {true, 10 * cost}}},
    };
    struct why why;

    snprintf(spec.workload, sizeof spec.workload, "%s", workload);
    snprintf(record.bt_adaptive, sizeof record.bt_adaptive, "%s", adaptive);
    if (technique == TECH_BT)
        strcpy(record.shadow_policy, "unsync");
    CU_ASSERT_EQUAL(results_add(f->results, &spec, &record, &why), 0);
}

/* Runs that differ in a choice are no repetitions. */
static void choices_apart(void)
{
    struct folder f = folder_open();
    char text[GROUP_TECHNIQUE_MAX];
    struct groups groups;

    add_choice(&f, TECH_BT, "in", "on", 2 << 20, 1);
    add_choice(&f, TECH_BT, "in", "off", 2 << 20, 2);
    add_choice(&f, TECH_BT, "in", "on", 1 << 20, 3);
    add_choice(&f, TECH_BT, "in", "on", 2 << 20, 5);
    groups = folder_read(&f);
    CU_ASSERT_EQUAL_FATAL(groups.count, 3);
    CU_ASSERT_EQUAL(groups.groups[0].runs, 2);
    CU_ASSERT_EQUAL(groups.groups[0].cost.value, 3);
    CU_ASSERT_EQUAL(groups.groups[2].bt_cache_bytes, 1 << 20);
    group_technique(&groups.groups[0], text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, "bt unsync");
    group_technique(&groups.groups[1], text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, "bt unsync, adaptive off");
    folder_close(&f, &groups);
}

static char *print_nanos(const struct groups *groups)
{
    char *text = NULL;
    size_t bytes;
    FILE *to = open_memstream(&text, &bytes);

    if (!to)
        abort();
    nano_published_print(groups, to);
    fclose(to);
    return text;
}

/* The line of a nanobenchmark, blanks made one, ends in `expected`. */
static void nano_says(const char *text, const char *workload,
                      const char *expected)
{
    char name[32], line[256] = "";
    const char *at;
    size_t end = 0;

    snprintf(name, sizeof name, "\n  %s ", workload);
    at = strstr(text, name);
    CU_ASSERT_PTR_NOT_NULL_FATAL(at);
    for (at++; *at && *at != '\n' && end < sizeof line - 1; at++)
        if (*at != ' ' || (end && line[end - 1] != ' '))
            line[end++] = *at;
    CU_ASSERT_STRING_EQUAL(line, expected);
}

static void nanos_beside_the_published(void)
{
    struct folder f = folder_open();
    struct groups groups;
    char *text;

    add_choice(&f, TECH_NATIVE, "in", "", 0, 3);
    add_choice(&f, TECH_BT, "in", "on", 1 << 20, 500);
    add_choice(&f, TECH_SHADOW, "in", "", 0, 3000);
    add_choice(&f, TECH_NESTED, "in", "", 0, 3100);
    add_choice(&f, TECH_BT, "divzero", "on", 1 << 20, 64);
    add_choice(&f, TECH_SHADOW, "divzero", "", 0, 65);
    add_choice(&f, TECH_BT, "callret", "on", 1 << 20, 400);
    add_choice(&f, TECH_SHADOW, "callret", "", 0, 401);
    add_choice(&f, TECH_SHADOW, "ptemod", "", 0, 12);
    groups = folder_read(&f);
    text = print_nanos(&groups);
    nano_says(text, "in",
              "in 3209 214 M 15826 cheaper | 3.0 500 3000 3100 cheaper yes");
    nano_says(text, "divzero",
              "divzero 889 3223 1014 dearer | - 64.0 65.0 - cheaper no");
    nano_says(text, "callret",
              "callret 11 51 11 dearer | - 400 401 - equal no");
    nano_says(text, "ptemod", "ptemod 1 391 12733 cheaper | - - 12.0 - - -");
    nano_says(text, "syscall",
              "syscall 242 M 2308 M as native dearer | - - - - - -");
    free(text);
    folder_close(&f, &groups);
}

TEST_SUITE(groups, {"choices apart", choices_apart},
           {"nanobenchmarks beside the published ones",
            nanos_beside_the_published},
           {"repetitions and ratios", repetitions},
           {"no ratio across platforms", no_ratio_across_platforms},
           {"no number without a measurement", unmeasured},
           {"failed runs are counted", failures},
           {"exits of the best source", exits_of_one_source},
           {"a silent tracepoint is a count of 0", silent_tracepoint},
           {"modelled rows", modelled}, {"damaged folders", damaged_folders},
           {"stray exits", stray_exits},
           {"the printed table", table_of_platforms},
           {"the printed table with intervals", table_with_intervals},
           {"the printed table of an empty folder", table_of_nothing});
