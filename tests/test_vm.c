/*
 * The VM on this machine's KVM: our own image, and hand-assembled guests that
 * end in every way there is. All of them are bounded and well known: nothing
 * random runs on a host's KVM.
 */
#include "harness/image.h"
#include "tests/images.h"
#include "tests/test.h"
#include "vmm/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RAM_BYTES (64ull << 20)

static bool have_kvm(void)
{
    if (!access("/dev/kvm", R_OK | W_OK))
        return true;
    test_skip("no access to /dev/kvm: load kvm, join the group kvm");
    return false;
}

struct outcome {
    int err;
    enum vm_end end;
    struct why why;
    char console[64];
};

static struct vm_config small_vm(void)
{
    return (struct vm_config){
        .ram_bytes = RAM_BYTES,
        .vcpus = 1,
        .time_limit_s = 20,
    };
}

static struct outcome run_code(const void *code, size_t bytes,
                               unsigned time_limit_s)
{
    struct test_image image = test_image(code, bytes);
    struct guest_config config = {.operations = 1};
    struct vm_config vm_config = small_vm();
    struct outcome outcome = {.err = -1};
    struct vm *vm = NULL;

    vm_config.time_limit_s = time_limit_s;
    outcome.err = vm_create(&vm, &vm_config, &outcome.why);
    if (!outcome.err)
        outcome.err = vm_load(vm, &image, sizeof image, &config, &outcome.why);
    if (!outcome.err) {
        outcome.err = vm_run(vm, &outcome.why);
        outcome.end = vm_end(vm);
        snprintf(outcome.console, sizeof outcome.console, "%s", vm_console(vm));
    }
    vm_destroy(vm);
    return outcome;
}

#define ENDS(code, limit, expected_end, expected_text)                  \
    do {                                                                \
        struct outcome o = run_code(code, sizeof code - 1, limit);      \
                                                                        \
        CU_ASSERT_EQUAL(o.end, expected_end);                           \
        CU_ASSERT_EQUAL(o.err, expected_end == VM_END_EXIT ? 0 : -EIO); \
        if (o.err)                                                      \
            CU_ASSERT_PTR_NOT_NULL(strstr(o.why.text, expected_text));  \
    } while (0)

static void ends_by_exit_port(void)
{
    /* mov $'h',%al; out %al,$0xe9; out %eax,$0xf4; jmp . */
    static const char code[] = "\xb0h\xe6\xe9\xe7\xf4\xeb\xfe";
    struct outcome o;

    if (!have_kvm())
        return;
    o = run_code(code, sizeof code - 1, 20);
    CU_ASSERT_EQUAL(o.err, 0);
    CU_ASSERT_EQUAL(o.end, VM_END_EXIT);
    CU_ASSERT_STRING_EQUAL(o.console, "h");
}

static void other_ends(void)
{
    if (!have_kvm())
        return;
    /* hlt */
    ENDS("\xf4", 20, VM_END_HALT, "halted");
    /* lidt of an empty table (0(%rsp) is zeros); ud2: a triple fault */
    ENDS("\x48\xc7\xc4\x00\x08\x10\x00"
         "\x0f\x01\x1c\x24\x0f\x0b",
         20, VM_END_SHUTDOWN, "triple");
    /* mov 0x30000000,%al: mapped, but no RAM there */
    ENDS("\x8a\x04\x25\x00\x00\x00\x30\xf4", 20, VM_END_BAD_ACCESS,
         "0x30000000");
    /* fldl 0x30000000: no KVM emulates x87 loads from MMIO */
    ENDS("\xdd\x04\x25\x00\x00\x00\x30\xf4", 20, VM_END_INTERNAL_ERROR,
         "emulation failed");
    /* jmp . */
    ENDS("\xeb\xfe", 1, VM_END_TIMEOUT, "time limit of 1 s");
}

