# memvirt: one file, no recursion. `make help` lists the targets.
#
#   B=DIR      build folder (default build)
#   V=1        show the commands
#   SAN=1      AddressSanitizer and UBSan for everything hosted (build/san)

SAN ?=
V ?=
Q = $(if $V,,@printf '  %-4s %s\n' '$1' '$@';)
B ?= $(if $(SAN),build/san,build)

CC = gcc
PKGS = libtracefs jansson gsl libkmod hwloc libconfig libzstd zlib
PKG_CFLAGS = $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS = $(shell pkg-config --libs $(PKGS) 2>/dev/null) \
           -lpapi -lpfm -lnuma -lcsv -lZydis -lZycore

WARN = -Wall -Wextra -Werror -Wstrict-prototypes -Wmissing-prototypes \
       -Wshadow -Wvla
BASE_CFLAGS = -std=gnu17 -g $(WARN) -I. -MMD -MP
SAN_FLAGS = $(if $(SAN),-fsanitize=address$(comma)undefined \
            -fno-sanitize-recover=undefined)
comma = ,
HOST_CFLAGS = $(BASE_CFLAGS) -O2 -D_GNU_SOURCE $(SAN_FLAGS) $(PKG_CFLAGS) \
              -DMEMVIRT_ROOT='"$(MEMVIRT_ROOT)"' -DMEMVIRT_BUILD='"$(MEMVIRT_BUILD)"'
# Where the scripts are, and the command with its guest image.
MEMVIRT_ROOT ?= $(CURDIR)
MEMVIRT_BUILD ?= $(abspath $B)

# The workloads: one set of objects, linked into the guest's user program and
# into the command, so that both run the same machine code.
WL_CFLAGS = $(BASE_CFLAGS) -O2 -ffreestanding -fpie -fno-stack-protector \
            -fno-asynchronous-unwind-tables -fcf-protection=none \
            -fno-tree-loop-distribute-patterns -mno-red-zone
KERNEL_CFLAGS = $(BASE_CFLAGS) -O2 -ffreestanding -fno-pic -mcmodel=kernel \
            -fno-stack-protector -fno-asynchronous-unwind-tables \
            -fcf-protection=none -mno-red-zone -mgeneral-regs-only

