# SPDX-License-Identifier: Apache-2.0
# Disks: Debian's kernel finds, reads and writes them; locks, full host disks, kills.

TESTS += $(O)/tests/disk
$(O)/tests/disk: $(O)/doppel build/guest/kernel/vmlinuz build/guest/initramfs.cpio tests/disk/run tests/disk/lib.py tests/disk/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/disk/run --doppel $(O)/doppel --kernel build/guest/kernel/vmlinuz --initramfs build/guest/initramfs.cpio "$$@"\n' >$@
	$(Q)chmod +x $@

# Those that are not raw. The long run kills more often.
TESTS += $(O)/tests/images
LONG_TESTS += $(O)/tests/images-long
IMAGES_TEST := tests/disk/images --doppel $(O)/doppel --kernel build/guest/kernel/vmlinuz --initramfs build/guest/initramfs.cpio
$(O)/tests/images $(O)/tests/images-long: $(O)/doppel build/guest/kernel/vmlinuz build/guest/initramfs.cpio tests/disk/images \
		tests/disk/lib.py tests/disk/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec $(IMAGES_TEST) $(if $(findstring -long,$@),--kills 60 kill,"$$@")\n' >$@
	$(Q)chmod +x $@
