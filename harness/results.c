#include "harness/results.h"

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
     "seed,checksum"},
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
};

static int text_open(struct text *text)
{
    text->bytes = NULL;
    text->stream = open_memstream(&text->bytes, &text->count);
    return text->stream ? 0 : -ENOMEM;
}

static void cell(struct text *text, const char *value)
{
    if (ftell(text->stream) > 0) {
        fflush(text->stream);
        if (text->bytes[text->count - 1] != '\n')
            fputc(',', text->stream);
    }
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

/* A row that did not fit is taken back: what stands in the file is whole. */
static int append(struct results *results, unsigned file, const char *bytes,
                  size_t count, struct why *why)
{
    int fd = results->fd[file];
    off_t end = lseek(fd, 0, SEEK_END);
    int err = write_all(fd, bytes, count);

    if (err && end >= 0 && ftruncate(fd, end))
        err = -errno;
    return err ? why_set(why, -err,
                         "cannot write %s/%s: %s; the rows before it are "
                         "whole",
                         results->folder, files[file].name, strerror(-err))
               : 0;
}

static int text_append(struct text *text, struct results *results,
                       unsigned file, struct why *why)
{
    int err = 0;

    if (fclose(text->stream))
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
        return why_set(why, errno, "cannot use %s as a result folder: %s",
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
    results->fd[RUNS] = results->fd[EXITS] = results->fd[COUNTERS] = -1;
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

int results_close(struct results *results, struct why *why)
{
    int err = 0;

    for (unsigned i = 0; i < FILES; i++)
        if (results->fd[i] >= 0 && close(results->fd[i]) && !err)
            err = why_set(why, errno, "cannot write %s/%s: %s", results->folder,
                          files[i].name, strerror(errno));
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
    cell(text, ""); /* shadow_policy: KVM's tables have no such knob */
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
    int err = 0;

    snprintf(id, sizeof id, "%s-%04u", platform_name(spec->platform),
             ++results->last_id[spec->platform]);
    for (unsigned i = 0; i < FILES; i++)
        if (text_open(&text[i]))
            return why_set(why, ENOMEM, "out of memory");
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

/* The other folder's ids continue ours: results_number_from sees to it. */
static int merge_file(struct results *results, const char *folder,
                      unsigned file, struct why *why)
{
    size_t header = strlen(files[file].header), room = 0;
    char path[4200], *bytes = NULL;
    ssize_t count;
    FILE *from;
    int err = 0;

    snprintf(path, sizeof path, "%s/%s", folder, files[file].name);
    from = fopen(path, "re");
    if (!from)
        return why_set(why, errno, "cannot read %s: %s", path, strerror(errno));
    count = getdelim(&bytes, &room, EOF, from);
    if (count < (ssize_t)header + 2 ||
        strncmp(bytes, files[file].header, header) ||
        strncmp(bytes + header, "\r\n", 2))
        err = why_set(why, EINVAL, "%s is not a %s of this version", path,
                      files[file].name);
    else
        err = append(results, file, bytes + header + 2,
                     (size_t)count - header - 2, why);
    free(bytes);
    fclose(from);
    return err;
}

int results_merge(struct results *results, const char *folder, struct why *why)
{
    int err = 0;

    for (unsigned i = FILES; !err && i-- > 0;)
        err = merge_file(results, folder, i, why);
    return err;
}
