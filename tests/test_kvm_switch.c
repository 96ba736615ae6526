/* The switch on a host made of files: its modules load by writing what
 * /sys/module would show. The real one is turned in the lab. */
#include "ept/kvm_switch.h"
#include "tests/test.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct fake_host {
    struct kvm_host host;
    char sys[128], run[128];
};

static void put(const struct kvm_host *host, const char *module,
                const char *file, const char *text)
{
    char path[512];
    FILE *stream;

    snprintf(path, sizeof path, "%s/%s/%s", host->sys_module, module, file);
    stream = fopen(path, "we");
    if (!stream)
        abort();
    fprintf(stream, "%s\n", text);
    fclose(stream);
}

static void get(const struct kvm_host *host, const char *module,
                const char *file, char text[64])
{
    char path[512];
    FILE *stream;

    snprintf(path, sizeof path, "%s/%s/%s", host->sys_module, module, file);
    stream = fopen(path, "re");
    *text = '\0';
    if (stream && fgets(text, 64, stream))
        text[strcspn(text, "\n")] = '\0';
    if (stream)
        fclose(stream);
}

static int fake_remove(const struct kvm_host *host, const char *module,
                       struct why *why)
{
    char command[512], users[64];

    get(host, module, "refcnt", users);
    if (strcmp(users, "0"))
        return why_set(why, EBUSY, "%s is in use", module);
    snprintf(command, sizeof command, "rm -rf %s/%s", host->sys_module, module);
    return system(command) ? -EIO : 0;
}

/* Parameters start at the module's defaults; without nested paging what
 * depends on it turns itself off, as in kvm_intel. */
static int fake_insert(const struct kvm_host *host, const char *module,
                       const char *options, struct why *why)
{
    char path[512], ept[64], *copy = strdup(options), *rest = copy, *one;

    (void)why;
    snprintf(path, sizeof path, "mkdir -p %s/%s/parameters", host->sys_module,
             module);
    if (system(path))
        return -EIO;
    put(host, module, "initstate", "live");
    put(host, module, "refcnt", "0");
    put(host, module, "parameters/ept", "Y");
    put(host, module, "parameters/pml", "Y");
    put(host, module, "parameters/nested", "Y");
    while ((one = strsep(&rest, " "))) {
        char name[300], *value = strchr(one, '=');

        if (!value)
            continue;
        *value++ = '\0';
        snprintf(name, sizeof name, "parameters/%s", one);
        put(host, module, name,
            !strcmp(value, "0")   ? "N"
            : !strcmp(value, "1") ? "Y"
                                  : value);
    }
    get(host, module, "parameters/ept", ept);
    if (*ept == 'N')
        put(host, module, "parameters/pml", "N");
    free(copy);
    return 0;
}

static struct fake_host make_host(const char *options)
{
    static char folders[16][2][128]; /* outlive the guard's copy */
    static unsigned used;
    struct fake_host fake;
    char *folder = test_folder(), command[512];
    unsigned i = used++ % 16;

    snprintf(folders[i][0], 128, "%s/sys", folder);
    snprintf(folders[i][1], 128, "%s/run", folder);
    fake.host = (struct kvm_host){.sys_module = folders[i][0],
                                  .run_folder = folders[i][1],
                                  .dev_kvm = "/nonexistent",
                                  .remove = fake_remove,
                                  .insert = fake_insert};
    snprintf(command, sizeof command, "mkdir -p %s", folders[i][0]);
    if (system(command) ||
        (options && fake_insert(&fake.host, "kvm_intel", options, NULL)))
        abort();
    free(folder);
    return fake;
}

static bool stands(const struct fake_host *fake, const char *ept,
                   const char *pml, const char *nested)
{
    char a[64], b[64], c[64];

    get(&fake->host, "kvm_intel", "parameters/ept", a);
    get(&fake->host, "kvm_intel", "parameters/pml", b);
    get(&fake->host, "kvm_intel", "parameters/nested", c);
    return !strcmp(a, ept) && !strcmp(b, pml) && !strcmp(c, nested);
}

