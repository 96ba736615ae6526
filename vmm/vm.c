#include "vmm/vm_private.h"

#include "vmm/elf.h"
#include "vmm/results.h"
#include "vmm/software.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define KICK_SIGNAL SIGUSR1

/* ---- Ends -------------------------------------------------------------- */

bool vm_has_ended(struct vm *vm)
{
    return __atomic_load_n(&vm->ended, __ATOMIC_ACQUIRE);
}

void vm_end_once(struct vm *vm, enum vm_end end, const char *format, ...)
{
    va_list args;

    pthread_mutex_lock(&vm->lock);
    if (!vm->ended) {
        vm->end = end;
        va_start(args, format);
        vsnprintf(vm->end_why.text, sizeof vm->end_why.text, format, args);
        va_end(args);
        __atomic_store_n(&vm->ended, true, __ATOMIC_RELEASE);
        for (unsigned i = 0; i < vm->config.vcpus; i++) {
            vm->vcpus[i].run->immediate_exit = 1;
            if (vm->go && !pthread_equal(vm->threads[i], pthread_self()))
                pthread_kill(vm->threads[i], KICK_SIGNAL);
        }
    }
    pthread_mutex_unlock(&vm->lock);
}

void vm_console_put(struct vm *vm, char c)
{
    pthread_mutex_lock(&vm->lock);
    if (vm->console_bytes < CONSOLE_BYTES - 1)
        vm->console[vm->console_bytes++] = c;
    pthread_mutex_unlock(&vm->lock);
}

bool vm_deadline_passed(const struct vm *vm)
{
    struct timespec now;

    if (!vm->config.time_limit_s)
        return false;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec > vm->deadline.tv_sec ||
           (now.tv_sec == vm->deadline.tv_sec &&
            now.tv_nsec >= vm->deadline.tv_nsec);
}

/* ---- Creation ---------------------------------------------------------- */

static int open_kvm(struct vm *vm, struct why *why)
{
    const char *path = vm->config.kvm_path ? vm->config.kvm_path : "/dev/kvm";
    int version;

    vm->kvm_fd = open(path, O_RDWR | O_CLOEXEC);
    if (vm->kvm_fd < 0 && errno == ENOENT)
        return why_set(why, ENOENT,
                       "there is no %s: load KVM ('modprobe kvm_intel' or "
                       "'modprobe kvm_amd'), or run in the lab with 'memvirt "
                       "lab'",
                       path);
    if (vm->kvm_fd < 0)
        return why_set(why, errno,
                       "cannot open %s: %s; join its group with 'sudo adduser "
                       "$USER kvm' and log in again",
                       path, strerror(errno));
    version = ioctl(vm->kvm_fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION)
        return why_set(why, EPROTO, "%s speaks KVM API version %d, not %d",
                       path, version, KVM_API_VERSION);
    vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
    if (vm->fd < 0)
        return why_set(why, errno, "KVM cannot create a VM: %s",
                       strerror(errno));
    return 0;
}

static int add_slot(struct vm *vm, unsigned slot, uint64_t gpa, uint64_t offset,
                    uint64_t bytes, struct why *why)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot,
        .guest_phys_addr = gpa,
        .memory_size = bytes,
        .userspace_addr = (uint64_t)vm->memory.ram + offset,
    };

    if (bytes && ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region))
        return why_set(why, errno,
                       "KVM refused %" PRIu64 " MiB of guest memory: %s",
                       bytes >> 20, strerror(errno));
    return 0;
}

static int create_memory(struct vm *vm, struct why *why)
{
    uint64_t ram = vm->config.ram_bytes;
    uint64_t low = ram < RAM_HOLE_START ? ram : RAM_HOLE_START;
    int err = vm_memory_create(&vm->memory, &vm->config, why);

    if (!err)
        err = add_slot(vm, 0, 0, 0, low, why);
    if (!err)
        err = add_slot(vm, 1, RAM_HOLE_END, low, ram - low, why);
    return err;
}

static int create_vcpus(struct vm *vm, struct why *why)
{
    int limit = ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
    int err = 0;

    if (limit > 0 && vm->config.vcpus > (unsigned)limit)
        return why_set(why, EINVAL, "this KVM runs at most %d vCPUs", limit);
    /* Only several vCPUs need an APIC: interprocessor interrupts. */
    if (vm->config.vcpus > 1 && ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0))
        return why_set(why, errno,
                       "KVM cannot create an interrupt "
                       "controller: %s; use --vcpus 1",
                       strerror(errno));
    for (unsigned i = 0; !err && i < vm->config.vcpus; i++) {
        err = vcpu_create(&vm->vcpus[i], vm, i, why);
        vm->vcpu_fds[i] = vm->vcpus[i].fd;
    }
    return err;
}

