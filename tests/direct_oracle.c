#include "tests/direct_oracle.h"

#include "directpt/direct.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define FRAMES        1056u
#define LOW_END       600u /* RAM is below, ... */
#define HIGH_START    900u /* ... and from here on */
#define REGION        512u /* frames of a large page */
#define REGIONS       (FRAMES / REGION + 1)
#define PHYSICAL_BITS 40
#define FIXED_SLOT    507
#define FIXED_ENTRY   0xc0ffee027ull
#define ROOTS         4
#define NOT_KNOWN     0xff

/* The frames whose contents matter, and the entries of them. */
static const uint16_t known[] = {0,    3,    300,  511,  599,  900,  901,
                                 950,  1023, 1024, 1030, 1031, 1032, 1033,
                                 1034, 1035, 1036, 1037, 1038, 1039, 1040,
                                 1041, 1042, 1043, 1044, 1055};
static const uint16_t slots[] = {0, 1, 2, 7, 255, 256, 506, FIXED_SLOT, 511};

#define KNOWN  (sizeof known / sizeof known[0])
#define SLOTS  (sizeof slots / sizeof slots[0])
#define FIXED  7  /* of slots */
#define TABLES 10 /* of known: from here on out of large pages' reach */

/* What a frame is: a bit for each table level, and this one. */
#define WRITABLE     (1u << 5)
#define IS(level)    (1u << (level))
#define MISTAKE(err) (1u << (err))

struct world {
    uint8_t is[FRAMES];
    uint32_t count[FRAMES], large[REGIONS];
    unsigned mistakes;
};

struct direct_guest {
    struct direct direct;
    struct direct_frame *frames;
    uint64_t *low, *high;
    uint8_t known_at[FRAMES];
    /* As it should be. */
    uint64_t content[KNOWN][SLOTS];
    uint8_t pinned[FRAMES]; /* the level, or 0 */
    uint32_t root[ROOTS];   /* a frame, or FRAMES */
    uint64_t updates, refused, flushes;
    struct world now, next;
    /* What a CPU may hold a frame for, since the last flush. */
    uint8_t held[FRAMES];
    uint64_t ended[ACTS][ERRORS];
    unsigned tables, most[5];
};

static bool is_ram(uint64_t frame)
{
    return frame < LOW_END || (frame >= HIGH_START && frame < FRAMES);
}

static uint64_t *memory(const struct direct_guest *g, unsigned frame)
{
    return frame < LOW_END ? g->low + (size_t)frame * 512
                           : g->high + (size_t)(frame - HIGH_START) * 512;
}

/* ---- What follows from the tables -------------------------------------- */

static void scan(const struct direct_guest *g, struct world *w, unsigned frame,
                 unsigned level);

static void refer(const struct direct_guest *g, struct world *w, uint64_t frame,
                  unsigned type)
{
    if (!is_ram(frame)) {
        w->mistakes |= MISTAKE(ERROR_FAULT);
        return;
    }
    w->count[frame]++;
    if (w->is[frame] & IS(type))
        return;
    w->is[frame] |= (uint8_t)IS(type);
    if (type <= 4)
        scan(g, w, (unsigned)frame, type);
}

static bool bit(uint64_t entry, unsigned n)
{
    return entry >> n & 1;
}

/* SDM vol. 3A, figure 4-11, and no pages of 1 GiB. */
static bool has_reserved(uint64_t entry, unsigned level)
{
    for (unsigned n = PHYSICAL_BITS; n < 52; n++)
        if (bit(entry, n))
            return true;
    for (unsigned n = 13; level == 2 && bit(entry, 7) && n < 21; n++)
        if (bit(entry, n))
            return true;
    return (level > 2 && bit(entry, 7)) || (level == 4 && bit(entry, 8));
}

static void refer_page(const struct direct_guest *g, struct world *w,
                       uint64_t entry, unsigned level)
{
    uint64_t frame = entry >> 12 & 0xffffffffff;
    bool large = level == 2;

    if (large)
        frame -= frame % REGION;
    for (unsigned i = 0; i < (large ? REGION : 1); i += large ? 4 : 1) {
        if (is_ram(frame + i))
            continue;
        w->mistakes |= MISTAKE(ERROR_FAULT);
        return;
    }
    if (!bit(entry, 1))
        return;
    if (large)
        w->large[frame / REGION]++;
    else
        refer(g, w, frame, 5);
}

