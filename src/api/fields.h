/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the JSON objects of requests may hold, as tables: a body is checked against its table before
 * anybody looks at it, so the rest can rely on names and types. Only the files of api/ include
 * this.
 */
#ifndef API_FIELDS_H
#define API_FIELDS_H

#include <jansson.h>

#include "lib/types.h"

enum field_kind {
    FIELD_STRING,
    FIELD_UINT, /* min to max */
    FIELD_BOOL,
    FIELD_OBJECT,  /* of `fields` */
    FIELD_STRINGS, /* an array */
    FIELD_OBJECTS, /* an array of objects of `fields` */
    FIELD_LIST,    /* any array */
};

#define FIELD_REQUIRED BIT(0)

struct fields;
struct field {
    const char *name;
    enum field_kind type;
    unsigned flags;
    uint64_t min, max;        /* of a FIELD_UINT; max 0: INT64_MAX */
    const char *const *words; /* of a FIELD_STRING that is one of those; ends with NULL */
    const struct fields *sub; /* of objects */
};

struct fields {
    const struct field *f;
    unsigned nr;
};
#define FIELDS(list)                           \
    {                                          \
        .f = (list), .nr = ARRAY_SIZE((list)), \
    }

/* False, and why: no object, a member that is unknown, of a wrong type, out of range, missing.
 * Members that may be absent and are null are removed. */
bool fields_check(const struct fields *fields, json_t *body, char *why, size_t why_bytes);

/* Members of an object that was checked; absent ones are the default. */
const char *field_string(const json_t *o, const char *name); /* NULL: absent */
uint64_t field_uint(const json_t *o, const char *name, uint64_t otherwise);
bool field_bool(const json_t *o, const char *name, bool otherwise);

#endif
