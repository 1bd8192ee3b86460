# SPDX-License-Identifier: Apache-2.0
# make fuzz: every tests/fuzz/*fuzz.c is a libFuzzer target, run for FUZZ_SECONDS; what it learns stays in build/fuzz/corpus.
# To repeat a finding: build/fuzz/NAME build/fuzz/NAME-crash-... Everything is compiled once more, by clang, with the sanitizers.

FUZZ_SECONDS ?= 600
FUZZ_CC ?= clang
FUZZ_O := build/fuzz
FUZZ_SAN := address,undefined
FUZZ_CFLAGS := -std=gnu17 -g -O1 -fno-omit-frame-pointer -fno-sanitize-recover=all -Wall -Wextra -Wno-unknown-warning-option \
	-Wno-gnu-variable-sized-type-not-at-end -DDOPPEL_SAN

FUZZ_TARGETS := $(patsubst tests/fuzz/%.c,%,$(sort $(wildcard tests/fuzz/*fuzz.c)))
FUZZ_LIB_O := $(LIB_C:%.c=$(FUZZ_O)/%.o)

.PHONY: fuzz fuzz-build fuzz-deps
fuzz: $(FUZZ_TARGETS:%=fuzz-%)
fuzz-build: $(FUZZ_TARGETS:%=$(FUZZ_O)/%)

.PHONY: $(FUZZ_TARGETS:%=fuzz-%)
$(FUZZ_TARGETS:%=fuzz-%): fuzz-%: $(FUZZ_O)/%
	@mkdir -p $(FUZZ_O)/corpus/$*
	$< -max_total_time=$(FUZZ_SECONDS) -timeout=10 -print_final_stats=1 -artifact_prefix=$<- $(FUZZ_O)/corpus/$* \
		$(wildcard tests/fuzz/corpus/$*)

$(FUZZ_TARGETS:%=$(FUZZ_O)/%): $(FUZZ_O)/%: $(FUZZ_O)/tests/fuzz/%.o $(FUZZ_O)/libdoppel.a
	@echo "  LD      $@"
	$(Q)$(FUZZ_CC) -fsanitize=fuzzer,$(FUZZ_SAN) -o $@ $^ $(LDLIBS)

$(FUZZ_O)/libdoppel.a: $(FUZZ_LIB_O)
	$(Q)rm -f $@; ar crs $@ $^

# Its assembly is for GNU as: clang's own takes no difference of two labels there.
$(FUZZ_O)/src/engine/bt/direct/stub.o: FUZZ_CFLAGS += -fno-integrated-as

$(FUZZ_O)/%.o: %.c | fuzz-deps
	@mkdir -p $(@D)
	@echo "  FUZZCC  $<"
	$(Q)$(FUZZ_CC) $(CPPFLAGS) $(FUZZ_CFLAGS) -fsanitize=fuzzer-no-link,$(FUZZ_SAN) -MMD -MP -c -o $@ $<

# The Intel syntax of its assembly is more than clang's own assembler reads.
$(FUZZ_O)/src/engine/bt/direct/stub.o: FUZZ_CFLAGS += -fno-integrated-as

fuzz-deps: deps
	@command -v $(FUZZ_CC) >/dev/null || \
		{ echo "make fuzz needs clang and its runtime; as root: apt-get install clang libclang-rt-14-dev" >&2; exit 1; }

.PRECIOUS: $(FUZZ_O)/%.o
-include $(shell [ -d $(FUZZ_O)/src ] && find $(FUZZ_O)/src $(FUZZ_O)/tests -name '*.d' 2>/dev/null)
