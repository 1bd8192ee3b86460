/* SPDX-License-Identifier: Apache-2.0 */
/* Pages of code among several vCPUs: see share.c. All on the vCPU's own thread, but share_tell().
 */
#ifndef ENGINE_INTERP_SHARE_H
#define ENGINE_INTERP_SHARE_H

#include "engine/interp/handlers.h"

/* NULL: no memory. */
struct share *share_create(struct interp_vm *vm);
/* Accepts NULL. */
void share_destroy(struct share *sh);

/* Before code of this page is read to be decoded. False: not yet, run it uncached. */
bool share_note(struct ivcpu *v, gpa_t at) MUST_CHECK;
/* The vCPU's write tags for the page go, and its right to write it elsewhere. */
void share_give_up(struct ivcpu *v, uint64_t page);
/* A store to a page of code is about to be made; afterwards, but before anything else, comes
 * share_stored(), which returns whether code of this vCPU was dropped. */
void share_will_store(struct ivcpu *v, gpa_t at, unsigned bytes);
bool share_stored(struct ivcpu *v);
/* Bytes were written: by a vCPU that has dropped its own code, or by somebody else (NULL, any
 * thread). */
void share_tell(struct interp_vm *vm, struct ivcpu *by, gpa_t at, uint64_t bytes);
/* Does what others have asked and told (REQ_CODE). Between instructions. */
void share_serve(struct ivcpu *v);

#endif
