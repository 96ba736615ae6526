#include "ept/kvm_switch.h"

#include "harness/guard.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define VALUE_BYTES   256
#define OPTIONS_BYTES 4096
#define FOUND_FILE    "kvm-found"
#define KEPT_FILE     "kvm-kept"
#define LOCK_FILE     "kvm-lock"

/* IA32_VMX_BASIC (SDM vol. 3, appendix A.1): only kvm_intel offers it. */
#define MSR_VMX_BASIC 0x480u

struct flavour {
    const char *module;
    const char *parameter;
    /* Read N because nested paging is off, not because anybody asked: left to
     * the module's default when it is turned on. */
    const char *dependents[6];
};

static const struct flavour flavours[KVM_FLAVOURS] = {
    [KVM_FLAVOUR_NONE] = {"", "", {NULL}},
    [KVM_FLAVOUR_INTEL] = {"kvm_intel",
                           "ept",
                           {"unrestricted_guest", "eptad", "pml"}},
    [KVM_FLAVOUR_AMD] = {"kvm_amd", "npt", {"sev", "sev_es", "sev_snp"}},
    [KVM_FLAVOUR_PVM] = {"kvm_pvm", "", {NULL}},
};

const char *kvm_flavour_name(enum kvm_flavour flavour)
{
    return flavours[flavour].module;
}

const char *kvm_flavour_switch(enum kvm_flavour flavour)
{
    return flavours[flavour].parameter;
}

const char *kvm_paging_name(enum kvm_paging paging)
{
    static const char *const names[] = {"unknown", "shadow", "nested"};

    return names[paging];
}

/* The first line of sys_module/<module>/<file>, without its end. */
static int read_line(const struct kvm_host *host, const char *module,
                     const char *file, char line[VALUE_BYTES])
{
    char path[512];
    FILE *stream;
    int err = 0;

    snprintf(path, sizeof path, "%s/%s/%s", host->sys_module, module, file);
    stream = fopen(path, "re");
    if (!stream)
        return -errno;
    if (!fgets(line, VALUE_BYTES, stream))
        err = -EIO;
    fclose(stream);
    if (!err)
        line[strcspn(line, "\n")] = '\0';
    return err;
}

static bool module_there(const struct kvm_host *host, const char *module)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", host->sys_module, module);
    return !access(path, F_OK);
}

static bool module_loaded(const struct kvm_host *host, const char *module)
{
    char line[VALUE_BYTES];

    return !read_line(host, module, "initstate", line) && !strcmp(line, "live");
}

static bool offers_vmx(int kvm)
{
    struct {
        struct kvm_msr_list head;
        uint32_t msrs[1024];
    } list = {.head.nmsrs = 1024};

    if (ioctl(kvm, KVM_GET_MSR_FEATURE_INDEX_LIST, &list))
        return false;
    for (unsigned i = 0; i < list.head.nmsrs && i < 1024; i++)
        if (list.msrs[i] == MSR_VMX_BASIC)
            return true;
    return false;
}

static bool makes_a_vm(int kvm)
{
    int vm = ioctl(kvm, KVM_CREATE_VM, 0ul);

    if (vm < 0)
        return false;
    close(vm);
    return true;
}

/* A loaded module says which it is. Of several that are built in only one
 * drives /dev/kvm, and that is asked. */
static enum kvm_flavour find_flavour(const struct kvm_host *host, int kvm)
{
    enum kvm_flavour found = KVM_FLAVOUR_NONE;
    unsigned count = 0;

    for (enum kvm_flavour f = KVM_FLAVOUR_INTEL; f < KVM_FLAVOURS; f++) {
        if (module_loaded(host, flavours[f].module))
            return f;
        if (module_there(host, flavours[f].module)) {
            found = f;
            count++;
        }
    }
    if (count < 2)
        return found;
    if (kvm >= 0 && offers_vmx(kvm))
        return KVM_FLAVOUR_INTEL;
    return module_there(host, "kvm_pvm") ? KVM_FLAVOUR_PVM : KVM_FLAVOUR_AMD;
}

static enum kvm_paging read_paging(const struct kvm_host *host,
                                   enum kvm_flavour flavour)
{
    char line[VALUE_BYTES] = "", file[64];

    if (flavour == KVM_FLAVOUR_PVM)
        return KVM_PAGING_SHADOW;
    if (flavour == KVM_FLAVOUR_NONE)
        return KVM_PAGING_UNKNOWN;
    snprintf(file, sizeof file, "parameters/%s", flavours[flavour].parameter);
    if (read_line(host, flavours[flavour].module, file, line))
        return KVM_PAGING_UNKNOWN;
    return *line == 'Y' || *line == '1' ? KVM_PAGING_NESTED : KVM_PAGING_SHADOW;
}

