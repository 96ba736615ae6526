#include "base/program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool program_in_path(const char *name)
{
    const char *path = getenv("PATH");
    char *copy = strdup(path ? path : "/usr/bin"), *rest = copy, *folder;
    bool found = false;

    while (copy && !found && (folder = strsep(&rest, ":"))) {
        char *file;

        if (asprintf(&file, "%s/%s", folder, name) < 0)
            break;
        found = !access(file, X_OK);
        free(file);
    }
    free(copy);
    return found;
}