WL_SRC     := $(wildcard workloads/*.c workloads/memory/*.c workloads/os/*.c)
COMPUTE_SRC := $(wildcard workloads/compute/*.c)
SHIM_SRC   := $(wildcard workloads/linux/*.c)
# The monitor's core serves in the VM and in the VMM's process.
MONITOR_CORE := $(filter-out %/start.c %/libc.c,$(wildcard vmm/monitor/*.c))
HOSTED_SRC := $(wildcard base/*.c mmu/*.c shadowpt/*.c directpt/*.c bt/*.c ept/*.c trace/*.c \
                model/*.c vmm/*.c harness/*.c harness/counters/*.c \
                workloads/model/*.c) $(SHIM_SRC) $(MONITOR_CORE)
TEST_SRC   := $(wildcard tests/*.c)
FUZZ_SRC   := $(wildcard tests/fuzz/fuzz_*.c)
BENCH_SRC  := $(wildcard tests/bench/*.c)

obj = $(patsubst %,$B/obj/%.o,$(basename $1))

WL_OBJ     := $(call obj,$(WL_SRC))
COMPUTE_OBJ := $(call obj,$(COMPUTE_SRC))
HOSTED_OBJ := $(call obj,$(HOSTED_SRC))
MONITOR_IMAGE := $B/obj/vmm/monitor_image.o
HOSTED_ASM    := $(MONITOR_IMAGE) $B/obj/workloads/audit_insn.o
TEST_ASM      := $B/obj/tests/hostile_guest.o
LIB_OBJ    := $(filter-out $B/obj/harness/main.o,$(HOSTED_OBJ)) $(HOSTED_ASM)
TEST_OBJ   := $(call obj,$(TEST_SRC))
TRACED_WL_OBJ     := $(WL_OBJ:$B/obj/%=$B/obj/traced/%)
TRACED_KERNEL_OBJ := $(addprefix $B/obj/traced/workloads/guest/,space.o phys.o)
TRACED_OBJ        := $B/obj/traced/workloads.o $(TRACED_KERNEL_OBJ)
FUZZ_OBJ   := $(call obj,$(FUZZ_SRC))

.PHONY: all run check check-only lint help clean setup bench fuzz install
.DELETE_ON_ERROR:
.SECONDARY:

all: $B/memvirt $B/guest.elf $B/guest-pv.elf ## Build the command and the guest image

$B/memvirt: $(HOSTED_OBJ) $(HOSTED_ASM) $(WL_OBJ) $(COMPUTE_OBJ) $(TRACED_OBJ)
	$(call Q,LD)$(CC) $(SAN_FLAGS) -pie -pthread -o $@ $^ $(PKG_LIBS)

$(WL_OBJ): $B/obj/%.o: %.c
	@mkdir -p $(@D)
	$(call Q,CC)$(CC) $(WL_CFLAGS) -c -o $@ $<

# The same of what the guest's kernel runs, in the same places of cache lines.
COMPUTE_CFLAGS = -mgeneral-regs-only -falign-functions=64

$(COMPUTE_OBJ): $B/obj/%.o: %.c
	@mkdir -p $(@D)
	$(call Q,CC)$(CC) $(WL_CFLAGS) $(COMPUTE_CFLAGS) -c -o $@ $<

# The model's loops run a hundred million times a second.
$(call obj,model/machine.c): HOST_CFLAGS += -O3

$(HOSTED_OBJ): $B/obj/%.o: %.c
	@mkdir -p $(@D)
	$(call Q,CC)$(CC) $(HOST_CFLAGS) -fpie -pthread -c -o $@ $<

# ---- What the model runs in process ---------------------------------------

# The workloads once more, and the guest kernel's address spaces, with a call
# before each access (workloads/model/tsan.c). Nothing of them is seen from
# outside but one renamed table, and the kernel's functions.
TRACED_FLAGS = -fsanitize=thread --param tsan-instrument-func-entry-exit=0

$(TRACED_WL_OBJ): $B/obj/traced/%.o: %.c
	@mkdir -p $(@D)
	$(call Q,CC)$(CC) $(WL_CFLAGS) $(TRACED_FLAGS) -c -o $@ $<

$(TRACED_KERNEL_OBJ): $B/obj/traced/%.o: %.c
	@mkdir -p $(@D)
	$(call Q,CC)$(CC) $(WL_CFLAGS) $(TRACED_FLAGS) -mgeneral-regs-only \
	    -DGUEST_HOSTED -c -o $@ $<

$B/obj/traced/workloads.o: $(TRACED_WL_OBJ)
	$(call Q,LD)ld -r -o $@ $^
	@objcopy --redefine-sym wl_user_workloads=wl_traced_workloads $@
	@objcopy --keep-global-symbol=wl_traced_workloads $@

# ---- The guest image: a user program inside a kernel, one ELF64 -----------

GUEST_KERNEL := boot entry main phys space trap process smp nano compute paging \
                paging_cases paging_access mmu_walk selftest selftest_state \
                selftest_segment selftest_trap selftest_paging selftest_probe \
                audit
GUEST_KERNEL_OBJ := $(GUEST_KERNEL:%=$B/obj/workloads/guest/%.o) \
                    $B/obj/workloads/audit_insn.o $(COMPUTE_OBJ)
# The same kernel, asking a monitor for what it would do itself.
GUEST_PV_OBJ     := $(GUEST_KERNEL:%=$B/obj/pv/%.o) $B/obj/pv/pv.o \
                    $B/obj/workloads/audit_insn.o $(COMPUTE_OBJ)
GUEST_USER_C     := $(call obj,$(addprefix workloads/guest/,user.c \
                      selftest_user.c selftest_user_state.c))
GUEST_USER_OBJ   := $(call obj,$(addprefix workloads/guest/,user_entry.S \
                      selftest_user_probe.S)) $(GUEST_USER_C)

$B/obj/workloads/guest/%.o: workloads/guest/%.c
	@mkdir -p $(@D)
	$(call Q,CC)$(CC) $(KERNEL_CFLAGS) -c -o $@ $<

$B/obj/workloads/guest/mmu_walk.o: mmu/walk.c
	@mkdir -p $(@D)
	$(call Q,CC)$(CC) $(KERNEL_CFLAGS) -c -o $@ $<

# The audit's instructions, in the kernel and in the command.
$B/obj/workloads/audit_insn.o: workloads/audit_insn.S
	@mkdir -p $(@D)
	$(call Q,AS)$(CC) -I. -MMD -MP -c -o $@ $<

$B/obj/workloads/guest/%.o: workloads/guest/%.S
	@mkdir -p $(@D)
	$(call Q,AS)$(CC) -I. -MMD -MP -DUSER_PROGRAM='"$B/user.bin"' -c -o $@ $<

$B/obj/pv/%.o: workloads/guest/%.c
	@mkdir -p $(@D)
	$(call Q,CC)$(CC) $(KERNEL_CFLAGS) -DGUEST_PV -c -o $@ $<

$B/obj/pv/mmu_walk.o: mmu/walk.c
	@mkdir -p $(@D)
	$(call Q,CC)$(CC) $(KERNEL_CFLAGS) -c -o $@ $<

$B/obj/pv/%.o: workloads/guest/%.S
	@mkdir -p $(@D)
	$(call Q,AS)$(CC) -I. -MMD -MP -DGUEST_PV -DUSER_PROGRAM='"$B/user.bin"' -c -o $@ $<

$(GUEST_USER_C): $B/obj/%.o: %.c
	@mkdir -p $(@D)
	$(call Q,CC)$(CC) $(WL_CFLAGS) -c -o $@ $<

$B/obj/workloads/guest/%.ld: workloads/guest/%.ld workloads/guest/layout.h
	@mkdir -p $(@D)
	$(call Q,CPP)$(CC) -E -P -x assembler-with-cpp -I. -o $@ $<

$B/user.elf: $B/obj/workloads/guest/user.ld $(GUEST_USER_OBJ) $(WL_OBJ)
	$(call Q,LD)ld -nostdlib -static -z max-page-size=4096 --no-warn-rwx-segments \
	    -T $< -o $@ $(GUEST_USER_OBJ) $(WL_OBJ)

$B/user.bin: $B/user.elf
	$(call Q,COPY)objcopy -O binary $< $@

$B/obj/workloads/guest/entry.o $B/obj/pv/entry.o: $B/user.bin

$B/guest.elf: $B/obj/workloads/guest/kernel.ld $(GUEST_KERNEL_OBJ)
	$(call Q,LD)ld -nostdlib -static -z max-page-size=4096 -T $< -o $@ $(GUEST_KERNEL_OBJ)

$B/guest-pv.elf: $B/obj/workloads/guest/kernel.ld $(GUEST_PV_OBJ)
	$(call Q,LD)ld -nostdlib -static -z max-page-size=4096 -T $< -o $@ $(GUEST_PV_OBJ)

# ---- The monitor: freestanding, linked at its own addresses ----------------

MONITOR_CFLAGS = $(BASE_CFLAGS) -ffreestanding -fpie -fvisibility=hidden \
            -fno-stack-protector -fno-asynchronous-unwind-tables \
            -fcf-protection=none -fno-tree-loop-distribute-patterns \
            -mno-red-zone -mgeneral-regs-only -flto -O3
MONITOR_OBJ := $(patsubst %,$B/obj/monitor/%.o,$(basename vmm/monitor/entry.S \
                 vmm/monitor/start.c vmm/monitor/libc.c $(MONITOR_CORE) mmu/walk.c \
                 bt/cache.c $(wildcard shadowpt/*.c directpt/*.c)))

$B/obj/monitor/%.o: %.c
	@mkdir -p $(@D)
	$(call Q,CC)$(CC) $(MONITOR_CFLAGS) -c -o $@ $<

$B/obj/monitor/%.o: %.S
	@mkdir -p $(@D)
	$(call Q,AS)$(CC) -I. -MMD -MP -c -o $@ $<

$B/obj/vmm/monitor/%.ld: vmm/monitor/%.ld vmm/monitor/layout.h
	@mkdir -p $(@D)
	$(call Q,CPP)$(CC) -E -P -x assembler-with-cpp -I. -o $@ $<

$B/monitor.elf: $B/obj/vmm/monitor/monitor.ld $(MONITOR_OBJ)
	$(call Q,LD)$(CC) $(filter-out -MMD -MP,$(MONITOR_CFLAGS)) -nostdlib -static -no-pie \
	    -Wl,-z,max-page-size=4096,--build-id=none,--no-warn-rwx-segments -T $< -o $@ $(MONITOR_OBJ)

$B/monitor.bin: $B/monitor.elf
	$(call Q,COPY)objcopy -O binary $< $@

# The command carries it.
$(MONITOR_IMAGE): vmm/monitor_image.S $B/monitor.bin
	@mkdir -p $(@D)
	$(call Q,AS)$(CC) -DMONITOR_IMAGE='"$B/monitor.bin"' -c -o $@ $<

# ---- Tests, fuzzers, benchmarks, lint -------------------------------------

# One program; every suite registers itself (tests/test.h).
$(TEST_OBJ) $(FUZZ_OBJ): $B/obj/%.o: %.c
	@mkdir -p $(@D)
	$(call Q,CC)$(CC) $(HOST_CFLAGS) -fpie -pthread -c -o $@ $<

$B/obj/tests/%.o: tests/%.S
	@mkdir -p $(@D)
	$(call Q,AS)$(CC) -I. -MMD -MP -c -o $@ $<

$B/memvirt-tests: $(TEST_ASM) $(TEST_OBJ) $(FUZZ_OBJ) $(LIB_OBJ) $(WL_OBJ) $(COMPUTE_OBJ) $(TRACED_OBJ)
	$(call Q,LD)$(CC) $(SAN_FLAGS) -pie -pthread -o $@ $^ $(PKG_LIBS) -lcunit

# libFuzzer needs clang; each target is built from source with its sanitizers.
FUZZ_LIB_SRC := $(filter-out harness/main.c,$(HOSTED_SRC)) $(WL_SRC) $(COMPUTE_SRC)
$B/fuzz/%: tests/fuzz/fuzz_%.c tests/fuzz/libfuzzer.c $(FUZZ_LIB_SRC) $(HOSTED_ASM) $(TRACED_OBJ)
	@mkdir -p $(@D)
	$(call Q,FUZZ)clang -std=gnu17 -g -O1 -D_GNU_SOURCE -I. $(PKG_CFLAGS) -pthread \
	    -DMEMVIRT_ROOT='"$(MEMVIRT_ROOT)"' -DMEMVIRT_BUILD='"$(MEMVIRT_BUILD)"' \
	    -DFUZZ_TARGET=fuzz_$* -fsanitize=fuzzer,address,undefined \
	    -o $@ $(filter %.c %.o,$^) $(PKG_LIBS)

$B/fuzz/direct: tests/direct_oracle.c
$B/fuzz/bt: tests/bt_check.c

FUZZ_SECONDS ?= 60
fuzz: $(patsubst tests/fuzz/fuzz_%.c,$B/fuzz/%,$(FUZZ_SRC)) ## Fuzz each target for FUZZ_SECONDS (60)
	@for target in $^; do name=$${target##*/}; \
	    mkdir -p $B/fuzz/corpus-$$name; echo "== $$name"; \
	    $$target -max_total_time=$(FUZZ_SECONDS) -verbosity=0 \
	        -artifact_prefix=$B/fuzz/ $B/fuzz/corpus-$$name \
	        tests/corpus/$$name || exit 1; done

