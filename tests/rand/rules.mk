# SPDX-License-Identifier: Apache-2.0
# Random programs on each engine and on the host CPU. A fixed seed in `make test`, so that a failure is the change's; a new one in test-long.

RAND_ENGINES := interp bt-checked bt-direct
RAND_ARGS_interp := --engine interp
RAND_ARGS_bt-checked := --engine bt --bt-tiers checked
RAND_ARGS_bt-direct := --engine bt --bt-tiers direct
RAND_QUICK_interp := 3000
RAND_QUICK_bt-checked := 3000
RAND_QUICK_bt-direct := 800

RAND_O := $(patsubst %.c,$(O)/%.o,$(wildcard tests/rand/*.c))
$(RAND_O): CPPFLAGS += -Itests/insn -Itests/rand
$(O)/rand: $(RAND_O) $(addprefix $(O)/tests/insn/,child.o guest.o code.o judge.o random.o segs.o state.o) $(O)/libdoppel.a
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

define rand_engine
TESTS += $(O)/tests/rand-quick-$(1)
$(O)/tests/rand-quick-$(1): $(O)/rand tests/rand/rules.mk
	@mkdir -p $$(@D)
	$(Q)printf '#!/bin/sh\nexec $(O)/rand $(RAND_ARGS_$(1)) --seed 1 --count $(RAND_QUICK_$(1)) "$$$$@"\n' >$$@; chmod +x $$@
LONG_TESTS += $(O)/tests/rand-long-$(1)
$(O)/tests/rand-long-$(1): $(O)/rand tests/rand/rules.mk
	@mkdir -p $$(@D)
	$(Q)printf '#!/bin/sh\nexec $(O)/rand $(RAND_ARGS_$(1)) --count 1000000 --time 600 "$$$$@"\n' >$$@; chmod +x $$@
endef
$(foreach e,$(RAND_ENGINES),$(eval $(call rand_engine,$(e))))
