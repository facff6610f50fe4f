#!/bin/bash
# SPDX-License-Identifier: MIT
#
# usage: root.sh DEB DIRECTORY
#
# Makes the root file system of the guest: Debian 13, which lacks most of what the package depends on. That lies within
# as a repository, so that `apt-get install ./procwatchd.deb` has something to do and needs no network.
set -euo pipefail
deb=$1 directory=$2
# shellcheck source=packaging/lib.sh
. "$(dirname "$0")/../../packaging/lib.sh"

# What has many files to compile is there before, which a guest takes half a minute for.
# Its own files apart, mmdebstrap removes what apt left. The recorder's library is named in case it is but recommended.
# shellcheck disable=SC2016  # $1 is the directory, in a hook
mmdebstrap --quiet --mode=root --variant=minbase --format=directory --aptopt='Acquire::Languages "none"' \
    --include=systemd-sysv,dbus,python3-pydantic \
    --customize-hook='chroot "$1" apt-get clean' \
    --customize-hook="cp '$deb' \"\$1/wanted.deb\"" \
    --customize-hook='chroot "$1" apt-get -qq -y --no-install-recommends --download-only install /wanted.deb libbpf1' \
    --customize-hook='mkdir "$1/srv/packages" && mv "$1"/var/cache/apt/archives/*.deb "$1/srv/packages"' \
    --customize-hook='rm "$1/wanted.deb"' \
    trixie "$directory" "$(mirror)"

cd "$directory/srv/packages"
for package in *.deb; do
    dpkg-deb --field "$package"
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' \
        "$package" "$(stat -c %s "$package")" "$(sha256sum "$package" | cut -d' ' -f1)"
done >Packages
cd - >/dev/null
rm -f "$directory"/etc/apt/sources.list "$directory"/etc/apt/sources.list.d/*
echo 'deb [trusted=yes] file:/srv/packages ./' >"$directory/etc/apt/sources.list"
chroot "$directory" apt-get -qq update

# With an id, a boot is not the first one, at which systemd would enable what presets say.
chroot "$directory" systemd-machine-id-setup
# All there is to be done after an update was done.
touch "$directory/etc/.updated" "$directory/var/.updated"
echo guest >"$directory/etc/hostname"
install -m 644 tests/e2e/scenario.service "$directory/etc/systemd/system/"
ln -s ../scenario.service "$directory/etc/systemd/system/multi-user.target.wants/"
# What would run beside a scenario, now and then.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
    getty@tty1.service serial-getty@ttyS0.service serial-getty@ttyS1.service; do
    ln -s /dev/null "$directory/etc/systemd/system/$unit"
done
