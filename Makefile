# memvirt: one file, no recursion. `make help` lists the targets.
#
#   B=DIR      build folder (default build)
#   SAN=1      AddressSanitizer and UBSan for everything hosted (build/san)

SAN ?=
B ?= $(if $(SAN),build/san,build)

CC = gcc
PKGS = libtracefs jansson gsl libkmod hwloc
PKG_CFLAGS = $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS = $(shell pkg-config --libs $(PKGS) 2>/dev/null) \
           -lpapi -lpfm -lnuma -lcsv

WARN = -Wall -Wextra -Werror -Wstrict-prototypes -Wmissing-prototypes \
       -Wshadow -Wvla
BASE_CFLAGS = -std=gnu17 -g $(WARN) -I. -MMD -MP
SAN_FLAGS = $(if $(SAN),-fsanitize=address$(comma)undefined \
            -fno-sanitize-recover=undefined)
comma = ,
HOST_CFLAGS = $(BASE_CFLAGS) -O2 -D_GNU_SOURCE $(SAN_FLAGS) $(PKG_CFLAGS) \
              -DMEMVIRT_ROOT='"$(MEMVIRT_ROOT)"' -DMEMVIRT_BUILD='"$(abspath $B)"'
MEMVIRT_ROOT ?= $(CURDIR)

# The workloads: one set of objects, linked into the guest's user program and
# into the command, so that both run the same machine code.
WL_CFLAGS = $(BASE_CFLAGS) -O2 -ffreestanding -fpie -fno-stack-protector \
            -fno-asynchronous-unwind-tables -fcf-protection=none \
            -fno-tree-loop-distribute-patterns -mno-red-zone
KERNEL_CFLAGS = $(BASE_CFLAGS) -O2 -ffreestanding -fno-pic -mcmodel=kernel \
            -fno-stack-protector -fno-asynchronous-unwind-tables \
            -fcf-protection=none -mno-red-zone -mgeneral-regs-only

WL_SRC     := $(wildcard workloads/*.c workloads/memory/*.c workloads/os/*.c)
SHIM_SRC   := $(wildcard workloads/linux/*.c)
HOSTED_SRC := $(wildcard base/*.c ept/*.c vmm/*.c harness/*.c \
                harness/counters/*.c) $(SHIM_SRC)
TEST_SRC   := $(wildcard tests/*.c)
FUZZ_SRC   := $(wildcard tests/fuzz/*.c)
BENCH_SRC  := $(wildcard tests/bench/*.c)

obj = $(patsubst %,$B/obj/%.o,$(basename $1))

WL_OBJ     := $(call obj,$(WL_SRC))
HOSTED_OBJ := $(call obj,$(HOSTED_SRC))
LIB_OBJ    := $(filter-out $B/obj/harness/main.o,$(HOSTED_OBJ))
TEST_OBJ   := $(call obj,$(TEST_SRC))

.PHONY: all run check lint format help clean setup bench fuzz install guest
.DELETE_ON_ERROR:
.SECONDARY:

all: $B/memvirt guest ## Build the command and the guest image

$B/memvirt: $(HOSTED_OBJ) $(WL_OBJ)
	$(CC) $(SAN_FLAGS) -pie -pthread -o $@ $^ $(PKG_LIBS)

$(WL_OBJ): $B/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(WL_CFLAGS) -c -o $@ $<

$(HOSTED_OBJ) $(TEST_OBJ): $B/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(HOST_CFLAGS) -fpie -pthread -c -o $@ $<

# Tests: one program, every suite registers itself (tests/test.h).
$B/memvirt-tests: $(TEST_OBJ) $(LIB_OBJ) $(WL_OBJ)
	$(CC) $(SAN_FLAGS) -pie -pthread -o $@ $^ $(PKG_LIBS) -lcunit

-include mk/*.mk

setup: ## Install what is missing (Debian packages)
	@scripts/setup

run: ## Set up, build, run the default experiment, print and plot it
	@scripts/setup
	@$(MAKE) --no-print-directory all
	@$B/memvirt run

check: ## Set up, build and pass every test, the lab's included
	@scripts/setup
	@$(MAKE) --no-print-directory check-only

clean: ## Remove the build folder
	rm -rf build

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

-include $(shell find $B/obj -name '*.d' 2>/dev/null)
