# SPDX-License-Identifier: Apache-2.0
# Boots of Debian's kernel under every engine; what is booted is built in tools/rules.mk. All of them on the engine that users
# get, a few on the reference.

BOOT_ENGINES := bt interp
BOOT_CASES_bt :=
BOOT_CASES_interp := shell-script pvh panic
BOOT_VMLINUX := build/guest/vmlinux

$(BOOT_VMLINUX): build/guest/kernel/vmlinuz tools/extract-vmlinux
	$(Q)tools/extract-vmlinux $< $@

define boot_engine
TESTS += $(O)/tests/boot/$(1)
$(O)/tests/boot/$(1): $(O)/doppel build/guest/kernel/vmlinuz build/guest/initramfs.cpio $(BOOT_VMLINUX) tests/boot/run tests/boot/rules.mk
	@mkdir -p $$(@D)
	$(Q)printf '#!/bin/sh\nexec tests/boot/run --doppel $(O)/doppel --engine $(1) --kernel build/guest/kernel/vmlinuz --initramfs build/guest/initramfs.cpio --vmlinux $(BOOT_VMLINUX) $$$${*:-$(BOOT_CASES_$(1))}\n' >$$@
	$(Q)chmod +x $$@
endef
$(foreach e,$(BOOT_ENGINES),$(eval $(call boot_engine,$(e))))

# Guests on network links.
TESTS += $(O)/tests/boot/net
$(O)/tests/boot/net: $(O)/doppel build/guest/kernel/vmlinuz build/guest/initramfs.cpio tests/boot/net tests/boot/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/boot/net --doppel $(O)/doppel --engine bt --kernel build/guest/kernel/vmlinuz --initramfs build/guest/initramfs.cpio "$$@"\n' >$@
	$(Q)chmod +x $@
