# SPDX-License-Identifier: Apache-2.0
# The control API as its clients use it.

TESTS += $(O)/tests/api
$(O)/tests/api: $(O)/doppel $(O)/firecracker build/guest/kernel/vmlinuz build/guest/initramfs.cpio tests/api/run tests/api/client.py tests/api/dates.py tests/api/replay.py tests/api/uffd.py tests/api/vhost.py tests/cli/lib.py tests/snap/machine.py tests/api/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/api/run --firecracker $(O)/firecracker --doppel $(O)/doppel --kernel build/guest/kernel/vmlinuz --initramfs build/guest/initramfs.cpio "$$@"\n' >$@
	$(Q)chmod +x $@
