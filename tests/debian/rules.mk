# SPDX-License-Identifier: Apache-2.0
# The image of `make image`, as a user of `make run-debian` has it. It is built when it is not there.

LONG_TESTS += $(O)/tests/debian
$(O)/tests/debian: $(O)/doppel tests/debian/run tests/debian/rules.mk tools/run-debian
	@mkdir -p $(@D)
	$(Q)printf '#!/bin/sh\nexec tests/debian/run --doppel $(O)/doppel --image $(DEBIAN_IMAGE) "$$@"\n' >$@
	$(Q)chmod +x $@
