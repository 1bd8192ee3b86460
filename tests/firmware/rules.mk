# SPDX-License-Identifier: Apache-2.0
# What boots by firmware. Those that take more than some seconds are for test-long, as is the reference engine.

FIRMWARE_CASES := seabios grub_serial grub_screen png cga vnc vnc_password
FIRMWARE_CASES_long := memtest ovmf installer

define firmware_test
$(O)/tests/firmware/$(1)-$(2): $(O)/doppel $(O)/doppel-vnc tests/firmware/run tests/firmware/rfb.py tests/firmware/rules.mk
	@mkdir -p $$(@D)
	$(Q)printf '#!/bin/sh\nexec tests/firmware/run --doppel $(O)/doppel --engine $(2) $$$${*:-$(3)}\n' >$$@
	$(Q)chmod +x $$@
endef
$(eval $(call firmware_test,short,bt,$(FIRMWARE_CASES)))
$(eval $(call firmware_test,long,bt,$(FIRMWARE_CASES_long)))
$(eval $(call firmware_test,short,interp,$(FIRMWARE_CASES)))
TESTS += $(O)/tests/firmware/short-bt
LONG_TESTS += $(O)/tests/firmware/long-bt $(O)/tests/firmware/short-interp
