# Becomes systemd, the first process of a host of its own: all namespaces are new by now. What it writes goes to
# memory below $1, of the devices it has a few, and $2 is put over its root first.
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 memory "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
root=$1/root
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t bpf bpf "$root/sys/fs/bpf"
for directory in run tmp dev var/tmp; do
    mount -t tmpfs -o mode=755 memory "$root/$directory"
done
chmod 1777 "$root/tmp" "$root/var/tmp"
mkdir "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
for device in null zero full random urandom tty; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
rm -rf "$root/var/log/journal" "$root/var/lib/lb-agent"
cp -a "$2/." "$root/"
if ! grep -q ^lb-agent: /etc/passwd; then
    echo 'lb-agent:x:64999:64999::/var/lib/lb-agent:/usr/sbin/nologin' >> "$root/etc/passwd"
    echo 'lb-agent:x:64999:' >> "$root/etc/group"
fi
ip link set lo up
cd "$root"
pivot_root . mnt
umount -l /mnt
exec env -i container=lb PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=lb.target