$B/bench/%: tests/bench/%.c $(LIB_OBJ) $(WL_OBJ) $(COMPUTE_OBJ) $(TRACED_OBJ)
	@mkdir -p $(@D)
	$(call Q,LD)$(CC) $(HOST_CFLAGS) -pie -pthread -o $@ $(filter %.c %.o,$^) $(PKG_LIBS)

$B/bench/bt: tests/bt_run.c

bench: $(patsubst tests/bench/%.c,$B/bench/%,$(BENCH_SRC)) $B/guest.elf ## Run the benchmarks
	@for bench in $(filter $B/bench/%,$^); do echo "== $${bench##*/}"; $$bench || exit 1; done

LINT_SRC = $(shell git ls-files '*.c' '*.h')
lint: ## clang-format, clang-tidy, cppcheck, shellcheck
	clang-format --dry-run -Werror $(LINT_SRC)
	cppcheck -j $$(nproc) --quiet --error-exitcode=1 --std=c17 --inline-suppr \
	    --suppress=syntaxError:workloads/api.h --suppress=ctuuninitvar \
	    --enable=warning,portability -I. -D__x86_64__ $(filter-out %.h,$(LINT_SRC))
	printf '%s\n' $(LINT_HOSTED) | xargs -P $$(nproc) -I {} clang-tidy --quiet \
	    --warnings-as-errors='*' {} -- -std=gnu17 -D_GNU_SOURCE -I. $(PKG_CFLAGS) \
	    -DMEMVIRT_ROOT='""' -DMEMVIRT_BUILD='""'
	shellcheck -x $(shell git ls-files '*.sh' scripts/setup scripts/lab/lab)