static bool run_folder_holds(const struct fake_host *fake, const char *file)
{
    char path[256];

    snprintf(path, sizeof path, "%s/%s", fake->host.run_folder, file);
    return !access(path, F_OK);
}

static void turns_and_puts_back(void)
{
    struct fake_host fake = make_host("nested=0");
    struct kvm_switch *sw;
    struct why why;

    CU_ASSERT_EQUAL_FATAL(kvm_switch_open(&fake.host, &sw, &why), 0);
    CU_ASSERT(run_folder_holds(&fake, "kvm-found"));
    CU_ASSERT_EQUAL(kvm_switch_set(sw, KVM_PAGING_NESTED, &why), 0);
    CU_ASSERT(stands(&fake, "Y", "Y", "N"));
    CU_ASSERT_EQUAL(kvm_switch_set(sw, KVM_PAGING_SHADOW, &why), 0);
    CU_ASSERT(stands(&fake, "N", "N", "N"));
    CU_ASSERT_EQUAL(kvm_switch_set(sw, KVM_PAGING_NESTED, &why), 0);
    CU_ASSERT(stands(&fake, "Y", "Y", "N"));
    CU_ASSERT_EQUAL(kvm_switch_set(sw, KVM_PAGING_SHADOW, &why), 0);
    CU_ASSERT_EQUAL(kvm_switch_close(sw, &why), 0);
    CU_ASSERT(stands(&fake, "Y", "Y", "N"));
    CU_ASSERT_FALSE(run_folder_holds(&fake, "kvm-found"));
}

/* Without EPT, pml reads N though nobody asked for that: turned on, EPT must
 * come with the module's own defaults, and go back to exactly what was. */
static void dependents_are_not_pinned(void)
{
    struct fake_host fake = make_host("ept=0");
    struct kvm_switch *sw;
    struct why why;

    CU_ASSERT_EQUAL_FATAL(kvm_switch_open(&fake.host, &sw, &why), 0);
    CU_ASSERT_EQUAL(kvm_switch_set(sw, KVM_PAGING_NESTED, &why), 0);
    CU_ASSERT(stands(&fake, "Y", "Y", "Y"));
    CU_ASSERT_EQUAL(kvm_switch_close(sw, &why), 0);
    CU_ASSERT(stands(&fake, "N", "N", "Y"));
}

static void refuses_while_in_use(void)
{
    struct fake_host fake = make_host("");
    struct kvm_switch *sw, *second;
    struct why why;

    CU_ASSERT_EQUAL_FATAL(kvm_switch_open(&fake.host, &sw, &why), 0);
    CU_ASSERT_EQUAL(kvm_switch_open(&fake.host, &second, &why), -EBUSY);
    put(&fake.host, "kvm_intel", "refcnt", "2");
    CU_ASSERT_EQUAL(kvm_switch_set(sw, KVM_PAGING_SHADOW, &why), -EBUSY);
    CU_ASSERT(stands(&fake, "Y", "Y", "Y"));
    CU_ASSERT_EQUAL(kvm_switch_close(sw, &why), 0);
}

static void has_nothing_to_switch(void)
{
    struct fake_host fake = make_host(NULL);
    struct kvm_switch *sw;
    struct kvm_state state;
    struct why why;
    char path[256];

    CU_ASSERT_EQUAL(kvm_switch_open(&fake.host, &sw, &why), -ENOTSUP);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "modprobe"));
    snprintf(path, sizeof path, "%s/kvm_pvm", fake.host.sys_module);
    CU_ASSERT_EQUAL(mkdir(path, 0755), 0);
    kvm_state_read(&fake.host, &state);
    CU_ASSERT_EQUAL(state.flavour, KVM_FLAVOUR_PVM);
    CU_ASSERT_EQUAL(state.paging, KVM_PAGING_SHADOW);
    CU_ASSERT_FALSE(state.switchable);
    CU_ASSERT_FALSE(state.answers);
    CU_ASSERT_EQUAL(kvm_switch_open(&fake.host, &sw, &why), -ENOTSUP);
}

