# SPDX-License-Identifier: Apache-2.0
INSN_O := $(patsubst %.c,$(O)/%.o,$(wildcard tests/insn/*.c))
$(INSN_O): CPPFLAGS += -Itests/insn

$(O)/insn: $(INSN_O) $(O)/libdoppel.a
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# A quick slice with a fixed seed, so that a failure is the change's; the long run takes a new seed each time and prints it.
$(O)/tests/insn-quick: $(O)/insn
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec $(O)/insn --cases 200000 --seed 1 "$$@"\n' >$@; chmod +x $@
$(O)/tests/insn-long: $(O)/insn
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec $(O)/insn --cases 4000000 "$$@"\n' >$@; chmod +x $@
# The same in bt's direct tier, with RIP-relative operands in both of its ways.
$(O)/tests/insn-direct $(O)/tests/insn-direct-scratch: $(O)/tests/insn-%: $(O)/insn
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec $(O)/insn --$* --cases 100000 --seed 1 "$$@"\n' >$@; chmod +x $@
UNIT_TESTS += $(O)/tests/insn-quick $(O)/tests/insn-direct $(O)/tests/insn-direct-scratch
LONG_TESTS += $(O)/tests/insn-long
