/*
 * pi: digits of pi by the spigot of Rabinowitz and Wagon (American
 * Mathematical Monthly 102, 1995).
 *
 * Measures computation: 14 KiB of data, one system call in all. What a
 * technique costs here is not translation but interrupts and exits that come
 * with time. It computes the first 1,000 digits again and again, so that every
 * digit costs the same.
 */
#include "workloads/memory/pi.h"
#include "workloads/measure.h"

struct pi_state {
    unsigned count;
    unsigned nines;
    unsigned held;
    unsigned any; /* whether `held` holds a digit */
};

/* One digit more: ten times the number in the mixed radix 1/3, 2/5, 3/7...,
 * whose integer part is the digit (10 when a carry is to be passed on). */
static inline uint32_t pi_step(uint32_t *terms)
{
    uint32_t carry = 0;

    for (uint32_t i = PI_TERMS; i > 1; i--) {
        uint32_t x = terms[i - 1] * 10 + carry * i, radix = 2 * i - 1;

        terms[i - 1] = x % radix;
        carry = x / radix;
    }
    carry += terms[0] * 10;
    terms[0] = carry % 10;
    return carry / 10;
}

static inline void pi_release(struct pi_spigot *spigot, struct pi_state *state,
                              uint32_t digit)
{
    unsigned carry = digit / 10;

    if (digit == 9) {
        state->nines++;
        return;
    }
    if (state->any)
        spigot->digits[state->count++] = state->held + carry;
    for (; state->nines; state->nines--)
        spigot->digits[state->count++] = carry ? 0 : 9;
    state->held = digit % 10;
    state->any = 1;
}

unsigned pi_digits(struct pi_spigot *spigot, unsigned steps)
{
    struct pi_state state = {0, 0, 0, 0};

    for (unsigned i = 0; i < PI_TERMS; i++)
        spigot->terms[i] = 2;
    for (; steps; steps--)
        pi_release(spigot, &state, pi_step(spigot->terms));
    return state.count;
}

WL_KERNEL(pi_kernel)
{
    struct pi_spigot *spigot = &((struct pi_spigot *)work)[id];
    uint64_t sum = 0;

    (void)rng;
    while (operations) {
        unsigned steps = operations < PI_DIGITS ? operations : PI_DIGITS;
        unsigned digits = pi_digits(spigot, steps);

        for (unsigned i = 0; i < digits; i++)
            sum = (sum + spigot->digits[i]) * WL_GOLDEN;
        operations -= steps;
    }
    return sum;
}

static void pi_run(const struct wl_env *env)
{
    struct pi_spigot *spigots;

    wl_check(env, 0, 0);
    spigots = wl_map_or_fail(env, env->params->vcpus * sizeof *spigots,
                             WL_PAGE_4K, WL_POPULATE);
    wl_steady(env, pi_kernel, spigots, wl_warm_up(env));
}

const struct workload workload_pi = {
    .name = "pi",
    .summary = "digits of pi: computation, hardly any memory",
    .operation = "digit",
    .class = WL_MEMORY,
    .default_operations = 2000,
    .run = pi_run,
};