static void find_obstacle(const struct kvm_host *host, struct kvm_state *s)
{
    const struct flavour *f = &flavours[s->flavour];

    if (s->flavour == KVM_FLAVOUR_NONE)
        snprintf(s->obstacle, sizeof s->obstacle,
                 "no KVM module is loaded (modprobe kvm_intel or kvm_amd)");
    else if (s->flavour == KVM_FLAVOUR_PVM)
        snprintf(s->obstacle, sizeof s->obstacle,
                 "kvm_pvm has shadow paging only; nested paging runs in the "
                 "lab (memvirt lab)");
    else if (!module_loaded(host, f->module))
        snprintf(s->obstacle, sizeof s->obstacle,
                 "%s is built into this kernel: boot with %s.%s=0 or =1",
                 f->module, f->module, f->parameter);
    else if (s->paging == KVM_PAGING_UNKNOWN)
        snprintf(s->obstacle, sizeof s->obstacle,
                 "%s does not say whether %s is on", f->module, f->parameter);
}

static bool on_file(const struct kvm_host *host, const char *file)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", host->run_folder, file);
    return !access(path, F_OK);
}

void kvm_state_read(const struct kvm_host *host, struct kvm_state *state)
{
    int kvm = open(host->dev_kvm, O_RDWR | O_CLOEXEC);
    char line[VALUE_BYTES];

    *state = (struct kvm_state){.users = -1};
    state->flavour = find_flavour(host, kvm);
    state->answers = kvm >= 0 && makes_a_vm(kvm);
    if (kvm >= 0)
        close(kvm);
    state->paging = read_paging(host, state->flavour);
    if (!read_line(host, flavours[state->flavour].module, "refcnt", line))
        state->users = atoi(line);
    state->kept = on_file(host, KEPT_FILE);
    find_obstacle(host, state);
    state->switchable = !*state->obstacle;
}

/* What it takes to have the module as it was found. */
struct found {
    enum kvm_flavour flavour;
    enum kvm_paging paging;
    char options[OPTIONS_BYTES];
};

static bool is_dependent(const struct flavour *f, const char *name)
{
    for (unsigned i = 0; i < 6 && f->dependents[i]; i++)
        if (!strcmp(f->dependents[i], name))
            return true;
    return false;
}

/* insmod's options are separated by spaces; a value that has some is a state
 * ("not required"), not a setting. */
static bool passable(const char *value)
{
    if (!*value || !strcmp(value, "(null)"))
        return false;
    for (; *value; value++)
        if (!isgraph((unsigned char)*value) || *value == '"')
            return false;
    return true;
}

/* Appends "name=value" for a parameter of the loaded module. */
static int add_option(const struct kvm_host *host, const struct flavour *f,
                      const char *name, const char *forced,
                      char options[OPTIONS_BYTES])
{
    char file[300], value[VALUE_BYTES] = "";
    size_t used = strlen(options);
    int written;

    snprintf(file, sizeof file, "parameters/%s", name);
    if (forced)
        snprintf(value, sizeof value, "%s", forced);
    else if (read_line(host, f->module, file, value) || !passable(value))
        return 0;
    written = snprintf(options + used, OPTIONS_BYTES - used, "%s%s=%s",
                       used ? " " : "", name, value);
    return (size_t)written < OPTIONS_BYTES - used ? 0 : -E2BIG;
}

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/*
 * The options that load the module with `paging` and all else as it is now.
 * UNKNOWN: nested paging as it is now too.
 */
static int make_options(const struct kvm_host *host, const struct found *found,
                        enum kvm_paging paging, char options[OPTIONS_BYTES])
{
    const struct flavour *f = &flavours[found->flavour];
    bool turned_on =
        paging == KVM_PAGING_NESTED && found->paging == KVM_PAGING_SHADOW;
    struct dirent **names;
    char folder[512];
    int count, err = 0;

    *options = '\0';
    snprintf(folder, sizeof folder, "%s/%s/parameters", host->sys_module,
             f->module);
    count = scandir(folder, &names, visible, alphasort);
    if (count < 0)
        return -errno;
    for (int i = 0; i < count; i++) {
        const char *name = names[i]->d_name, *forced = NULL;

        if (!strcmp(name, f->parameter) && paging != KVM_PAGING_UNKNOWN)
            forced = paging == KVM_PAGING_NESTED ? "1" : "0";
        if (!err && !(turned_on && is_dependent(f, name)))
            err = add_option(host, f, name, forced, options);
        free(names[i]);
    }
    free(names);
    return err;
}

