#!/bin/sh
# Finds or installs what the build needs, and what its arguments name. Quick when nothing is missing.
#
#   tests       what the tests run, or look at ours with
#   kernels     to boot other kernels, with the tests or without
#   others      what is measured beside ours
#   benchmark   the same in another kernel
#   packages    to make packages
#   fuzz        to fuzz without end
#
# The kernel side needs a Rust compiler with the sources of `core`, and a bpf-linker that was built
# for that compiler's LLVM. Debian serves a matching set; rustup's nightly with rust-src is another.
set -eu

BPF_LINKER_VERSION=0.13.0
CARGO_DEB_VERSION=3.8.0
CARGO_FUZZ_VERSION=0.13.2
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
    if [ "$(id -u)" != 0 ]; then
        as_root=sudo
        have sudo || { say "there is no sudo: run this once as root"; exit 1; }
    fi
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

wanted=" $* "
for argument in "$@"; do
    case $argument in
    tests | kernels | others | benchmark | packages | fuzz) ;;
    *)
        say "unknown argument \`$argument\`; there are tests, kernels, others, benchmark, packages and fuzz"
        exit 64
        ;;
    esac
done
# Is one of these among the arguments?
wants() {
    for name in "$@"; do
        case $wanted in *" $name "*) return 0 ;; esac
    done
    return 1
}

packages=
need() { have "$1" || packages="$packages $2"; }
need cc gcc
# Cargo fetches by https.
[ -e /etc/ssl/certs/ca-certificates.crt ] || packages="$packages ca-certificates"
# The etcd client is generated from its protocol's definition.
need protoc protobuf-compiler
[ -e /usr/include/google/protobuf/descriptor.proto ] || packages="$packages libprotobuf-dev"
# Networks of tests, soaks and benchmarks are made with it; every Linux has it, but for containers.
need ip iproute2
if wants tests; then
    # What the etcd client talks to is the real thing.
    need etcdctl etcd-client
    need dig bind9-dnsutils
    # What the documentation types.
    need curl curl
    # Lists and applies against the API server of the tests.
    need kubectl kubernetes-client
    # A clock that jumps.
    need faketime faketime
    # What people look at is looked at: the status page in a browser, `lbctl top` in a terminal.
    need chromium chromium
    need tmux tmux
    # It reads the metrics, and the examples that are made for it.
    need prometheus prometheus
    # Roots of a Debian of their own, for packages.
    need mmdebstrap mmdebstrap
fi
if wants tests others; then
    need etcd etcd-server
fi
if wants tests kernels others benchmark; then
    # What kube-proxy leaves behind, and what it does, is made with these.
    need nft nftables
    need iptables-nft iptables
fi
if wants tests kernels benchmark; then
    need nsenter util-linux
    # Knows which system calls the sets of a unit's filter have.
    need systemd-analyze systemd
fi
if wants benchmark; then
    need ipvsadm ipvsadm
fi
if wants kernels benchmark; then
    need qemu-system-x86_64 qemu-system-x86
    need cpio cpio
    need modprobe kmod
    need xz xz-utils
fi
if wants kernels benchmark packages; then
    need strip binutils
fi
if wants packages; then
    need dpkg-shlibdeps dpkg-dev
fi
if wants fuzz; then
    need c++ g++
fi
if ! nightly_can && ! system_can; then
    packages="$packages rustc-web cargo-web rust-web-src"
elif ! have cargo; then
    packages="$packages rustc-web cargo-web"
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

if wants packages && ! have cargo-deb; then
    say "building cargo-deb $CARGO_DEB_VERSION (about two minutes)"
    cargo install --quiet --locked cargo-deb --version "$CARGO_DEB_VERSION"
fi

if wants fuzz && ! have cargo-fuzz; then
    say "building cargo-fuzz $CARGO_FUZZ_VERSION (about a minute)"
    cargo install --quiet --locked cargo-fuzz --version "$CARGO_FUZZ_VERSION"
fi
