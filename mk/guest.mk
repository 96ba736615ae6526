# The guest image: a user program inside a kernel, one ELF64.
GUEST_KERNEL_SRC := $(addprefix workloads/guest/,boot.S entry.S main.c phys.c \
                      space.c trap.c process.c smp.c nano.c)
GUEST_USER_SRC   := $(addprefix workloads/guest/,user_entry.S user.c)
GUEST_KERNEL_OBJ := $(call obj,$(GUEST_KERNEL_SRC))
GUEST_USER_OBJ   := $(call obj,$(GUEST_USER_SRC))

guest: $B/guest.elf

$B/obj/workloads/guest/%.o: workloads/guest/%.c
	@mkdir -p $(@D)
	$(CC) $(KERNEL_CFLAGS) -c -o $@ $<

$B/obj/workloads/guest/%.o: workloads/guest/%.S
	@mkdir -p $(@D)
	$(CC) -I. -MMD -MP -DUSER_PROGRAM='"$B/user.bin"' -c -o $@ $<

$B/obj/workloads/guest/user.o: workloads/guest/user.c
	@mkdir -p $(@D)
	$(CC) $(WL_CFLAGS) -c -o $@ $<

$B/obj/workloads/guest/%.ld: workloads/guest/%.ld workloads/guest/layout.h
	@mkdir -p $(@D)
	$(CC) -E -P -x assembler-with-cpp -I. -o $@ $<

$B/user.elf: $B/obj/workloads/guest/user.ld $(GUEST_USER_OBJ) $(WL_OBJ)
	ld -nostdlib -static -z max-page-size=4096 --no-warn-rwx-segments \
	    -T $< -o $@ $(GUEST_USER_OBJ) $(WL_OBJ)

$B/user.bin: $B/user.elf
	objcopy -O binary $< $@

$B/obj/workloads/guest/entry.o: $B/user.bin

$B/guest.elf: $B/obj/workloads/guest/kernel.ld $(GUEST_KERNEL_OBJ)
	ld -nostdlib -static -z max-page-size=4096 -T $< -o $@ $(GUEST_KERNEL_OBJ)
