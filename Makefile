# SPDX-License-Identifier: MIT
# The entry points. The build itself is meson's: `meson setup build && ninja -C build` does the same as `make`.

BUILD := build
FUZZ_SECONDS ?= 60

all: $(BUILD)/build.ninja
	ninja -C $(BUILD)

$(BUILD)/build.ninja:
	meson setup $(BUILD)

# The main job on real parts: a container's session through two live migrations.
demo: deps-demo
	$(MAKE) all
	image/build
	$(BUILD)/src/cli/holdfast demo

# Everything that must hold: three builds, every test, both linters. Ends with the sum.
check: deps
	tools/check

# What a change should pass before it is committed: under a minute.
check-quick: all
	meson test -C $(BUILD) --no-suite e2e --no-suite slow --no-suite long

# What takes minutes: migrations that fail in every phase and way, twenty in a row, two that cross.
check-slow: all
	meson test -C $(BUILD) --suite long

# The sanitized build's tests alone.
check-asan: deps
	tools/check asan

# One JSON line per measurement; see bench/README.md.
bench: all
	bench/run

# The Linux kernel's own vsock tests, with user-mode Linux as the guest; test/kernel/run has more.
check-kernel: all
	tools/check-kernel

# libholdfast and the agent over the kernel's vhost-vsock, migrated, in an outer VM: minutes of emulation.
check-nested: all
	test/nested/run

image: all
	image/build

# Each target for FUZZ_SECONDS, on top of its corpus; new inputs are kept in build-fuzz.
fuzz:
	[ -d build-fuzz ] || CC=clang meson setup build-fuzz -Dfuzz=true -Db_sanitize=address,undefined \
		-Db_lundef=false -Dc_args=-fsanitize=fuzzer-no-link
	ninja -C build-fuzz
	for target in build-fuzz/test/fuzz/libfuzzer_*; do \
		[ -f $$target ] || continue; \
		name=$${target##*libfuzzer_}; mkdir -p build-fuzz/corpus/$$name; \
		$$target -max_total_time=$(FUZZ_SECONDS) build-fuzz/corpus/$$name test/fuzz/$$name || exit 1; \
	done

install: all
	meson install -C $(BUILD)

deps:
	tools/install-deps build run check

deps-demo:
	tools/install-deps build run

clean:
	rm -rf build build-clang build-asan build-fuzz

.PHONY: all demo check check-quick check-slow check-asan check-kernel check-nested bench image fuzz install deps deps-demo clean
