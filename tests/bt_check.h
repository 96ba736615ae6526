/* What holds of every translation cache, whatever was translated. */
#ifndef TESTS_BT_CHECK_H
#define TESTS_BT_CHECK_H

#include "bt/bt.h"

/* `area` is the cache's; `guest` gives the byte of code at an address, or -1.
 * NULL, or what doesn't hold. */
const char *bt_check(struct bt_cache *cache, const uint8_t *area,
                     int (*guest)(void *context, uint64_t gva), void *context);

#endif
