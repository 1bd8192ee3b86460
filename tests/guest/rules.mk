# SPDX-License-Identifier: Apache-2.0
# Small bare-metal guests: one theme per C file in m64/ (long mode) and m32/ (protected mode), each run under every engine,
# and under bt also with nothing left to interp that could be translated, in each of its tiers (and with each of its lookups, of
# which a host's processor takes one).

GUEST_ENGINES := interp bt bt-checked bt-direct
GUEST_ARGS_interp := --engine interp
GUEST_ARGS_bt := --engine bt
GUEST_ARGS_bt-checked := --engine bt --options "--bt-hot 0 --bt-tiers checked --bt-lookup loop"
GUEST_ARGS_bt-direct := --engine bt --options "--bt-hot 0 --bt-tiers direct --bt-lookup jrcxz"

GUESTS := $(sort $(patsubst tests/guest/%.c,%,$(wildcard tests/guest/m32/*.c tests/guest/m64/*.c)))
GUEST_LIB := tap string trap desc chips

GUEST_CFLAGS := -std=gnu17 -O2 -g -ffreestanding -fno-builtin -fno-stack-protector -fno-asynchronous-unwind-tables \
	-fno-tree-loop-distribute-patterns -fcf-protection=none -fno-strict-aliasing -fno-delete-null-pointer-checks -mgeneral-regs-only \
	-Wall -Wextra -Werror -Wno-array-bounds -Itests/guest/lib -MMD -MP
GUEST_CFLAGS_m32 := -m32 -march=i686 -fno-pic
# Position-independent code runs at its own address for the supervisor and in the alias for the user.
GUEST_CFLAGS_m64 := -m64 -fpie -mno-red-zone
GUEST_LDFLAGS := -nostdlib -static -no-pie -Wl,--build-id=none,--no-warn-rwx-segments,-z,noexecstack,-z,max-page-size=4096 -T tests/guest/lib/guest.ld
GUEST_OBJS_m32 := $(addprefix $(O)/guest/m32/lib/,start32.o trap32.o $(GUEST_LIB:=.o))
GUEST_OBJS_m64 := $(addprefix $(O)/guest/m64/lib/,start64.o trap64.o page64.o smpstart.o smp.o $(GUEST_LIB:=.o))

define guest_width
$(O)/guest/$(1)/lib/%.o: tests/guest/lib/%.S
	@mkdir -p $$(@D)
	$(Q)$(CC) $$(GUEST_CFLAGS_$(1)) -c -o $$@ $$<
$(O)/guest/$(1)/lib/%.o: tests/guest/lib/%.c
	@mkdir -p $$(@D)
	$(Q)$(CC) $$(GUEST_CFLAGS) $$(GUEST_CFLAGS_$(1)) -c -o $$@ $$<
$(O)/guest/$(1)/%.o: tests/guest/$(1)/%.c
	@mkdir -p $$(@D)
	@echo "  GUEST   $$<"
	$(Q)$(CC) $$(GUEST_CFLAGS) $$(GUEST_CFLAGS_$(1)) -c -o $$@ $$<
# Multiboot loaders take ELF32 only, whatever the code is.
$(O)/guest/$(1)/%.elf: $(O)/guest/$(1)/%.o $$(GUEST_OBJS_$(1)) tests/guest/lib/guest.ld
	$(Q)$(CC) $$(GUEST_CFLAGS_$(1)) $$(GUEST_LDFLAGS) -o $$@.full $$(filter %.o,$$^)
	$(Q)objcopy -O elf32-i386 $$@.full $$@
endef
$(eval $(call guest_width,m32))
$(eval $(call guest_width,m64))
-include $(shell [ -d $(O)/guest ] && find $(O)/guest -name '*.d')

GUEST_ELFS := $(GUESTS:%=$(O)/guest/%.elf)
.PHONY: guests
guests: $(GUEST_ELFS)
.SECONDARY: $(GUEST_ELFS:.elf=.o) $(GUEST_OBJS_m32) $(GUEST_OBJS_m64)

# A test program is the runner with its arguments.
define guest_engine
TESTS += $(GUESTS:%=$(O)/tests/guest/$(1)/%)
$(O)/tests/guest/$(1)/%: $(O)/guest/%.elf $(O)/doppel tests/guest/run tests/guest/rules.mk
	@mkdir -p $$(@D)
	$(Q)printf '#!/bin/sh\nexec tests/guest/run --doppel $(O)/doppel $(GUEST_ARGS_$(1)) $$<\n' >$$@
	$(Q)chmod +x $$@
endef
$(foreach e,$(GUEST_ENGINES),$(eval $(call guest_engine,$(e))))
