/*
 * The cost of our user-exit path against a bare KVM_RUN loop.
 *
 * Two VMs in one process run the same guest, which writes to a port in a
 * loop; one is run by vm_run, the other by the shortest loop there can be.
 * Rounds are interleaved, so what the machine does meanwhile hits both. What
 * this cannot show is the exit itself: it is in both sides.
 */
#include "harness/image.h"
#include "harness/stats.h"
#include "tests/bench/bench.h"
#include "vmm/vm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define ROUNDS     31
#define OPERATIONS 2000

struct clock {
    double begin, end;
};

static void on_mark(struct vm *vm, enum wl_phase phase, bool begin, void *arg)
{
    struct clock *clock = arg;

    (void)vm, (void)phase;
    *(begin ? &clock->begin : &clock->end) = seconds();
}

/* A VM that is ready to run the `out` nanobenchmark. */
static struct vm *make_vm(struct clock *clock)
{
    struct guest_config config = {.workload = "out", .operations = OPERATIONS};
    struct vm_config vm_config = {
        .ram_bytes = 32 << 20,
        .vcpus = 1,
        .hooks = {.mark = on_mark},
        .arg = clock,
    };
    const void *image;
    struct vm *vm = NULL;
    struct why why;
    size_t bytes;

    if (image_open(image_default_path(), &image, &bytes, &why) ||
        vm_create(&vm, &vm_config, &why) ||
        vm_load(vm, image, bytes, &config, &why)) {
        fprintf(stderr, "user_exit: %s\n", why.text);
        exit(1);
    }
    image_close(image, bytes);
    return vm;
}

static double ours(void)
{
    struct clock clock;
    struct vm *vm = make_vm(&clock);
    struct why why;

    if (vm_run(vm, &why)) {
        fprintf(stderr, "user_exit: %s\n", why.text);
        exit(1);
    }
    vm_destroy(vm);
    return (clock.end - clock.begin) / OPERATIONS;
}

static double bare(void)
{
    struct clock clock = {0, 0};
    struct vm *vm = make_vm(&clock);
    int fd = vm_vcpu_fds(vm)[0];
    struct kvm_run *run =
        mmap(NULL, 4096 * 3, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    while (run != MAP_FAILED && !clock.end) {
        if (ioctl(fd, KVM_RUN, 0) < 0 || run->exit_reason != KVM_EXIT_IO)
            exit(1);
        if (run->io.port == GUEST_PORT_MARK)
            *(clock.begin > 0 ? &clock.end : &clock.begin) = seconds();
    }
    munmap(run, 4096 * 3);
    vm_destroy(vm);
    return (clock.end - clock.begin) / OPERATIONS;
}

int main(void)
{
    double a[ROUNDS], b[ROUNDS];
    struct estimate ratio, ours_ns, bare_ns;

    for (unsigned i = 0; i < ROUNDS; i++) {
        a[i] = ours() * 1e9;
        b[i] = bare() * 1e9;
    }
    if (stats_ratio(a, ROUNDS, b, ROUNDS, &ratio) ||
        stats_median(a, ROUNDS, &ours_ns) || stats_median(b, ROUNDS, &bare_ns))
        return 1;
    printf("user exit, ns: ours %.0f (%.0f-%.0f), bare KVM_RUN loop %.0f "
           "(%.0f-%.0f)\n",
           ours_ns.value, ours_ns.low, ours_ns.high, bare_ns.value, bare_ns.low,
           bare_ns.high);
    printf("ratio %.3f (95 %% interval %.3f-%.3f), asked for: at most 1.10\n",
           ratio.value, ratio.low, ratio.high);
    return ratio.value > 1.10;
}
