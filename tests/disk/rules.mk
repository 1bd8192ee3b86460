# SPDX-License-Identifier: Apache-2.0
# Disks: Debian's kernel finds, reads and writes them; locks, full host disks, kills.

TESTS += $(O)/tests/disk
$(O)/tests/disk: $(O)/doppel build/guest/kernel/vmlinuz build/guest/initramfs.cpio tests/disk/run tests/disk/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/disk/run --doppel $(O)/doppel --kernel build/guest/kernel/vmlinuz --initramfs build/guest/initramfs.cpio "$$@"\n' >$@
	$(Q)chmod +x $@