static int check_config(const struct vm_config *config, struct why *why)
{
    uint64_t step = config->backing == VM_BACKING_1G ? 1ull << 30 : 2ull << 20;

    if (config->vcpus < 1 || config->vcpus > VM_VCPUS_MAX)
        return why_set(why, EINVAL, "a VM has 1 to %d vCPUs, not %u",
                       VM_VCPUS_MAX, config->vcpus);
    if (config->ram_bytes < VM_RAM_MIN || config->ram_bytes > VM_RAM_MAX ||
        config->ram_bytes % step)
        return why_set(why, EINVAL,
                       "a VM has 16 MiB to 512 GiB of memory in whole host "
                       "pages, not %" PRIu64 " bytes",
                       config->ram_bytes);
    return 0;
}

int vm_create(struct vm **out, const struct vm_config *config, struct why *why)
{
    int err = check_config(config, why);
    struct vm *vm;

    *out = NULL;
    if (err)
        return err;
    vm = calloc(1, sizeof *vm);
    if (!vm)
        return why_set(why, ENOMEM, "out of memory");
    vm->config = *config;
    vm->kvm_fd = vm->fd = vm->memory.fd = -1;
    for (unsigned i = 0; i < VM_VCPUS_MAX; i++)
        vm->vcpus[i].fd = -1;
    pthread_mutex_init(&vm->lock, NULL);
    pthread_cond_init(&vm->changed, NULL);
    err = open_kvm(vm, why);
    if (!err)
        err = create_memory(vm, why);
    if (!err)
        err = create_vcpus(vm, why);
    if (!err && config->software)
        err = software_create(vm, why);
    if (err) {
        vm_destroy(vm);
        return err;
    }
    err = ioctl(vm->vcpus[0].fd, KVM_GET_TSC_KHZ, 0);
    vm->tsc_khz = err > 0 ? (unsigned)err : 0;
    *out = vm;
    return 0;
}

void vm_destroy(struct vm *vm)
{
    if (!vm)
        return;
    for (unsigned i = 0; i < vm->config.vcpus; i++)
        vcpu_destroy(&vm->vcpus[i]);
    if (vm->fd >= 0)
        close(vm->fd);
    if (vm->kvm_fd >= 0)
        close(vm->kvm_fd);
    software_destroy(vm->software);
    vm_memory_destroy(&vm->memory);
    pthread_cond_destroy(&vm->changed);
    pthread_mutex_destroy(&vm->lock);
    free(vm);
}

int vm_load(struct vm *vm, const void *image, size_t bytes,
            const struct guest_config *config, struct why *why)
{
    uint64_t ram = vm->memory.ram_bytes, entry;
    uint64_t low = ram < RAM_HOLE_START ? ram : RAM_HOLE_START;
    int err;

    boot_write(vm, config);
    err = elf_load(image, bytes, vm->memory.ram, low, GPA_FLOOR, &entry, why);
    if (!err && vm->software)
        return software_load(vm, image, bytes, entry, why);
    for (unsigned i = 0; !err && i < vm->config.vcpus; i++)
        err = vcpu_reset(&vm->vcpus[i], entry, GPA_PAGE_TABLES, GPA_GDT,
                         GPA_START_INFO, why);
    return err;
}

/* ---- Running ----------------------------------------------------------- */

static void on_kick(int signal)
{
    (void)signal; /* its only purpose is to interrupt KVM_RUN */
}

static void prepare_thread(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    struct why why;

    if (vm->config.pin && vm->config.pin(vcpu->id, vm->config.arg, &why))
        vm_end_once(vm, VM_END_ERROR, "%s", why.text);
    pthread_mutex_lock(&vm->lock);
    vcpu->tid = vm->vcpu_tids[vcpu->id] = gettid();
    vm->threads[vcpu->id] = pthread_self();
    vm->threads_ready++;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
}

static void *thread_main(void *arg)
{
    struct vcpu *vcpu = arg;
    struct vm *vm = vcpu->vm;

    prepare_thread(vcpu);
    pthread_mutex_lock(&vm->lock);
    while (!vm->go)
        pthread_cond_wait(&vm->changed, &vm->lock);
    pthread_mutex_unlock(&vm->lock);
    vcpu_loop(vcpu);
    return NULL;
}

static void let_go(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->go = true;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
}

/* vCPU 0, on the caller's thread, once `threads` have theirs. */
static void run_first(struct vm *vm)
{
    prepare_thread(&vm->vcpus[0]);
    pthread_mutex_lock(&vm->lock);
    while (vm->threads_ready < vm->config.vcpus)
        pthread_cond_wait(&vm->changed, &vm->lock);
    pthread_mutex_unlock(&vm->lock);
    if (vm->config.hooks.ready)
        vm->config.hooks.ready(vm, vm->config.arg);
    let_go(vm);
    vcpu_loop(&vm->vcpus[0]);
}

/* A repeating timer: a kick that falls between the test and KVM_RUN is made
 * up for by the next. */
