#include "harness/bt_source.h"

#include "ept/kvm_switch.h"
#include "harness/image.h"
#include "harness/technique.h"
#include "vmm/vm.h"
#include "workloads/model/ring.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct bt_source {
    struct event_source base;
    struct vm_trace trace;
    struct vm_software software;
    struct vm *vm;
    struct ring *ring;
    size_t taken; /* words of the oldest batch that were given already */
    bool started, closing;
    pthread_t thread;
};

/* ---- The guest's thread -------------------------------------------------- */

static bool take(void *arg, const uint64_t *words, size_t count)
{
    struct bt_source *source = arg;

    if (__atomic_load_n(&source->closing, __ATOMIC_RELAXED) ||
        count > RING_WORDS)
        return false;
    memcpy(ring_room(source->ring), words, count * sizeof *words);
    ring_submit(source->ring, count);
    return true;
}

/* The guest's own message explains more than how the VM ended. */
static int look_at_results(const struct vm *vm, struct why *why)
{
    struct guest_results results;
    int err = vm_results(vm, &results, why);

    if (!err && results.state == GUEST_UNSUPPORTED)
        err = why_set(why, ENOTSUP, "%s", results.message);
    else if (!err && results.state != GUEST_DONE)
        err = why_set(why, EIO, "%s", results.message);
    return err;
}

static void *run(void *arg)
{
    struct bt_source *source = arg;
    struct ring *ring = source->ring;
    struct why why = {""}, guest = {""};
    int err = vm_run(source->vm, &why);
    int guest_err = look_at_results(source->vm, &guest);

    if (!err || guest_err == -ENOTSUP) {
        err = guest_err;
        why = guest;
    }
    ring->error = err;
    ring->why = why;
    ring_finish(ring, err ? RING_FAILED : RING_DONE);
    return NULL;
}

/* ---- The reader's -------------------------------------------------------- */

/* As many words of whole events as there is room for. */
static size_t whole_events(const uint64_t *words, size_t count, size_t room)
{
    size_t at = 0;

    if (count <= room)
        return count;
    for (unsigned next;
         (next = event_words(event_kind(words[at]))) + at <= room;)
        at += next;
    return at;
}

static long read_words(struct event_source *base, uint64_t *words, size_t room,
                       struct why *why)
{
    struct bt_source *source = (struct bt_source *)base;
    struct ring *ring = source->ring;

    while (!ring_ended(ring)) {
        size_t count, part;
        const uint64_t *batch = ring_data(ring, &count);

        if (!batch)
            continue;
        batch += source->taken;
        count -= source->taken;
        part = whole_events(batch, count, room);
        memcpy(words, batch, part * sizeof *words);
        source->taken += part;
        if (part == count) {
            source->taken = 0;
            ring_release(ring);
        }
        return (long)part;
    }
    if (ring->state == RING_FAILED && why)
        *why = ring->why;
    return ring->state == RING_FAILED ? ring->error : 0;
}

/* The guest ends at the next events that nobody takes. */
static void close_source(struct event_source *base)
{
    struct bt_source *source = (struct bt_source *)base;
    size_t count;

    __atomic_store_n(&source->closing, true, __ATOMIC_RELAXED);
    if (source->started) {
        while (!ring_ended(source->ring))
            if (ring_data(source->ring, &count))
                ring_release(source->ring);
        pthread_join(source->thread, NULL);
    }
    vm_destroy(source->vm);
    ring_destroy(source->ring);
    free(source);
}

/* ---- Opening ------------------------------------------------------------- */

static int load(const struct run_spec *spec, struct vm *vm, struct why *why)
{
    struct guest_config config = run_guest_config(spec);
    const void *image;
    size_t bytes;
    int err = image_open(spec->image[0] ? spec->image : image_default_path(),
                         &image, &bytes, why);

    if (err)
        return err;
    err = vm_load(vm, image, bytes, &config, why);
    image_close(image, bytes);
    return err;
}

static int create(const struct run_spec *spec, struct bt_source *source,
                  struct why *why)
{
    struct vm_config config = {
        .ram_bytes = run_ram_bytes(spec),
        .backing = VM_BACKING_THP,
        .vcpus = 1,
        .time_limit_s = spec->time_limit_s,
        .software = &source->software,
    };
    struct kvm_state state;
    int err;

    kvm_state_read(&kvm_host_linux, &state);
    if (!state.answers)
        return why_set(why, ENOTSUP,
                       "no usable /dev/kvm: 'memvirt doctor' says why");
    source->software = (struct vm_software){
        .policy = spec->shadow_policy,
        .translate = true,
        .syscall_faults = state.flavour == KVM_FLAVOUR_PVM,
        .trace = &source->trace,
    };
    err = vm_create(&source->vm, &config, why);
    if (!err)
        vm_trace_guest(source->vm, &source->base.guest);
    return err ? err : load(spec, source->vm, why);
}

static int start(struct bt_source *source, struct why *why)
{
    int err;

    source->ring = ring_create(RING_BATCHES_MAX);
    if (!source->ring)
        return why_set(why, ENOMEM, "out of memory");
    err = pthread_create(&source->thread, NULL, run, source);
    if (err)
        return why_set(why, err, "cannot start a thread: %s", strerror(err));
    source->started = true;
    return 0;
}

int bt_source_open(const struct run_spec *spec, bool fetches,
                   struct event_source **out, struct why *why)
{
    struct bt_source *source = calloc(1, sizeof *source);
    int err;

    if (!source)
        return why_set(why, ENOMEM, "out of memory");
    source->base.read = read_words;
    source->base.close = close_source;
    source->trace = (struct vm_trace){fetches, take, source};
    err = create(spec, source, why);
    if (!err)
        err = start(source, why);
    if (err)
        close_source(&source->base);
    else
        *out = &source->base;
    return err;
}
