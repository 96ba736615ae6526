#include "harness/counters/kvm_stats.h"
#include "harness/counters/source.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Generous bounds on what a kernel may hand us: today's have about 60
 * statistics with names of 48 bytes. */
#define NAME_BYTES_MAX  1024u
#define STATS_MAX       4096u
#define FILE_OFFSET_MAX (1u << 24)
#define DATA_BYTES_MAX  (1u << 20)

static int read_exactly(int fd, void *buffer, size_t bytes, off_t offset)
{
    while (bytes) {
        ssize_t got = pread(fd, buffer, bytes, offset);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (!got)
            return -EPROTO;
        buffer = (char *)buffer + got;
        offset += got;
        bytes -= (size_t)got;
    }
    return 0;
}

static void name_unit(char unit[24], uint32_t flags, int16_t exponent)
{
    const char *base = "events";

    switch (flags & KVM_STATS_UNIT_MASK) {
    case KVM_STATS_UNIT_BYTES:
        base = "bytes";
        break;
    case KVM_STATS_UNIT_SECONDS:
        base = exponent == -9 ? "ns" : "seconds";
        break;
    case KVM_STATS_UNIT_CYCLES:
        base = "cycles";
        break;
    case KVM_STATS_UNIT_BOOLEAN:
        base = "boolean";
        break;
    }
    if (!exponent || !strcmp(base, "ns"))
        snprintf(unit, 24, "%s", base);
    else
        snprintf(unit, 24, "%s*%s^%d", base,
                 flags & KVM_STATS_BASE_POW2 ? "2" : "10", exponent);
}

/* 1 when taken, 0 when it is a kind we leave out, negative when malformed. */
static int take_descriptor(struct kvm_stats_file *file,
                           const struct kvm_stats_desc *desc, const char *name,
                           uint32_t name_bytes)
{
    struct kvm_stat *stat = &file->stats[file->count];
    uint32_t type = desc->flags & KVM_STATS_TYPE_MASK;
    uint64_t end = (uint64_t)desc->offset + 8ull * desc->size;
    size_t length = strnlen(name, name_bytes);

    if (length == name_bytes || !length || desc->offset % 8 ||
        end > DATA_BYTES_MAX)
        return -EPROTO;
    if (desc->size != 1 || length >= sizeof stat->name ||
        (type != KVM_STATS_TYPE_CUMULATIVE && type != KVM_STATS_TYPE_INSTANT))
        return 0;
    memcpy(stat->name, name, length + 1);
    stat->type =
        type == KVM_STATS_TYPE_INSTANT ? KVM_STAT_INSTANT : KVM_STAT_CUMULATIVE;
    name_unit(stat->unit, desc->flags, desc->exponent);
    stat->offset = desc->offset;
    if (end > file->data_bytes)
        file->data_bytes = (uint32_t)end;
    return 1;
}

static int take_descriptors(struct kvm_stats_file *file, const char *table,
                            uint32_t count, uint32_t name_bytes)
{
    size_t each = sizeof(struct kvm_stats_desc) + name_bytes;

    for (uint32_t i = 0; i < count; i++) {
        const char *at = table + i * each;
        struct kvm_stats_desc desc;
        int taken;

        memcpy(&desc, at, sizeof desc);
        taken = take_descriptor(file, &desc, at + sizeof desc, name_bytes);
        if (taken < 0)
            return taken;
        file->count += (unsigned)taken;
    }
    return 0;
}

static int read_descriptors(struct kvm_stats_file *file)
{
    struct kvm_stats_header header;
    size_t bytes;
    char *table;
    int err;

    err = read_exactly(file->fd, &header, sizeof header, 0);
    if (err)
        return err;
    if (!header.name_size || header.name_size > NAME_BYTES_MAX ||
        !header.num_desc || header.num_desc > STATS_MAX ||
        header.desc_offset > FILE_OFFSET_MAX ||
        header.data_offset > FILE_OFFSET_MAX)
        return -EPROTO;
    file->data_offset = header.data_offset;
    bytes = header.num_desc *
            (sizeof(struct kvm_stats_desc) + (size_t)header.name_size);
    table = malloc(bytes);
    file->stats = calloc(header.num_desc, sizeof *file->stats);
    err = table && file->stats ? 0 : -ENOMEM;
    if (!err)
        err = read_exactly(file->fd, table, bytes, header.desc_offset);
    if (!err)
        err = take_descriptors(file, table, header.num_desc, header.name_size);
    free(table);
    return err;
}

int kvm_stats_file_open(struct kvm_stats_file *file, int fd, struct why *why)
{
    int err;

    *file = (struct kvm_stats_file){.fd = fd};
    err = read_descriptors(file);
    if (!err)
        return 0;
    kvm_stats_file_close(file);
    if (err == -EPROTO)
        return why_set(why, EPROTO,
                       "KVM's statistics file is not laid out as "
                       "KVM_GET_STATS_FD documents");
    return why_set(why, -err, "cannot read KVM's statistics: %s",
                   strerror(-err));
}

int kvm_stats_file_read(const struct kvm_stats_file *file, uint64_t *values)
{
    char *data = malloc(file->data_bytes ? file->data_bytes : 1);
    int err;

    if (!data)
        return -ENOMEM;
    err = read_exactly(file->fd, data, file->data_bytes, file->data_offset);
    for (unsigned i = 0; !err && i < file->count; i++)
        memcpy(&values[i], data + file->stats[i].offset, sizeof values[i]);
    free(data);
    return err;
}