static int start_deadline(struct vm *vm, timer_t *timer)
{
    struct sigevent event = {
        .sigev_notify = SIGEV_THREAD_ID,
        .sigev_signo = KICK_SIGNAL,
        ._sigev_un._tid = gettid(),
    };
    struct itimerspec when = {
        .it_value.tv_sec = vm->config.time_limit_s,
        .it_interval.tv_nsec = 100 * 1000 * 1000,
    };

    clock_gettime(CLOCK_MONOTONIC, &vm->deadline);
    vm->deadline.tv_sec += vm->config.time_limit_s;
    if (timer_create(CLOCK_MONOTONIC, &event, timer))
        return -errno;
    return timer_settime(*timer, 0, &when, NULL) ? -errno : 0;
}

/* Returns how many vCPUs have a thread, the caller's included. */
static unsigned start_threads(struct vm *vm, pthread_t *threads)
{
    unsigned i = 1;

    while (i < vm->config.vcpus &&
           !pthread_create(&threads[i], NULL, thread_main, &vm->vcpus[i]))
        i++;
    return i;
}

int vm_run(struct vm *vm, struct why *why)
{
    struct sigaction kick = {.sa_handler = on_kick}, before;
    pthread_t threads[VM_VCPUS_MAX];
    bool timed = vm->config.time_limit_s;
    unsigned started;
    timer_t timer;

    sigaction(KICK_SIGNAL, &kick, &before);
    if (timed && start_deadline(vm, &timer)) {
        timed = false;
        vm_end_once(vm, VM_END_ERROR, "cannot set the time limit's timer");
    }
    started = start_threads(vm, threads);
    if (started < vm->config.vcpus)
        vm_end_once(vm, VM_END_ERROR, "cannot start %u vCPU threads",
                    vm->config.vcpus);
    if (vm_has_ended(vm))
        let_go(vm);
    else
        run_first(vm);
    for (unsigned i = 1; i < started; i++)
        pthread_join(threads[i], NULL);
    if (timed)
        timer_delete(timer);
    sigaction(KICK_SIGNAL, &before, NULL);
    software_end_trace(vm);
    return vm->end == VM_END_EXIT ? 0
                                  : why_set(why, EIO, "%s", vm->end_why.text);
}

/* ---- What came of it --------------------------------------------------- */

enum vm_end vm_end(const struct vm *vm)
{
    return vm->end;
}

int vm_results(const struct vm *vm, struct guest_results *results,
               struct why *why)
{
    return guest_results_read(vm->memory.ram + GPA_RESULTS, 4096, results, why);
}

const char *vm_console(const struct vm *vm)
{
    return vm->console;
}

uint64_t vm_host_page_bytes(const struct vm *vm)
{
    return vm_memory_page_bytes(&vm->memory);
}

void vm_user_exits(const struct vm *vm, uint64_t counts[VM_EXIT_KINDS])
{
    for (unsigned reason = 0; reason < VM_EXIT_KINDS; reason++) {
        counts[reason] = 0;
        for (unsigned i = 0; i < vm->config.vcpus; i++)
            counts[reason] +=
                __atomic_load_n(&vm->vcpus[i].exits[reason], __ATOMIC_RELAXED);
    }
}

const char *vm_exit_name(unsigned reason)
{
    static const char *const names[] = {
        [KVM_EXIT_UNKNOWN] = "unknown",
        [KVM_EXIT_EXCEPTION] = "exception",
        [KVM_EXIT_IO] = "io",
        [KVM_EXIT_HYPERCALL] = "hypercall",
        [KVM_EXIT_DEBUG] = "debug",
        [KVM_EXIT_HLT] = "hlt",
        [KVM_EXIT_MMIO] = "mmio",
        [KVM_EXIT_IRQ_WINDOW_OPEN] = "irq_window_open",
        [KVM_EXIT_SHUTDOWN] = "shutdown",
        [KVM_EXIT_FAIL_ENTRY] = "fail_entry",
        [KVM_EXIT_INTR] = "intr",
        [KVM_EXIT_NMI] = "nmi",
        [KVM_EXIT_SET_TPR] = "set_tpr",
        [KVM_EXIT_INTERNAL_ERROR] = "internal_error",
        [KVM_EXIT_SYSTEM_EVENT] = "system_event",
    };

    return reason < sizeof names / sizeof names[0] ? names[reason] : NULL;
}

int vm_fd(const struct vm *vm)
{
    return vm->fd;
}

unsigned vm_vcpus(const struct vm *vm)
{
    return vm->config.vcpus;
}

const int *vm_vcpu_fds(const struct vm *vm)
{
    return vm->vcpu_fds;
}

const pid_t *vm_vcpu_tids(const struct vm *vm)
{
    return vm->vcpu_tids;
}

unsigned vm_tsc_khz(const struct vm *vm)
{
    return vm->tsc_khz;
}