static void look_at(const struct direct_guest *g, struct world *w,
                    uint64_t entry, unsigned level)
{
    if (!bit(entry, 0))
        return;
    if (has_reserved(entry, level))
        w->mistakes |= MISTAKE(ERROR_INVAL);
    else if (level == 1 || bit(entry, 7))
        refer_page(g, w, entry, level);
    else
        refer(g, w, entry >> 12 & 0xffffffffff, level - 1);
}

/* A frame that nobody knows holds zeros. */
static void scan(const struct direct_guest *g, struct world *w, unsigned frame,
                 unsigned level)
{
    const uint64_t *content;

    if (g->known_at[frame] == NOT_KNOWN)
        return;
    content = g->content[g->known_at[frame]];
    for (unsigned i = 0; i < SLOTS; i++) {
        if (level != 4 || i != FIXED)
            look_at(g, w, content[i], level);
        else if (!(g->now.is[frame] & IS(4)) && content[i])
            w->mistakes |= MISTAKE(ERROR_INVAL);
    }
}

static void finish(struct world *w)
{
    unsigned both = 0;

    for (unsigned r = 0; r < REGIONS; r++)
        for (unsigned f = r * REGION; w->large[r] && f < (r + 1) * REGION;
             f++) {
            w->count[f] += w->large[r];
            w->is[f] |= WRITABLE;
        }
    for (unsigned f = 0; f < FRAMES; f++)
        both |= w->is[f] & (w->is[f] - 1u);
    if (both)
        w->mistakes |= MISTAKE(ERROR_BUSY);
}

static void begin(const struct direct_guest *g, struct world *w)
{
    memset(w, 0, sizeof *w);
    for (unsigned i = 0; i < KNOWN; i++)
        if (g->pinned[known[i]])
            refer(g, w, known[i], g->pinned[known[i]]);
    for (unsigned i = 0; i < ROOTS; i++)
        if (g->root[i] < FRAMES)
            refer(g, w, g->root[i], 4);
}

/* Whether one reference more may be there, with all that are: an operation
 * takes its new one before it drops the old one. */
static unsigned mistakes_with_entry(struct direct_guest *g, uint64_t entry,
                                    unsigned level)
{
    begin(g, &g->next);
    look_at(g, &g->next, entry, level);
    finish(&g->next);
    return g->next.mistakes;
}

static unsigned mistakes_with_table(struct direct_guest *g, unsigned frame,
                                    unsigned level)
{
    begin(g, &g->next);
    refer(g, &g->next, frame, level);
    finish(&g->next);
    return g->next.mistakes;
}

/* ---- After an operation ------------------------------------------------ */

static void flushed(void *arg)
{
    struct direct_guest *g = arg;

    g->flushes++;
    memcpy(g->held, g->now.is, sizeof g->held);
}

/* The monitor's entry comes and goes with the type. */
static void move_fixed(struct direct_guest *g)
{
    for (unsigned i = 0; i < KNOWN; i++) {
        bool was = g->now.is[known[i]] & IS(4),
             is = g->next.is[known[i]] & IS(4);

        if (is != was)
            g->content[i][FIXED] = is ? FIXED_ENTRY : 0;
    }
}

static void count_tables(struct direct_guest *g)
{
    unsigned at[IS(4) + 1] = {0};

    for (unsigned f = 0; f < FRAMES; f++)
        if (g->now.is[f] & ~WRITABLE)
            at[g->now.is[f]]++;
    if (g->now.large[0] > g->most[0])
        g->most[0] = g->now.large[0];
    g->tables = 0;
    for (unsigned level = 1; level <= 4; level++) {
        g->tables += at[IS(level)];
        if (at[IS(level)] > g->most[level])
            g->most[level] = at[IS(level)];
    }
}

