/* SPDX-License-Identifier: Apache-2.0 */
/* --kvm-irqchip: how much of the machine engine kvm leaves to the host's kernel. */
#include <string.h>

#include "cli/cli.h"
#include "lib/log.h"

bool option_kvm_irqchip(void *into, const char *val)
{
    static const char *const names[] = {
        [KVM_IRQCHIP_AUTO] = "auto", [KVM_IRQCHIP_SPLIT] = "split", [KVM_IRQCHIP_OFF] = "off"
    };

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (!strcmp(val, names[i])) {
            ((struct run_options *)into)->kvm.irqchip = (enum kvm_irqchip_mode)i;
            return true;
        }
    log_error("--kvm-irqchip '%s' is unknown; it can be auto, split or off", val);
    return false;
}
