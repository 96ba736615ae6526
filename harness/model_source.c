#include "harness/model_source.h"

#include "workloads/model/source.h"

int model_source_open(const struct model_pass *pass,
                      struct event_source **source, struct why *why)
{
    const struct model_guest guest = {.levels = pass->levels,
                                      .pcid = pass->pcid,
                                      .ram_bytes = pass->ram_bytes};

    switch (pass->kind) {
    default:
        return model_open(source, pass->label, &pass->params, &guest, why);
    }
}
