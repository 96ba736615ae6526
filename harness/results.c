#include "harness/results.h"

#include "base/parse.h"
#include "harness/table.h"

#include <csv.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RUNS, EXITS, COUNTERS, FILES };

static const struct {
    const char *name, *header;
} files[FILES] = {
    {"runs.csv",
     "run_id,started_at,platform,kvm,technique,mmu,shadow_policy,workload,"
     "phase,working_set_bytes,guest_page_bytes,host_page_bytes,vcpus,rep,"
     "operations,wall_ns,guest_tsc_ticks,guest_instructions,status,message,"
     "seed,checksum,cpu_profile,levels,costs,assist,shadow_roots,"
     "bt_adaptive,bt_cache_bytes"},
    {"exits.csv", "run_id,kind,source,reason,count,total_ns"},
    {"counters.csv", "run_id,source,scope,name,value,unit"},
};

struct results {
    char *folder;
    int fd[FILES];
    unsigned last_id[PLATFORMS];
};

const char *results_header(const char *file)
{
    for (unsigned i = 0; i < FILES; i++)
        if (!strcmp(files[i].name, file))
            return files[i].header;
    return NULL;
}

/* ---- Text that grows --------------------------------------------------- */

/* Whole rows are built here and leave in one write, so that a reader or a
 * crash finds whole rows. */
struct text {
    FILE *stream;
    char *bytes;
    size_t count;
    bool in_row;
};

static int text_open(struct text *text)
{
    *text = (struct text){.stream = NULL};
    text->stream = open_memstream(&text->bytes, &text->count);
    return text->stream ? 0 : -ENOMEM;
}

/* All of them, or none. */
static int texts_open(struct text texts[FILES], struct why *why)
{
    for (unsigned i = 0; i < FILES; i++) {
        if (!text_open(&texts[i]))
            continue;
        while (i-- > 0) {
            fclose(texts[i].stream);
            free(texts[i].bytes);
        }
        why_set(why, ENOMEM, "out of memory");
        return -ENOMEM;
    }
    return 0;
}

static void cell(struct text *text, const char *value)
{
    if (text->in_row)
        fputc(',', text->stream);
    text->in_row = true;
    if (strpbrk(value, ",\"\r\n"))
        csv_fwrite(text->stream, value, strlen(value));
    else
        fputs(value, text->stream);
}

static void cell_u64(struct text *text, uint64_t value)
{
    char digits[24];

    snprintf(digits, sizeof digits, "%" PRIu64, value);
    cell(text, digits);
}

static void cell_maybe(struct text *text, struct maybe_u64 value)
{
    if (value.known)
        cell_u64(text, value.value);
    else
        cell(text, "");
}

static void row_end(struct text *text)
{
    fputs("\r\n", text->stream);
    text->in_row = false;
}

static int write_all(int fd, const char *bytes, size_t count)
{
    while (count) {
        ssize_t wrote = write(fd, bytes, count);

        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote < 0)
            return -errno;
        bytes += wrote;
        count -= (size_t)wrote;
    }
    return 0;
}

/* Rows that did not fit are taken back: what stands in the file is whole. */
static int append(struct results *results, unsigned file, const char *bytes,
                  size_t count, struct why *why)
{
    int fd = results->fd[file];
    off_t end = lseek(fd, 0, SEEK_END);
    int err = write_all(fd, bytes, count);
    bool whole;

    if (!err)
        return 0;
    whole = end >= 0 && !ftruncate(fd, end);
    return why_set(why, -err,
                   "cannot write %s/%s: %s; the rows before are %s. Free some "
                   "room, or name another folder with -o",
                   results->folder, files[file].name, strerror(-err),
                   whole ? "whole" : "whole but for the last line");
}

static int text_append(struct text *text, struct results *results,
                       unsigned file, struct why *why)
{
    bool lost = ferror(text->stream);
    int err = 0;

    if (fclose(text->stream) || lost)
        err = why_set(why, ENOMEM, "out of memory");
    else if (text->count)
        err = append(results, file, text->bytes, text->count, why);
    free(text->bytes);
    return err;
}

/* ---- The folder -------------------------------------------------------- */

static int make_folder(const char *folder, struct why *why)
{
    char *path = strdup(folder);
    int err = path ? 0 : -ENOMEM;

    for (char *at = path; !err && at && *at; at++) {
        if (*at != '/' || at == path)
            continue;
        *at = 0;
        if (mkdir(path, 0777) && errno != EEXIST)
            err = -errno;
        *at = '/';
    }
    if (!err && mkdir(folder, 0777) && errno != EEXIST)
        err = -errno;
    free(path);
    return err ? why_set(why, -err,
                         "cannot create the result folder %s: %s; name "
                         "another with -o",
                         folder, strerror(-err))
               : 0;
}

static int check_empty(const char *folder, struct why *why)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    int entries = 0;

    if (!dir)
        return why_set(why, errno,
                       "cannot use %s as a result folder: %s; name another "
                       "with -o",
                       folder, strerror(errno));
    while ((entry = readdir(dir)))
        entries += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
    closedir(dir);
    return entries ? why_set(why, EEXIST,
                             "the folder %s has something in it: name "
                             "another with -o, so that nothing is overwritten",
                             folder)
                   : 0;
}

