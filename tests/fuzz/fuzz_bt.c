/*
 * The translator on any two pages of code, in any order of requests: the first
 * 64 bytes say what is asked for, the rest is the code, again and again. What
 * comes out is never run; it must hold together.
 */
#include "bt/bt.h"
#include "tests/bt_check.h"
#include "tests/fuzz/targets.h"
#include "vmm/decode.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE     4096u
#define COMMANDS 64u

struct pages {
    uint64_t gva;
    uint8_t *page[2]; /* each by itself, so that a sanitizer sees its end */
};

static int byte_at(void *context, uint64_t gva)
{
    const struct pages *pages = context;
    uint64_t at = gva - pages->gva;

    if (at >= 2 * PAGE)
        return -1;
    return pages->page[at / PAGE][at % PAGE];
}

static bool sensitive(const uint8_t *bytes, unsigned count)
{
    struct insn insn;

    return !decode_insn(bytes, count, &insn) && insn_is_sensitive(&insn);
}

static void translate(struct bt *bt, const struct pages *pages, unsigned at,
                      unsigned how)
{
    unsigned page = at / PAGE;
    struct bt_request request = {
        .gva = pages->gva + at,
        .bytes = pages->page[page] + at % PAGE,
        .count = PAGE - at % PAGE,
        .pa = page * PAGE,
        .next = page == 0 && how & 1 ? pages->page[1] : NULL,
        .next_pa = PAGE,
        .indirect = how & 2,
    };
    int err = bt_translate(bt, &request);

    if (err && (err != -ENODATA || request.next || request.count >= 15))
        abort();
}

/* One byte that says what, and two that say where. */
static void obey(struct bt *bt, const struct pages *pages,
                 const uint8_t *command)
{
    unsigned at = (command[1] | command[2] << 8) % (2 * PAGE);
    unsigned how = command[0] >> 4;

    switch (command[0] & 15) {
    case 0:
        bt_invalidate_frame(bt, at);
        break;
    case 1:
        bt_invalidate_range(bt, pages->gva + at, 1 + how * 100);
        break;
    case 2:
        bt_adapt(bt, pages->gva + at, how & 1);
        break;
    case 3:
        if (how == 0)
            bt_flush(bt);
        break;
    case 4: /* around the pages' border */
        translate(bt, pages, PAGE - 16 + at % 32, how);
        break;
    default:
        translate(bt, pages, at, how);
    }
}

static void fill(struct pages *pages, const uint8_t *bytes, size_t count)
{
    for (unsigned i = 0; i < 2 * PAGE; i++)
        pages->page[i / PAGE][i % PAGE] = count ? bytes[i % count] : 0x90;
}

static void run(const struct bt_config *config, struct pages *pages,
                const uint8_t *bytes, size_t count)
{
    size_t commands = count < COMMANDS ? count : COMMANDS;
    const char *what;
    struct bt *bt;

    if (bt_create(&bt, config, NULL))
        return;
    fill(pages, bytes + commands, count - commands);
    for (size_t i = 0; i + 3 <= commands; i += 3)
        obey(bt, pages, bytes + i);
    what = bt_check(config->cache, config->area, byte_at, pages);
    if (what) {
        fprintf(stderr, "%s\n", what);
        abort();
    }
    bt_destroy(bt);
}

int fuzz_bt(const uint8_t *bytes, size_t count)
{
    static const uint64_t places[] = {0x400000, 0xffffffff81000000,
                                      0x200000000000, 0x7ffff000};
    struct pages pages = {.gva = places[count ? bytes[0] >> 6 : 0],
                          .page = {malloc(PAGE), malloc(PAGE)}};
    struct bt_config config = {
        .va = 0xfffffd8000000000,
        .area = calloc(1, BT_AREA),
        .cache = calloc(1, sizeof *config.cache),
        .code_bytes = count & 1 ? 1 : 0,
        .is_sensitive = count & 2 ? sensitive : NULL,
    };

    if (pages.page[0] && pages.page[1] && config.area && config.cache)
        run(&config, &pages, bytes, count);
    free(pages.page[0]);
    free(pages.page[1]);
    free(config.area);
    free(config.cache);
    return 0;
}
