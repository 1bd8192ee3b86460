/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resource templates for AML: what ports, memory and interrupts a device has (ACPI Specification,
 * "Resource Data Types for ACPI"). Small descriptors have their length in the tag byte, large ones
 * behind it.
 */
#include "boot/aml.h"

#define CRS_SMALL_IRQ            0x23u /* type 4, 3 bytes: with flags */
#define CRS_SMALL_IO             0x47u
#define CRS_SMALL_END            0x79u
#define CRS_LARGE_MEMORY32_FIXED 0x86u
#define CRS_LARGE_WORD_SPACE     0x88u
#define CRS_LARGE_DWORD_SPACE    0x87u
#define CRS_LARGE_INTERRUPT      0x89u
#define CRS_LARGE_QWORD_SPACE    0x8au

#define CRS_DECODE16      BIT(0)
#define CRS_IRQ_EDGE_HIGH BIT(0)
#define CRS_READ_WRITE    BIT(0)
/* "Extended Interrupt Descriptor" */
#define CRS_CONSUMER      BIT(0)
#define CRS_SHARED        BIT(3)
/* "Address Space Resource Descriptors", general flags */
#define CRS_MIN_FIXED     BIT(2)
#define CRS_MAX_FIXED     BIT(3)
#define CRS_ENTIRE_RANGE  0x3u /* type-specific flags of I/O windows */

void crs_init(struct aml_crs *r)
{
    r->b = (struct bytes){ .p = r->mem, .cap = sizeof(r->mem) };
}

void crs_io(struct aml_crs *r, uint16_t base, uint8_t ports)
{
    put8(&r->b, CRS_SMALL_IO);
    put8(&r->b, CRS_DECODE16);
    put16(&r->b, base); /* minimum */
    put16(&r->b, base); /* maximum */
    put8(&r->b, 1);     /* alignment */
    put8(&r->b, ports);
}

void crs_irq(struct aml_crs *r, unsigned irq)
{
    put8(&r->b, CRS_SMALL_IRQ);
    put16(&r->b, BIT(irq));
    put8(&r->b, CRS_IRQ_EDGE_HIGH);
}

void crs_gsi_shared(struct aml_crs *r, uint32_t gsi)
{
    put8(&r->b, CRS_LARGE_INTERRUPT);
    put16(&r->b, 6);
    put8(&r->b, CRS_CONSUMER | CRS_SHARED); /* and level, active high */
    put8(&r->b, 1);                         /* one of them */
    put32(&r->b, gsi);
}

void crs_memory32(struct aml_crs *r, uint32_t base, uint32_t bytes)
{
    put8(&r->b, CRS_LARGE_MEMORY32_FIXED);
    put16(&r->b, 9);
    put8(&r->b, CRS_READ_WRITE);
    put32(&r->b, base);
    put32(&r->b, bytes);
}

/* The three address space descriptors differ by the width of their numbers. */
struct crs_window {
    uint8_t tag, bytes, type_flags;
    enum crs_space space;
    uint64_t first, last;
};

static void crs_put_window(struct aml_crs *r, const struct crs_window *w)
{
    put8(&r->b, w->tag);
    put16(&r->b, 3 + 5 * w->bytes);
    put8(&r->b, w->space);
    put8(&r->b, CRS_MIN_FIXED | CRS_MAX_FIXED); /* producer, positive decode */
    put8(&r->b, w->type_flags);
    put_int(&r->b, 0, w->bytes); /* granularity */
    put_int(&r->b, w->first, w->bytes);
    put_int(&r->b, w->last, w->bytes);
    put_int(&r->b, 0, w->bytes); /* translation */
    put_int(&r->b, w->last - w->first + 1, w->bytes);
}

void crs_window16(struct aml_crs *r, enum crs_space space, uint16_t first, uint16_t last)
{
    const struct crs_window w = {
        .tag = CRS_LARGE_WORD_SPACE,
        .bytes = 2,
        .space = space,
        .first = first,
        .last = last,
        .type_flags = space == CRS_IO ? CRS_ENTIRE_RANGE : 0,
    };

    crs_put_window(r, &w);
}

void crs_window32(struct aml_crs *r, uint32_t first, uint32_t last)
{
    const struct crs_window w = {
        .tag = CRS_LARGE_DWORD_SPACE,
        .bytes = 4,
        .space = CRS_MEMORY,
        .first = first,
        .last = last,
        .type_flags = CRS_READ_WRITE,
    };

    crs_put_window(r, &w);
}

void crs_window64(struct aml_crs *r, uint64_t first, uint64_t last)
{
    const struct crs_window w = {
        .tag = CRS_LARGE_QWORD_SPACE,
        .bytes = 8,
        .space = CRS_MEMORY,
        .first = first,
        .last = last,
        .type_flags = CRS_READ_WRITE,
    };

    crs_put_window(r, &w);
}

void aml_name_resources(struct bytes *b, const char *name, struct aml_crs *r)
{
    put8(&r->b, CRS_SMALL_END);
    put8(&r->b, 0); /* no checksum */
    BUG_ON(r->b.full);
    aml_name(b, name);
    aml_buffer(b, r->b.p, r->b.n);
}

void aml_name_crs(struct bytes *b, struct aml_crs *r)
{
    aml_name_resources(b, "_CRS", r);
}
