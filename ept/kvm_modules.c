/* The real host of ept/kvm_switch.h: modules through libkmod. */
#include "ept/kvm_switch.h"

#include <dirent.h>
#include <errno.h>
#include <libkmod.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define REMOVE_TRIES 20 /* of 50 ms: a VM's last reference goes late */

static void quiet(void *data, int priority, const char *file, int line,
                  const char *fn, const char *format, va_list args)
{
    (void)data, (void)priority, (void)file, (void)line, (void)fn;
    (void)format, (void)args;
}

static struct kmod_ctx *context(void)
{
    struct kmod_ctx *ctx = kmod_new(NULL, NULL);

    if (ctx)
        kmod_set_log_fn(ctx, quiet, NULL);
    return ctx;
}

static bool holds_kvm(const char *pid)
{
    char folder[300], link[600], target[64];
    struct dirent *entry;
    bool holds = false;
    DIR *dir;

    snprintf(folder, sizeof folder, "/proc/%s/fd", pid);
    dir = opendir(folder);
    if (!dir)
        return false;
    while (!holds && (entry = readdir(dir))) {
        ssize_t length;

        snprintf(link, sizeof link, "%s/%s", folder, entry->d_name);
        length = readlink(link, target, sizeof target - 1);
        target[length < 0 ? 0 : length] = '\0';
        holds = !strcmp(target, "/dev/kvm") ||
                !strncmp(target, "anon_inode:kvm-", 15);
    }
    closedir(dir);
    return holds;
}

/* "qemu-system-x86 (pid 123)", or "something" when no process owns up. */
static void name_user(char user[64])
{
    struct dirent *entry;
    DIR *proc = opendir("/proc");

    snprintf(user, 64, "something");
    while (proc && (entry = readdir(proc))) {
        char path[300], name[32] = "a process";
        FILE *stream;

        if (entry->d_name[0] < '0' || entry->d_name[0] > '9' ||
            !holds_kvm(entry->d_name))
            continue;
        snprintf(path, sizeof path, "/proc/%s/comm", entry->d_name);
        stream = fopen(path, "re");
        if (stream) {
            if (fgets(name, sizeof name, stream))
                name[strcspn(name, "\n")] = '\0';
            fclose(stream);
        }
        snprintf(user, 64, "%s (pid %.10s)", name, entry->d_name);
        break;
    }
    if (proc)
        closedir(proc);
}

static int try_remove(struct kmod_module *module)
{
    const struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
    int err = 0;

    for (int tries = 0; tries < REMOVE_TRIES; tries++) {
        err = kmod_module_get_refcnt(module) > 0
                  ? -EBUSY
                  : kmod_module_remove_module(module, 0);
        if (err != -EBUSY && err != -EAGAIN)
            break;
        nanosleep(&pause, NULL);
    }
    return err == -EAGAIN ? -EBUSY : err;
}

static int linux_remove(const struct kvm_host *host, const char *name,
                        struct why *why)
{
    struct kmod_ctx *ctx = context();
    struct kmod_module *module = NULL;
    char user[64];
    int err = ctx ? kmod_module_new_from_name(ctx, name, &module) : -ENOMEM;

    (void)host;
    if (!err)
        err = try_remove(module);
    if (module)
        kmod_module_unref(module);
    if (ctx)
        kmod_unref(ctx);
    if (!err)
        return 0;
    if (err == -EBUSY) {
        name_user(user);
        return why_set(why, EBUSY, "%s is in use by %s: end its VMs first",
                       name, user);
    }
    return why_set(why, -err, "cannot remove %s: %s%s", name, strerror(-err),
                   err == -EPERM ? " (needs root: sudo)" : "");
}

/* Where the module lies when there is no index of modules (depmod). */
static struct kmod_module *module_by_path(struct kmod_ctx *ctx,
                                          const char *name)
{
    static const char *const endings[] = {"", ".xz", ".zst", ".gz"};
    struct kmod_module *module = NULL;
    char path[512], file[64];
    struct utsname host;

    uname(&host);
    snprintf(file, sizeof file, "%s", name);
    for (char *c = file; *c; c++)
        *c = *c == '_' ? '-' : *c;
    for (unsigned i = 0; !module && i < 4; i++) {
        snprintf(path, sizeof path,
                 "/lib/modules/%s/kernel/arch/x86/kvm/%s.ko%s", host.release,
                 file, endings[i]);
        if (access(path, R_OK) || kmod_module_new_from_path(ctx, path, &module))
            module = NULL;
    }
    return module;
}

static struct kmod_module *find_module(struct kmod_ctx *ctx, const char *name)
{
    struct kmod_module *module = NULL;
    struct kmod_list *list = NULL;

    if (kmod_module_new_from_lookup(ctx, name, &list) >= 0 && list)
        module = kmod_module_get_module(list);
    kmod_module_unref_list(list);
    if (module && kmod_module_get_path(module))
        return module;
    if (module)
        kmod_module_unref(module);
    return module_by_path(ctx, name);
}

static int linux_insert(const struct kvm_host *host, const char *name,
                        const char *options, struct why *why)
{
    struct kmod_ctx *ctx = context();
    struct kmod_module *module = ctx ? find_module(ctx, name) : NULL;
    struct utsname system;
    int err = -ENOENT;

    (void)host;
    if (module) {
        err = kmod_module_insert_module(module, 0, options);
        kmod_module_unref(module);
    }
    if (ctx)
        kmod_unref(ctx);
    if (!err)
        return 0;
    if (!module) {
        uname(&system);
        return why_set(why, ENOENT,
                       "no file for module %s under /lib/modules/%s: install "
                       "the running kernel's package or reboot into it",
                       name, system.release);
    }
    return why_set(why, -err, "cannot insert %s: %s%s", name, strerror(-err),
                   err == -EPERM ? " (needs root: sudo)" : "");
}

const struct kvm_host kvm_host_linux = {
    .sys_module = "/sys/module",
    .dev_kvm = "/dev/kvm",
    .run_folder = "/run/memvirt",
    .remove = linux_remove,
    .insert = linux_insert,
};
