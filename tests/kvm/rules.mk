# SPDX-License-Identifier: Apache-2.0
# Engine kvm: its guests in a machine that QEMU's TCG gives SVM, since the hosts at hand have none.

LONG_TESTS += $(O)/tests/kvm
KVM_TEST_NEEDS := $(O)/doppel $(GUEST_ELFS) build/guest/kernel/vmlinuz build/guest/initramfs.cpio tests/kvm/run tests/guest/run
$(O)/tests/kvm: $(KVM_TEST_NEEDS) tests/kvm/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/kvm/run --doppel $(O)/doppel --kernel-dir build/guest/kernel --initramfs build/guest/initramfs.cpio --guests $(O)/guest "$$@"\n' >$@
	$(Q)chmod +x $@

.PHONY: test-kvm
test-kvm:
	$(Q)tools/deps install test
	$(Q)$(MAKE) $(O)/tests/kvm
	$(Q)TEST_TIMEOUT=7200 tools/run-tests $(O)/tests/kvm
