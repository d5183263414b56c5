# Shared by the scripts: source it, do not run it.
# shellcheck shell=bash

repo_root() { cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd; }

say() { printf '\n== %s\n' "$*"; }

# Runs a command as root: directly, or through sudo where that asks no password.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo "$@"
    else
        return 1
    fi
}

# The packages that a fresh Debian lacks, one a line: "package probe", where the probe is a command,
# or a file if it starts with a slash.
debian_packages() {
    local multiarch
    multiarch="$(uname -m)-linux-gnu"
    cat <<EOP
gcc gcc
g++ g++
make make
m4 m4
pkg-config pkg-config
clang clang
llvm llvm-strip
iproute2 tc
ethtool ethtool
libelf-dev /usr/include/libelf.h
zlib1g-dev /usr/include/zlib.h
libbpf-dev /usr/include/bpf/bpf_helpers.h
linux-libc-dev /usr/include/linux/bpf.h
libc6-dev /usr/include/$multiarch/asm/types.h
libhwloc-dev /usr/include/hwloc.h
libudev-dev /usr/include/libudev.h
chromium chromium
valgrind valgrind
EOP
}

# Installs what is missing. Quick and silent when nothing is; where it cannot install, it says what
# is missing and goes on: the tests that need it report that they are skipped.
install_missing() {
    local package probe missing=()
    while read -r package probe; do
        case $probe in
            /*) [ -e "$probe" ] || missing+=("$package") ;;
            *) PATH="$PATH:/usr/sbin:/sbin" command -v "$probe" >/dev/null || missing+=("$package") ;;
        esac
    done < <(debian_packages)
    [ ${#missing[@]} = 0 ] && return 0
    if ! command -v apt-get >/dev/null; then
        echo "missing here (names of the Debian packages): ${missing[*]}" >&2
        return 0
    fi
    echo "installing ${missing[*]}" >&2
    # shellcheck disable=SC2016
    if ! as_root env DEBIAN_FRONTEND=noninteractive sh -c \
        'apt-get install -yqq "$@" || { apt-get update -qq && apt-get install -yqq "$@"; }' \
        sh "${missing[@]}" >/dev/null 2>"${TMPDIR:-/tmp}/ctp96-apt.log"; then
        echo "could not install: ${missing[*]} (needs root or sudo without a password;" \
            "see ${TMPDIR:-/tmp}/ctp96-apt.log)" >&2
    fi
    return 0
}
