# SPDX-License-Identifier: Apache-2.0
# The guest that `make run` and tests/boot use: Debian's kernel and a small initial file system.

GUEST_KERNEL := build/guest/kernel/vmlinuz
GUEST_INITRAMFS := build/guest/initramfs.cpio

$(GUEST_KERNEL): tools/guest-kernel
	$(Q)rm -rf $(@D)
	$(Q)tools/guest-kernel $(@D)
	$(Q)touch $@

$(GUEST_INITRAMFS): tools/make-initramfs tools/guest/init tools/guest/udhcpc-script $(GUEST_KERNEL)
	$(Q)tools/make-initramfs $(dir $(GUEST_KERNEL)) $@

# Standard output is the guest's alone, so packages and build report on the other one and keep their hands off the commands.
.PHONY: run guest
run:
	@tools/deps install run </dev/null >&2
	@$(MAKE) --no-print-directory all guest </dev/null >&2
	@tools/run-guest $(O)/doppel $(GUEST_KERNEL) $(GUEST_INITRAMFS)

guest: $(GUEST_KERNEL) $(GUEST_INITRAMFS)

# Debian 12 with systemd and sshd on a disk that boots by itself. Built as often as asked for: `make image` makes it anew.
# IMAGE_FORMAT=qcow2 makes (and runs) a compressed one, which is a fraction of the size.
IMAGE_FORMAT ?= raw
DEBIAN_IMAGE := build/image/debian.$(if $(filter qcow2,$(IMAGE_FORMAT)),qcow2,img)
.PHONY: image run-debian
image:
	@tools/deps install image </dev/null >&2
	tools/make-image $(dir $(DEBIAN_IMAGE)) 2048 $(IMAGE_FORMAT)

$(DEBIAN_IMAGE):
	@$(MAKE) --no-print-directory image

# By the boot loader on the disk; `poweroff` or `doppel stop debian` ends it. ssh is on port SSH_PORT of the loopback address.
SSH_PORT ?= 2222
run-debian: all $(DEBIAN_IMAGE)
	@tools/run-debian $(O)/doppel $(DEBIAN_IMAGE) $(SSH_PORT)

# The command and its manual page.
.PHONY: install
install: all
	install -D -m 755 $(O)/doppel $(DESTDIR)$(PREFIX)/bin/doppel
	install -D -m 755 $(O)/doppel-vnc $(DESTDIR)$(PREFIX)/bin/doppel-vnc
	install -D -m 644 docs/doppel.1 $(DESTDIR)$(PREFIX)/share/man/man1/doppel.1
