#include "base/why.h"

#include <stdio.h>

int why_set(struct why *why, int err, const char *format, ...)
{
    if (why) {
        va_list args;

        va_start(args, format);
        vsnprintf(why->text, sizeof why->text, format, args);
        va_end(args);
    }
    return -err;
}
