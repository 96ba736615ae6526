/*
 * The guest image in QEMU's TCG, without KVM. As `emulation` it is a technique
 * of its own; with -icount, where the TSC counts one tick an instruction, it
 * is the lab's bare machine and gives the kernel nanobenchmarks their native
 * row. The results come back through the debug console (workloads/abi.h).
 */
#include "base/program.h"
#include "harness/image.h"
#include "harness/technique.h"
#include "vmm/results.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define QEMU           "qemu-system-x86_64"
#define ICOUNT_TSC_KHZ 1000000 /* one tick an instruction, one an ns */

extern char **environ;

int qemu_here(struct why *why)
{
    if (program_in_path(QEMU))
        return 0;
    return why_set(why, ENOTSUP, "no " QEMU ": 'apt install qemu-system-x86'");
}

/* Memory files: what QEMU reads, what the guest prints, what QEMU says. */
struct qemu_files {
    int config, console, messages;
};

static int spawn(const struct run_spec *spec, bool icount,
                 const struct qemu_files *files, pid_t *child, struct why *why)
{
    const char *image = spec->image[0] ? spec->image : image_default_path();
    char memory[32], config[32], console[64], smp[16];
    const char *argv[40] = {QEMU,
                            "-accel",
                            "tcg",
                            "-cpu",
                            "max,-rdrand,-rdseed",
                            "-nodefaults",
                            "-nographic",
                            "-no-reboot",
                            "-kernel",
                            image,
                            "-initrd",
                            config,
                            "-m",
                            memory,
                            "-smp",
                            smp,
                            "-chardev",
                            console,
                            "-device",
                            "isa-debugcon,chardev=out",
                            "-device",
                            "isa-debug-exit,iobase=0xf4,iosize=4"};
    posix_spawn_file_actions_t actions;
    unsigned argc = 22;
    int err;

    snprintf(memory, sizeof memory, "%" PRIu64, run_ram_bytes(spec) >> 20);
    snprintf(smp, sizeof smp, "%u", spec->vcpus);
    snprintf(config, sizeof config, "/proc/self/fd/%d", files->config);
    snprintf(console, sizeof console, "file,id=out,path=/proc/self/fd/%d",
             files->console);
    if (icount) {
        argv[argc++] = "-icount";
        argv[argc++] = "shift=0,sleep=off";
        argv[argc++] = "-rtc";
        argv[argc++] = "clock=vm,base=2024-01-01";
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null",
                                     O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, files->messages, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, files->messages, STDERR_FILENO);
    err =
        posix_spawnp(child, QEMU, &actions, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    return err ? why_set(why, err, "cannot start " QEMU ": %s", strerror(err))
               : 0;
}

/* Polls, since the child may never end: 0 or -ETIME. */
static int wait_for(pid_t child, unsigned limit_s, int *status)
{
    const struct timespec nap = {.tv_nsec = 5 * 1000 * 1000};
    struct timespec now, start;

    clock_gettime(CLOCK_MONOTONIC, &start);
    for (;;) {
        if (waitpid(child, status, WNOHANG) == child)
            return 0;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (limit_s && now.tv_sec - start.tv_sec >= limit_s)
            break;
        nanosleep(&nap, NULL);
    }
    kill(child, SIGKILL);
    waitpid(child, status, 0);
    return -ETIME;
}

/* The last line QEMU said, which is why it ended. */
static void last_message(int fd, char *text, size_t room)
{
    char said[4096];
    ssize_t got = pread(fd, said, sizeof said - 1, 0);
    char *line;

    said[got < 0 ? 0 : got] = 0;
    while (got > 0 && said[got - 1] == '\n')
        said[--got] = 0;
    line = strrchr(said, '\n');
    snprintf(text, room, "%.*s", (int)room - 1, line ? line + 1 : said);
}

static int read_results(const struct qemu_files *files, bool icount,
                        struct run_record *record, struct why *why)
{
    uint8_t bytes[sizeof(struct guest_results)];
    ssize_t got = pread(files->console, bytes, sizeof bytes, 0);
    struct guest_results results;
    char said[160];
    int err =
        guest_results_read(bytes, got < 0 ? 0 : (size_t)got, &results, why);

    if (!err)
        return run_take_results(&results, icount ? ICOUNT_TSC_KHZ : tsc_khz(),
                                icount ? "instructions" : "tsc_ticks", record,
                                why);
    last_message(files->messages, said, sizeof said);
    return why_set(why, EIO, QEMU " ended before the guest had results: %s",
                   *said ? said : "it said nothing");
}

/* On the bare machine a TSC tick is an instruction. */
static void ticks_are_instructions(struct run_record *record)
{
    for (unsigned i = 0; i < record->phase_count; i++)
        record->phases[i].guest_instructions =
            record->phases[i].guest_tsc_ticks;
}

static int run_with_files(const struct run_spec *spec, bool icount,
                          const struct qemu_files *files,
                          struct run_record *record, struct why *why)
{
    struct guest_config config = run_guest_config(spec);
    int status = 0, err;
    pid_t child;

    if (write(files->config, &config, sizeof config) != sizeof config)
        return why_set(why, EIO, "cannot write the guest's configuration");
    err = spawn(spec, icount, files, &child, why);
    if (err)
        return err;
    if (wait_for(child, spec->time_limit_s, &status))
        return why_set(why, ETIME,
                       "the time limit of %u s passed in " QEMU
                       "; raise it with --time-limit",
                       spec->time_limit_s);
    err = read_results(files, icount, record, why);
    if (!err && icount)
        ticks_are_instructions(record);
    return err;
}

int qemu_run(const struct run_spec *spec, bool icount,
             struct run_record *record, struct why *why)
{
    struct qemu_files files;
    int err = qemu_here(why);

    if (err)
        return err;
    if (spec->vcpus > 1)
        return why_set(why, ENOTSUP,
                       "the guest image boots one CPU only without KVM");
    files.config = memfd_create("memvirt-config", 0);
    files.console = memfd_create("memvirt-console", 0);
    files.messages = memfd_create("memvirt-qemu", 0);
    if (files.config < 0 || files.console < 0 || files.messages < 0)
        err = why_set(why, errno, "cannot create a memory file: %s",
                      strerror(errno));
    else
        err = run_with_files(spec, icount, &files, record, why);
    close(files.config);
    close(files.console);
    close(files.messages);
    return err;
}

static int emulation_here(const struct workload *workload, struct why *why)
{
    (void)workload;
    if (platform_here() != PLATFORM_HOST)
        return why_set(why, ENOTSUP, "the lab is emulated itself");
    return qemu_here(why);
}

static int emulation_run(const struct run_spec *spec,
                         const struct workload *workload,
                         struct run_record *record, struct why *why)
{
    (void)workload;
    return qemu_run(spec, false, record, why);
}

const struct technique_ops technique_emulation = {
    .summary = "QEMU's TCG on the same image, with its software TLB",
    .mmu = "software",
    .here = emulation_here,
    .run = emulation_run,
};
