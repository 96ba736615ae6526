/* Other programs. */
#ifndef BASE_PROGRAM_H
#define BASE_PROGRAM_H

#include <stdbool.h>

/* Whether `name` can be executed from a folder of $PATH. */
bool program_in_path(const char *name);

#endif