static const char *check_frames(struct direct_guest *g)
{
    for (unsigned f = 0; f < FRAMES; f++) {
        const struct direct_frame *frame = &g->frames[f];

        if (g->now.is[f] != (frame->type ? IS(frame->type) : 0))
            return "a frame's type is not what the tables make it";
        if (g->now.count[f] != frame->count)
            return "a frame's count is not what the tables make it";
        if (!frame->pinned != !g->pinned[f])
            return "a frame is pinned that should not be, or the reverse";
        g->held[f] |= g->now.is[f];
        if (g->held[f] & (g->held[f] - 1))
            return "a CPU may still hold a frame for what it was";
    }
    return NULL;
}

static const char *check_memory(const struct direct_guest *g)
{
    for (unsigned i = 0; i < KNOWN; i++)
        for (unsigned s = 0; s < SLOTS; s++)
            if (memory(g, known[i])[slots[s]] != g->content[i][s])
                return "an entry is not what was written";
    return NULL;
}

static const char *check_stats(struct direct_guest *g)
{
    const struct direct_stats *s = &g->direct.stats;

    count_tables(g);
    if (s->updates != g->updates || s->refused != g->refused ||
        s->flushes != g->flushes || s->validated - s->invalidated != g->tables)
        return "the statistics do not add up";
    return NULL;
}

static const char *settle(struct direct_guest *g)
{
    const char *wrong;

    begin(g, &g->next);
    finish(&g->next);
    if (g->next.mistakes)
        return "tables that are in use are not valid";
    move_fixed(g);
    g->now = g->next;
    wrong = check_frames(g);
    if (!wrong)
        wrong = check_memory(g);
    return wrong ? wrong : check_stats(g);
}

static enum direct_error error_of(int result)
{
    return result == 0         ? ERROR_NONE
           : result == -EINVAL ? ERROR_INVAL
           : result == -EFAULT ? ERROR_FAULT
           : result == -EBUSY  ? ERROR_BUSY
                               : ERRORS;
}

/* `mistakes`: the reasons there are to refuse. */
static const char *judge(struct direct_guest *g, enum direct_act act,
                         unsigned mistakes, int result)
{
    enum direct_error error = error_of(result);

    if (error == ERRORS)
        return "an error that is none";
    g->ended[act][error]++;
    g->refused += error != ERROR_NONE;
    if (!mistakes != !result)
        return result ? "refused what is allowed" : "allowed what is not";
    return result && !(mistakes & MISTAKE(error)) ? "the wrong error" : NULL;
}

/* ---- Operations -------------------------------------------------------- */

struct choice {
    unsigned i, slot; /* of known, of slots */
    unsigned odd;     /* 0 to 3: an address that is wrong in some way */
    unsigned extra;
    uint64_t pa, value;
};

static unsigned preferred(unsigned i)
{
    return i < TABLES ? 0 : 1 + i % 4;
}

static bool wants_large(unsigned level, uint64_t bits)
{
    return level == 2 && (bits & 31) < 4;
}

/* A frame for an entry at `level`: mostly one that could be valid there. */
static uint64_t target(unsigned level, uint64_t bits)
{
    unsigned i = (unsigned)(bits >> 8) % KNOWN;

    if (wants_large(level, bits))
        return bits >> 8 & 3 ? 0 : (bits >> 10) % (REGIONS + 1) * REGION;
    switch (bits & 31) {
    case 4:
        return LOW_END + (bits >> 8) % (HIGH_START - LOW_END);
    case 5:
        return FRAMES + (bits >> 8) % FRAMES;
    case 6:
        return 1ull << (PHYSICAL_BITS - 12 + (bits >> 8) % 12) | known[i];
    case 7:
        return (bits >> 8) % FRAMES;
    case 8:
        return known[i];
    default:
        while (preferred(i) != level - 1)
            i = (i + 1) % KNOWN;
        return known[i];
    }
}

static uint64_t make_entry(unsigned level, uint64_t bits)
{
    uint64_t entry = target(level, bits) << 12 | 4 | (bits >> 32 & 0x62);

    entry |= (bits >> 40 & 7) != 0;        /* P */
    entry |= (bits >> 43 & 1) << 63;       /* XD */
    entry |= !(bits >> 44 & 31) ? 128 : 0; /* PS, or the PAT bit */
    entry |= !(bits >> 49 & 31) ? 256 : 0; /* G */
    if (wants_large(level, bits))
        entry |= 128;
    return bits >> 55 & 7 ? entry : 0;
}

