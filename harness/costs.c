#include "harness/costs.h"

#include "harness/settings.h"

#define CYCLES_MAX 10000000u

static int read_costs(const struct settings *settings,
                      const config_setting_t *group, void *to)
{
    struct model_costs *costs = to;
    const struct {
        const char *key;
        unsigned *value;
    } numbers[] = {
        {"vm_exit", &costs->vm_exit},
        {"ept_violation", &costs->ept_violation},
        {"hidden_fault", &costs->hidden_fault},
        {"traced_write", &costs->traced_write},
        {"true_fault", &costs->true_fault},
        {"invlpg", &costs->invlpg},
        {"cr3_load", &costs->cr3_load},
        {"resync_entry", &costs->resync_entry},
        {"guest_fault", &costs->guest_fault},
    };
    int err = settings_only(settings, group,
                            "name vm_exit ept_violation hidden_fault "
                            "traced_write true_fault invlpg cr3_load "
                            "resync_entry guest_fault ");

    if (!err)
        err = settings_text(settings, group, "name", costs->name,
                            sizeof costs->name);
    for (unsigned i = 0; !err && i < sizeof numbers / sizeof numbers[0]; i++)
        err = settings_number32(settings, group, numbers[i].key, CYCLES_MAX,
                                numbers[i].value);
    return err;
}

int costs_parse(const char *file, const void *bytes, size_t count,
                struct model_costs *costs, struct why *why)
{
    const struct settings settings = {
        .file = file, .what = "costs", .why = why};
    struct model_costs read = {.name = ""};
    int err = settings_parse(&settings, bytes, count, read_costs, &read);

    if (!err)
        *costs = read;
    return err;
}

int costs_load(const char *name, struct model_costs *costs, struct why *why)
{
    struct model_costs read = {.name = ""};
    int err =
        settings_load(name, COSTS_FOLDER, "costs", read_costs, &read, why);

    if (!err)
        *costs = read;
    return err;
}
