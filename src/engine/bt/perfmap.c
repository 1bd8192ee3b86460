/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --perf-map: /tmp/perf-PID.map, by which perf names code that is in no file: a line for each
 * translation of the checked tier. When the code cache is flushed its places are used again, and
 * perf, which knows no times, then takes the older name or the newer one.
 */
#include "engine/bt/bt.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/log.h"

/* Anybody may have made a file of that name: perf heeds only its user's own, and so do we. */
static FILE *create(const char *name)
{
    int fd;
    FILE *f;

    (void)unlink(name);
    fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    f = fd < 0 ? NULL : fdopen(fd, "w");
    if (!f && fd >= 0)
        (void)close(fd);
    return f;
}

static void add(FILE *f, const uint8_t *from, const uint8_t *to, const char *name)
{
    (void)fprintf(f, "%lx %lx %s\n", (unsigned long)(uintptr_t)from, (unsigned long)(to - from),
                  name);
}

void perf_map_open(struct bt_vm *vm)
{
    char name[64];

    (void)snprintf(name, sizeof(name), "/tmp/perf-%d.map", (int)getpid());
    vm->perf_map = create(name);
    if (!vm->perf_map) {
        log_warn("--perf-map: cannot write '%s': %s", name, strerror(errno));
        return;
    }
    (void)setvbuf(vm->perf_map, NULL, _IOLBF, 4096);
}

void perf_map_add_thunks(struct bt_vm *vm, const struct bt_cache *bc)
{
    if (vm->perf_map)
        add(vm->perf_map, bc->hc.rx, bc->start + bc->code.delta, "bt-enter-and-leave");
}

void perf_map_add(struct bt_vm *vm, const struct tb *tb)
{
    char name[64];

    if (!vm->perf_map)
        return;
    (void)snprintf(name, sizeof(name), "%s-%#llx%s",
                   tb->key & KEY_USER ? "guest-user" : "guest-kernel", (unsigned long long)tb->gpa,
                   tb->key & KEY_AC ? "-ac" : "");
    add(vm->perf_map, tb->code, tb->end, name);
}

void perf_map_close(struct bt_vm *vm)
{
    if (vm->perf_map)
        (void)fclose(vm->perf_map);
    vm->perf_map = NULL;
}