static int create_file(struct results *results, unsigned file, struct why *why)
{
    char path[4200], header[1024];

    snprintf(path, sizeof path, "%s/%s", results->folder, files[file].name);
    results->fd[file] =
        open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (results->fd[file] < 0)
        return why_set(why, errno,
                       "cannot create %s: %s; name another folder "
                       "with -o",
                       path, strerror(errno));
    snprintf(header, sizeof header, "%s\r\n", files[file].header);
    return append(results, file, header, strlen(header), why);
}

int results_create(struct results **out, const char *folder, struct why *why)
{
    struct results *results;
    int err = make_folder(folder, why);

    *out = NULL;
    if (!err)
        err = check_empty(folder, why);
    if (err)
        return err;
    results = calloc(1, sizeof *results);
    if (!results)
        return why_set(why, ENOMEM, "out of memory");
    for (unsigned i = 0; i < FILES; i++)
        results->fd[i] = -1;
    results->folder = strdup(folder);
    if (!results->folder)
        err = why_set(why, ENOMEM, "out of memory");
    for (unsigned i = 0; !err && i < FILES; i++)
        err = create_file(results, i, why);
    if (err) {
        results_close(results, NULL);
        return err;
    }
    *out = results;
    return 0;
}

/* A file system may take rows and find out only later that there is no room
 * for them; fsync(2) makes it tell. Some cannot (EINVAL, ENOSYS). */
static int close_file(int fd)
{
    int err = 0;

    if (fsync(fd) && (errno == ENOSPC || errno == EDQUOT || errno == EIO))
        err = -errno;
    if (close(fd) && !err)
        err = -errno;
    return err;
}

int results_close(struct results *results, struct why *why)
{
    int err = 0;

    for (unsigned i = 0; i < FILES; i++) {
        int one = results->fd[i] < 0 ? 0 : close_file(results->fd[i]);

        if (one && !err)
            err = why_set(why, -one,
                          "cannot write %s/%s: %s; rows may be missing. Free "
                          "some room and run again",
                          results->folder, files[i].name, strerror(-one));
    }
    free(results->folder);
    free(results);
    return err;
}

/* ---- Rows -------------------------------------------------------------- */

static void run_row(struct text *text, const char *id,
                    const struct run_spec *spec,
                    const struct run_record *record,
                    const struct phase_record *phase)
{
    char checksum[24] = "";

    cell(text, id);
    cell(text, record->started_at);
    cell(text, platform_name(spec->platform));
    cell(text, record->kvm);
    cell(text, technique_name(spec->technique));
    cell(text, record->mmu);
    cell(text, record->shadow_policy);
    cell(text, spec->workload);
    cell(text, phase ? phase_name(phase->phase) : "");
    cell_u64(text, spec->working_set_bytes);
    cell_maybe(text, record->guest_page_bytes);
    cell_maybe(text, record->host_page_bytes);
    cell_u64(text, spec->vcpus);
    cell_u64(text, spec->rep);
    cell_maybe(text, (struct maybe_u64){phase, phase ? phase->operations : 0});
    cell_maybe(text, phase ? phase->wall_ns : (struct maybe_u64){false, 0});
    cell_maybe(text,
               phase ? phase->guest_tsc_ticks : (struct maybe_u64){false, 0});
    cell_maybe(text, phase ? phase->guest_instructions
                           : (struct maybe_u64){false, 0});
    cell(text, status_name(record->status));
    cell(text, record->message);
    cell_u64(text, spec->seed);
    if (phase)
        snprintf(checksum, sizeof checksum, "%016" PRIx64, phase->checksum);
    cell(text, checksum);
    cell(text, record->cpu_profile);
    cell(text, record->levels);
    cell(text, record->costs);
    cell(text, record->assist);
    cell_maybe(text, record->shadow_roots);
    cell(text, record->bt_adaptive);
    cell_maybe(text, record->bt_cache_bytes);
    row_end(text);
}

static void exit_rows(struct text *text, const char *id,
                      const struct rows *rows)
{
    for (unsigned i = 0; i < rows->exit_count; i++) {
        const struct exit_row *row = &rows->exits[i];

        cell(text, id);
        cell(text, row->kind);
        cell(text, row->source);
        cell(text, row->reason);
        cell_u64(text, row->count);
        cell_maybe(text, row->total_ns);
        row_end(text);
    }
}

static void counter_rows(struct text *text, const char *id,
                         const struct rows *rows)
{
    for (unsigned i = 0; i < rows->counter_count; i++) {
        const struct counter_row *row = &rows->counters[i];
        char value[40];

        snprintf(value, sizeof value, "%.17g", row->value);
        cell(text, id);
        cell(text, row->source);
        cell(text, row->scope);
        cell(text, row->name);
        cell(text, value);
        cell(text, row->unit);
        row_end(text);
    }
}

