# A thin front on meson and the scripts, for people: `make help` lists what there is.
BUILD ?= build
PROGRAM = $(BUILD)/src/cli/guestram

.PHONY: build run check bench models interleave fuzz mutants asan tsan memcheck \
	analyse coverage cross faults soak install fresh format help
.DEFAULT_GOAL := build

build: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

$(BUILD)/build.ninja:
	@command -v meson >/dev/null || { echo "no meson: run scripts/install-deps first" >&2; exit 1; }
	@meson setup $(BUILD)

run:
	@scripts/install-deps
	@demo/run

check:
	@scripts/install-deps cross
	@scripts/check

bench: build
	@failed=0; for part in lookup update access reclaim dirty window change blk; do \
		$(PROGRAM) bench $$part || failed=1; done; exit $$failed

install: build
	@meson install -C $(BUILD) --no-rebuild

fresh:
	@scripts/install-deps fresh
	@scripts/try-fresh

format:
	@git ls-files -co --exclude-standard -- '*.c' '*.h' ':!models' | xargs clang-format -i

models:
	@scripts/install-deps
	@scripts/run-models

fuzz:
	@scripts/install-deps
	@scripts/run-fuzz --seconds $(or $(SECONDS),30)

interleave:
	@scripts/install-deps
	@scripts/run-interleave

faults:
	@scripts/install-deps
	@scripts/run-faults

soak:
	@scripts/install-deps
	@scripts/run-soak --minutes $(or $(MINUTES),10)

mutants:
	@scripts/install-deps
	@scripts/mutants

asan:
	@scripts/install-deps
	@scripts/run-sanitized asan

tsan:
	@scripts/install-deps
	@scripts/run-sanitized tsan

memcheck:
	@scripts/install-deps
	@scripts/run-sanitized memcheck

analyse:
	@scripts/install-deps
	@scripts/analyse

cross:
	@scripts/install-deps cross
	@scripts/run-cross

coverage:
	@scripts/install-deps coverage
	@scripts/coverage

help:
	@echo "make          build the library, the program, tests and examples in $(BUILD)/"
	@echo "make run      show it: a Linux guest whose memory comes and goes (under a minute)"
	@echo "make check    all checks and tests (under ten minutes)"
	@echo "make bench    the figures of docs/performance.md, on this machine"
	@echo "make models   check the models of the design with spin, and that it refutes their mutants"
	@echo "make fuzz     each fuzzer for 30 seconds, or SECONDS=n, with sanitizers"
	@echo "make interleave  every schedule of scripts of threads, up to 3 preemptions (minutes)"
	@echo "make faults   every system call and allocation of every public function fails (a minute or two)"
	@echo "make soak     torture, served disks, plugging and faults together for 10 minutes, or MINUTES=n"
	@echo "make mutants  break the code in 200 small ways, and show that a test sees each (half an hour)"
	@echo "make asan     all tests with AddressSanitizer, LeakSanitizer, UBSan; make tsan: ThreadSanitizer"
	@echo "make memcheck unit tests under valgrind; make analyse: gcc's and clang's static analysers"
	@echo "make coverage lines and branches that the tests run (goal: 90% of lines)"
	@echo "make cross    build and test for aarch64 and riscv64, emulated; 32-bit is refused (minutes)"
	@echo "make install  install to the prefix that meson was set up with (DESTDIR=... works)"
	@echo "make fresh    make check and make run in a new Debian 12 root (needs root)"
	@echo "make format   clang-format all C files"
