# SPDX-License-Identifier: Apache-2.0
# Hostile guests against the addresses of the monitor that runs them; in test-long against more of them.

TESTS += $(O)/tests/attack/bare $(O)/tests/attack/linux
LONG_TESTS += $(O)/tests/attack/bare-long $(O)/tests/attack/linux-long

$(O)/tests/attack/program: tests/attack/program.c
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu17 -O2 -static -Wall -Wextra -Werror -o $@ $<

$(O)/tests/attack/bare $(O)/tests/attack/bare-long: $(O)/guest/m64/isolation.elf $(O)/doppel tests/attack/run tests/attack/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/attack/run --doppel $(O)/doppel $(if $(filter %-long,$@),--all) $<\n' >$@
	$(Q)chmod +x $@

$(O)/tests/attack/linux $(O)/tests/attack/linux-long: $(O)/tests/attack/program $(O)/doppel build/guest/kernel/vmlinuz \
		build/guest/initramfs.cpio tests/attack/run tests/attack/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/attack/run --doppel $(O)/doppel $(if $(filter %-long,$@),--all) --kernel build/guest/kernel/vmlinuz --initramfs build/guest/initramfs.cpio $<\n' >$@
	$(Q)chmod +x $@
