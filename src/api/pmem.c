/* SPDX-License-Identifier: Apache-2.0 */
/* /pmem/{id}: files that are the guest's memory. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/priv.h"
#include "lib/log.h"

static const struct field pmem_list[] = {
    { .name = "id", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
    { .name = "path_on_host", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
    { .name = "root_device", .type = FIELD_BOOL },
    { .name = "read_only", .type = FIELD_BOOL },
};
const struct fields pmem_fields = FIELDS(pmem_list);

/* One machine that writes, or several that read, as of disks (backend/store_file.c); a restored one
 * and the one that it was can hardly both. */
static int pmem_lock(int fd, bool ro)
{
    struct flock fl = { .l_type = ro ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };

    return fcntl(fd, F_OFD_SETLK, &fl);
}

int machine_open_pmem(const json_t *pmem, struct vm_pmem *out)
{
    const char *path = field_string(pmem, "path_on_host");
    bool ro = field_bool(pmem, "read_only", false);
    struct stat st;
    int fd = open(path, (ro ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

    if (fd < 0) {
        log_error("%s: cannot open '%s': %m", field_string(pmem, "id"), path);
        return -1;
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || !st.st_size ||
        (uint64_t)st.st_size % VM_PMEM_ALIGN) {
        log_error("%s: '%s' is no file of a multiple of 2 MiB", field_string(pmem, "id"), path);
        (void)close(fd);
        return -1;
    }
    if (pmem_lock(fd, ro) < 0) {
        log_error("%s: '%s' is in use by another process%s", field_string(pmem, "id"), path,
                  ro ? ", which may write to it" : "");
        (void)close(fd);
        return -1;
    }
    *out = (struct vm_pmem){ .name = field_string(pmem, "id"),
                             .fd = fd,
                             .bytes = (uint64_t)st.st_size,
                             .read_only = ro,
                             .transport = VM_TRANSPORT_MMIO };
    return fd;
}

static bool pmem_ok(const struct api *a, const json_t *p, struct reply *r)
{
    const char *id = field_string(p, "id");

    if (field_bool(p, "root_device", false) && !api_root_free(a, id)) {
        reply_fault(r, "Pmem config error: A root device already exists!");
        return false;
    }
    if (json_array_size(a->pmems) >= VM_PMEMS_MAX && list_find(a->pmems, "id", id) < 0) {
        reply_fault(r, "Pmem config error: there is no room for more than %d devices.",
                    VM_PMEMS_MAX);
        return false;
    }
    return true;
}

void pmem_put(struct api *a, const struct request *rq, struct reply *r)
{
    struct vm_pmem probe;
    char why[512];
    int fd;

    if (!id_matches(rq, "id", r) || !pmem_ok(a, rq->body, r))
        return;
    api_log_forget(a->log);
    fd = machine_open_pmem(rq->body, &probe);
    if (fd < 0) {
        reply_fault(r, "Pmem config error: %s", api_log_last_error(a->log, why, sizeof(why)));
        return;
    }
    (void)close(fd);
    (void)list_keep(a, a->pmems, "id", rq->body, r);
}

bool api_root_free(const struct api *a, const char *id)
{
    json_t *dev;
    size_t i;

    json_array_foreach(a->drives, i, dev)
    {
        if (field_bool(dev, "is_root_device", false) &&
            strcmp(field_string(dev, "drive_id"), id) != 0)
            return false;
    }
    json_array_foreach(a->pmems, i, dev)
    {
        if (field_bool(dev, "root_device", false) && strcmp(field_string(dev, "id"), id) != 0)
            return false;
    }
    return true;
}
