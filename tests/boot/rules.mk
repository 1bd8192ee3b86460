# SPDX-License-Identifier: Apache-2.0
# Boots of Debian's kernel under every engine; what is booted is built in tools/rules.mk. All of them on the engine that users
# get, a few on the reference.

BOOT_ENGINES := bt interp
BOOT_CASES_bt :=
BOOT_CASES_interp := shell-script pvh panic ia32
BOOT_VMLINUX := build/guest/vmlinux

$(BOOT_VMLINUX): build/guest/kernel/vmlinuz tools/extract-vmlinux
	$(Q)tools/extract-vmlinux $< $@

# No C library: needs nothing of gcc's 32-bit packages.
$(O)/tests/boot/ia32-program: tests/boot/ia32.c
	@mkdir -p $(@D)
	$(Q)$(CC) -m32 -march=i686 -std=gnu17 -O2 -g -ffreestanding -fno-pic -fno-stack-protector -fcf-protection=none \
		-fno-tree-loop-distribute-patterns -Wall -Wextra -Werror -nostdlib -static -no-pie -Wl,--build-id=none,-z,noexecstack \
		-o $@ $<

define boot_engine
TESTS += $(O)/tests/boot/$(1)
$(O)/tests/boot/$(1): $(O)/doppel $(O)/tests/boot/ia32-program build/guest/kernel/vmlinuz build/guest/initramfs.cpio $(BOOT_VMLINUX) tests/boot/run tests/boot/rules.mk
	@mkdir -p $$(@D)
	$(Q)printf '#!/bin/sh\nexec tests/boot/run --doppel $(O)/doppel --engine $(1) --kernel build/guest/kernel/vmlinuz --initramfs build/guest/initramfs.cpio --vmlinux $(BOOT_VMLINUX) --ia32 $(O)/tests/boot/ia32-program $$$${*:-$(BOOT_CASES_$(1))}\n' >$$@
	$(Q)chmod +x $$@
endef
$(foreach e,$(BOOT_ENGINES),$(eval $(call boot_engine,$(e))))

# Guests on network links.
$(O)/tests/boot/rings-program: tests/boot/rings.c
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu17 -O2 -g -Wall -Wextra -Werror -static -o $@ $<

TESTS += $(O)/tests/boot/net
$(O)/tests/boot/net: $(O)/doppel $(O)/tests/boot/rings-program build/guest/kernel/vmlinuz build/guest/initramfs.cpio tests/boot/net tests/boot/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/boot/net --doppel $(O)/doppel --engine bt --kernel build/guest/kernel/vmlinuz --initramfs build/guest/initramfs.cpio --rings $(O)/tests/boot/rings-program "$$@"\n' >$@
	$(Q)chmod +x $@

# Memory that comes and goes.
TESTS += $(O)/tests/boot/balloon
$(O)/tests/boot/balloon: $(O)/doppel build/guest/kernel/vmlinuz build/guest/initramfs.cpio tests/boot/balloon tests/boot/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/boot/balloon --doppel $(O)/doppel --engine bt --kernel build/guest/kernel/vmlinuz --initramfs build/guest/initramfs.cpio\n' >$@
	$(Q)chmod +x $@

# Sockets between guest and host.
$(O)/tests/boot/vsock-program: tests/boot/vsock.c
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu17 -O2 -g -Wall -Wextra -Werror -static -o $@ $<

TESTS += $(O)/tests/boot/vsock
$(O)/tests/boot/vsock: $(O)/doppel $(O)/tests/boot/vsock-program build/guest/kernel/vmlinuz build/guest/initramfs.cpio tests/boot/vsock tests/boot/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/boot/vsock --doppel $(O)/doppel --engine bt --kernel build/guest/kernel/vmlinuz --initramfs build/guest/initramfs.cpio --program $(O)/tests/boot/vsock-program\n' >$@
	$(Q)chmod +x $@

# The virtio console and its ports.
TESTS += $(O)/tests/boot/console
$(O)/tests/boot/console: $(O)/doppel build/guest/kernel/vmlinuz build/guest/initramfs.cpio tests/boot/console tests/cli/lib.py tests/boot/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/boot/console --doppel $(O)/doppel --engine bt --kernel build/guest/kernel/vmlinuz --initramfs build/guest/initramfs.cpio\n' >$@
	$(Q)chmod +x $@

# Folders shared by guest and host.
$(O)/tests/boot/share-program: tests/boot/share.c
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu17 -O2 -g -Wall -Wextra -Werror -static -o $@ $<

TESTS += $(O)/tests/boot/share
$(O)/tests/boot/share: $(O)/doppel $(O)/tests/boot/share-program build/guest/kernel/vmlinuz build/guest/initramfs.cpio tests/boot/share tests/boot/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/boot/share --doppel $(O)/doppel --engine bt --kernel build/guest/kernel/vmlinuz --initramfs build/guest/initramfs.cpio --program $(O)/tests/boot/share-program\n' >$@
	$(Q)chmod +x $@
