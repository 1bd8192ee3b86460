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

# With Debian's kernel for any machine, which the cloud kernel's users do not have to fetch.
AMD64_KERNEL := build/guest/amd64/vmlinuz
AMD64_INITRAMFS := build/guest/initramfs-amd64.cpio
$(AMD64_KERNEL): tools/guest-kernel
	$(Q)rm -rf $(@D)
	$(Q)tools/guest-kernel $(@D) amd64
	$(Q)touch $@
$(AMD64_INITRAMFS): tools/make-initramfs tools/guest/init tools/guest/udhcpc-script $(AMD64_KERNEL)
	$(Q)tools/make-initramfs $(dir $(AMD64_KERNEL)) $@

LONG_TESTS += $(O)/tests/snap/entropy
$(O)/tests/snap/entropy: $(O)/doppel $(O)/tests/snap/responder $(AMD64_KERNEL) $(AMD64_INITRAMFS) tests/snap/run tests/snap/machine.py tests/snap/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/snap/run --doppel $(O)/doppel --kernel $(AMD64_KERNEL) --initramfs $(AMD64_INITRAMFS) --responder $(O)/tests/snap/responder entropy\n' >$@
	$(Q)chmod +x $@
