#!/bin/bash
# dualboot-uefi.sh LINUXDIR IMAGE: the disk of a PC with UEFI firmware and two systems.
# LINUXDIR holds vmlinuz and initrd (linux.sh).
#
#   1  ESP, FAT32   \EFI\BOOT\BOOTX64.EFI: GRUB, where firmware that knows no boot entry looks
#                   \EFI\Microsoft\Boot\bootmgfw.efi: "Windows": reports itself if it finds every file of its
#                   partition intact
#   2  Microsoft reserved, no file system     3  NTFS, "Windows"     4  NTFS, Windows' recovery
#   5  ext4, the Linux root (as on dualboot.sh's disk)     6  swap     7  ext4 with 1 KiB blocks
#
# As on dualboot.sh's disk the chassis asset tag chooses the system, free space holds the stream of filler.pl, and
# UUIDs are fixed.
set -eu
here=$(dirname "$(realpath "$0")")
linux=$(realpath "$1") image=$(realpath -m "$2")
work=$(mktemp -d -p "$(dirname "$image")"); trap 'rm -rf "$work"' EXIT
. "$here/common.sh"

#      number type MiB seed
table='1 C12A7328-F81F-11D2-BA4B-00A0C93EC93B 48 101
2 E3C9E316-0B5C-4DB8-817D-F92DF00215AE 4 102
3 EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 96 103
4 DE94BBA4-06D1-4D40-A16A-BFD50179D6AC 24 104
5 0FC63DAF-8483-4772-8E79-3D69D8477DE4 96 105
6 0657FD6D-A4AB-43C4-84E5-0933C84B4F4F 16 106
7 0FC63DAF-8483-4772-8E79-3D69D8477DE4 24 107'
first=2048
start() {
  awk -v n="$1" -v at=$first '
    $1 == n { print at }
    { at += $3 * 2048 }
    END { if (n == "end") print at }' <<<"$table"
}

root=0b5e0005-1111-4a4a-8888-c10eca570005 windows=1122334455667788
tree "$work/tree5" 5 60 64
userland "$work/tree5"
mkdir -p "$work/tree5/boot/grub"
cp "$linux/vmlinuz" "$linux/initrd" "$work/tree5/boot/"
cat > "$work/tree5/boot/grub/grub.cfg" <<CFG
$(menu)
menuentry 'Linux' --id linux {
  linux /boot/vmlinuz root=UUID=$root console=ttyS0 quiet panic=-1 no_timer_check
  initrd /boot/initrd
}
menuentry 'Windows' --id windows {
  search --set=root --fs-uuid C10E-0001
  chainloader /EFI/Microsoft/Boot/bootmgfw.efi
}
CFG
part 5; make_ext 5 ext4 $root linux-root

tree "$work/tree3" 3 12 40
(cd "$work/tree3" && find . -type f -exec md5sum {} + | sed 's,\./.*/,,') > "$work/sums"
mv "$work/sums" "$work/tree3/sums"
make_ntfs 3 $windows WINDOWS "$(start 3)"
make_ntfs 4 2233445566778899 RECOVERY "$(start 4)"

grub_efi() { # grub_efi PROGRAM FOLDER MODULES...: GRUB as a program of the ESP; it reads grub.cfg in the folder
  local program=$1 folder=$2; shift 2
  mkdir -p "$work/tree1/$(dirname "$program")" "$work/tree1$folder"
  grub-mkimage -O x86_64-efi -p "$folder" -o "$work/tree1/$program" \
    part_gpt fat normal configfile search search_fs_uuid serial echo test "$@"
  cat > "$work/tree1$folder/grub.cfg"
}
grub_efi EFI/BOOT/BOOTX64.EFI /EFI/debian ext2 linux chain smbios <<CFG
search --set=root --fs-uuid $root
set prefix=(\$root)/boot/grub
configfile \$prefix/grub.cfg
CFG
grub_efi EFI/Microsoft/Boot/bootmgfw.efi /EFI/Microsoft/Boot ntfs hashsum gcry_md5 probe halt <<CFG
serial --unit=0 --speed=115200
terminal_output serial
search --set=windows --fs-uuid $windows
probe --set=volume --fs-uuid (\$windows)
if hashsum --hash md5 --check (\$windows)/sums --prefix (\$windows); then
  echo WINDOWS-STARTED volume \$volume
fi
halt
CFG
make_fat 1 32 c10e0001 ESP "$(start 1)"
random 2 $(($(size 2) * 512)) > "$work/p2"
part 6; mkswap -q -U 0b5e0006-1111-4a4a-8888-c10eca570006 -L swap "$work/p6"
tree "$work/tree7" 7 20 16; part 7; blocksize=1024 make_ext 7 ext4 0b5e0007-1111-4a4a-8888-c10eca570007 home

# The disk: filler everywhere, a first track that something has written to, the table, the partitions.
perl "$here/filler.pl" $((($(start end) + 16 * 2048) * 512)) 100 > "$image"
random 100 $((first * 512)) | dd of="$image" conv=notrunc status=none
dd if=/dev/zero of="$image" count=34 conv=notrunc status=none
{
  echo 'label: gpt'; echo 'label-id: C10ECA57-0000-4000-8000-000000000000'; echo 'unit: sectors'
  while read -r n type _; do
    # Windows marks its recovery: required, and without a drive letter.
    uuid=C10ECA57-0000-4000-8000-00000000000$n
    echo "start=$(start "$n"), size=$(size "$n"), type=$type, uuid=$uuid, name=\"part $n\"$(
      [ "$n" != 4 ] || echo ', attrs="RequiredPartition GUID:63"')"
  done <<<"$table"
} > "$work/table"
sfdisk -q --wipe never --wipe-partitions never --no-reread --no-tell-kernel "$image" < "$work/table"
while read -r n _; do
  dd if="$work/p$n" of="$image" bs=64k seek=$(($(start "$n") * 512)) oflag=seek_bytes conv=notrunc status=none
done <<<"$table"
