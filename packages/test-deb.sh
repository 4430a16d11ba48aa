#!/bin/sh
# Tries the Debian package in a Debian 12 of its own (mmdebstrap) in namespaces of its own: it installs
# without systemd; an upgrade loses neither a connection nor a connect; a purge leaves nothing.
# As root, from the root of the workspace: sh packages/test-deb.sh PACKAGE
set -eu

say() { printf 'test-deb: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

work=$PWD/target/test-deb
if [ "${1:-}" != inside ]; then
    package=$1
    command -v mmdebstrap >/dev/null || fail "mmdebstrap is missing: apt-get install mmdebstrap"
    mkdir -p "$work"
    if [ ! -e "$work/base" ]; then
        rm -rf "$work/new"
        # What every Debian has, and who makes users.
        mmdebstrap --quiet --variant=essential --include=passwd bookworm "$work/new" 2>"$work/mmdebstrap.log" ||
            fail "mmdebstrap failed: see $work/mmdebstrap.log"
        mv "$work/new" "$work/base"
    fi
    # This one, and the same as a later version.
    rm -rf "$work/root" "$work/later"
    cp -a "$work/base" "$work/root"
    dpkg-deb -R "$package" "$work/later"
    sed -i 's/^Version: .*/Version: 9.9.9-1/' "$work/later/DEBIAN/control"
    dpkg-deb -Zgzip -z1 -b "$work/later" "$work/root/later.deb" >/dev/null
    cp "$package" "$work/root/first.deb"
    cgroup=$(mktemp -d "$(findmnt -n -o TARGET -t cgroup2 | head -n 1)/lb-test-deb-XXXXXX")
    pins=/sys/fs/bpf/lb-test-deb-$$
    trap 'rm -rf "$pins"; rmdir "$cgroup"; rm -rf "$work/root" "$work/later"' EXIT
    # The shell inside is in the cgroup, with all that it starts; it ends before the directory goes.
    unshare --mount --net --pid --fork --kill-child sh -c \
        'echo 0 > "$3/cgroup.procs"; exec sh "$1" inside "$2" "$3" "$4"' \
        sh "$0" "$work/root" "$cgroup" "$pins"
    exit
fi

root=$2 cgroup=$3 pins=$4
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
# Its own: the package detaches what is pinned in the usual place.
mount -t bpf bpf "$root/sys/fs/bpf"
mount --bind /dev "$root/dev"
ip link set lo up
ip address add 10.0.0.5/32 dev lo
in_root() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
# Without what those who change users keep of /etc/passwd and the like.
files() { (cd "$root" && find . -xdev -path ./tmp -prune -o -path ./proc -prune -o -path ./sys -prune -o -path ./dev -prune -o -print | grep -v '^./var/lib/dpkg\|^./var/log\|^./var/cache\|^./dial\|^./etc/g\?shadow-$\|^./etc/\(passwd\|group\)-$' | sort); }
agent() {
    # Not by the function: the process to signal would be a shell.
    chroot "$root" /usr/sbin/lb-agent run -c /etc/lb-agent/lb-agent.yaml --cgroup "$cgroup" --pin-dir "$pins" >>"$root/tmp/agent.log" 2>&1 &
    agent=$!
    tries=0
    until [ "$(in_root lbctl status -o name 2>/dev/null)" = serving ]; do
        tries=$((tries + 1))
        kill -0 "$agent" 2>/dev/null && [ $tries -lt 600 ] || { cat "$root/tmp/agent.log" >&2; fail "the agent is not ready"; }
        sleep 0.05
    done
}

files >"$root/tmp/before"
in_root dpkg -i /first.deb >"$root/tmp/dpkg.log" 2>&1 || { cat "$root/tmp/dpkg.log" >&2; fail "it does not install"; }
for file in usr/sbin/lb-agent usr/bin/lbctl etc/lb-agent/lb-agent.yaml lib/systemd/system/lb-agent.service \
    usr/share/man/man8/lb-agent.8.gz usr/share/man/man1/lbctl-service-apply.1.gz \
    usr/share/bash-completion/completions/lbctl usr/share/zsh/vendor-completions/_lbctl \
    usr/share/fish/vendor_completions.d/lbctl.fish usr/share/lb-agent/configuration.schema.json usr/share/doc/lb-agent/copyright; do
    [ -e "$root/$file" ] || [ -e "$root/usr/$file" ] || fail "it has no $file"
done
in_root getent passwd lb-agent | grep -q ':/var/lib/lb-agent:/usr/sbin/nologin$' || fail "there is no user for the unit"
# Whoever reports a fault names what it is of.
commit=${LB_COMMIT:-$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)}
said=$(in_root lb-agent --version)
printf '%s\n' "$said" | grep -Eq "\(commit $commit(-dirty)?, table layout [0-9]+\)\$" || fail "of commit $commit, --version says $said"
in_root lb-agent check -c /etc/lb-agent/lb-agent.yaml

