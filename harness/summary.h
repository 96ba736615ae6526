/* The table a person sees after a run. */
#ifndef HARNESS_SUMMARY_H
#define HARNESS_SUMMARY_H

#include "base/why.h"

#include <stdio.h>

/* Reads the result folder and prints it, platform by platform. */
int summary_print(const char *folder, FILE *to, struct why *why);

#endif
