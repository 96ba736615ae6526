/* Small guest images for tests: an ELF64 around a few bytes of code. */
#ifndef TESTS_IMAGES_H
#define TESTS_IMAGES_H

#include <elf.h>
#include <stddef.h>
#include <stdint.h>

#define TEST_IMAGE_MAX 2048

struct test_image {
    Elf64_Ehdr header;
    Elf64_Phdr segment;
    uint8_t code[TEST_IMAGE_MAX];
};

/* `bytes` is at most TEST_IMAGE_MAX. An image whose code is loaded at 1 MiB and
 * entered there, identity mapped. */
struct test_image test_image(const void *code, size_t bytes);

#endif