static void path_of(const struct kvm_host *host, const char *file,
                    char path[512])
{
    snprintf(path, 512, "%s/%s", host->run_folder, file);
}

static int write_found(const struct kvm_host *host, const char *file,
                       const struct found *found, struct why *why)
{
    json_t *json = json_pack(
        "{s:s, s:s, s:s}", "module", flavours[found->flavour].module, "paging",
        kvm_paging_name(found->paging), "options", found->options);
    char path[512], temporary[520];
    int err;

    path_of(host, file, path);
    snprintf(temporary, sizeof temporary, "%s.new", path);
    errno = 0;
    err = !json || json_dump_file(json, temporary, JSON_INDENT(1)) ||
                  rename(temporary, path)
              ? (errno ? errno : EIO)
              : 0;
    json_decref(json);
    return err ? why_set(why, err, "cannot write %s: %s", path, strerror(err))
               : 0;
}

static int found_from_json(const json_t *json, struct found *found)
{
    const char *module = json_string_value(json_object_get(json, "module"));
    const char *paging = json_string_value(json_object_get(json, "paging"));
    const char *options = json_string_value(json_object_get(json, "options"));

    *found = (struct found){0};
    if (!module || !paging || !options ||
        strlen(options) >= sizeof found->options)
        return -EINVAL;
    for (enum kvm_flavour f = KVM_FLAVOUR_INTEL; f < KVM_FLAVOUR_PVM; f++)
        if (!strcmp(module, flavours[f].module))
            found->flavour = f;
    for (enum kvm_paging p = KVM_PAGING_SHADOW; p <= KVM_PAGING_NESTED; p++)
        if (!strcmp(paging, kvm_paging_name(p)))
            found->paging = p;
    strcpy(found->options, options);
    return found->flavour && found->paging ? 0 : -EINVAL;
}

static int read_found(const struct kvm_host *host, const char *file,
                      struct found *found, struct why *why)
{
    json_error_t error;
    json_t *json;
    char path[512];
    int err;

    path_of(host, file, path);
    json = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    err = json ? found_from_json(json, found) : -EINVAL;
    json_decref(json);
    return err ? why_set(why, EINVAL,
                         "%s does not say what to put back: reload the KVM "
                         "module and delete the file",
                         path)
               : 0;
}

static void forget_file(const struct kvm_host *host, const char *file)
{
    char path[512];

    path_of(host, file, path);
    unlink(path);
}

static int load(const struct kvm_host *host, enum kvm_flavour flavour,
                const char *options, enum kvm_paging wanted, struct why *why)
{
    const struct flavour *f = &flavours[flavour];
    int err = 0;

    if (module_there(host, f->module))
        err = host->remove(host, f->module, why);
    if (!err)
        err = host->insert(host, f->module, options, why);
    if (!err && read_paging(host, flavour) != wanted)
        err = why_set(why, ENOTSUP,
                      "%s does not turn %s %s: this processor or VM lacks it",
                      f->module, f->parameter,
                      wanted == KVM_PAGING_NESTED ? "on" : "off");
    return err;
}

static int put_back(const struct kvm_host *host, const struct found *found,
                    struct why *why)
{
    return load(host, found->flavour, found->options, found->paging, why);
}

struct kvm_switch {
    const struct kvm_host *host;
    struct found found;
    enum kvm_paging now;
    bool changed;
    int lock;
    struct guard *guard;
};

static int take_lock(const struct kvm_host *host, int *lock, struct why *why)
{
    char path[512];

    if (mkdir(host->run_folder, 0755) && errno != EEXIST)
        return why_set(why, errno, "cannot make %s: %s%s", host->run_folder,
                       strerror(errno),
                       errno == EACCES ? " (switching KVM needs root: sudo)"
                                       : "");
    path_of(host, LOCK_FILE, path);
    *lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (*lock < 0)
        return why_set(
            why, errno, "cannot open %s: %s%s", path, strerror(errno),
            errno == EACCES ? " (switching KVM needs root: sudo)" : "");
    if (!flock(*lock, LOCK_EX | LOCK_NB))
        return 0;
    close(*lock);
    *lock = -1;
    return why_set(why, EBUSY, "another memvirt is switching KVM: wait for it");
}

/* In the guard process. A VM may outlive its parent for a moment, and the
 * next memvirt may be faster and have put things back itself. */
