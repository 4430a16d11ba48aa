#!/bin/sh
# Tries the image for Kubernetes (`--target kube-proxy` of the Containerfile) in a root of its own: its base and
# its packages by mmdebstrap, its files, and what they are there for, `kube-proxy --cleanup`. As root, from the
# root of the workspace: sh packages/test-kube-proxy.sh FILES, which packages/image.sh has put together.
set -eu

say() { printf 'test-kube-proxy: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

work=$PWD/target/test-kube-proxy
if [ "${1:-}" != inside ]; then
    command -v mmdebstrap >/dev/null || fail "mmdebstrap is missing: apt-get install mmdebstrap"
    mkdir -p "$work"
    # What the Containerfile's stage installs, as it says it.
    packages=$(sed -n '/^FROM .* AS kube-proxy/,/^FROM scratch/p' Containerfile |
        sed -n 's/.*apt-get install -y --no-install-recommends \([^\\&]*\).*/\1/p' | xargs | tr ' ' ,)
    [ -n "$packages" ] || fail "the Containerfile installs nothing for kube-proxy"
    if [ "$(cat "$work/has" 2>/dev/null)" != "$packages" ]; then
        rm -rf "$work/new" "$work/base"
        mmdebstrap --quiet --variant=minbase --include="$packages" bookworm "$work/new" 2>"$work/mmdebstrap.log" ||
            fail "mmdebstrap failed: see $work/mmdebstrap.log"
        mv "$work/new" "$work/base"
        echo "$packages" >"$work/has"
    fi
    rm -rf "$work/root"
    cp -a "$work/base" "$work/root"
    cp -R "$1/." "$work/root"
    trap 'rm -rf "$work/root"' EXIT
    unshare --mount --net --pid --fork --kill-child sh "$0" inside "$work/root"
    exit
fi

root=$2
in_root() { chroot "$root" "$@"; }
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --bind /dev "$root/dev"
ip link set lo up

# As kube-proxy's modes leave them, and a chain of somebody else.
in_root nft 'table ip kube-proxy { chain services { counter; }; }'
for iptables in iptables-nft iptables-legacy; do
    for chain in KUBE-SERVICES OTHERS; do in_root $iptables -w -t nat -N $chain; done
    in_root $iptables -w -t nat -A OUTPUT -j KUBE-SERVICES
done
in_root /usr/local/sbin/lb-agent kube-proxy --cleanup || fail "--cleanup failed"
in_root nft list tables | grep -q 'ip kube-proxy' && fail "the table of nftables is still there"
for iptables in iptables-nft iptables-legacy; do
    left=$(in_root $iptables -w -t nat -S)
    case $left in *KUBE-SERVICES*) fail "$iptables still has: $left" ;; esac
    case $left in *OTHERS*) ;; *) fail "$iptables has lost what is not kube-proxy's: $left" ;; esac
done
in_root /usr/local/bin/lbctl --version
say "the image cleans up after kube-proxy"
