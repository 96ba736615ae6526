# shellcheck shell=bash
# What the parts of the lab share. The lab's own failures end with 125, which
# no sensible command uses.

root=$(realpath "$here/../..")
build=$(realpath -m "${MEMVIRT_BUILD_DIR:-$root/build}")
cache=${MEMVIRT_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/memvirt}
# shellcheck disable=SC2034 # for the machines
kernel_line='console=ttyS0 quiet panic=-1 oops=panic nokaslr mitigations=off
    random.trust_cpu=off random.trust_bootloader=off hugepages=64'
kernel_line=$(echo $kernel_line)

fail() {
    echo "lab: $*" >&2
    exit 125
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
        ("$2" "$new") || {
            rm -rf "$new"
            exit 125
        }
        chmod 755 "$new"
        mv -T "$new" "$cache/$1"
    fi
    exec {lock}>&-
}
