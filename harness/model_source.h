/* The stream of a pass, from wherever it comes. */
#ifndef HARNESS_MODEL_SOURCE_H
#define HARNESS_MODEL_SOURCE_H

#include "harness/model_plan.h"
#include "trace/source.h"

#include <jansson.h>

/* The source is the caller's to close. Errors have their sentence, those of
 * files with file and position. */
int model_source_open(const struct model_pass *pass,
                      struct event_source **source, struct why *why);

/* What a trace of the pass's stream says of where it comes from (trace/file.h),
 * or NULL without memory; and the parameters of a stream that is open, a
 * trace's as it tells them, 0 where it does not. */
json_t *model_source_origin(const struct model_pass *pass);
void model_source_params(const struct model_pass *pass,
                         const struct event_source *source,
                         struct wl_params *params);

#endif
