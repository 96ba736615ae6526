#include "ept/map.h"

#include <linux/errno.h>

#define MILLION 1000000u

size_t ept_map_frames(unsigned levels, const struct ept_range *range)
{
    size_t frames = 1;

    if (!range->bytes)
        return frames;
    for (unsigned level = 1; level < levels; level++) {
        const unsigned shift = pt_shift(level + 1);
        const uint64_t last = range->gpa + (range->bytes - 1);

        frames += (last >> shift) - (range->gpa >> shift) + 1;
    }
    return frames;
}

static uint64_t *take(struct ept_arena *arena, uint64_t *pa)
{
    uint64_t *frame;

    if (arena->used == arena->frame_count)
        return NULL;
    frame = arena->frames + arena->used * PT_ENTRIES;
    *pa = arena->pa + arena->used * PAGE_4K;
    arena->used++;
    return frame;
}

static uint64_t *frame_at(const struct ept_arena *arena, uint64_t pa)
{
    const uint64_t number = (pa - arena->pa) / PAGE_4K;

    if (pa < arena->pa || number >= arena->used)
        return NULL;
    return arena->frames + number * PT_ENTRIES;
}

int ept_map_root(struct ept_state *state, struct ept_arena *arena)
{
    return take(arena, &state->root) ? 0 : -ENOMEM;
}

/* splitmix64's finisher: neighbouring pages draw independently. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static bool large_to_be_had(const struct ept_policy *policy, uint64_t gpa,
                            unsigned level)
{
    const uint64_t draw = mix(policy->seed ^ mix(gpa | level));

    return draw % MILLION < policy->large_ppm;
}

static uint64_t leaf_entry(const struct ept_state *state,
                           const struct ept_policy *policy, uint64_t pa,
                           unsigned level)
{
    const uint64_t execute = state->mbec ? EPT_X | EPT_XU : EPT_X;

    if (state->format == EPT_FORMAT_EPT)
        return pa | (policy->rights & (EPT_R | EPT_W | execute)) |
               EPT_TYPE(policy->memory_type) | (level > 1 ? EPT_PS : 0);
    return pa | PTE_P | PTE_US | (policy->rights & EPT_W ? PTE_RW : 0) |
           (policy->rights & EPT_X || !state->nxe ? 0 : PTE_XD) |
           (level > 1 ? PTE_PS : 0);
}

/* Tables allow everything; leaves decide. */
static uint64_t table_entry(const struct ept_state *state, uint64_t pa)
{
    if (state->format == EPT_FORMAT_EPT)
        return pa | EPT_RWX | (state->mbec ? EPT_XU : 0);
    return pa | PTE_P | PTE_RW | PTE_US;
}

static bool present(const struct ept_state *state, uint64_t entry)
{
    if (state->format == EPT_FORMAT_NPT)
        return entry & PTE_P;
    return entry & (EPT_RWX | (state->mbec ? EPT_XU : 0));
}

/* The level of the leaf for the start of `range`. */
static unsigned leaf_level(const struct ept_policy *policy,
                           const struct ept_range *range)
{
    unsigned level = pt_leaf_level(policy->page_bytes);

    for (; level > 1; level--) {
        const uint64_t bytes = 1ull << pt_shift(level);

        if (range->bytes >= bytes &&
            !((range->gpa | range->pa) & (bytes - 1)) &&
            large_to_be_had(policy, range->gpa, level))
            break;
    }
    return level;
}

uint64_t ept_policy_page(const struct ept_policy *policy, uint64_t gpa)
{
    unsigned level = pt_leaf_level(policy->page_bytes);

    for (; level > 1; level--)
        if (large_to_be_had(policy, gpa & ~((1ull << pt_shift(level)) - 1),
                            level))
            break;
    return 1ull << pt_shift(level);
}

static int map_leaf(const struct ept_state *state, struct ept_arena *arena,
                    const struct ept_range *range,
                    const struct ept_policy *policy, unsigned leaf)
{
    uint64_t *table = frame_at(arena, state->root), *entry;
    uint64_t pa;

    for (unsigned level = state->levels;; level--) {
        if (!table)
            return -EINVAL;
        entry = &table[pt_index(range->gpa, level)];
        if (level == leaf)
            break;
        if (!present(state, *entry)) {
            if (!take(arena, &pa))
                return -ENOMEM;
            *entry = table_entry(state, pa);
        } else if (ept_is_leaf(*entry, level)) {
            return -EEXIST;
        }
        table = frame_at(arena, *entry & EPT_ADDR);
    }
    if (present(state, *entry))
        return -EEXIST;
    *entry = leaf_entry(state, policy, range->pa, leaf);
    return 0;
}

static bool rights_make_sense(const struct ept_state *state, uint64_t rights)
{
    if (state->format == EPT_FORMAT_NPT)
        return rights & EPT_R;
    if (!present(state, rights))
        return false;
    return (rights & EPT_R) || (!(rights & EPT_W) && state->execute_only);
}

static bool policy_makes_sense(const struct ept_state *state,
                               const struct ept_policy *policy)
{
    const unsigned level = pt_leaf_level(policy->page_bytes);
    const unsigned type = policy->memory_type;

    if (!level || (level == 3 && !state->pages_1g))
        return false;
    if (state->format == EPT_FORMAT_EPT &&
        (type == 2 || type == 3 || type > EPT_TYPE_WB))
        return false;
    return policy->large_ppm <= MILLION &&
           rights_make_sense(state, policy->rights);
}

static bool fits(uint64_t start, uint64_t bytes, unsigned bits)
{
    const uint64_t end = 1ull << bits;

    return start <= end && bytes <= end - start;
}

int ept_map(const struct ept_state *state, struct ept_arena *arena,
            const struct ept_range *range, const struct ept_policy *policy)
{
    const unsigned reach = pt_shift(state->levels + 1);
    struct ept_range rest = *range;

    if (((rest.gpa | rest.pa | rest.bytes) & (PAGE_4K - 1)) ||
        !policy_makes_sense(state, policy) ||
        !fits(rest.gpa, rest.bytes, reach < 52 ? reach : 52) ||
        !fits(rest.pa, rest.bytes, state->physical_bits))
        return -EINVAL;
    while (rest.bytes) {
        const unsigned leaf = leaf_level(policy, &rest);
        const uint64_t bytes = 1ull << pt_shift(leaf);
        const int error = map_leaf(state, arena, &rest, policy, leaf);

        if (error)
            return error;
        rest.gpa += bytes;
        rest.pa += bytes;
        rest.bytes -= bytes;
    }
    return 0;
}
