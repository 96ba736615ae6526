/* The spigot that pi runs; apart from the workload so that it can be tested.
 */
#ifndef WORKLOADS_MEMORY_PI_H
#define WORKLOADS_MEMORY_PI_H

#include <stdint.h>

#define PI_DIGITS 1000u
#define PI_TERMS  (PI_DIGITS * 10 / 3 + 1)

struct pi_spigot {
    uint32_t terms[PI_TERMS];
    uint8_t digits[PI_DIGITS]; /* 3, 1, 4, ... */
};

/* Runs `steps` (up to PI_DIGITS) steps of the spigot from the beginning;
 * each yields one digit, but nines are held back until it is clear that no
 * carry reaches them. Returns how many digits are certain. */
unsigned pi_digits(struct pi_spigot *spigot, unsigned steps);

#endif
