/*
 * KVM's own switch between nested paging (EPT, NPT) and shadow paging. It is
 * a parameter of the vendor module, read-only while the module is loaded: to
 * turn it the module is removed and inserted again, for the whole host. So it
 * is refused while anything uses KVM, and what was found is put back, also
 * after a crash.
 */
#ifndef EPT_KVM_SWITCH_H
#define EPT_KVM_SWITCH_H

#include "base/why.h"

#include <stdbool.h>

enum kvm_flavour {
    KVM_FLAVOUR_NONE,
    KVM_FLAVOUR_INTEL, /* kvm_intel: ept */
    KVM_FLAVOUR_AMD,   /* kvm_amd: npt */
    KVM_FLAVOUR_PVM,   /* kvm_pvm: shadow paging only, no VT-x or SVM */
    KVM_FLAVOURS,
};

enum kvm_paging { KVM_PAGING_UNKNOWN, KVM_PAGING_SHADOW, KVM_PAGING_NESTED };

/* Where a host's modules are and how they are loaded: the real one, or a
 * test's. */
struct kvm_host {
    const char *sys_module; /* /sys/module */
    const char *dev_kvm;    /* /dev/kvm */
    const char *run_folder; /* /run/memvirt */
    int (*remove)(const struct kvm_host *host, const char *module,
                  struct why *why);
    /* `options` as for insmod: "npt=0 nested=1". */
    int (*insert)(const struct kvm_host *host, const char *module,
                  const char *options, struct why *why);
};

extern const struct kvm_host kvm_host_linux;

struct kvm_state {
    enum kvm_flavour flavour;
    enum kvm_paging paging;
    bool answers;       /* /dev/kvm makes a VM */
    bool switchable;    /* no obstacle */
    bool kept;          /* switched by `memvirt kvm`, waits for restore */
    int users;          /* of the module, -1: not known */
    char obstacle[256]; /* why not, and the cure */
};

/* "" , kvm_intel, kvm_amd, kvm_pvm; and the parameter: "ept", "npt" or "". */
const char *kvm_flavour_name(enum kvm_flavour flavour);
const char *kvm_flavour_switch(enum kvm_flavour flavour);
const char *kvm_paging_name(enum kvm_paging paging);

void kvm_state_read(const struct kvm_host *host, struct kvm_state *state);

struct kvm_switch;

/*
 * Takes the switch: -EPERM, -EBUSY (a VM or another memvirt has it), -ENOTSUP
 * (nothing to switch), with the sentence. Writes what it found to
 * run_folder/kvm-found and starts a process that puts it back should the
 * caller end without kvm_switch_close. The caller has no threads yet.
 */
int kvm_switch_open(const struct kvm_host *host, struct kvm_switch **sw,
                    struct why *why);

/* Turns it; nothing happens when it stands there already. On failure the
 * module is put back as found. */
int kvm_switch_set(struct kvm_switch *sw, enum kvm_paging paging,
                   struct why *why);

/* Puts back what was found. -EBUSY when a VM is in the way: the state stays
 * on file for kvm_switch_restore. `sw` is freed in any case. */
int kvm_switch_close(struct kvm_switch *sw, struct why *why);

/* Leaves it as it is; kvm_switch_restore puts back what was found first. */
int kvm_switch_keep(struct kvm_switch *sw, struct why *why);

/* Puts back what the file left by kvm_switch_keep, or by a crash, says. 1
 * when there was nothing to put back. */
int kvm_switch_restore(const struct kvm_host *host, struct why *why);

#endif
