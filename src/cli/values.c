/* SPDX-License-Identifier: Apache-2.0 */
/* Reading numbers and words from the command line, strictly. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/cli.h"
#include "lib/log.h"

#define SECONDS_MAX 1e9 /* thirty years; in ns it fits 64 bits */

/* Decimal digits; *end is behind them. False if there are none or too many. */
static bool take_uint(const char *text, const char **end, uint64_t *val)
{
    const char *p = text;

    *val = 0;
    for (; isdigit((unsigned char)*p); p++)
        if (__builtin_mul_overflow(*val, 10u, val) ||
            __builtin_add_overflow(*val, (uint64_t)(*p - '0'), val))
            return false;
    *end = p;
    return p != text;
}

bool value_uint(const char *text, uint64_t min, uint64_t max, uint64_t *val)
{
    const char *end;

    return take_uint(text, &end, val) && !*end && *val >= min && *val <= max;
}

bool value_size(const char *text, uint64_t *bytes)
{
    static const char suffixes[] = "KMGT";
    const char *end, *s;
    uint64_t val;
    unsigned shift;

    if (!take_uint(text, &end, &val))
        return false;
    *bytes = val;
    if (!*end)
        return true;
    s = strchr(suffixes, toupper((unsigned char)*end));
    if (!s || (end[1] && strcasecmp(end + 1, "B") != 0 && strcasecmp(end + 1, "iB") != 0))
        return false;
    shift = 10 * (unsigned)(s - suffixes + 1);
    *bytes = val << shift;
    return *bytes >> shift == val;
}

bool value_seconds(const char *text, uint64_t *ns)
{
    char *end;
    double s;

    /* strtod() takes more than we want: signs, spaces, "inf", hexadecimal. */
    if (text[strspn(text, "0123456789.")] || !isdigit((unsigned char)text[0]))
        return false;
    s = strtod(text, &end);
    if (*end || !(s > 0) || s > SECONDS_MAX)
        return false;
    *ns = (uint64_t)(s * 1e9);
    return *ns > 0;
}

bool value_choice(const char *option, const char *words, const char *text, unsigned *nr)
{
    size_t bytes = strlen(text);
    const char *word = words;

    for (*nr = 0; *word; ++*nr) {
        size_t len = strcspn(word, " ");

        if (len == bytes && !memcmp(word, text, len))
            return true;
        word += len;
        word += strspn(word, " ");
    }
    log_error("%s '%s' is unknown; it can be one of: %s", option, text, words);
    return false;
}

char *value_next_part(char **rest)
{
    char *part = *rest, *from = part, *to = part;

    if (!part)
        return NULL;
    for (; *from && (*from != ',' || from[1] == ','); from++) {
        *to++ = *from;
        from += *from == ',';
    }
    *rest = *from ? from + 1 : NULL;
    *to = 0;
    return part;
}
