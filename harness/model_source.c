#include "harness/model_source.h"

#include "trace/file.h"
#include "trace/import.h"
#include "workloads/model/source.h"

static int open_import(const struct model_pass *pass,
                       const struct model_guest *guest,
                       struct event_source **source, struct why *why)
{
    const struct trace_import_options options = {.fetches = pass->fetches,
                                                 .levels = pass->levels};
    struct raw_source *raw;
    int err = trace_import_open(pass->format, pass->path, &options, &raw, why);

    return err ? err
               : model_open_raw(source, raw, pass->params.page_bytes, guest,
                                why);
}

int model_source_open(const struct model_pass *pass,
                      struct event_source **source, struct why *why)
{
    const struct model_guest guest = {.levels = pass->levels,
                                      .pcid = pass->pcid,
                                      .ram_bytes = pass->ram_bytes};

    switch (pass->kind) {
    case STREAM_TRACE:
        return trace_reader_open(pass->path, source, why);
    case STREAM_IMPORT:
        return open_import(pass, &guest, source, why);
    default:
        return model_open(source, pass->label, &pass->params, &guest, why);
    }
}

#define SIZE "working_set_bytes"
#define PAGE "guest_page_bytes"

json_t *model_source_origin(const struct model_pass *pass)
{
    const struct wl_params *params = &pass->params;

    return trace_origin(pass->label,
                        json_pack("{s:I, s:I, s:I, s:b}", SIZE,
                                  (json_int_t)params->working_set_bytes, PAGE,
                                  (json_int_t)params->page_bytes, "operations",
                                  (json_int_t)params->operations, "pcid",
                                  pass->pcid),
                        params->seed);
}

static uint64_t whole(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));

    return value > 0 ? (uint64_t)value : 0;
}

void model_source_params(const struct model_pass *pass,
                         const struct event_source *source,
                         struct wl_params *params)
{
    const json_t *parameters;

    *params = pass->params;
    if (pass->kind != STREAM_TRACE)
        return;
    parameters = json_object_get(trace_reader_origin(source), "parameters");
    params->working_set_bytes = whole(parameters, SIZE);
    params->page_bytes = whole(parameters, PAGE);
    params->seed = whole(trace_reader_origin(source), "seed");
}
