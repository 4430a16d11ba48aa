#!/bin/sh
# `make install` and `make uninstall`, below DESTDIR and on this host, or rather on a copy of its files that nobody
# else sees. As root, from the root of the workspace, after `lb-agent documents target/documents`:
# sh packages/test-install.sh DIRECTORY-OF-PROGRAMS
set -eu

say() { printf 'test-install: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

[ "${2:-}" = inside ] || exec unshare --mount sh "$0" "$1" inside
work=$(mktemp -d)
# The mounts end with the namespace.
trap 'umount -l "$work"; rmdir "$work"' EXIT
# What is laid over / can't lie below it.
mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
mount -t proc proc "$work/root/proc"
mount --bind /dev "$work/root/dev"
# It may be a mount of its own, which the copy of / does not show.
mkdir -p "$work/root$PWD"
mount --bind "$PWD" "$work/root$PWD"
programs=$1
in_root() { chroot "$work/root" "$@"; }
# As people type it, but for what was built already.
make() { in_root env -u MAKEFLAGS -u MAKELEVEL make -s -C "$PWD" -o documents BUILT="$programs" "$@" >/dev/null; }
changed() { (cd "$work/upper" && find . ! -type d | sort); }

in_root sh -c '! getent passwd lb-agent >/dev/null || userdel lb-agent'
make install DESTDIR=/tmp/destdir PREFIX=/usr
for file in usr/sbin/lb-agent usr/bin/lbctl usr/share/man/man8/lb-agent.8 usr/share/lb-agent/configuration.schema.json \
    usr/lib/systemd/system/lb-agent.service etc/lb-agent/lb-agent.yaml; do
    [ -e "$work/upper/tmp/destdir/$file" ] || fail "below DESTDIR there is no $file"
done
elsewhere=$(changed | grep 'lb-agent\|lbctl' | grep -v '^./tmp/destdir/' || true)
[ -z "$elsewhere" ] || fail "with DESTDIR it wrote $elsewhere"
in_root getent passwd lb-agent >/dev/null && fail "with DESTDIR it made a user on this host"
in_root rm -rf /tmp/destdir

make install
in_root getent passwd lb-agent >/dev/null || fail "there is no user for the unit"
in_root lb-agent --version
in_root lb-agent check -c /etc/lb-agent/lb-agent.yaml
in_root systemd-analyze verify /usr/local/lib/systemd/system/lb-agent.service || fail "the unit is no good"
make uninstall
left=$(changed | grep lb-agent | tr '\n' ' ')
[ "$left" = "./etc/lb-agent/lb-agent.yaml " ] || fail "it left $left"
say "installed and removed"
