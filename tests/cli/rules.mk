# SPDX-License-Identifier: Apache-2.0
# What the command itself promises: options, statuses, the console's keys, the control socket, the gdb stub.

TESTS += $(O)/tests/cli
$(O)/tests/cli: $(O)/doppel tests/cli/run tests/cli/lib.py tests/cli/rules.mk
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/cli/run --doppel $(O)/doppel "$$@"\n' >$@
	$(Q)chmod +x $@
