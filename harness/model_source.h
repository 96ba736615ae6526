/* The stream of a pass, from wherever it comes. */
#ifndef HARNESS_MODEL_SOURCE_H
#define HARNESS_MODEL_SOURCE_H

#include "harness/model_plan.h"
#include "trace/source.h"

/* The source is the caller's to close. Errors have their sentence, those of
 * files with file and position. */
int model_source_open(const struct model_pass *pass,
                      struct event_source **source, struct why *why);

#endif
