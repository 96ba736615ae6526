# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # variables of lab and its other parts
# The lab's kernel: the distribution's for cloud machines, unpacked into the
# cache and not installed. It stays until the cache is removed, so that counts
# do not change under a user's hands.

kernel_package() {
    apt-cache depends linux-image-cloud-amd64 2>/dev/null |
        sed -n 's/.*Depends: \(linux-image-.*-cloud-amd64\)$/\1/p' | head -n 1
}

package_size() { # PACKAGE
    apt-cache show --no-all-versions "$1" |
        awk '/^Size:/ { printf "%.0f MB", $2 / 1e6; exit }'
}

download_kernel() { # FOLDER
    local package

    package=$(kernel_package)
    if [[ -z $package ]]; then
        apt-get -qq update >/dev/null 2>&1 || true
        package=$(kernel_package)
    fi
    [[ $package ]] || fail "no package linux-image-cloud-amd64 is known:" \
        "sudo apt-get update"
    echo "lab: downloading $package ($(package_size "$package")), once:" \
        "the lab runs the distribution's own kernel and KVM" >&2
    (cd "$1" && apt-get -qq download "$package" >"$1/log" 2>&1) ||
        fail "cannot download $package: $(tail -n 1 "$1/log")"
    dpkg -x "$1"/linux-image-*.deb "$1/deb" ||
        fail "cannot unpack $package"
}

little_endian_word() { # FILE OFFSET
    od -An -t u4 -j "$2" -N 4 "$1" | tr -d ' '
}

# Writes the ELF kernel that vmlinuz holds beside it: QEMU starts that by its
# PVH note, which saves every boot the unpacking. Offsets: setup_sects,
# payload_offset and payload_length of the kernel's Documentation
# (arch/x86/boot.rst). The payload's last word is its length unpacked. Where
# the packing is another, the lab starts vmlinuz.
unpack_vmlinuz() { # FOLDER
    local sectors offset length

    sectors=$(od -An -t u1 -j $((0x1f1)) -N 1 "$1/vmlinuz" | tr -d ' ')
    offset=$(little_endian_word "$1/vmlinuz" $((0x248)))
    length=$(little_endian_word "$1/vmlinuz" $((0x24c)))
    tail -c +$(((sectors + 1) * 512 + offset + 1)) "$1/vmlinuz" |
        head -c $((length - 4)) | lz4 -dqc >"$1/vmlinux" 2>/dev/null ||
        rm -f "$1/vmlinux"
}

# FOLDER gets: vmlinuz, vmlinux, release (its version), lib/modules/VERSION.
# The modules lose their signatures, whose check would take 100 million
# instructions at every load.
make_kernel() { # FOLDER
    local modules module

    download_kernel "$1"
    modules=("$1"/deb/lib/modules/*)
    basename "${modules[0]}" >"$1/release"
    cp "$1"/deb/boot/vmlinuz-* "$1/vmlinuz"
    cd "${modules[0]}" || exit
    for module in irqbypass kvm kvm-amd kvm-intel ccp msr; do
        find kernel -name "$module.ko*" -exec cp --parents -t "$1" {} +
    done
    mkdir -p "$1/lib/modules/${modules[0]##*/}"
    mv "$1/kernel" modules.builtin modules.builtin.modinfo modules.order \
        "$1/lib/modules/${modules[0]##*/}"
    cd "$1" || exit
    find lib -name '*.ko.xz' -exec xz -d {} +
    find lib -name '*.ko' -exec strip -g {} \;
    unpack_vmlinuz "$1"
    depmod -b "$1" "${modules[0]##*/}" || fail "depmod failed"
    rm -rf "$1/deb" "$1/log" "$1"/*.deb
}

get_kernel() {
    need apt-get apt
    need depmod kmod
    need xz xz-utils
    need lz4 lz4
    need strip binutils
    cached linux make_kernel
    kernel=$cache/linux
}