LINT_HOSTED = $(HOSTED_SRC) $(WL_SRC) $(COMPUTE_SRC)

# Everything hosted once more under the sanitizers; the lab's suite runs the
# command inside emulated machines and would not see more there.
check-only: all $B/memvirt-tests
	@echo "== tests under AddressSanitizer and UBSan"
	@$(MAKE) --no-print-directory SAN=1 all build/san/memvirt-tests
	@build/san/memvirt-tests -lab -lab_machine -lab_vmx -perf_kvm_stat
	@echo "== tests"
	@$B/memvirt-tests

PREFIX ?= /usr/local
install: ## Install under PREFIX (/usr/local)
	$(MAKE) B=build/install MEMVIRT_ROOT=$(PREFIX)/share/memvirt \
	    MEMVIRT_BUILD=$(PREFIX)/lib/memvirt all
	install -D build/install/memvirt $(DESTDIR)$(PREFIX)/lib/memvirt/memvirt
	install -D -m 644 build/install/guest.elf $(DESTDIR)$(PREFIX)/lib/memvirt/guest.elf
	install -D -m 644 build/install/guest-pv.elf $(DESTDIR)$(PREFIX)/lib/memvirt/guest-pv.elf
	mkdir -p $(DESTDIR)$(PREFIX)/share/memvirt/mmu \
	    $(DESTDIR)$(PREFIX)/share/memvirt/model $(DESTDIR)$(PREFIX)/bin
	cp -r scripts $(DESTDIR)$(PREFIX)/share/memvirt/
	cp -r mmu/profiles $(DESTDIR)$(PREFIX)/share/memvirt/mmu/
	cp -r model/costs $(DESTDIR)$(PREFIX)/share/memvirt/model/
	ln -sf ../lib/memvirt/memvirt $(DESTDIR)$(PREFIX)/bin/memvirt

# ---- What people type -----------------------------------------------------

setup: ## Install what is missing (Debian packages)
	@scripts/setup

run: ## Set up, build, run the default experiment, print and plot it
	@scripts/setup
	@$(MAKE) --no-print-directory -j$$(nproc) all
	@$B/memvirt run

check: ## Set up, build and pass every test, the lab's included
	@scripts/setup
	@$(MAKE) --no-print-directory -j$$(nproc) all $B/memvirt-tests
	@$(MAKE) --no-print-directory -j$$(nproc) SAN=1 all build/san/memvirt-tests
	@$(MAKE) --no-print-directory check-only

clean: ## Remove the build folder
	rm -rf build

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

-include $(shell find $B/obj -name '*.d' 2>/dev/null)