static unsigned level_of(const struct direct_guest *g, unsigned frame)
{
    for (unsigned level = 1; level <= 4; level++)
        if (bit(g->now.is[frame], level))
            return level;
    return 0;
}

static const char *act_store(struct direct_guest *g, const struct choice *c)
{
    unsigned frame = known[c->i], level = level_of(g, frame);
    uint64_t *content = &g->content[c->i][c->slot];

    if (!level)
        *content =
            c->slot == FIXED && c->extra % 4
                ? 0
                : make_entry(preferred(c->i) ? preferred(c->i) : 1, c->value);
    else if (bit(*content, 0))
        *content |= level == 1 || bit(*content, 7) ? c->extra & 0x60 : 0x20;
    memory(g, frame)[slots[c->slot]] = *content;
    g->ended[ACT_STORE][ERROR_NONE]++;
    return NULL;
}

static const char *act_update(struct direct_guest *g, const struct choice *c)
{
    unsigned level = level_of(g, known[c->i]);
    uint64_t value = make_entry(level ? level : 1, c->value);
    bool fixed = level == 4 && c->slot == FIXED;
    unsigned mistakes = MISTAKE(ERROR_INVAL);
    const char *wrong;

    if (fixed && c->extra % 2)
        value = FIXED_ENTRY;
    if (fixed && value == FIXED_ENTRY && c->odd > 3)
        mistakes = 0;
    else if (level && c->odd > 3 && !fixed)
        mistakes = mistakes_with_entry(g, value, level);
    g->updates++;
    wrong = judge(g, ACT_UPDATE, mistakes,
                  direct_update(&g->direct, c->pa + slots[c->slot] * 8, value));
    if (!mistakes)
        g->content[c->i][c->slot] = value;
    return wrong;
}

static const char *act_pin(struct direct_guest *g, const struct choice *c)
{
    unsigned level = c->extra % 4 ? preferred(c->i) : c->extra / 4 % 6;
    unsigned mistakes = MISTAKE(ERROR_INVAL);
    const char *wrong;

    if (level >= 1 && level <= 4 && c->odd > 3 && !g->pinned[known[c->i]])
        mistakes = mistakes_with_table(g, known[c->i], level);
    wrong = judge(g, ACT_PIN, mistakes, direct_pin(&g->direct, c->pa, level));
    if (!mistakes)
        g->pinned[known[c->i]] = (uint8_t)level;
    return wrong;
}

static const char *act_unpin(struct direct_guest *g, const struct choice *c)
{
    bool good = c->odd > 3 && g->pinned[known[c->i]];
    const char *wrong = judge(g, ACT_UNPIN, good ? 0 : MISTAKE(ERROR_INVAL),
                              direct_unpin(&g->direct, c->pa));

    if (good)
        g->pinned[known[c->i]] = 0;
    return wrong;
}

/* A root that is nobody's RAM is refused as any table would be. */
static const char *act_root(struct direct_guest *g, const struct choice *c)
{
    uint32_t *root = &g->root[c->extra % ROOTS];
    unsigned mistakes =
        c->odd == 0 ? MISTAKE(ERROR_INVAL) : MISTAKE(ERROR_FAULT);
    const char *wrong;

    if (*root < FRAMES) {
        direct_put_root(&g->direct, (uint64_t)*root << 12);
        *root = FRAMES;
        g->ended[ACT_PUT_ROOT][ERROR_NONE]++;
        return NULL;
    }
    if (c->odd > 3)
        mistakes = mistakes_with_table(g, known[c->i], 4);
    wrong =
        judge(g, ACT_GET_ROOT, mistakes, direct_get_root(&g->direct, c->pa));
    if (!mistakes)
        *root = known[c->i];
    return wrong;
}

static const char *act_clear(struct direct_guest *g, const struct choice *c)
{
    unsigned mistakes = c->odd <= 3              ? MISTAKE(ERROR_INVAL)
                        : g->now.is[known[c->i]] ? MISTAKE(ERROR_BUSY)
                                                 : 0;
    const char *wrong =
        judge(g, ACT_CLEAR, mistakes, direct_clear(&g->direct, c->pa));

    if (!mistakes)
        memset(g->content[c->i], 0, sizeof g->content[c->i]);
    return wrong;
}

