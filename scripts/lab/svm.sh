# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # variables of lab and its other parts
# AMD's SVM with nested paging, by QEMU's TCG. One clock tick an instruction
# and no source of chance: every run is the same to the last bit.

need_svm() {
    need qemu-system-x86_64 qemu-system-x86
}

# noapictimer: calibrating that timer would take two of five seconds; the HPET
# does as well on one CPU.
run_svm() {
    local image=$kernel/vmlinux

    [[ -e $image ]] || image=$kernel/vmlinuz
    run_emulator qemu-system-x86_64 -accel tcg \
        -cpu EPYC,+svm,+npt,+pdpe1gb,+pku,-rdrand,-rdseed -m "$memory" \
        -icount shift=0,sleep=off -rtc clock=vm,base=2024-01-01 -seed 1 \
        -nodefaults -no-user-config -display none -no-reboot \
        -serial "file:$tmp/console" -serial "file:$tmp/stdout" \
        -serial "file:$tmp/back" \
        -kernel "$image" -initrd "$tmp/initrd" \
        -append "$kernel_line noapictimer"
}