void kvm_stats_file_close(struct kvm_stats_file *file)
{
    if (file->fd >= 0)
        close(file->fd);
    free(file->stats);
    *file = (struct kvm_stats_file){.fd = -1};
}

/* The source: the VM's file first, then one per vCPU. */
struct snapshot {
    uint64_t *begin, *end;
};

struct stats_state {
    struct kvm_stats_file *files;
    struct snapshot *snapshots;
    unsigned count;
};

static void forget(struct stats_state *s)
{
    for (unsigned i = 0; i < s->count; i++) {
        kvm_stats_file_close(&s->files[i]);
        free(s->snapshots[i].begin);
        free(s->snapshots[i].end);
    }
    free(s->files);
    free(s->snapshots);
    *s = (struct stats_state){0};
}

static int stats_open(void **state, struct notes *notes, struct why *why)
{
    (void)notes;
    *state = calloc(1, sizeof(struct stats_state));
    return *state ? 0 : why_set(why, ENOMEM, "out of memory");
}

static void stats_close(void *state)
{
    forget(state);
    free(state);
}

static int watch_fd(struct stats_state *s, int fd, struct why *why)
{
    struct kvm_stats_file *file = &s->files[s->count];
    struct snapshot *snapshot = &s->snapshots[s->count];
    int stats_fd = ioctl(fd, KVM_GET_STATS_FD, NULL), err;

    if (stats_fd < 0)
        return why_set(why, errno,
                       "KVM_GET_STATS_FD: %s (Linux 5.14 and later have it)",
                       strerror(errno));
    err = kvm_stats_file_open(file, stats_fd, why);
    if (err)
        return err;
    s->count++;
    snapshot->begin = calloc(file->count + 1u, sizeof *snapshot->begin);
    snapshot->end = calloc(file->count + 1u, sizeof *snapshot->end);
    if (!snapshot->begin || !snapshot->end)
        return why_set(why, ENOMEM, "out of memory");
    return 0;
}

static int stats_watch(void *state, const struct counters_vm *vm,
                       struct why *why)
{
    struct stats_state *s = state;
    int err;

    forget(s);
    s->files = calloc(vm->vcpus + 1u, sizeof *s->files);
    s->snapshots = calloc(vm->vcpus + 1u, sizeof *s->snapshots);
    if (!s->files || !s->snapshots)
        return why_set(why, ENOMEM, "out of memory");
    err = watch_fd(s, vm->vm_fd, why);
    for (unsigned i = 0; !err && i < vm->vcpus; i++) {
        err = watch_fd(s, vm->vcpu_fds[i], why);
        if (!err && s->files[i + 1].count != s->files[1].count)
            err = why_set(why, EPROTO,
                          "KVM's statistics differ from vCPU to vCPU");
    }
    return err;
}

static int stats_begin(void *state)
{
    struct stats_state *s = state;
    int err = 0;

    for (unsigned i = 0; !err && i < s->count; i++)
        err = kvm_stats_file_read(&s->files[i], s->snapshots[i].begin);
    return err;
}

static int stats_end(void *state)
{
    struct stats_state *s = state;
    int err = 0;

    for (unsigned i = 0; !err && i < s->count; i++)
        err = kvm_stats_file_read(&s->files[i], s->snapshots[i].end);
    return err;
}

/* Instantaneous values that say how the guest's memory is mapped. */
static bool wanted_instant(const char *name)
{
    return !strcmp(name, "pages_4k") || !strcmp(name, "pages_2m") ||
           !strcmp(name, "pages_1g");
}

static int report_stat(const struct kvm_stat *stat, uint64_t value,
                       struct rows *rows)
{
    struct counter_row counter;
    struct exit_row exits;

    if (stat->type == KVM_STAT_INSTANT && !wanted_instant(stat->name))
        return 0;
    if (!strcmp(stat->name, "exits")) {
        exit_row_fill(&exits, "kvm_stats", "all", value);
        return rows_add_exit(rows, &exits);
    }
    counter_row_fill(&counter, "kvm_stats", "vm", stat->name, (double)value,
                     stat->type == KVM_STAT_INSTANT ? "pages" : stat->unit);
    return rows_add_counter(rows, &counter);
}

/* The sum over files [from, to), all laid out like file `from`. */
static int report_files(const struct stats_state *s, unsigned from, unsigned to,
                        struct rows *rows)
{
    const struct kvm_stats_file *file = &s->files[from];
    int err = 0;

    for (unsigned i = 0; !err && i < file->count; i++) {
        bool instant = file->stats[i].type == KVM_STAT_INSTANT;
        uint64_t sum = 0;

        for (unsigned f = from; f < to; f++)
            sum += s->snapshots[f].end[i] -
                   (instant ? 0 : s->snapshots[f].begin[i]);
        err = report_stat(&file->stats[i], sum, rows);
    }
    return err;
}

static int stats_report(void *state, struct rows *rows)
{
    const struct stats_state *s = state;
    int err = 0;

    if (s->count > 0)
        err = report_files(s, 0, 1, rows);
    if (!err && s->count > 1)
        err = report_files(s, 1, s->count, rows);
    return err;
}

const struct source source_kvm_stats = {
    .name = "kvm_stats",
    .open = stats_open,
    .close = stats_close,
    .watch_vm = stats_watch,
    .begin = stats_begin,
    .end = stats_end,
    .report = stats_report,
};
