/*
 * KVM's binary statistics (Linux Documentation/virt/kvm/api.rst, section
 * 4.133 KVM_GET_STATS_FD): a file with a header, descriptors and values.
 */
#ifndef HARNESS_COUNTERS_KVM_STATS_H
#define HARNESS_COUNTERS_KVM_STATS_H

#include "base/why.h"

#include <stdint.h>

enum kvm_stat_type { KVM_STAT_CUMULATIVE, KVM_STAT_INSTANT };

struct kvm_stat {
    char name[64];
    char unit[24]; /* events, bytes, ns, cycles, boolean */
    enum kvm_stat_type type;
    uint32_t offset; /* of its value in the data block */
};

struct kvm_stats_file {
    int fd; /* owned */
    uint32_t data_offset;
    uint32_t data_bytes;
    unsigned count;
    struct kvm_stat *stats; /* scalars only; histograms and peaks left out */
};

/* Takes `fd` (closed on failure as well). Nothing in the file is believed:
 * -EPROTO when sizes or offsets do not fit. */
int kvm_stats_file_open(struct kvm_stats_file *file, int fd, struct why *why);

/* values[i] belongs to stats[i]. */
int kvm_stats_file_read(const struct kvm_stats_file *file, uint64_t *values);
void kvm_stats_file_close(struct kvm_stats_file *file);

#endif