static void keeps_until_restore(void)
{
    struct fake_host fake = make_host("nested=0");
    struct kvm_switch *sw;
    struct why why;

    CU_ASSERT_EQUAL(kvm_switch_restore(&fake.host, &why), 1);
    for (int times = 0; times < 2; times++) {
        enum kvm_paging paging = times ? KVM_PAGING_NESTED : KVM_PAGING_SHADOW;

        CU_ASSERT_EQUAL_FATAL(kvm_switch_open(&fake.host, &sw, &why), 0);
        CU_ASSERT_EQUAL(kvm_switch_set(sw, paging, &why), 0);
        CU_ASSERT_EQUAL(kvm_switch_keep(sw, &why), 0);
        CU_ASSERT(stands(&fake, times ? "Y" : "N", times ? "Y" : "N", "N"));
    }
    CU_ASSERT(run_folder_holds(&fake, "kvm-kept"));
    CU_ASSERT_EQUAL(kvm_switch_restore(&fake.host, &why), 0);
    CU_ASSERT(stands(&fake, "Y", "Y", "N"));
    CU_ASSERT_EQUAL(kvm_switch_restore(&fake.host, &why), 1);
}

static void __attribute__((noreturn))
turn_and_wait(const struct kvm_host *host, int ready)
{
    struct kvm_switch *sw;

    if (kvm_switch_open(host, &sw, NULL) ||
        kvm_switch_set(sw, KVM_PAGING_SHADOW, NULL) ||
        write(ready, "r", 1) != 1)
        _exit(1);
    pause();
    _exit(1);
}

static void puts_back_after_a_kill(void)
{
    const struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
    struct fake_host fake = make_host("nested=0");
    int ends[2];
    pid_t child;
    char byte = 0;

    CU_ASSERT_EQUAL_FATAL(pipe(ends), 0);
    child = fork();
    if (!child)
        turn_and_wait(&fake.host, ends[1]);
    close(ends[1]);
    CU_ASSERT_EQUAL(read(ends[0], &byte, 1), 1);
    CU_ASSERT(stands(&fake, "N", "N", "N"));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ends[0]);
    for (int i = 0; i < 100 && run_folder_holds(&fake, "kvm-found"); i++)
        nanosleep(&pause, NULL);
    CU_ASSERT(stands(&fake, "Y", "Y", "N"));
    CU_ASSERT_FALSE(run_folder_holds(&fake, "kvm-found"));
}

static void a_spoiled_file_is_refused(void)
{
    struct fake_host fake = make_host("");
    struct why why;
    char path[256];
    FILE *stream;

    CU_ASSERT_EQUAL(mkdir(fake.host.run_folder, 0755), 0);
    snprintf(path, sizeof path, "%s/kvm-kept", fake.host.run_folder);
    stream = fopen(path, "we");
    fputs("{\"module\": \"evil\", \"paging\": \"shadow\", \"options\": \"\"}",
          stream);
    fclose(stream);
    CU_ASSERT_EQUAL(kvm_switch_restore(&fake.host, &why), -EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "kvm-kept"));
    CU_ASSERT(stands(&fake, "Y", "Y", "Y"));
}

TEST_SUITE(kvm_switch, {"turns and puts back", turns_and_puts_back},
           {"dependents are not pinned", dependents_are_not_pinned},
           {"refuses while in use", refuses_while_in_use},
           {"has nothing to switch", has_nothing_to_switch},
           {"keeps until restore", keeps_until_restore},
           {"puts back after a kill", puts_back_after_a_kill},
           {"a spoiled file is refused", a_spoiled_file_is_refused});
