/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In a guest: rings INTERFACE RX TX. Gives a network card rings of that size, for which Linux
 * resets its queues one by one, and prints what it has then. tests/boot/net runs it.
 */
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static int ring_call(int fd, const char *name, struct ethtool_ringparam *ring)
{
    struct ifreq ifr = { .ifr_data = (void *)ring };

    (void)snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
    return ioctl(fd, SIOCETHTOOL, &ifr);
}

int main(int argc, char **argv)
{
    struct ethtool_ringparam ring = { .cmd = ETHTOOL_GRINGPARAM };
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    if (argc != 4 || fd < 0)
        return 2;
    if (ring_call(fd, argv[1], &ring) < 0) {
        perror("ETHTOOL_GRINGPARAM");
        return 1;
    }
    ring.cmd = ETHTOOL_SRINGPARAM;
    ring.rx_pending = (unsigned)atoi(argv[2]);
    ring.tx_pending = (unsigned)atoi(argv[3]);
    if (ring_call(fd, argv[1], &ring) < 0) {
        perror("ETHTOOL_SRINGPARAM");
        return 1;
    }
    ring.cmd = ETHTOOL_GRINGPARAM;
    if (ring_call(fd, argv[1], &ring) < 0)
        return 1;
    printf("rings %u %u\n", ring.rx_pending, ring.tx_pending);
    return 0;
}
