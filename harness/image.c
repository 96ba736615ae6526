#include "harness/image.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define IMAGE_MAX (1ll << 30)

const char *image_default_path(void)
{
    return MEMVIRT_BUILD "/guest.elf";
}

const char *image_pv_path(void)
{
    return MEMVIRT_BUILD "/guest-pv.elf";
}

int image_open(const char *path, const void **bytes, size_t *length,
               struct why *why)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), err = 0;
    void *map = MAP_FAILED;
    struct stat st;

    if (fd < 0)
        return why_set(why, errno,
                       "cannot read the guest image %s: %s; 'make' builds it",
                       path, strerror(errno));
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || !st.st_size)
        err = why_set(why, EINVAL,
                      "the guest image %s is empty or no regular file", path);
    else if (st.st_size > IMAGE_MAX)
        err = why_set(why, EFBIG, "the guest image %s is larger than 1 GiB",
                      path);
    else
        map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (!err && map == MAP_FAILED)
        err = why_set(why, errno, "cannot map the guest image %s: %s", path,
                      strerror(errno));
    close(fd);
    *bytes = map;
    *length = err ? 0 : (size_t)st.st_size;
    return err;
}

void image_close(const void *bytes, size_t length)
{
    munmap((void *)bytes, length);
}
