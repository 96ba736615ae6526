# shellcheck shell=bash
# The lab's kernel: the distribution's for cloud machines, unpacked into the
# cache and not installed. It stays until the cache is removed, so that counts
# do not change under a user's hands.

kernel_package() {
    apt-cache depends linux-image-cloud-amd64 2>/dev/null |
        sed -n 's/.*Depends: \(linux-image-.*-cloud-amd64\)$/\1/p' | head -n 1
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
    echo "lab: downloading $package" >&2
    (cd "$1" && apt-get -qq download "$package" >"$1/log" 2>&1) ||
        fail "cannot download $package: $(tail -n 1 "$1/log")"
    dpkg -x "$1"/linux-image-*.deb "$1/deb" ||
        fail "cannot unpack $package"
}

# FOLDER gets: vmlinuz, release (its version), lib/modules/VERSION.
make_kernel() { # FOLDER
    local modules module

    download_kernel "$1"
    modules=("$1"/deb/lib/modules/*)
    basename "${modules[0]}" >"$1/release"
    cp "$1"/deb/boot/vmlinuz-* "$1/vmlinuz"
    cd "${modules[0]}"
    for module in irqbypass kvm kvm-amd kvm-intel ccp msr; do
        find kernel -name "$module.ko*" -exec cp --parents -t "$1" {} +
    done
    mkdir -p "$1/lib/modules/${modules[0]##*/}"
    mv "$1/kernel" modules.builtin modules.builtin.modinfo modules.order \
        "$1/lib/modules/${modules[0]##*/}"
    cd "$1"
    find lib -name '*.ko.xz' -exec xz -d {} +
    depmod -b "$1" "${modules[0]##*/}" || fail "depmod failed on $modules"
    rm -rf "$1/deb" "$1/log" "$1"/*.deb
}

get_kernel() {
    need apt-get apt
    need depmod kmod
    need xz xz-utils
    cached kernel make_kernel
    kernel=$cache/kernel
}