static void bad_configurations(void)
{
    struct vm_config config = small_vm();
    struct why why = {""};
    struct vm *vm;

    config.kvm_path = "/nonexistent/kvm";
    CU_ASSERT_EQUAL(vm_create(&vm, &config, &why), -ENOENT);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "modprobe"));
    config.kvm_path = "/dev/null";
    CU_ASSERT_NOT_EQUAL(vm_create(&vm, &config, &why), 0);
    config = small_vm();
    config.vcpus = 0;
    CU_ASSERT_EQUAL(vm_create(&vm, &config, &why), -EINVAL);
    config = small_vm();
    config.ram_bytes = RAM_BYTES + 4096;
    CU_ASSERT_EQUAL(vm_create(&vm, &config, &why), -EINVAL);
    config.ram_bytes = 256ull << 30;
    CU_ASSERT_EQUAL(vm_create(&vm, &config, &why), -ENOMEM);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "--size"));
}

/* ---- Our image --------------------------------------------------------- */

struct marks {
    unsigned begins, ends;
    uint64_t io_at_begin, io_at_end;
};

static void on_mark(struct vm *vm, enum wl_phase phase, bool begin, void *arg)
{
    struct marks *marks = arg;
    uint64_t counts[VM_EXIT_KINDS];

    CU_ASSERT_EQUAL(phase, WL_STEADY);
    vm_user_exits(vm, counts);
    *(begin ? &marks->io_at_begin : &marks->io_at_end) = counts[2];
    *(begin ? &marks->begins : &marks->ends) += 1;
}

static void run_image(const char *workload, unsigned vcpus, struct marks *marks,
                      struct guest_results *results)
{
    struct guest_config config = {.working_set_bytes = 64 << 10,
                                  .page_bytes = 4096,
                                  .operations = 100,
                                  .seed = 1};
    struct vm_config vm_config = small_vm();
    struct why why = {""};
    const void *image;
    struct vm *vm;
    size_t bytes;
    int err;

    vm_config.vcpus = vcpus;
    vm_config.hooks.mark = marks ? on_mark : NULL;
    vm_config.arg = marks;
    snprintf(config.workload, sizeof config.workload, "%s", workload);
    CU_ASSERT_FATAL(!image_open(image_default_path(), &image, &bytes, &why));
    CU_ASSERT_FATAL(!vm_create(&vm, &vm_config, &why));
    CU_ASSERT_EQUAL(vm_load(vm, image, bytes, &config, &why), 0);
    err = vm_run(vm, &why);
    if (err)
        printf("%s: ", why.text);
    CU_ASSERT_EQUAL(err, 0);
    CU_ASSERT_EQUAL(vm_results(vm, results, &why), 0);
    if (results->message[0])
        printf("(%s) ", results->message);
    vm_destroy(vm);
    image_close(image, bytes);
}

static void marks_and_user_exits(void)
{
    struct marks marks = {.begins = 0};
    struct guest_results results;

    if (!have_kvm())
        return;
    run_image("out", 1, &marks, &results);
    CU_ASSERT_EQUAL(results.state, GUEST_DONE);
    CU_ASSERT_EQUAL(results.phases, 1);
    CU_ASSERT_EQUAL(results.phase[0].operations, 100);
    CU_ASSERT_EQUAL(marks.begins, 1);
    CU_ASSERT_EQUAL(marks.ends, 1);
    /* 100 OUTs and the end's own mark */
    CU_ASSERT_EQUAL(marks.io_at_end - marks.io_at_begin, 101);
}

static void unknown_workload(void)
{
    struct guest_results results;

    if (!have_kvm())
        return;
    run_image("nosuch", 1, NULL, &results);
    CU_ASSERT_EQUAL(results.state, GUEST_FAILED);
    CU_ASSERT_PTR_NOT_NULL(strstr(results.message, "no workload"));
}

static void two_cpus(void)
{
    struct guest_results results;

    if (!have_kvm())
        return;
    run_image("gups", 2, NULL, &results);
    CU_ASSERT_EQUAL(results.state, GUEST_DONE);
    CU_ASSERT_EQUAL(results.phases, 3);
}

TEST_SUITE(vm, {"the exit port ends a run", ends_by_exit_port},
           {"other ends are told apart", other_ends},
           {"bad configurations get a sentence", bad_configurations},
           {"marks and user exits", marks_and_user_exits},
           {"an unknown workload is a message", unknown_workload},
           {"two vCPUs", two_cpus});
