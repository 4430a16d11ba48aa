#!/bin/sh
# Tries the image's files, and nothing else, as a root of their own: what `COPY` of the Containerfile puts into
# the image that is `FROM scratch`. As root, from the root of the workspace: sh packages/test-image.sh FILES,
# which packages/image.sh has put together.
set -eu

say() { printf 'test-image: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

work=$PWD/target/test-image
if [ "${1:-}" != inside ]; then
    rm -rf "$work"
    mkdir -p "$work/root"
    # The Containerfile's last stage, line by line.
    sed -n '/^FROM scratch/,$p' Containerfile | sed -n 's|^COPY --from=build ||p' >"$work/copied"
    [ -s "$work/copied" ] || fail "the Containerfile copies nothing"
    while read -r from to; do
        mkdir -p "$work/root$to"
        case $from in
            /src/target/static/) cp -R "$1/." "$work/root$to" ;;
            *) cp "$from" "$work/root$to" ;;
        esac
    done <"$work/copied"
    for program in usr/local/sbin/lb-agent usr/local/bin/lbctl; do
        if ldd "$work/root/$program" >/dev/null 2>&1 && ! ldd "$work/root/$program" 2>&1 | grep -q 'statically linked'; then
            fail "$program needs shared libraries"
        fi
    done
    cgroup=$(mktemp -d "$(findmnt -n -o TARGET -t cgroup2 | head -n 1)/lb-test-image-XXXXXX")
    pins=/sys/fs/bpf/lb-test-image-$$
    trap 'rm -rf "$pins"; rmdir "$cgroup"; rm -rf "$work/root"' EXIT
    unshare --mount --net --pid --fork --kill-child sh -c \
        'echo 0 > "$3/cgroup.procs"; exec sh "$1" inside "$2" "$3" "$4"' sh "$0" "$work/root" "$cgroup" "$pins"
    exit
fi

root=$2 cgroup=$3 pins=$4
# What an engine mounts, and the volumes that the Containerfile names.
mkdir -p "$root/proc" "$root/sys" "$root/run/lb-agent" "$root/var/lib/lb-agent" "$root/tmp"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
ip link set lo up
ip address add 10.0.0.5/32 dev lo
agent() { chroot "$root" /usr/local/sbin/lb-agent "$@"; }
lbctl() { chroot "$root" /usr/local/bin/lbctl "$@"; }

agent --version
agent check -c /etc/lb-agent/lb-agent.yaml
cat >"$root/etc/lb-agent/lb-agent.yaml" <<'END'
services:
  - name: web
    frontends: ["10.96.0.10:80"]
    backends: ["10.0.0.5:8080"]
END
# Not by the function: the process to signal would be a shell.
chroot "$root" /usr/local/sbin/lb-agent run -c /etc/lb-agent/lb-agent.yaml --cgroup "$cgroup" --pin-dir "$pins" 2>"$work/agent.log" &
agent=$!
tries=0
until [ "$(lbctl status -o name 2>/dev/null)" = serving ]; do
    tries=$((tries + 1))
    kill -0 "$agent" 2>/dev/null && [ $tries -lt 600 ] || { cat "$work/agent.log" >&2; fail "the agent is not ready"; }
    sleep 0.05
done
perl -MIO::Socket::INET -e '
    my $door = IO::Socket::INET->new(LocalAddr => "10.0.0.5:8080", Listen => 1) or die "listen: $!";
    my $dial = IO::Socket::INET->new(PeerAddr => "10.96.0.10:80", Timeout => 5) or die "connect: $!";
    $door->accept or die "accept: $!";
    print "connected to ", $dial->peerhost, ":", $dial->peerport, "\n";' || fail "a connect was not translated"
kill "$agent"
wait "$agent" || { cat "$work/agent.log" >&2; fail "the agent did not stop well"; }
agent detach --pin-dir "$pins"
say "the image's files are enough: $(cd "$root" && find usr etc -type f | tr '\n' ' ')"
