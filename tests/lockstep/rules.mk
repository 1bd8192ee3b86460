# SPDX-License-Identifier: Apache-2.0
# Pairs of engines side by side: reference,tested. The small guests and the beginning of a boot; a whole boot takes a minute.

LOCKSTEP_PAIRS := interp,interp interp,bt
lockstep_comma := ,

# The timers' guest waits for real time: millions of steps a comparison each. Lock-step's copy of memory is made once: the PAM
# registers have no effect. kview flushes all it has so often that it takes half a minute; whole boots have what it has.
LOCKSTEP_GUESTS := $(filter-out %/timers %/ends %/pam %/kview,$(GUESTS))

define lockstep_pair
TESTS += $(O)/tests/lockstep/guests-$(2)
$(O)/tests/lockstep/guests-$(2): $(O)/doppel $$(LOCKSTEP_GUESTS:%=$(O)/guest/%.elf) tests/lockstep/run tests/lockstep/rules.mk
	@mkdir -p $$(@D)
	$(Q)printf '#!/bin/sh\nexec tests/lockstep/run --doppel $(O)/doppel --pair $(1) %s\n' '$$(LOCKSTEP_GUESTS:%=$(O)/guest/%.elf)' >$$@
	$(Q)chmod +x $$@
TESTS += $(O)/tests/lockstep/boot-$(2)
$(O)/tests/lockstep/boot-$(2): $(O)/doppel build/guest/kernel/vmlinuz build/guest/initramfs.cpio tests/lockstep/run tests/lockstep/rules.mk
	@mkdir -p $$(@D)
	$(Q)printf '#!/bin/sh\nexec tests/lockstep/run --doppel $(O)/doppel --pair $(1) --kernel build/guest/kernel/vmlinuz --initramfs build/guest/initramfs.cpio --seconds 10\n' >$$@
	$(Q)chmod +x $$@
LONG_TESTS += $(O)/tests/lockstep/whole-boot-$(2)
$(O)/tests/lockstep/whole-boot-$(2): $(O)/tests/lockstep/boot-$(2)
	$(Q)sed 's/--seconds 10/--seconds 400 --whole/' $$< >$$@
	$(Q)chmod +x $$@
endef
$(foreach p,$(LOCKSTEP_PAIRS),$(eval $(call lockstep_pair,$(p),$(subst $(lockstep_comma),-,$(p)))))
