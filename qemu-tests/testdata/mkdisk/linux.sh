#!/bin/bash
# linux.sh KERNEL.deb OUTDIR: the kernel and initramfs of the Linux on the test disk.
#
# Makes OUTDIR/vmlinuz and OUTDIR/initrd from a Debian kernel package and busybox-static. The initramfs loads the
# drivers of the disk, mounts root=UUID=… and hands over to /sbin/init there, as any distribution's does: what reports
# itself in the end is a program read from the root file system.
set -eu
deb=$(realpath "$1") out=$2
drivers='virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk
  scsi_common scsi_mod sd_mod libata libahci ahci crc32c_generic'
declare -A filesystems=(
  [ext4]='crc16 mbcache jbd2 ext4'
  [xfs]='libcrc32c xfs'
  [btrfs]='libcrc32c raid6_pq xor blake2b_generic xxhash_generic btrfs')
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work"/root/{bin,modules,dev,proc,sys,mnt}

patterns=('./boot/vmlinuz-*')
for m in $drivers ${filesystems[*]}; do patterns+=("*/$m.ko" "*/$m.ko.xz" "*/${m//_/-}.ko" "*/${m//_/-}.ko.xz"); done
dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work" --wildcards "${patterns[@]}" 2>/dev/null || true
cp "$work"/boot/vmlinuz-* "$out/vmlinuz"
find "$work" -path "$work/root" -prune -o -name '*.ko.xz' -exec xz -d {} +
find "$work" -path "$work/root" -prune -o -name '*.ko' -exec cp {} "$work/root/modules/" \;

cp /bin/busybox "$work/root/bin/"
cat > "$work/root/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev; $b mount -t proc proc /proc; $b mount -t sysfs sys /sys
type=ext4
for word in $($b cat /proc/cmdline); do
  case $word in
    root=UUID=*) uuid=${word#root=UUID=};;
    rootfstype=*) type=${word#rootfstype=};;
  esac
done
for m in $($b cat /modules/drivers /modules/$type); do $b insmod /modules/$m; done
# The busybox has no blkid: this is where a superblock has its UUID, in words of 4 bytes from the partition's start.
case $type in ext4) place=282;; xfs) place=8;; btrfs) place=16392;; esac
uuid_of() { $b dd if=$1 bs=4 skip=$place count=4 2>/dev/null | $b hexdump -v -e '16/1 "%02x"'; }
for try in 1 2 3 4 5 6 7 8 9 10; do
  for dev in /dev/[vs]d??*; do [ "$(uuid_of $dev)" = "$(echo $uuid | $b tr -d -)" ] && root=$dev && break 2; done
  $b sleep 1
done
[ -n "$root" ] || { echo "NO-ROOT $uuid"; $b poweroff -f; }
$b mount -t $type -o ro "$root" /mnt || { echo "ROOT-NOT-MOUNTED $root"; $b poweroff -f; }
$b mount -o move /dev /mnt/dev; $b mount -o move /proc /mnt/proc; $b mount -o move /sys /mnt/sys
exec $b switch_root /mnt /sbin/init "$root" "$uuid"
INIT
order() { # the module files that there are, in the order of the names
  local m; for m; do (cd "$work/root/modules"; ls "$m.ko" "${m//_/-}.ko" 2>/dev/null | head -n 1); done
}
order $drivers > "$work/root/modules/drivers"
for type in "${!filesystems[@]}"; do order ${filesystems[$type]} > "$work/root/modules/$type"; done
chmod 755 "$work/root/init"
(cd "$work/root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 | gzip -1) > "$out/initrd"
