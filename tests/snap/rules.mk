# SPDX-License-Identifier: Apache-2.0
# Snapshots, what goes on from them, on which engine, and what is refused.

$(O)/tests/snap/responder: tests/snap/responder.c
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu17 -D_GNU_SOURCE -O2 -g -Wall -Wextra -Werror -static -o $@ $<

TESTS += $(O)/tests/snap/run
$(O)/tests/snap/run: $(O)/doppel $(O)/tests/snap/responder build/guest/kernel/vmlinuz build/guest/initramfs.cpio tests/snap/run tests/snap/machine.py tests/snap/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/snap/run --doppel $(O)/doppel --kernel build/guest/kernel/vmlinuz --initramfs build/guest/initramfs.cpio --responder $(O)/tests/snap/responder "$$@"\n' >$@
	$(Q)chmod +x $@
