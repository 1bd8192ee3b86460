# SPDX-License-Identifier: Apache-2.0
# doppel: make . make run . make unit . make test . make test-long . make bench . make fuzz . make lint . make fmt . make install
#
# SAN=1 builds everything with ASan and UBSan into build/san; WERROR=1 (set by the test targets) turns warnings into errors.

MAKEFLAGS += -r
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: all
all:

V ?= 0
Q := $(if $(filter 1,$(V)),,@)
SAN ?= 0
O := build$(if $(filter 1,$(SAN)),/san)
CC := gcc
PREFIX ?= /usr/local

OPT := -O2
ifeq ($(SAN),1)
OPT := -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -DDOPPEL_SAN
LDFLAGS += -fsanitize=address,undefined
else
# Calls with a checked size; in code whose calls may go to the C library at all, see VECTORLESS.
FORTIFY := -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
endif
# A stack frame that is overrun ends the process. The canary is at FS:28h, and FS is the monitor's wherever C runs: in the
# checked tier guest code has GS alone (the translator's own state), a worker's FS is the guest's only once its stub, which is
# assembly, has taken over (engine/bt/direct/worker_sandbox.c), and KVM keeps the guest's to itself.
HARDEN := -fPIE -fstack-protector-strong -fstack-clash-protection
LDFLAGS += -pie -Wl,-z,relro,-z,now,-z,noexecstack
CFLAGS += -std=gnu17 -g $(OPT) $(HARDEN) -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla $(if $(WERROR),-Werror)
CPPFLAGS += -Isrc -D_GNU_SOURCE -DDOPPEL_VERSION='"$(shell cat VERSION)"'
LDLIBS += -lZydis -ljansson -lpng -lslirp -luring -lnbd -lmicrohttpd -lseccomp -lzstd -lpthread

ALL_C := $(sort $(shell find src -name '*.c'))
TEST_C := $(filter %_test.c,$(ALL_C))
# The VNC server, a program of its own.
VNC_C := $(filter-out $(TEST_C),$(wildcard src/vnc/*.c))
LIB_C := $(filter-out $(TEST_C) src/cli/main.c $(VNC_C),$(ALL_C))
LIB_O := $(LIB_C:%.c=$(O)/%.o)
MAIN_O := $(patsubst %.c,$(O)/%.o,$(wildcard src/cli/main.c))

# The semantic core needs only freestanding C.
$(O)/src/cpu/%.o: CFLAGS += -ffreestanding
$(O)/src/cpu/%_test.o $(O)/src/lib/%_test.o: CFLAGS += -fhosted

# Code that runs while a guest's vector registers are in the processor (engine/bt). It has no _FORTIFY_SOURCE: the C library's
# __memcpy_chk() and the like use vector registers.
VECTORLESS := $(filter-out $(TEST_C) src/engine/interp/native%,$(filter src/cpu/% src/mmu/% src/engine/% \
	src/bus/clock.c src/vm/platform.c src/dev/pic.c,$(LIB_C)))
$(VECTORLESS:%.c=$(O)/%.o): CFLAGS += -mgeneral-regs-only -minline-all-stringops \
	-mmemcpy-strategy=unrolled_loop:64:noalign,rep_8byte:-1:noalign -mmemset-strategy=unrolled_loop:64:noalign,rep_8byte:-1:noalign

$(filter-out $(VECTORLESS:%.c=$(O)/%.o),$(patsubst %.c,$(O)/%.o,$(ALL_C))): CPPFLAGS += $(FORTIFY)

# A worker gives up the memory that the sanitizers keep their books in.
$(O)/src/engine/bt/direct/worker_sandbox.o: CFLAGS += -fno-sanitize=all

# Programs that print TAP; tests/*/rules.mk add to these.
UNIT_TESTS := $(TEST_C:src/%.c=$(O)/unit/%)
TESTS :=
LONG_TESTS :=

-include $(sort $(wildcard tests/*/rules.mk bench/rules.mk tools/rules.mk))

all: $(O)/doppel $(O)/doppel-vnc $(O)/firecracker

$(O)/doppel: $(MAIN_O) $(O)/libdoppel.a
	@echo "  LD      $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# Under this name it takes that program's options.
$(O)/firecracker: $(O)/doppel
	$(Q)ln -sfn doppel $@

$(O)/doppel-vnc: $(VNC_C:%.c=$(O)/%.o) $(O)/libdoppel.a
	@echo "  LD      $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lvncserver -lseccomp -lpthread

$(O)/libdoppel.a: $(LIB_O)
	$(Q)rm -f $@; ar crs $@ $^

$(O)/%.o: %.c | deps
	@mkdir -p $(@D)
	@echo "  CC      $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(O)/unit/%: $(O)/src/%.o $(O)/libdoppel.a
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka

-include $(shell [ -d $(O)/src ] && find $(O)/src $(O)/tests -name '*.d' 2>/dev/null)

# Says which packages are missing, instead of a compiler's error; installs them for run and test when root.
.PHONY: deps
deps:
	@tools/deps check

.PHONY: unit test test-long
unit: $(UNIT_TESTS)
	$(Q)tools/run-tests $(UNIT_TESTS)

# WERROR and the packages are settled before the build starts.
test:
	$(Q)tools/deps install test
	$(Q)$(MAKE) WERROR=1 run-test-suite
.PHONY: run-test-suite run-long-suite
run-test-suite: all $(UNIT_TESTS) $(TESTS)
	$(Q)tools/run-tests $(UNIT_TESTS) $(TESTS)
test-long:
	$(Q)tools/deps install test long
	$(Q)$(MAKE) WERROR=1 run-long-suite
run-long-suite: all $(UNIT_TESTS) $(TESTS) $(LONG_TESTS)
	$(Q)TEST_TIMEOUT=3600 tools/run-tests $(UNIT_TESTS) $(TESTS) $(LONG_TESTS)

.PHONY: lint fmt clean
lint:
	$(Q)tools/lint
fmt:
	$(Q)clang-format -i $$(git ls-files '*.c' '*.h')
clean:
	rm -rf build
