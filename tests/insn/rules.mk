# SPDX-License-Identifier: Apache-2.0
INSN_O := $(patsubst %.c,$(O)/%.o,$(wildcard tests/insn/*.c))
$(INSN_O): CPPFLAGS += -Itests/insn

$(O)/insn: $(INSN_O) $(O)/libdoppel.a
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# By the kind of code: a quick slice with a fixed seed, so that a failure is the change's; the long run takes a new seed each
# time and prints it.
INSN_QUICK_64 := 200000
INSN_QUICK_32 := 60000
INSN_QUICK_16 := 60000
INSN_LONG_64 := 4000000
INSN_LONG_32 := 2000000
INSN_LONG_16 := 2000000
define INSN_TEST
$(O)/tests/insn-$(1)-$(2): $(O)/insn
	@mkdir -p $$(@D)
	$$(Q)printf '#!/bin/sh\nexec $(O)/insn --mode $(2) --cases $(3) "$$$$@"\n' >$$@; chmod +x $$@
endef
$(foreach m,64 32 16,$(eval $(call INSN_TEST,quick,$(m),$(INSN_QUICK_$(m)) --seed 1)))
$(foreach m,64 32 16,$(eval $(call INSN_TEST,long,$(m),$(INSN_LONG_$(m)))))
UNIT_TESTS += $(patsubst %,$(O)/tests/insn-quick-%,64 32 16)
LONG_TESTS += $(patsubst %,$(O)/tests/insn-long-%,64 32 16)