static int add_phase(struct results *results, const struct run_spec *spec,
                     const struct run_record *record,
                     const struct phase_record *phase, struct why *why)
{
    struct text text[FILES];
    char id[40];
    int err = texts_open(text, why);

    if (err)
        return err;
    snprintf(id, sizeof id, "%s-%04u", platform_name(spec->platform),
             ++results->last_id[spec->platform]);
    run_row(&text[RUNS], id, spec, record, phase);
    if (phase) {
        exit_rows(&text[EXITS], id, &phase->rows);
        counter_rows(&text[COUNTERS], id, &phase->rows);
    }
    /* The run's own row comes last: details without it are harmless. */
    for (unsigned i = FILES; i-- > 0;) {
        int one = text_append(&text[i], results, i, err ? NULL : why);

        err = err ? err : one;
    }
    return err;
}

int results_add(struct results *results, const struct run_spec *spec,
                const struct run_record *record, struct why *why)
{
    int err = 0;

    if (!record->phase_count)
        return add_phase(results, spec, record, NULL, why);
    for (unsigned i = 0; !err && i < record->phase_count; i++)
        err = add_phase(results, spec, record, &record->phases[i], why);
    return err;
}

unsigned results_next_id(const struct results *results, enum platform platform)
{
    return results->last_id[platform] + 1;
}

void results_number_from(struct results *results, enum platform platform,
                         unsigned next_id)
{
    results->last_id[platform] = next_id - 1;
}

/* ---- Merging ----------------------------------------------------------- */

#define COLUMNS_MAX 64 /* far more than any of the files has */

/* Where the other file has our columns; returns how many there are. */
static int other_columns(const struct table *table, unsigned file,
                         int columns[COLUMNS_MAX], struct why *why)
{
    char *header = strdup(files[file].header), *rest = header, *name;
    int count = 0;

    if (!header) {
        why_set(why, ENOMEM, "out of memory");
        return -ENOMEM;
    }
    while (count >= 0 && (name = strsep(&rest, ","))) {
        columns[count] = table_column(table, name);
        if (columns[count++] < 0) {
            why_set(why, EINVAL,
                    "%s has no column '%s': it is of another version of "
                    "memvirt",
                    files[file].name, name);
            count = -EINVAL;
        }
    }
    free(header);
    return count;
}

static int copy_rows(const struct table *table, unsigned file,
                     struct text *text, struct why *why)
{
    int columns[COLUMNS_MAX];
    int count = other_columns(table, file, columns, why);

    if (count < 0)
        return count;
    for (size_t row = 0; row < table_rows(table); row++) {
        for (int i = 0; i < count; i++)
            cell(text, table_cell(table, row, columns[i]));
        row_end(text);
    }
    return 0;
}

/* `<platform>-<number>`, above every number that this folder has. */
static int take_id(const char *id, unsigned last_id[PLATFORMS],
                   const char *path, struct why *why)
{
    const char *dash = strrchr(id, '-');
    enum platform platform;
    uint64_t number;
    char name[16];

    snprintf(name, sizeof name, "%.*s", dash ? (int)(dash - id) : 0, id);
    if (!dash || platform_parse(name, &platform, NULL) ||
        parse_number(dash + 1, "id", 1, UINT32_MAX, &number, NULL))
        return why_set(why, EINVAL, "%s: '%s' is no run id", path, id);
    if (number <= last_id[platform])
        return why_set(why, EEXIST,
                       "%s: there is a run %s already; start its numbers at "
                       "%u",
                       path, id, last_id[platform] + 1);
    last_id[platform] = (unsigned)number;
    return 0;
}

static int take_ids(const struct table *runs, unsigned last_id[PLATFORMS],
                    const char *path, struct why *why)
{
    int column = table_column(runs, "run_id"), err = 0;

    for (size_t row = 0; !err && row < table_rows(runs); row++)
        err = take_id(table_cell(runs, row, column), last_id, path, why);
    return err;
}

static int read_other(const char *folder, unsigned file, struct text *text,
                      unsigned last_id[PLATFORMS], struct why *why)
{
    struct table *table;
    char path[4200];
    int err;

    snprintf(path, sizeof path, "%s/%s", folder, files[file].name);
    err = table_read(&table, path, why);
    if (err)
        return err;
    err = copy_rows(table, file, text, why);
    if (!err && file == RUNS)
        err = take_ids(table, last_id, path, why);
    table_free(table);
    return err;
}

/* Everything is read and checked before anything is written. */
int results_merge(struct results *results, const char *folder, struct why *why)
{
    unsigned last_id[PLATFORMS];
    struct text text[FILES];
    int err = texts_open(text, why);

    if (err)
        return err;
    memcpy(last_id, results->last_id, sizeof last_id);
    for (unsigned i = 0; !err && i < FILES; i++)
        err = read_other(folder, i, &text[i], last_id, why);
    for (unsigned i = FILES; i-- > 0;) {
        if (!err) {
            err = text_append(&text[i], results, i, why);
            continue;
        }
        fclose(text[i].stream);
        free(text[i].bytes);
    }
    if (!err)
        memcpy(results->last_id, last_id, sizeof last_id);
    return err;
}
