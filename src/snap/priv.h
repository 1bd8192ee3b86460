/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of snap/ share and nobody else sees. The format is explained in docs/snapshot.md.
 */
#ifndef SNAP_PRIV_H
#define SNAP_PRIV_H

#include "snap/snap.h"

#define SNAP_FORMAT      1u
#define SNAP_FORMAT_ZSTD 2u /* its memory is compressed; else as the first */
#define SNAP_CHUNK_BYTES MIB(2)
#define SNAP_CHAIN_MAX   64u /* diffs of diffs */

/* A message for the log, and for who asked. */
struct snap_why {
    char *text;
    size_t bytes;
};
/* Says it in both; returns err. */
int snap_fail(const struct snap_why *why, int err, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* ---- place.c ---- */
/* The path as others can use it: its directory resolved. malloc'ed; NULL: no such directory. */
char *snap_absolute(const char *path);

/* ---- pair.c: two files by names of the caller's ---- */
struct snap_pair {
    char *state, *memory; /* absolute; malloc'ed */
    bool replaces;        /* one of them is there, and has something in it */
    int state_fd, memory_fd;
    char state_tmp[4096], memory_tmp[4096]; /* beside them, until they are put there; or "" */
};
/* May they be made? 0, or -errno after a message. */
int pair_begin(struct snap_pair *p, const struct snap_files *files, const struct snap_why *why);
/* Makes the files beside their places. */
int pair_create(struct snap_pair *p, const struct snap_why *why);
/* Puts them there; on failure what was there stays. */
int pair_commit(struct snap_pair *p, const struct snap_why *why);
/* Closes all; what was not put into its place is removed. */
void pair_end(struct snap_pair *p);

/* ---- doc.c: the state file as a whole ---- */
#define DOC_MAGIC "doppel snapshot\n"

/* One piece of state; what it is for is said by its name and place. */
struct snap_section {
    const char *name; /* in the JSON */
    unsigned version;
    const uint8_t *data;
    size_t bytes;
};

struct snap_doc {
    json_t *json; /* "memory" with "compression" makes it one of SNAP_FORMAT_ZSTD */
    uint8_t *state;
    size_t state_bytes;
    struct snap_section *sections;
    size_t nr_sections;
    uint8_t *file; /* what state points into, once loaded */
};
/* A hostile buffer; taken over, also on failure. 0 or -EINVAL after a message. */
int doc_parse(struct snap_doc *d, uint8_t *file, size_t bytes, const struct snap_why *why);
void doc_free(struct snap_doc *d);
/* Appends; false: no memory. */
bool doc_add(struct snap_doc *d, const char *name, unsigned version, const void *data,
             size_t bytes);
/* The whole file; malloc'ed. NULL: no memory. */
uint8_t *doc_make(const struct snap_doc *d, size_t *bytes);

/* ---- pages.c, pages_save.c: the memory file ---- */

#define SNAP_CHUNK_PAGES (SNAP_CHUNK_BYTES / PAGE_BYTES)
#define SNAP_ZSTD_NAME   "zstd" /* as the state file calls it */
/* Versions of the section "pages:NAME": bits and checksums; and the lengths of frames behind. */
#define SNAP_PAGES_PLAIN 1u
#define SNAP_PAGES_ZSTD  2u

/* The file's last page. */
struct snap_trailer {
    char magic[16];
    char id[SNAP_ID_BYTES];
    uint64_t at; /* its place */
};
#define SNAP_TRAILER_MAGIC "doppel memory\n\n" /* with its 0 */

static inline size_t pages_bitmap_bytes(uint64_t slot_bytes)
{
    return (size_t)(((slot_bytes >> PAGE_SHIFT) + 7) / 8);
}
static inline size_t pages_nr_chunks(uint64_t slot_bytes)
{
    return (size_t)((slot_bytes + SNAP_CHUNK_BYTES - 1) / SNAP_CHUNK_BYTES);
}

/* Which pages of a slot are in the file, and their checksums. */
struct snap_pages {
    const char *name; /* the slot's */
    uint64_t bytes;   /* the slot's */
    uint64_t at;      /* in the memory file */
    const uint8_t *present;
    const uint8_t *crcs; /* one for each chunk, little endian */
    size_t nr_crcs;
    /* Compressed: the bytes of each chunk's frame, 32 bits little endian; the frames follow each
     * other in the file. NULL: not compressed, each page is at its place. */
    const uint8_t *frames;
};
static inline bool pages_present(const struct snap_pages *p, uint64_t page)
{
    return p->present[page / 8] >> (page % 8) & 1;
}

#define SNAP_SLOTS_MAX 8
struct snap_layout {
    struct snap_pages slots[SNAP_SLOTS_MAX];
    unsigned nr;
    uint64_t trailer_at;
    bool is_packed;
};
/* From a parsed document, which it borrows from. */
int pages_layout(struct snap_layout *l, const struct snap_doc *d, const struct snap_why *why);

/*
 * Writes the VM's memory into the file, and adds what it wrote to the document. The VM stands
 * still.
 */
int pages_save(struct vm *vm, int fd, struct snap_how how, const char *id, struct snap_doc *d,
               struct snap_saved *saved, const struct snap_why *why) MUST_CHECK;
/* Is that the memory file of this snapshot, whole? */
int pages_check_file(int fd, const struct snap_layout *l, const char *id,
                     const struct snap_why *why);
/* Reads all and compares checksums. */
int pages_verify(int fd, const struct snap_layout *l, const struct snap_why *why);
/* What the file has goes over what the slots have; checked on the way. For diffs, and for what is
 * compressed. */
int pages_apply(struct vm *vm, int fd, const struct snap_layout *l, const struct snap_why *why);

/* ---- pack.c: a chunk's pages as one frame of zstd ---- */
struct snap_pack;
/* NULL: no memory. One for each direction. */
struct snap_pack *pack_create(bool packs);
void pack_destroy(struct snap_pack *p); /* NULL is fine */
/* Room for a chunk's pages as they are, one behind the other. */
uint8_t *pack_pages(struct snap_pack *p);
/* The first nr of them, compressed: good until the next call. NULL: no memory. */
const uint8_t *pack_frame(struct snap_pack *p, uint64_t nr, uint32_t *bytes);
/* No frame is longer. */
uint32_t pack_frame_max(void);
/* ... and back: the frame is read to pack_room(); -EILSEQ: it is not one of nr pages. */
uint8_t *pack_room(struct snap_pack *p);
int pack_unpack(struct snap_pack *p, uint32_t bytes, uint64_t nr) MUST_CHECK;

/* ---- uffd.c: memory that a server brings ---- */
struct snap_uffd {
    int fd, sock;    /* -1: none */
    json_t *regions; /* what it will be told of */
};
/* Connects. 0, or -errno after a message. */
int uffd_open(struct snap_uffd *u, const char *path, const struct snap_why *why) MUST_CHECK;
void uffd_close(struct snap_uffd *u);
/* Memory of this process, untouched. 0, or -errno after a message. */
int uffd_add(struct snap_uffd *u, void *at, uint64_t bytes, uint64_t off_bytes) MUST_CHECK;
/* All was added; from now on it may be touched. 0, or -errno after a message. */
int uffd_hand_over(struct snap_uffd *u, const struct snap_why *why) MUST_CHECK;

/* ---- machine.c: vCPUs and devices ---- */
/* VM paused and settled. false: no memory. */
bool machine_save(struct vm *vm, struct snap_doc *d);
int machine_load(struct vm *vm, const struct snap_doc *d, const struct snap_why *why);
json_t *machine_describe(struct vm *vm);
/* The "machine" object into what vm_create() needs. */
int machine_image(const json_t *machine, struct vm_image *image, struct cpu_model *model,
                  struct snap_info *info, const struct snap_why *why);

/* ---- files.c ---- */
/* A new file beside `path`, under another name, which is put into tmp. fd or -errno. */
int files_create(const char *path, char *tmp, size_t tmp_bytes);
int files_write(int fd, const void *buf, size_t bytes, uint64_t off_bytes) MUST_CHECK;
int files_read(int fd, void *buf, size_t bytes, uint64_t off_bytes) MUST_CHECK;
/* Whole file, at most max bytes; malloc'ed. NULL and *err. */
uint8_t *files_load(const char *path, size_t max, size_t *bytes, int *err);
/* The directory that holds `path` is on the disk, with its names. */
int files_sync_dir_of(const char *path) MUST_CHECK;
/* The path of `to` as the file `from` should name it: without directories where they are the same,
 * else absolute. malloc'ed. */
char *files_name_from(const char *from, const char *to);
/* ... and back: malloc'ed. */
char *files_resolve(const char *from, const char *name);

#endif
