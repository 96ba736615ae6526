/*
 * Fuzz targets: each takes any bytes and must neither crash nor hang.
 * `make fuzz` links one with libFuzzer; the suite `fuzz` replays the corpus
 * of each (tests/corpus/NAME/) and a bounded number of mutations.
 */
#ifndef TESTS_FUZZ_TARGETS_H
#define TESTS_FUZZ_TARGETS_H

#include <stddef.h>
#include <stdint.h>

int fuzz_elf(const uint8_t *bytes, size_t count);
int fuzz_results(const uint8_t *bytes, size_t count);
int fuzz_record(const uint8_t *bytes, size_t count);
int fuzz_csv(const uint8_t *bytes, size_t count);
int fuzz_profile(const uint8_t *bytes, size_t count);
int fuzz_trace(const uint8_t *bytes, size_t count);
int fuzz_block(const uint8_t *bytes, size_t count);
int fuzz_lackey(const uint8_t *bytes, size_t count);
int fuzz_champsim(const uint8_t *bytes, size_t count);
int fuzz_memtrace(const uint8_t *bytes, size_t count);
int fuzz_direct(const uint8_t *bytes, size_t count);
int fuzz_decode(const uint8_t *bytes, size_t count);
int fuzz_bt(const uint8_t *bytes, size_t count);
int fuzz_patch(const uint8_t *bytes, size_t count);

#endif
