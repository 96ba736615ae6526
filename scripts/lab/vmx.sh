# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # variables of lab and its other parts
# Intel's VMX with EPT, by Bochs, whose debugger can print each access of the
# page walker.

isolinux=/usr/lib/ISOLINUX/isolinux.bin
ldlinux=/usr/lib/syslinux/modules/bios/ldlinux.c32

need_vmx() {
    need bochs bochs
    need xorriso xorriso
    need "$isolinux" isolinux
    need "$ldlinux" syslinux-common
}

make_disc() {
    local iso=$tmp/iso

    mkdir -p "$iso/isolinux"
    cp "$isolinux" "$ldlinux" "$iso/isolinux/"
    ln "$kernel/vmlinuz" "$iso/" 2>/dev/null || cp "$kernel/vmlinuz" "$iso/"
    mv "$tmp/initrd" "$iso/"
    cat >"$iso/isolinux/isolinux.cfg" <<END
default lab
prompt 0
timeout 1
label lab
 kernel /vmlinuz
 append initrd=/initrd $kernel_line reboot=t tsc=reliable lpj=1000000
END
    xorriso -as mkisofs -quiet -o "$tmp/lab.iso" -b isolinux/isolinux.bin \
        -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 \
        -boot-info-table "$iso" 2>"$tmp/xorriso.err" ||
        fail "xorriso cannot make the disc: $(tail -n 1 "$tmp/xorriso.err")"
    rm -rf "$iso"
}

# The sound line: without a sound card Bochs overflows a buffer. Resets of the
# machine end Bochs (a triple fault does), as it would boot again and again.
write_bochsrc() {
    cat >"$tmp/bochsrc" <<END
config_interface: textconfig
display_library: rfb, options="timeout=0"
romimage: file=\$BXSHARE/BIOS-bochs-latest
vgaromimage: file=\$BXSHARE/VGABIOS-lgpl-latest
cpu: model=corei7_skylake_x, count=1, ips=50000000, reset_on_triple_fault=0
memory: guest=$memory, host=$memory
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
ata1-master: type=cdrom, path=$tmp/lab.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$tmp/console
com2: enabled=1, mode=file, dev=$tmp/stdout
com3: enabled=1, mode=file, dev=$tmp/back
clock: sync=none, time0=1700000000
log: $tmp/bochs.log
panic: action=fatal
error: action=report
info: action=report
debug: action=ignore
speaker: enabled=0
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
magic_break: enabled=$([[ -z $trace ]] && echo 0 || echo 1)
END
}

# Debugger commands: trace from each odd breakpoint to the next even one.
write_debugger_commands() {
    echo c
    [[ -z $trace ]] || yes $'trace-mem on\nc\ntrace-mem off\nc' |
        head -n 40000
}

# Debian's Bochs shows its screen by VNC or not at all, on all the machine's
# addresses: a network of its own, where that is allowed, keeps it alone.
run_vmx() {
    local alone=(unshare --map-root-user --net)

    "${alone[@]}" true 2>/dev/null || alone=()
    make_disc
    write_bochsrc
    write_debugger_commands >"$tmp/rc" || true
    # Entering a namespace undoes the tie of run_emulator.
    run_emulator "${alone[@]}" setpriv --pdeathsig KILL \
        bochs -q -rc "$tmp/rc" -f "$tmp/bochsrc"
}
