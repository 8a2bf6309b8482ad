#!/bin/bash
# grow.sh TYPE LINUXDIR IMAGE: the disk of a PC, 8 GiB and sparse, whose last partition is for a larger disk to grow.
#
# TYPE is ext4, xfs or btrfs: the root of a Linux that reports itself; or ntfs: a "Windows" whose boot sector does.
# LINUXDIR holds vmlinuz and initrd (linux.sh). The table is an MBR for ext4 and ntfs, else a GPT. GRUB boots from an
# ext4 of its own. Needs root.
set -eu
here=$(dirname "$(realpath "$0")")
type=$1 linux=$(realpath "$2") image=$(realpath -m "$3")
work=$(mktemp -d -p "$(dirname "$image")") loop=
trap '[ -z "$loop" ] || { umount -q "$work/mnt" || true; losetup -d "$loop"; }; rm -rf "$work"' EXIT
. "$here/common.sh"
mib=2048 # sectors
sectors=$((8192 * mib)) boot=$((2 * mib)) last=$((66 * mib)) # the sectors of the partitions
uuid=$(sed -n "s/^$type //p" <<<'ext4 0b5e0021-1111-4a4a-8888-c10eca570021
xfs 0b5e0022-1111-4a4a-8888-c10eca570022
btrfs 0b5e0023-1111-4a4a-8888-c10eca570023
ntfs 3344556677889900')

truncate -s $((sectors * 512)) "$image"
case $type in
  ext4 | ntfs)
    length=$((sectors - last)) grub=(1 2000 '(hd0,msdos1)/grub' part_msdos)
    sfdisk -q "$image" <<TABLE
label: dos
label-id: 0xc10eca58
start=$boot, size=$((64 * mib)), type=83, bootable
start=$last, size=$length, type=$([ "$type" = ntfs ] && echo 7 || echo 83)
TABLE
    ;;
  *)
    length=$((sectors - last - mib)) grub=(34 2000 '(hd0,gpt2)/grub' part_gpt)
    sfdisk -q "$image" <<TABLE
label: gpt
label-id: C10ECA57-0000-4000-8000-0000000000FF
first-lba: 34
start=34, size=2014, type=21686148-6449-6E6F-744E-656564454649, uuid=C10ECA57-0000-4000-8000-000000000001
start=$boot, size=$((64 * mib)), type=L, uuid=C10ECA57-0000-4000-8000-000000000002
start=$last, size=$length, type=L, uuid=C10ECA57-0000-4000-8000-000000000003
TABLE
    ;;
esac

mkdir "$work/mnt" "$work/boot"
loop=$(losetup --find --show --offset $((last * 512)) --sizelimit $((length * 512)) "$image")
if [ "$type" = ntfs ]; then
  mkntfs -q -Q -F -p "$last" -H 255 -S 63 -L WINDOWS "$loop" >/dev/null 2>&1
  ntfslabel --new-serial="$uuid" "$loop" >/dev/null
  tree "$work/tree" 21 12 40
  fill_ntfs "$loop" "$work/tree"
  windows_boot_sector "$loop" "$length"
else
  case $type in
    ext4) mke2fs -q -t ext4 -U "$uuid" -m 1 -N 16384 "$loop" ;;
    xfs) mkfs.xfs -q -m uuid="$uuid" "$loop" ;;
    btrfs) mkfs.btrfs -q -U "$uuid" "$loop" >/dev/null ;;
  esac
  mount -t "$type" "$loop" "$work/mnt"
  tree "$work/mnt" 21 60 64
  userland "$work/mnt"
  umount "$work/mnt"
fi
losetup -d "$loop"; loop=

mkdir -p "$work/boot/grub/i386-pc"
cp "$linux/vmlinuz" "$linux/initrd" "$work/boot/"
cp /usr/lib/grub/i386-pc/*.{mod,lst} "$work/boot/grub/i386-pc/"
cat > "$work/boot/grub/grub.cfg" <<CFG
serial --unit=0 --speed=115200
terminal_output serial
set timeout=0
$(if [ "$type" = ntfs ]; then
  echo 'menuentry Windows { set root=(hd0,msdos2); chainloader +1; }'
else
  echo "menuentry Linux { linux /vmlinuz root=UUID=$uuid rootfstype=$type console=ttyS0 quiet panic=-1" \
    "no_timer_check; initrd /initrd; }"
fi)
CFG
truncate -s 64M "$work/p"
mke2fs -q -F -t ext4 -L boot -d "$work/boot" "$work/p"
dd if="$work/p" of="$image" bs=1M seek=$((boot / mib)) conv=notrunc,sparse status=none
grub_bios "$image" "${grub[@]}" ext2