static void guard_puts_back(void *arg)
{
    const struct kvm_switch *sw = arg;
    const struct timespec pause = {.tv_nsec = 500 * 1000 * 1000};
    int lock;

    for (int tries = 0; tries < 60 && on_file(sw->host, FOUND_FILE); tries++) {
        struct kvm_state state;

        if (!take_lock(sw->host, &lock, NULL)) {
            kvm_state_read(sw->host, &state);
            if (state.paging == sw->found.paging ||
                !put_back(sw->host, &sw->found, NULL))
                forget_file(sw->host, FOUND_FILE);
            close(lock);
        }
        nanosleep(&pause, NULL);
    }
}

static int examine(const struct kvm_host *host, struct found *found,
                   struct why *why)
{
    struct kvm_state state;
    int err;

    kvm_state_read(host, &state);
    if (!state.switchable)
        return why_set(why, ENOTSUP, "%s", state.obstacle);
    found->flavour = state.flavour;
    found->paging = state.paging;
    err = make_options(host, found, KVM_PAGING_UNKNOWN, found->options);
    return err ? why_set(why, -err, "cannot read the parameters of %s: %s",
                         kvm_flavour_name(state.flavour), strerror(-err))
               : 0;
}

/* What was found on file without an owner: its guard was killed as well. */
static int clean_up_after_crash(const struct kvm_host *host,
                                struct found *found, struct why *why)
{
    struct found before;
    int err;

    if (!on_file(host, FOUND_FILE))
        return 0;
    err = read_found(host, FOUND_FILE, &before, why);
    if (!err && before.paging != found->paging)
        err = put_back(host, &before, why);
    return err ? err : examine(host, found, why);
}

static void release(struct kvm_switch *sw)
{
    guard_dismiss(sw->guard);
    if (sw->lock >= 0)
        close(sw->lock);
    free(sw);
}

int kvm_switch_open(const struct kvm_host *host, struct kvm_switch **sw,
                    struct why *why)
{
    struct kvm_switch *new = calloc(1, sizeof *new);
    int err;

    if (!new)
        return why_set(why, ENOMEM, "out of memory");
    new->host = host;
    new->lock = -1;
    err = examine(host, &new->found, why);
    if (!err)
        err = take_lock(host, &new->lock, why);
    if (!err)
        err = clean_up_after_crash(host, &new->found, why);
    new->now = new->found.paging;
    if (!err)
        err = write_found(host, FOUND_FILE, &new->found, why);
    if (!err)
        err = guard_start(&new->guard, guard_puts_back, new, why);
    if (!err) {
        *sw = new;
        return 0;
    }
    release(new);
    return err;
}

int kvm_switch_set(struct kvm_switch *sw, enum kvm_paging paging,
                   struct why *why)
{
    char options[OPTIONS_BYTES];
    int err;

    if (paging == sw->now)
        return 0;
    if (paging == sw->found.paging) {
        err = put_back(sw->host, &sw->found, why);
    } else {
        err = make_options(sw->host, &sw->found, paging, options);
        if (err)
            return why_set(why, -err, "%s has too many parameters to keep",
                           kvm_flavour_name(sw->found.flavour));
        err = load(sw->host, sw->found.flavour, options, paging, why);
    }
    if (err == -EBUSY)
        return err;
    sw->changed = true;
    sw->now = paging;
    if (err && !put_back(sw->host, &sw->found, NULL)) {
        sw->now = sw->found.paging;
        sw->changed = false;
    }
    return err;
}

int kvm_switch_close(struct kvm_switch *sw, struct why *why)
{
    int err = 0;

    if (!sw)
        return 0;
    if (sw->changed && sw->now != sw->found.paging)
        err = put_back(sw->host, &sw->found, why);
    if (!err)
        forget_file(sw->host, FOUND_FILE);
    release(sw);
    return err;
}

int kvm_switch_keep(struct kvm_switch *sw, struct why *why)
{
    int err = 0;

    if (sw->changed && !on_file(sw->host, KEPT_FILE))
        err = write_found(sw->host, KEPT_FILE, &sw->found, why);
    if (err) {
        kvm_switch_close(sw, NULL);
        return err;
    }
    forget_file(sw->host, FOUND_FILE);
    release(sw);
    return 0;
}

int kvm_switch_restore(const struct kvm_host *host, struct why *why)
{
    const char *file = on_file(host, KEPT_FILE) ? KEPT_FILE : FOUND_FILE;
    struct found found;
    int lock, err;

    if (!on_file(host, file))
        return 1;
    err = take_lock(host, &lock, why);
    if (err)
        return err;
    err = read_found(host, file, &found, why);
    if (!err)
        err = put_back(host, &found, why);
    if (!err) {
        forget_file(host, KEPT_FILE);
        forget_file(host, FOUND_FILE);
    }
    close(lock);
    return err;
}
