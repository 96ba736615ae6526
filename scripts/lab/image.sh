# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # variables of lab and its other parts
# The lab's file system: two cpio archives one after the other. The base is
# cached, the other holds what a run brings along. Same input, same bytes.

# libgcc comes on top: the C library loads it when a thread is cancelled. ldd
# fails for programs linked statically, which need nothing.
libraries_of() { # FILE...
    ldd "$@" 2>/dev/null |
        sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^\t\(\/[^ ]*\) (.*/\1/p' || true
    ldconfig -p | sed -n 's/.*libgcc_s.so.1 (libc6,x86-64) => //p'
}

# Copies each file to its own path (links in the folders resolved, for the base
# owns /lib, /bin and the like).
copy_in_place() { # FOLDER FILE...
    local to=$1 file dir
    shift

    for file in "$@"; do
        dir=$to$(realpath "$(dirname "$file")")
        mkdir -p "$dir"
        cp -L "$file" "$dir/"
    done
}

copy_libraries() { # FOLDER FILE...
    local libraries

    mapfile -t libraries < <(libraries_of "${@:2}" | sort -u)
    copy_in_place "$1" "${libraries[@]}"
}

copy_linked() { # FOLDER FILE...
    copy_in_place "$@"
    copy_libraries "$@"
}

pack() { # FOLDER ARCHIVE
    find "$1" -exec touch -h -d @0 {} +
    (cd "$1" && find . -mindepth 1 -print0 | LC_ALL=C sort -z |
        cpio -0 -o -H newc --reproducible --owner=+0:+0 --quiet) >"$2"
}

make_base() { # FOLDER
    local r=$1/root name

    mkdir -p "$r"/{proc,sys,dev,tmp,run,out,etc,lab} \
        "$r"/usr/{bin,sbin,lib,lib64}
    for name in bin sbin lib lib64; do
        ln -s "usr/$name" "$r/$name"
    done
    copy_linked "$r" /bin/busybox /bin/kmod /bin/bash
    for name in $(busybox --list); do
        [[ -e $r/bin/$name ]] || ln -s busybox "$r/bin/$name"
    done
    for name in modprobe insmod rmmod lsmod modinfo depmod; do
        rm -f "$r/bin/$name"
        ln -s ../bin/kmod "$r/sbin/$name"
    done
    echo 'root:x:0:0:root:/:/bin/sh' >"$r/etc/passwd"
    echo 'root:x:0:' >"$r/etc/group"
    cp -r "$kernel/lib/modules" "$r/lib/modules"
    pack "$r" "$1/base.cpio"
    rm -rf "$r"
}

base_name() {
    cat "$kernel/release" "$here"/{kernel,image}.sh /bin/{busybox,kmod,bash} |
        sha256sum | sed 's/^\(.\{16\}\).*/base-\1/'
}

# For a POSIX shell, which has no $'...'.
quote() {
    printf "'%s' " "${@//\'/\'\\\'\'}"
}

copy_files() { # FOLDER
    local file to

    for file in "${files[@]}"; do
        to=$1$(realpath -m "${file##*:}")
        mkdir -p "$(dirname "$to")"
        cp -rLT "${file%:*}" "$to" || fail "cannot copy ${file%:*}"
        [[ -d $to ]] || copy_libraries "$1" "${file%:*}"
    done
}

copy_tree() { # FOLDER
    local file

    mkdir -p "$1$build" "$1$root"
    cp -r "$root/scripts" "$1$root/"
    for file in memvirt memvirt-tests; do
        [[ ! -x $build/$file ]] || copy_linked "$1" "$build/$file"
    done
    for guest in "$build"/guest*.elf; do
        [[ ! -e $guest ]] || cp "$guest" "$1$build/"
    done
}

make_image() { # ARCHIVE
    local r=$tmp/root base

    need cpio cpio
    need /bin/busybox busybox-static
    base=$(base_name)
    cached "$base" make_base
    mkdir -p "$r/lab"
    copy_tree "$r"
    copy_files "$r"
    [[ -z $with_perf ]] || copy_linked "$r" "$(command -v perf)"
    cp "$here/init" "$r/init"
    echo "$machine" >"$r/lab/machine"
    quote "${command[@]}" >"$r/lab/command"
    pack "$r" "$tmp/run.cpio"
    cat "$cache/$base/base.cpio" "$tmp/run.cpio" >"$1"
    rm -rf "$r" "$tmp/run.cpio"
}
