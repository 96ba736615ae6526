#include "workloads/model/tracer.h"
#include "workloads/user.h"

#include <string.h>

static const struct workload *const catalog[] = {
#define USER(id) &workload_##id,
#include "workloads/user.def"
#undef USER
#define PATTERN(id, text) &pattern_##id,
#include "workloads/model/pattern.def"
#undef PATTERN
    NULL,
};

const struct workload *const *model_catalog(void)
{
    return catalog;
}

const struct workload *model_find(const char *name)
{
    for (const struct workload *const *w = catalog; *w; w++)
        if (!strcmp((*w)->name, name))
            return *w;
    return NULL;
}
