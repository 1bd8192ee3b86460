/* SPDX-License-Identifier: Apache-2.0 */
/* Checks JSON objects against tables: see fields.h. */
#include "api/fields.h"

#include <stdio.h>
#include <string.h>

/* A refusal being made: where in the object we are. */
struct check {
    char *why;
    size_t why_bytes;
};

static bool refuse(const struct check *c, const char *what, const char *name)
{
    (void)snprintf(c->why, c->why_bytes, "%s `%.64s`", what, name);
    return false;
}

static bool refuse_type(const struct check *c, const char *name, const char *want)
{
    (void)snprintf(c->why, c->why_bytes, "invalid type of field `%.64s`: expected %s", name, want);
    return false;
}

static bool check_object(const struct check *c, const struct fields *fields, json_t *body);

static bool check_word(const struct check *c, const struct field *f, const char *val)
{
    char list[256] = "";
    size_t n = 0;

    for (const char *const *w = f->words; *w; w++) {
        if (!strcmp(*w, val))
            return true;
        n += (size_t)snprintf(list + n, sizeof(list) - n, "%s`%s`", n ? ", " : "", *w);
        if (n >= sizeof(list))
            n = sizeof(list) - 1;
    }
    (void)snprintf(c->why, c->why_bytes,
                   "unknown variant `%.64s` of field `%s`, expected one of %s", val, f->name, list);
    return false;
}

static bool check_string(const struct check *c, const struct field *f, const json_t *val)
{
    if (!json_is_string(val))
        return refuse_type(c, f->name, "a string");
    /* It becomes a C string; a path with a zero in it would be another path. */
    if (strlen(json_string_value(val)) != json_string_length(val))
        return refuse(c, "a zero character in field", f->name);
    return !f->words || check_word(c, f, json_string_value(val));
}

static bool check_uint(const struct check *c, const struct field *f, const json_t *val)
{
    uint64_t max = f->max ? f->max : INT64_MAX;

    if (!json_is_integer(val))
        return refuse_type(c, f->name, "an integer");
    if (json_integer_value(val) >= 0 && (uint64_t)json_integer_value(val) >= f->min &&
        (uint64_t)json_integer_value(val) <= max)
        return true;
    (void)snprintf(c->why, c->why_bytes, "invalid value of field `%s`: %lld, expected %llu to %llu",
                   f->name, (long long)json_integer_value(val), (unsigned long long)f->min,
                   (unsigned long long)max);
    return false;
}

static bool check_list(const struct check *c, const struct field *f, const json_t *val)
{
    json_t *item;
    size_t i;

    if (!json_is_array(val))
        return refuse_type(c, f->name, "an array");
    json_array_foreach(val, i, item)
    {
        if (f->type == FIELD_OBJECTS ? !check_object(c, f->sub, item) : !check_string(c, f, item))
            return false;
    }
    return true;
}

static bool check_value(const struct check *c, const struct field *f, json_t *val)
{
    switch (f->type) {
    case FIELD_STRING:
        return check_string(c, f, val);
    case FIELD_UINT:
        return check_uint(c, f, val);
    case FIELD_BOOL:
        return json_is_boolean(val) || refuse_type(c, f->name, "a boolean");
    case FIELD_OBJECT:
        if (!json_is_object(val))
            return refuse_type(c, f->name, "an object");
        return check_object(c, f->sub, val);
    case FIELD_STRINGS:
    case FIELD_OBJECTS:
        return check_list(c, f, val);
    case FIELD_LIST:
        break;
    }
    return json_is_array(val) || refuse_type(c, f->name, "an array");
}

static const struct field *find(const struct fields *fields, const char *name)
{
    for (unsigned i = 0; i < fields->nr; i++)
        if (!strcmp(fields->f[i].name, name))
            return &fields->f[i];
    return NULL;
}

static bool check_object(const struct check *c, const struct fields *fields, json_t *body)
{
    const char *name;
    json_t *val;
    void *tmp;

    if (!json_is_object(body)) {
        (void)snprintf(c->why, c->why_bytes, "invalid type: expected an object");
        return false;
    }
    json_object_foreach_safe(body, tmp, name, val)
    {
        const struct field *f = find(fields, name);

        if (!f)
            return refuse(c, "unknown field", name);
        if (json_is_null(val) && !(f->flags & FIELD_REQUIRED))
            (void)json_object_del(body, f->name);
        else if (!check_value(c, f, val))
            return false;
    }
    for (unsigned i = 0; i < fields->nr; i++)
        if ((fields->f[i].flags & FIELD_REQUIRED) && !json_object_get(body, fields->f[i].name))
            return refuse(c, "missing field", fields->f[i].name);
    return true;
}

bool fields_check(const struct fields *fields, json_t *body, char *why, size_t why_bytes)
{
    const struct check c = { .why = why, .why_bytes = why_bytes };

    return check_object(&c, fields, body);
}

const char *field_string(const json_t *o, const char *name)
{
    return json_string_value(json_object_get(o, name));
}

uint64_t field_uint(const json_t *o, const char *name, uint64_t otherwise)
{
    const json_t *val = json_object_get(o, name);

    return val ? (uint64_t)json_integer_value(val) : otherwise;
}

bool field_bool(const json_t *o, const char *name, bool otherwise)
{
    const json_t *val = json_object_get(o, name);

    return val ? json_is_true(val) : otherwise;
}