cat >"$root/etc/lb-agent/lb-agent.yaml" <<'END'
services:
  - name: echo
    frontends: ["10.96.0.10:80"]
    backends: ["10.0.0.5:8080"]
END
cat >"$root/tmp/echo.pl" <<'END'
use IO::Socket::INET;
$SIG{CHLD} = 'IGNORE';
my $door = IO::Socket::INET->new(LocalAddr => '10.0.0.5:8080', Listen => 100, ReuseAddr => 1) or die "listen: $!";
while (my $call = $door->accept) {
    next if fork;
    while (my $line = <$call>) { print $call $line; $call->flush }
    exit;
}
END
# One connection that stays, and new ones all the time; a line for whatever fails.
cat >"$root/tmp/dial.pl" <<'END'
use IO::Socket::INET;
my ($until, $counted) = @ARGV;
sub dial { IO::Socket::INET->new(PeerAddr => '10.96.0.10:80', Timeout => 5) }
sub ask { my ($call) = @_; print $call "x\n"; $call->flush; my $line = <$call>; defined $line && $line eq "x\n" }
my $old = dial() or die "connect: $!";
my ($connects, $failed) = (0, 0);
until (-e $until) {
    ask($old) or die "the old connection is lost";
    my $new = dial();
    $failed++ unless $new && ask($new);
    $connects++;
    # How many there were by now, for those who wait for some; never seen half written.
    open(my $file, '>', "$counted.new") or die "$counted.new: $!";
    print $file "$connects\n";
    close $file;
    rename("$counted.new", $counted) or die "$counted: $!";
}
print "$connects connects, $failed failed\n";
exit($failed || $connects < 10 ? 1 : 0);
END
in_root perl /tmp/echo.pl &
agent
first=$agent
in_root perl /tmp/dial.pl /dialled /dial.count >"$root/tmp/dial.log" 2>&1 &
dial=$!
# Waits for as many connects more.
connects() {
    seen=$(cat "$root/dial.count" 2>/dev/null || echo 0)
    wanted=$((seen + $1)) tries=0
    until [ "$(cat "$root/dial.count" 2>/dev/null || echo 0)" -ge "$wanted" ]; do
        tries=$((tries + 1))
        kill -0 "$dial" 2>/dev/null && [ $tries -lt 600 ] || { cat "$root/tmp/dial.log" >&2; fail "nothing connects"; }
        sleep 0.05
    done
}
# By then the old connection is there, too.
connects 10
in_root dpkg -i /later.deb >"$root/tmp/dpkg.log" 2>&1 || { cat "$root/tmp/dpkg.log" >&2; fail "it does not upgrade"; }
grep -q 'services: \[\]' "$root/etc/lb-agent/lb-agent.yaml" && fail "the upgrade replaced the configuration"
# What systemd does after an upgrade: stop the old agent, start the new one.
kill "$first"
wait "$first" || fail "the old agent did not stop well"
agent
[ "$agent" != "$first" ] || fail "no new agent"
# Some by the new agent's tables.
connects 10
touch "$root/dialled"
wait "$dial" || { cat "$root/tmp/dial.log" >&2; fail "the upgrade cost connections"; }
say "upgrade: $(cat "$root/tmp/dial.log")"

kill "$agent"
wait "$agent" || fail "the agent did not stop well"
# The test's pins are not where the package looks; a stopped agent's are what detach is for.
in_root lb-agent detach --pin-dir "$pins"
in_root dpkg --purge lb-agent >"$root/tmp/dpkg.log" 2>&1 || { cat "$root/tmp/dpkg.log" >&2; fail "it does not purge"; }
grep -i 'warning' "$root/tmp/dpkg.log" && fail "the purge complains"
! in_root getent passwd lb-agent >/dev/null || fail "the purge left the user"
rm -f "$root/dialled" "$root/dial.count"
files >"$root/tmp/after"
diff "$root/tmp/before" "$root/tmp/after" >&2 || fail "the purge left something"
say "installed, upgraded, purged"
