# SPDX-License-Identifier: Apache-2.0
# What is hard on an engine, in a guest with Debian's userland, compared with the same on the host. A short slice in make test,
# a soak in make test-long.

STRESS := build/stress/stress
STRESS_SMALL := build/stress/small.cpio
STRESS_LARGE := build/stress/large.cpio
STRESS_PACKAGES := dash coreutils sed grep mawk luajit python3-minimal python3.11-minimal libpython3.11-minimal libpython3.11-stdlib
STRESS_SOURCES := $(wildcard tests/stress/*.[ch])
STRESS_TREE := tests/stress/make-tree tools/debian-tree tools/make-initramfs $(STRESS) $(wildcard tests/stress/userland/*) \
	$(GUEST_INITRAMFS)

# The host's and the guests' are the same plain one, also with SAN.
$(STRESS): $(STRESS_SOURCES)
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu17 -D_GNU_SOURCE -O2 -g -static -pthread -Wall -Wextra -Wshadow $(if $(WERROR),-Werror) -o $@ \
		$(filter %.c,$^) -lm

$(STRESS_SMALL): $(STRESS_TREE)
	$(Q)tests/stress/make-tree $(GUEST_INITRAMFS) $(STRESS) $(dir $(GUEST_KERNEL)) $@ $(STRESS_PACKAGES)
$(STRESS_LARGE): $(STRESS_TREE)
	$(Q)tests/stress/make-tree $(GUEST_INITRAMFS) $(STRESS) $(dir $(GUEST_KERNEL)) $@ $(STRESS_PACKAGES) \
		gcc gcc-12 cpp cpp-12 binutils binutils-x86-64-linux-gnu binutils-common libc6-dev linux-libc-dev libgcc-12-dev

TESTS += $(O)/tests/stress
LONG_TESTS += $(O)/tests/soak
$(O)/tests/stress: STRESS_ARGS := --initrd $(STRESS_SMALL)
$(O)/tests/stress: $(STRESS_SMALL)
$(O)/tests/soak: STRESS_ARGS := --initrd $(STRESS_SMALL) --initrd-gcc $(STRESS_LARGE) --soak 1300
$(O)/tests/soak: $(STRESS_SMALL) $(STRESS_LARGE)
$(O)/tests/stress $(O)/tests/soak: $(O)/doppel $(GUEST_KERNEL) $(STRESS) tests/stress/run tests/stress/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/stress/run --doppel $(O)/doppel --kernel $(GUEST_KERNEL) --stress $(STRESS) $(STRESS_ARGS) "$$@"\n' >$@
	$(Q)chmod +x $@
