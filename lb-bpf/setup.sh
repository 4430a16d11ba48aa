#!/bin/sh
# Finds or installs what the build and the tests need. Quick when nothing is missing. With `kernels` as
# its argument, also what it takes to boot other kernels; with `packages`, to make and try packages; with
# `benchmark`, what is measured beside ours in another kernel.
#
# The kernel side needs a Rust compiler with the sources of `core`, and a bpf-linker that was built
# for that compiler's LLVM. Debian serves a matching set; rustup's nightly with rust-src is another.
set -eu

BPF_LINKER_VERSION=0.13.0
CARGO_DEB_VERSION=3.8.0
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"

say() { printf 'setup: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

# Is this rustc accompanied by the sources of core?
has_sources() {
    sysroot=$("$1" --print sysroot 2>/dev/null) || return 1
    [ -e "$sysroot/lib/rustlib/src/rust/library/core/src/lib.rs" ]
}

nightly_can() {
    have rustup && nightly=$(rustup which --toolchain nightly rustc 2>/dev/null) && has_sources "$nightly"
}

system_can() {
    [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] && has_sources /usr/bin/rustc
}

apt_install() {
    if ! have apt-get; then
        say "missing: $*. This is no Debian; install them by hand (README.md, section Building)."
        exit 1
    fi
    say "installing with apt-get: $*"
    as_root=
    [ "$(id -u)" = 0 ] || as_root=sudo
    # An old package list names versions that are gone; a fresh one costs seconds.
    $as_root apt-get update -qq
    # The tests start etcd and the like themselves; as services of this host nobody asked for them.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
        $as_root chmod 755 "$policy"
        # shellcheck disable=SC2064 # as they are now
        trap "$as_root rm -f $policy" EXIT
    fi
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null || {
        say "apt-get could not install these. rustc-web and llvm-22-dev come from Debian's security archive: is" \
            "bookworm-security among the sources in /etc/apt?"
        exit 1
    }
}

packages=
need() { have "$1" || packages="$packages $2"; }
need cc gcc
# Cargo fetches by https.
[ -e /etc/ssl/certs/ca-certificates.crt ] || packages="$packages ca-certificates"
need ip iproute2
need nsenter util-linux
# Knows which system calls the sets of a unit's filter have.
need systemd-analyze systemd
# The etcd client is generated from its protocol's definition; its tests use the real thing.
need protoc protobuf-compiler
[ -e /usr/include/google/protobuf/descriptor.proto ] || packages="$packages libprotobuf-dev"
need etcd etcd-server
need etcdctl etcd-client
need dig bind9-dnsutils
# What the documentation types.
need curl curl
# What kube-proxy leaves behind is made and removed with these.
need nft nftables
need iptables-nft iptables
# Lists and applies against the API server of the tests.
need kubectl kubernetes-client
# A clock that jumps.
need faketime faketime
# What people look at is looked at: the status page in a browser, `lbctl top` in a terminal.
need chromium chromium
need tmux tmux
# It reads the metrics, and the examples that are made for it.
need prometheus prometheus
if [ "${1:-}" = benchmark ]; then
    need ipvsadm ipvsadm
fi
if [ "${1:-}" = kernels ] || [ "${1:-}" = benchmark ]; then
    need qemu-system-x86_64 qemu-system-x86
    need cpio cpio
    need modprobe kmod
    need xz xz-utils
    need strip binutils
fi
if [ "${1:-}" = packages ]; then
    need mmdebstrap mmdebstrap
    need strip binutils
    need dpkg-shlibdeps dpkg-dev
fi
have cargo || packages="$packages cargo-web rustc-web"
if ! nightly_can && ! system_can; then
    packages="$packages rustc-web cargo-web rust-web-src"
fi
if ! have bpf-linker && ! nightly_can && [ ! -d /usr/lib/llvm-22/include ]; then
    packages="$packages llvm-22-dev"
fi
# shellcheck disable=SC2086 # a list of words
[ -z "$packages" ] || apt_install $packages

if ! have bpf-linker; then
    say "building bpf-linker $BPF_LINKER_VERSION (about a minute)"
    # As build.rs chooses: a nightly that can is preferred, and brings its own LLVM.
    if ! nightly_can && [ -d /usr/lib/llvm-22/include ]; then
        LLVM_PREFIX=/usr/lib/llvm-22 cargo install --quiet --locked bpf-linker \
            --version "$BPF_LINKER_VERSION" --no-default-features --features llvm-22
    else
        cargo install --quiet --locked bpf-linker --version "$BPF_LINKER_VERSION"
    fi
fi

if [ "${1:-}" = packages ] && ! have cargo-deb; then
    say "building cargo-deb $CARGO_DEB_VERSION (about two minutes)"
    cargo install --quiet --locked cargo-deb --version "$CARGO_DEB_VERSION"
fi
