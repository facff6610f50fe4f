# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# What the scripts that build and try packages share: the sources as they lie here, and clean root file systems of
# Debian, each made once a month, kept as a tar in the cache, and unpacked anew to be used.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
umask 022
# What fails within $(…) fails.
shopt -s inherit_errexit
cache=$PWD/.cache/roots
# How the names of Debian's packages of this version begin.
# shellcheck disable=SC2034  # for those who read this in
package=procwatchd_$(sed -n '1s/.*(\(.*\)).*/\1/p' debian/changelog)

# What git ignores is none of them. An sdist that was unpacked has no git.
sources() {
    if [ -e .git ]; then
        git -c safe.directory='*' ls-files -z --cached --others --exclude-standard
    else
        find . -type f ! -name '*.py[co]' ! -name '*.bpf.o' -printf '%P\0'
    fi | grep -z -v -E '^\.|^(build|dist|[^/]+\.egg-info)/|^PKG-INFO$' | present
}

# Git lists files that somebody removed until that is committed.
present() {
    while IFS= read -r -d '' file; do
        [ ! -e "$file" ] || printf '%s\0' "$file"
    done
}

# Where this machine gets Debian from: it may have a mirror of its own.
mirror() {
    local sites
    # shellcheck disable=SC2016  # apt's own
    sites=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian')
    sites=$(grep -E -m 1 '^https?://' <<<"$sites") || sites=https://deb.debian.org/debian
    echo "$sites"
}

# rootfs NAME SUITE VARIANT PACKAGE...: the tar of a Debian that has these packages.
rootfs() {
    local tar
    tar=$cache/$1-$(date +%Y-%m)-$(sha256sum <<<"$*" | cut -c 1-12).tar
    mkdir -p "$cache"
    (
        flock 9
        [ ! -e "$tar" ] || exit 0
        echo "making a root file system to $1 in" >&2
        rm -f "$cache/$1-"*
        mmdebstrap --quiet --format=tar --variant="$3" --include="${*:4}" "$2" "$tar.half" "$(mirror)" >&2
        mv "$tar.half" "$tar"
    ) 9>"$cache/lock"
    echo "$tar"
}

# unpack TAR: a new directory that has it, gone when the script ends.
unpack() {
    root=$(mktemp -d "$cache/root.XXXXXX")
    trap 'rm -rf --one-file-system "$root"' EXIT
    tar -x --numeric-owner -f "$1" -C "$root"
}

# inside USER COMMAND...: runs it in what was unpacked, without a network and without sight of what runs elsewhere.
inside() {
    # shellcheck disable=SC2016  # for the other bash
    unshare --mount --pid --fork --kill-child --ipc --uts --net --mount-proc="$root/proc" \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8 \
        DEB_BUILD_OPTIONS="${DEB_BUILD_OPTIONS:-}" "$BASH" -euc \
        'mount -t devpts -o newinstance,ptmxmode=666 devpts "$1/dev/pts"; chroot --userspec="$2" "$1" "${@:3}"' \
        inside "$root" "$@"
}
