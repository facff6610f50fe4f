# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# Clean root file systems of Debian 13: each is made once, kept as a tar in the cache, and unpacked anew to be used.

cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
umask 022
# What fails within $(…) fails.
shopt -s inherit_errexit
cache=${CACHE:-.cache}/deb
mkdir -p "$cache"

# Where this machine gets Debian from: it may have a mirror of its own.
mirror() {
    local sites
    # shellcheck disable=SC2016  # apt's own
    sites=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian')
    sites=$(grep -E -m 1 '^https?://' <<<"$sites") || sites=https://deb.debian.org/debian
    echo "$sites"
}

# rootfs NAME VARIANT PACKAGE...: the tar of a Debian that has these packages.
rootfs() {
    local tar
    tar=$cache/$1-$(sha256sum <<<"$*" | cut -c 1-12).tar
    (
        flock 9
        [ ! -e "$tar" ] || exit 0
        echo "making a root file system to $1 in" >&2
        rm -f "$cache/$1-"*
        mmdebstrap --quiet --format=tar --variant="$2" --include="${*:3}" trixie "$tar.half" "$(mirror)" >&2
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
