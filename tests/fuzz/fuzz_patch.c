/* The search for sensitive instructions in images, and what it finds put into
 * a small RAM. */
#include "tests/fuzz/targets.h"
#include "vmm/patch.h"

#include <stdlib.h>

#define RAM_BYTES (1u << 18)

int fuzz_patch(const uint8_t *bytes, size_t count)
{
    uint8_t *ram = calloc(1, RAM_BYTES);
    struct patch_list list;
    struct why why;

    if (!ram)
        return 0;
    if (!patch_find(bytes, count, &list, &why))
        patch_apply(&list, ram, RAM_BYTES);
    for (size_t i = 1; i < list.count; i++)
        if (list.patches[i - 1].pa >= list.patches[i].pa)
            abort();
    patch_free(&list);
    free(ram);
    return 0;
}
