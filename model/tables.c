#include "model/tables.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLAB_FRAMES 256u
#define RAM_MAX     (1ull << 52)

static uint64_t directory_entries(const struct tables *tables)
{
    return (tables->ram_bytes >> pt_shift(3)) + 1;
}

int tables_init(struct tables *tables, uint64_t ram_bytes)
{
    *tables = (struct tables){.ram_bytes = ram_bytes};
    if (ram_bytes > RAM_MAX)
        return -EINVAL;
    tables->slab_used = SLAB_FRAMES;
    tables->directory =
        calloc(directory_entries(tables), sizeof *tables->directory);
    return tables->directory ? 0 : -ENOMEM;
}

void tables_free(struct tables *tables)
{
    for (size_t i = 0; i < tables->slab_count; i++)
        free(tables->slabs[i]);
    free(tables->slabs);
    free(tables->directory);
    *tables = (struct tables){.directory = NULL};
}

static int add_slab(struct tables *tables)
{
    size_t count = tables->slab_count;
    void **grown = tables->slabs;

    if (!(count & (count - 1)))
        grown = realloc(grown, (count ? 2 * count : 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    tables->slabs = grown;
    grown[count] = aligned_alloc(PAGE_4K, SLAB_FRAMES * PAGE_4K);
    if (!grown[count])
        return -ENOMEM;
    tables->slab_count++;
    tables->slab_used = 0;
    return 0;
}

/* 512 words of zero, or NULL. */
static void *take(struct tables *tables)
{
    void *frame = tables->free;

    if (frame) {
        tables->free = *(void **)frame;
    } else {
        if (tables->slab_used == SLAB_FRAMES && add_slab(tables))
            return NULL;
        frame = (char *)tables->slabs[tables->slab_count - 1] +
                tables->slab_used++ * PAGE_4K;
    }
    return memset(frame, 0, PAGE_4K);
}

/* Where the frame's pointer is, or NULL when the nodes above are not there. */
static uint64_t **find(const struct tables *tables, uint64_t gpa)
{
    uint64_t **middle = tables->directory[gpa >> pt_shift(3)];
    uint64_t **leaf;

    if (!middle)
        return NULL;
    leaf = (uint64_t **)middle[pt_index(gpa, 2)];
    return leaf ? &leaf[pt_index(gpa, 1)] : NULL;
}

/* Makes the nodes above; NULL when memory is short. */
static uint64_t **reach(struct tables *tables, uint64_t gpa)
{
    uint64_t ***middle = &tables->directory[gpa >> pt_shift(3)];
    uint64_t **leaf;

    if (!*middle)
        *middle = take(tables);
    if (!*middle)
        return NULL;
    leaf = &(*middle)[pt_index(gpa, 2)];
    if (!*leaf)
        *leaf = take(tables);
    return *leaf ? (uint64_t **)*leaf + pt_index(gpa, 1) : NULL;
}

int tables_read(const struct tables *tables, uint64_t gpa, uint64_t *entry)
{
    uint64_t **frame;

    if (gpa >= tables->ram_bytes)
        return -EFAULT;
    frame = find(tables, gpa);
    *entry = frame && *frame ? (*frame)[gpa / 8 % PT_ENTRIES] : 0;
    return 0;
}

int tables_store(struct tables *tables, uint64_t gpa, uint64_t value)
{
    uint64_t **frame;

    if (gpa >= tables->ram_bytes)
        return -EFAULT;
    frame = find(tables, gpa);
    if (!value && !(frame && *frame))
        return 0;
    frame = frame ? frame : reach(tables, gpa);
    if (frame && !*frame)
        *frame = take(tables);
    if (!frame || !*frame)
        return -ENOMEM;
    (*frame)[gpa / 8 % PT_ENTRIES] = value;
    return 0;
}

int tables_clear(struct tables *tables, uint64_t gpa)
{
    uint64_t **frame;

    if (gpa >= tables->ram_bytes)
        return -EFAULT;
    frame = find(tables, gpa);
    if (frame && *frame) {
        *(void **)*frame = tables->free;
        tables->free = *frame;
        *frame = NULL;
    }
    return 0;
}

uint64_t tables_bytes(const struct tables *tables)
{
    return tables->slab_count * SLAB_FRAMES * PAGE_4K +
           directory_entries(tables) * sizeof *tables->directory;
}