static uint64_t address(unsigned i, unsigned odd)
{
    uint64_t pa = (uint64_t)known[i] << 12;

    switch (odd) {
    case 0:
        return pa + 4;
    case 1:
        return pa | 1ull << 63;
    case 2:
        return (uint64_t)(LOW_END + i) << 12;
    case 3:
        return (uint64_t)(FRAMES + i) << 12;
    default:
        return pa;
    }
}

static const char *act(struct direct_guest *g, unsigned kind,
                       const struct choice *c)
{
    if (kind < 12)
        return act_store(g, c);
    if (kind < 24)
        return act_update(g, c);
    if (kind < 27)
        return act_pin(g, c);
    if (kind < 29)
        return act_unpin(g, c);
    return kind < 31 ? act_root(g, c) : act_clear(g, c);
}

const char *direct_guest_step(struct direct_guest *g, uint64_t choice,
                              uint64_t value)
{
    struct choice c = {
        .i = (unsigned)(choice >> 8 & 0xff) % KNOWN,
        .slot = (unsigned)(choice >> 16 & 0xff) % SLOTS,
        .odd = choice >> 24 & 0x7f,
        .extra = choice >> 32 & 0xffff,
        .value = value,
    };
    const char *wrong;

    c.pa = address(c.i, c.odd);
    wrong = act(g, choice & 31, &c);
    return wrong ? wrong : settle(g);
}

/* ---- Life -------------------------------------------------------------- */

static bool is_known(const struct direct_guest *g, unsigned frame, unsigned at)
{
    for (unsigned s = 0; g->known_at[frame] != NOT_KNOWN && s < SLOTS; s++)
        if (slots[s] == at)
            return true;
    return at == FIXED_SLOT && g->now.is[frame] & IS(4);
}

const char *direct_guest_check_all(const struct direct_guest *g)
{
    for (unsigned f = 0; f < FRAMES; f++)
        for (unsigned i = 0; is_ram(f) && i < 512; i++)
            if (memory(g, f)[i] && !is_known(g, f, i))
                return "memory is written that nobody wrote to";
    return NULL;
}

struct direct_guest *direct_guest_new(void)
{
    struct direct_guest *g = calloc(1, sizeof *g);
    struct direct_config config = {
        .physical_bits = PHYSICAL_BITS,
        .flush_all = flushed,
        .arg = g,
        .fixed_index = FIXED_SLOT,
        .fixed_entry = FIXED_ENTRY,
    };

    if (!g)
        return NULL;
    g->frames = calloc(FRAMES, sizeof *g->frames);
    g->low = calloc(LOW_END, 4096);
    g->high = calloc(FRAMES - HIGH_START, 4096);
    if (!g->frames || !g->low || !g->high) {
        direct_guest_free(g);
        return NULL;
    }
    config.ram[0] = (struct direct_ram){0, LOW_END * 4096ull, (void *)g->low};
    config.ram[1] = (struct direct_ram){HIGH_START * 4096ull, FRAMES * 4096ull,
                                        (void *)g->high};
    direct_init(&g->direct, &config, g->frames);
    memset(g->known_at, NOT_KNOWN, sizeof g->known_at);
    for (unsigned i = 0; i < KNOWN; i++)
        g->known_at[known[i]] = (uint8_t)i;
    for (unsigned i = 0; i < ROOTS; i++)
        g->root[i] = FRAMES;
    return g;
}

void direct_guest_free(struct direct_guest *g)
{
    if (!g)
        return;
    free(g->frames);
    free(g->low);
    free(g->high);
    free(g);
}

uint64_t direct_guest_ended(const struct direct_guest *g, enum direct_act act,
                            enum direct_error error)
{
    return g->ended[act][error];
}

unsigned direct_guest_most(const struct direct_guest *g, unsigned level)
{
    return g->most[level];
}

uint64_t direct_guest_flushes(const struct direct_guest *g)
{
    return g->flushes;
}
