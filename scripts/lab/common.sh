# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # variables of lab and its other parts
# What the parts of the lab share. The lab's own failures end with 125, which
# no sensible command uses.

PATH=$PATH:/usr/sbin:/sbin # depmod and ldconfig, for those who are not root
root=$(realpath "$here/../..")
build=$(realpath -m "${MEMVIRT_BUILD_DIR:-$root/build}")
cache=${MEMVIRT_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/memvirt}
# The self tests and certificates left out are a third of the boot.
kernel_line='console=ttyS0 quiet panic=-1 oops=panic nokaslr mitigations=off
    random.trust_cpu=off random.trust_bootloader=off hugepagesz=2M hugepages=64
    cryptomgr.notests initcall_blacklist=load_system_certificate_list'
kernel_line=$(tr -s ' \n' ' ' <<<"$kernel_line")

fail() {
    echo "lab: $*" >&2
    exit 125
}

# Pages of 1 GiB can only be had while the machine starts, and not from its
# first GB nor from its last, where the initramfs is.
reserve_huge_pages() {
    ((huge_1g)) || return 0
    memory=$((memory + (huge_1g + 1) * 1024))
    kernel_line+=" hugepagesz=1G hugepages=$huge_1g"
}

need() { # FILE PACKAGE...
    local file=$1
    shift
    [[ -e $file ]] || command -v "$file" >/dev/null ||
        fail "$file is missing: sudo apt-get install $*"
}

# Runs "FUNCTION FOLDER" to make CACHE/NAME unless it is there. Another lab may
# want the same at this moment: one makes it, and it appears complete.
cached() { # NAME FUNCTION
    local new

    [[ -e $cache/$1 ]] && return
    mkdir -p "$cache" || fail "cannot make $cache; set MEMVIRT_CACHE"
    exec {lock}>"$cache/lock"
    flock "$lock"
    if [[ ! -e $cache/$1 ]]; then
        rm -rf "$cache"/new.* # of labs that were killed
        new=$(mktemp -d "$cache/new.XXXXXX")
        (
            trap '(($? == 0)) || { rm -rf "$new"; exit 125; }' EXIT
            "$2" "$new"
        )
        chmod 755 "$new"
        mv -T "$new" "$cache/$1"
    fi
    exec {lock}>&-
}
