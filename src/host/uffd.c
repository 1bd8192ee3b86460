/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory whose pages another process brings when they are touched first: userfaultfd(2). Used for
 * snapshots whose memory a server has (snap/uffd.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/host.h"

#define UFFD_DEVICE "/dev/userfaultfd"

/* Faults in the kernel (KVM, io_uring) have to be served, too: who may have that is up to a sysctl,
 * to CAP_SYS_PTRACE, or to the permissions of the device. */
static int uffd_create(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), dev, err = errno;

    if (fd >= 0 || err != EPERM)
        return fd < 0 ? -err : fd;
    dev = open(UFFD_DEVICE, O_RDWR | O_CLOEXEC);
    if (dev < 0)
        return -err;
    fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    err = errno;
    (void)close(dev);
    return fd < 0 ? -err : fd;
}

int host_uffd(void)
{
    struct uffdio_api api = { .api = UFFD_API };
    int fd = uffd_create(), err;

    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) == 0)
        return fd;
    err = errno;
    (void)close(fd);
    return -err;
}

int host_uffd_add(int fd, void *at, uint64_t bytes)
{
    struct uffdio_register reg = { .range = { (uintptr_t)at, bytes },
                                   .mode = UFFDIO_REGISTER_MODE_MISSING };

    return ioctl(fd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}
