/* SPDX-License-Identifier: Apache-2.0 */
#include "api/link.h"

struct net *link_open(struct net *inner, struct mmds *mmds)
{
    (void)mmds;
    return inner;
}

void link_limit(struct net *link, const struct link_limits *limits)
{
    (void)link, (void)limits;
}
