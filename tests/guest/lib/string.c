/* SPDX-License-Identifier: Apache-2.0 */
/* What the compiler expects of a C library. */
#include "guest.h"

void *memcpy(void *to, const void *from, size_t bytes)
{
    uint8_t *t = to;
    const uint8_t *f = from;

    while (bytes--)
        *t++ = *f++;
    return to;
}

void *memset(void *to, int c, size_t bytes)
{
    uint8_t *t = to;

    while (bytes--)
        *t++ = (uint8_t)c;
    return to;
}

int memcmp(const void *a, const void *b, size_t bytes)
{
    const uint8_t *x = a, *y = b;

    for (; bytes; bytes--, x++, y++) {
        if (*x != *y)
            return *x < *y ? -1 : 1;
    }
    return 0;
}

size_t strlen(const char *s)
{
    size_t n = 0;

    while (s[n])
        n++;
    return n;
}

bool str_has(const char *s, const char *word)
{
    size_t n = strlen(word);

    for (; strlen(s) >= n; s++) {
        if (!memcmp(s, word, n))
            return true;
    }
    return false;
}
