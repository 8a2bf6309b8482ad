#!/bin/bash
# dualboot.sh FIRST LINUXDIR IMAGE: a PC's disk with two systems, made as an installer would make it.
#
# FIRST is the first partition's first sector: 2048 (today) or 63 (DOS tracks, as Windows XP left them); the same
# distance lies between each EBR and its logical partition. LINUXDIR holds vmlinuz and initrd (linux.sh).
#
#   1  NTFS      "Windows": its boot sector reports itself on the serial port
#   2  extended
#   5  ext4      the Linux root: GRUB's files, kernel, initramfs; its /sbin/init reports itself
#   6  swap      7  FAT32      8  ext4     9  ext3    10  ext2
#  11  NTFS     12  FAT16     13  FAT12   14  ext4 with 1 KiB blocks     15  unformatted
#
# GRUB (MBR and gap) boots Linux, or Windows when the PC's chassis asset tag is "windows": so a test chooses the
# system without a change to the disk. All free space holds the stream of filler.pl. UUIDs and serials are fixed.
set -eu
here=$(dirname "$(realpath "$0")")
first=$1 linux=$(realpath "$2") image=$(realpath -m "$3")
work=$(mktemp -d -p "$(dirname "$image")"); trap 'rm -rf "$work"' EXIT
mib=2048 # sectors
. "$here/common.sh"

#      number type MiB seed
table='1 7 128 101
5 83 96 105
6 82 16 106
7 c 40 107
8 83 48 108
9 83 24 109
10 83 24 110
11 7 24 111
12 e 16 112
13 1 4 113
14 83 16 114
15 83 4 115'

# start N: the partition's first sector. The extended partition begins right behind partition 1.
start() {
  awk -v n="$1" -v f="$first" '
    $1 == 1 {
      at = f
      if (n == 1) { print at; exit }
      at += $3 * 2048
      if (f == 63) at += 63 - at % 63; else at += (2048 - at % 2048) % 2048
      next
    }
    {
      if (n == "extended") { print at; exit }
      if (n == $1) { print at + f; exit }
      at += f + $3 * 2048
      if (f == 63) at += 63 - at % 63
    }
    END { if (n == "end") print at }' <<<"$table"
}

root=0b5e0005-1111-4a4a-8888-c10eca570005
tree "$work/tree5" 5 60 64
userland "$work/tree5"
mkdir -p "$work/tree5/boot/grub/i386-pc"
cp "$linux/vmlinuz" "$linux/initrd" "$work/tree5/boot/"
cp /usr/lib/grub/i386-pc/*.{mod,lst} "$work/tree5/boot/grub/i386-pc/"
grub-editenv "$work/tree5/boot/grub/grubenv" create
cat > "$work/tree5/boot/grub/grub.cfg" <<CFG
$(menu)
menuentry 'Linux' --id linux {
  search --set=root --fs-uuid $root
  linux /boot/vmlinuz root=UUID=$root console=ttyS0 quiet panic=-1 no_timer_check
  initrd /boot/initrd
}
menuentry 'Windows' --id windows {
  set root=(hd0,msdos1)
  chainloader +1
}
CFG
make_ntfs 1 1122334455667788 WINDOWS "$(start 1)"
windows_boot_sector "$work/p1" "$(size 1)"
part 5; make_ext 5 ext4 $root linux-root
part 6; mkswap -q -U 0b5e0006-1111-4a4a-8888-c10eca570006 -L swap "$work/p6"
make_fat 7 32 c10e0007 TRANSFER "$(start 7)"
tree "$work/tree8" 8 40 48;   part 8;  make_ext 8 ext4 0b5e0008-1111-4a4a-8888-c10eca570008 home
tree "$work/tree9" 9 20 24;   part 9;  make_ext 9 ext3 0b5e0009-1111-4a4a-8888-c10eca570009 old
tree "$work/tree10" 10 20 24; part 10; make_ext 10 ext2 0b5e0010-1111-4a4a-8888-c10eca570010 older
make_ntfs 11 2233445566778899 DATA "$(start 11)"
make_fat 12 16 c10e0012 SIXTEEN "$(start 12)"
make_fat 13 12 c10e0013 TWELVE "$(start 13)"
tree "$work/tree14" 14 20 16; part 14; blocksize=1024 make_ext 14 ext4 0b5e0014-1111-4a4a-8888-c10eca570014 small
random 15 $(($(size 15) * 512)) > "$work/p15" # no file system: every block is content

# The disk: filler everywhere, a clean first track, the table, the partitions.
end=$(start end)
sectors=$((end + 16 * mib))
perl "$here/filler.pl" $((sectors * 512)) 100 > "$image"
random 100 $((first * 512)) | dd of="$image" conv=notrunc status=none
dd if=/dev/zero of="$image" count=1 conv=notrunc status=none
extended=$(start extended)
{
  echo 'label: dos'; echo 'label-id: 0xc10eca57'; echo 'unit: sectors'
  echo "start=$(start 1), size=$(size 1), type=7, bootable"
  echo "start=$extended, size=$((end - extended)), type=f"
  awk '$1 > 2 { print $1, $2 }' <<<"$table" | while read -r n type; do
    # An EBR's sector and the track behind it may hold a boot manager's code: they count as content, like the MBR's.
    random "2$n" $((first * 512)) | dd of="$image" bs=512 seek=$(($(start "$n") - first)) conv=notrunc status=none
    dd if=/dev/zero of="$image" count=1 seek=$(($(start "$n") - first)) conv=notrunc status=none
    echo "start=$(start "$n"), size=$(size "$n"), type=$type"
  done
} > "$work/table"
sfdisk -q --wipe never --wipe-partitions never --no-reread --no-tell-kernel "$image" < "$work/table"
awk '{ print $1 }' <<<"$table" | while read -r n; do
  dd if="$work/p$n" of="$image" bs=64k seek=$(($(start "$n") * 512)) oflag=seek_bytes conv=notrunc status=none
done

# Bytes that an EBR may hold beside its table: some boot managers keep theirs there.
awk '$1 > 2 { print $1 }' <<<"$table" | while read -r n; do
  printf 'residue in the EBR of partition %d' "$n" |
    dd of="$image" bs=1 seek=$((($(start "$n") - first) * 512)) conv=notrunc status=none
done

grub_bios "$image" 1 $((first - 1)) '(hd0,msdos5)/boot/grub' part_msdos ext2
