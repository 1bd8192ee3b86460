/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes AML byte code (ACPI Specification, "ACPI Machine Language (AML) Specification").
 *
 * One function per term; those that contain others open a package and return its place for
 * aml_end(). Names are paths of 4-character segments, "_HID", "\\_SB.PCI0"; shorter segments are
 * filled up with '_'.
 */
#ifndef BOOT_AML_H
#define BOOT_AML_H

#include "boot/bytes.h"

/* What is between these is the package's contents. */
size_t aml_scope(struct bytes *b, const char *name);
size_t aml_device(struct bytes *b, const char *name);
size_t aml_method(struct bytes *b, const char *name, unsigned nr_args); /* serialized */
size_t aml_package(struct bytes *b, unsigned nr_elements);              /* at most 255 */
size_t aml_if(struct bytes *b);   /* followed by the predicate */
size_t aml_else(struct bytes *b); /* directly behind the end of an If */
void aml_end(struct bytes *b, size_t open);

/* Name(name, ...): the value follows. */
void aml_name(struct bytes *b, const char *name);
void aml_path(struct bytes *b, const char *name); /* a reference, or the call of a method */
void aml_int(struct bytes *b, uint64_t val);
void aml_string(struct bytes *b, const char *s);
void aml_eisaid(struct bytes *b, const char *id); /* "PNP0A08" as EISAID() */
void aml_uuid(struct bytes *b, const char *uuid); /* "33db4d5b-..." as ToUUID() */
void aml_buffer(struct bytes *b, const void *data, size_t bytes);
void aml_op(struct bytes *b, unsigned op); /* AML_*, operands follow */

#define AML_LOCAL0             0x60u
#define AML_ARG(n)             (0x68u + (n))
#define AML_STORE              0x70u /* value, target */
#define AML_AND                0x7bu /* a, b, target */
#define AML_OR                 0x7du /* a, b, target */
#define AML_NOTIFY             0x86u /* object, value */
#define AML_CREATE_DWORD_FIELD 0x8au /* buffer, byte offset, new name */
#define AML_LEQUAL             0x93u
#define AML_LNOT               0x92u
#define AML_RETURN             0xa4u
#define AML_NULL_TARGET        0x00u

/* Shorthands for the objects every device has. */
void aml_name_int(struct bytes *b, const char *name, uint64_t val);
void aml_name_eisaid(struct bytes *b, const char *name, const char *id);

/* ---- resource templates (ACPI Specification, "Resource Data Types for ACPI") ---- */

/* Descriptors are collected here, then written by aml_name_crs(). */
struct aml_crs {
    uint8_t mem[512];
    struct bytes b;
};
void crs_init(struct aml_crs *r);
void crs_io(struct aml_crs *r, uint16_t base, uint8_t ports); /* fixed range, 16-bit decode */
void crs_irq(struct aml_crs *r, unsigned irq);                /* edge, active high, exclusive */
void crs_gsi_shared(struct aml_crs *r, uint32_t gsi);         /* level, active high, shared */
void crs_memory32(struct aml_crs *r, uint32_t base, uint32_t bytes); /* fixed, read-write */
/* Address space a bridge passes on to its other side; first..last. */
enum crs_space { CRS_MEMORY = 0, CRS_IO = 1, CRS_BUS = 2 };
void crs_window16(struct aml_crs *r, enum crs_space space, uint16_t first, uint16_t last);
void crs_window32(struct aml_crs *r, uint32_t first, uint32_t last);
void crs_window64(struct aml_crs *r, uint64_t first, uint64_t last);
/* Name(name, ResourceTemplate() {...}) */
void aml_name_resources(struct bytes *b, const char *name, struct aml_crs *r);
/* The same as _CRS. */
void aml_name_crs(struct bytes *b, struct aml_crs *r);

#endif
