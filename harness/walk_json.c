#include "harness/walk_decode.h"
#include "harness/walk_memory.h"
#include "harness/walk_print.h"

static json_t *hex(uint64_t value)
{
    return json_sprintf("%#llx", (unsigned long long)value);
}

static json_t *flags_json(const struct walk_flag *flags, unsigned count)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < count; i++)
        json_array_append_new(
            list, json_pack("{s:s, s:o, s:s}", "name", flags[i].name, "bits",
                            hex(flags[i].bits), "meaning", flags[i].meaning));
    return list;
}

static json_t *question_json(const struct walk_question *q)
{
    static const char *const accesses[] = {"read", "write", "fetch"};
    json_t *o = json_pack(
        "{s:o, s:s, s:s, s:b, s:i, s:I}", "address", hex(q->request.va),
        "technique", walk_technique_name(q->technique), "access",
        accesses[q->request.access], "user", q->request.user, "guest_levels",
        (int)q->guest.levels, "guest_page_bytes", (json_int_t)q->guest_page);

    if (q->technique != WALK_NATIVE)
        json_object_set_new(o, "host_page_bytes",
                            json_integer((json_int_t)q->host_page));
    if (q->technique == WALK_NESTED) {
        json_object_set_new(o, "nested_levels",
                            json_integer((json_int_t)q->nested.levels));
        json_object_set_new(
            o, "format",
            json_string(q->nested.format == EPT_FORMAT_EPT ? "ept" : "npt"));
    }
    if (q->profile)
        json_object_set_new(o, "cpu", json_string(q->profile->name));
    return o;
}

static json_t *indices_json(const struct walk_question *q)
{
    const unsigned leaf = pt_leaf_level(q->guest_page);
    json_t *list = json_array();

    for (unsigned level = q->guest.levels; level >= leaf; level--)
        json_array_append_new(list,
                              json_pack("{s:s, s:i, s:i, s:i}", "entry",
                                        walk_level_name(level), "high_bit",
                                        (int)pt_shift(level) + 8, "low_bit",
                                        (int)pt_shift(level), "index",
                                        (int)pt_index(q->request.va, level)));
    return list;
}

/* ---- Passes -------------------------------------------------------------- */

static const char *tables_name(const struct walk_row *row)
{
    static const char *const names[] = {"guest", "nested", "shadow"};

    return names[row->tables];
}

static json_t *row_json(const struct walk_question *q,
                        const struct walk_row *row, unsigned number)
{
    struct walk_entry e;
    json_t *o;

    walk_decode_entry(q, row, &e);
    o = json_pack("{s:i, s:s, s:s, s:i, s:i, s:o, s:o, s:b, s:o, s:o}",
                  "number", (int)number, "tables", tables_name(row), "entry",
                  walk_row_name(q, row), "level", (int)row->level, "index",
                  (int)row->index, "physical_address", hex(row->pa), "value",
                  hex(row->entry), "present", e.present, "flags",
                  flags_json(e.flag, e.flags), "sets", hex(row->sets));
    if (q->technique != WALK_NATIVE && row->tables != WALK_SHADOW_TABLES)
        json_object_set_new(o, "guest_physical_address", hex(row->gpa));
    if (row->tables == WALK_NESTED_TABLES)
        json_object_set_new(o, "translates",
                            json_string(row->guest_level
                                            ? walk_level_name(row->guest_level)
                                            : "access"));
    if (e.target) {
        json_object_set_new(o, "refers_to", hex(e.target));
        json_object_set_new(o, "maps_page", json_boolean(e.leaf));
    }
    return o;
}

static json_t *end_json(const struct walk_question *q,
                        const struct walk_pass *pass)
{
    struct walk_flag flags[WALK_FLAGS_MAX];
    char text[640];
    json_t *o;

    walk_decode_end(q, pass, text, sizeof text);
    o = json_pack("{s:s, s:s}", "kind", walk_end_name(pass->end), "explained",
                  text);
    if (pass->end == WALK_PAGE_FAULT || pass->end == WALK_TRUE_FAULT) {
        json_object_set_new(o, "error_code", hex(pass->error));
        json_object_set_new(
            o, "bits",
            flags_json(flags, walk_decode_error(pass->error, flags)));
    } else if (pass->end == WALK_VIOLATION) {
        json_object_set_new(o, "exit_qualification", hex(pass->qualification));
        json_object_set_new(o, "bits",
                            flags_json(flags, walk_decode_qualification(
                                                  pass->qualification, flags)));
    } else if (pass->end == WALK_NESTED_FAULT) {
        json_object_set_new(o, "exitinfo1", hex(pass->exit_info1));
        json_object_set_new(
            o, "bits",
            flags_json(flags, walk_decode_error(pass->exit_info1, flags)));
    }
    if (pass->end >= WALK_TRANSLATED && pass->gpa)
        json_object_set_new(o,
                            q->technique == WALK_NATIVE
                                ? "physical_address"
                                : "guest_physical_address",
                            hex(pass->gpa));
    return o;
}

static void add_translation(json_t *end, const struct walk_question *q,
                            const struct walk_pass *pass)
{
    json_object_set_new(end, "physical_address", hex(pass->pa));
    if (q->technique != WALK_NESTED)
        json_object_del(end, "guest_physical_address");
    json_object_set_new(end, "writable", json_boolean(pass->writable));
    json_object_set_new(end, "executable", json_boolean(pass->executable));
    json_object_set_new(end, "user", json_boolean(pass->user));
    json_object_set_new(
        end, "tlb_page_bytes",
        json_integer((json_int_t)(pass->guest_page < pass->host_page
                                      ? pass->guest_page
                                      : pass->host_page)));
}

static json_t *pass_json(const struct walk_question *q,
                         const struct walk_pass *pass)
{
    json_t *rows = json_array(), *end = end_json(q, pass);

    for (unsigned i = 0; i < pass->rows; i++)
        json_array_append_new(rows, row_json(q, &pass->row[i], i + 1));
    if (pass->end == WALK_TRANSLATED)
        add_translation(end, q, pass);
    return json_pack("{s:s, s:o, s:o}", "by",
                     pass->by == WALK_BY_CPU ? "cpu" : "shadow_mmu",
                     "references", rows, "end", end);
}

json_t *walk_print_json(const struct walk_question *q,
                        const struct walk_answer *answer)
{
    json_t *passes = json_array(), *replays = json_array();
    char text[640];

    for (unsigned i = 0; i < answer->passes; i++)
        json_array_append_new(passes, pass_json(q, &answer->pass[i]));
    for (unsigned i = 0; i < answer->replays; i++) {
        const struct walk_replay *r = &answer->replay[i];

        json_array_append_new(
            replays,
            json_pack("{s:s, s:b, s:i, s:i}", "caches", r->caches, "warm",
                      r->which > WALK_CACHES_EMPTY, "references",
                      (int)r->references, "nested_references", (int)r->nested));
    }
    walk_summary(q, answer, text, sizeof text);
    return json_pack("{s:o, s:o, s:o, s:o, s:s}", "question", question_json(q),
                     "indices", indices_json(q), "walks", passes, "again",
                     replays, "summary", text);
}
