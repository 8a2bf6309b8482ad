# common.sh: what the scripts of this folder share. They set here, work (a folder for files on the way) and, for what is
# done by a partition's number, table: rows of number, type, MiB and seed of the filler.
export MTOOLS_SKIP_CHECK=1 SOURCE_DATE_EPOCH=1700000000

random() { openssl enc -aes-128-ctr -K "$(printf %032x "$1")" -iv 0 -nosalt </dev/zero 2>/dev/null | head -c "$2"; }

tree() { # tree DIR SEED FILES KIB: files of random length in whole KiB, some text, nested folders
  local i
  mkdir -p "$1/docs/letters" "$1/data"
  for i in $(seq 1 "$3"); do random $(($2 * 1000 + i)) $(( (i * 37 % $4 + 1) * 4096 )) > "$1/data/file-$i.bin"; done
  for i in $(seq 1 10); do
    yes "line of letter $i on file system $2" | head -c 8192 > "$1/docs/letters/letter-$i.txt"
  done
}

userland() { # userland DIR: the whole userland of a Linux, which reads everything it has, reports itself, powers off
  mkdir -p "$1"/{sbin,bin,dev,proc,sys,etc}
  cp /bin/busybox "$1/bin/"
  cat > "$1/sbin/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
sum=$($b find /docs /data -type f | $b sort | $b xargs $b cat | $b md5sum | $b cut -c1-32)
size=$(($($b stat -f -c %b /) * $($b stat -f -c %S /)))
echo; echo "LINUX-STARTED root $2 files $sum size $size"
$b poweroff -f
INIT
  chmod 755 "$1/sbin/init"
}

menu() { # GRUB's settings; the chassis asset tag chooses the system
  cat <<'CFG'
serial --unit=0 --speed=115200
terminal_output serial
terminal_input serial
set timeout=0
set default=linux
insmod smbios
smbios --type 3 --get-string 8 --set tag
if [ "$tag" = windows ]; then set default=windows; fi
CFG
}

# windows_boot_sector VOLUME SECTORS: puts code into an NTFS boot sector (and its copy in the last sector) that names
# itself, the volume's serial number and sectors.
windows_boot_sector() {
  cat > "$work/vbr.s" <<'ASM'
.code16
.org 0
        cli; xor %ax, %ax; mov %ax, %ds; mov %ax, %ss; mov $0x7c00, %sp
        mov $0x7c54 + volume, %si; mov $0x7c4f, %di; call report
        mov $0x7c54 + sectors, %si; mov $0x7c2f, %di; call report
        mov $'\n', %al; call put
1:      hlt; jmp 1b
report: lodsb; test %al, %al; jz 2f; call put; jmp report
2:      mov $8, %cx                             # eight bytes, highest first
3:      mov (%di), %al; shr $4, %al; call digit; mov (%di), %al; and $15, %al; call digit
        dec %di; loop 3b; ret
digit:  add $'0', %al; cmp $'9', %al; jbe put; add $7, %al
put:    mov %al, %ah; mov $0x3fd, %dx
4:      in %dx, %al; test $0x20, %al; jz 4b
        mov %ah, %al; mov $0x3f8, %dx; out %al, %dx; ret
volume: .asciz "\nWINDOWS-STARTED volume "
sectors:.asciz " sectors "
ASM
  as --32 -o "$work/vbr.o" "$work/vbr.s"
  objcopy -O binary -j .text "$work/vbr.o" "$work/vbr.bin"
  [ "$(stat -c %s "$work/vbr.bin")" -le 426 ]
  dd if="$work/vbr.bin" of="$1" bs=1 seek=84 conv=notrunc status=none
  printf '\xeb\x52\x90' | dd of="$1" conv=notrunc status=none
  dd if="$1" of="$1" bs=512 count=1 seek=$(($2 - 1)) conv=notrunc status=none
}

fill_ntfs() { # fill_ntfs VOLUME DIR: the files of DIR, all in the root folder
  local f
  for f in $(cd "$2" && find . -type f); do ntfscp -q "$1" "$2/$f" "$(basename "$f")" >/dev/null; done
}

number() { # number VALUE BYTES FILE OFFSET: writes it, lowest byte first
  local i n=$1
  for i in $(seq "$2"); do printf "\\x$(printf %02x $((n & 255)))"; n=$((n >> 8)); done |
    dd of="$3" bs=1 seek=$(($4)) conv=notrunc status=none
}

# grub_bios IMAGE SECTOR SECTORS PREFIX MODULES...: as grub-bios-setup does it, boot.img in the MBR (keeping signature
# and table) and core.img where there is room.
grub_bios() {
  local image=$1 sector=$2 room=$3 prefix=$4 core; shift 4
  grub-mkimage -O i386-pc -p "$prefix" -o "$work/core.img" biosdisk "$@"
  core=$((($(stat -c %s "$work/core.img") + 511) / 512))
  [ $core -le "$room" ] || { echo "GRUB's core.img needs $core sectors, there are $room" >&2; exit 1; }
  cp /usr/lib/grub/i386-pc/boot.img "$work/boot.img"
  number "$sector" 8 "$work/boot.img" 0x5c # core.img's first sector
  number 0x9090 2 "$work/boot.img" 0x66    # trust the BIOS's drive number
  number $((sector + 1)) 8 "$work/core.img" 0x1f4 # the rest of core.img, and where it goes
  number $((core - 1)) 2 "$work/core.img" 0x1fc
  number 0x820 2 "$work/core.img" 0x1fe
  dd if="$work/boot.img" of="$image" bs=440 count=1 conv=notrunc status=none
  dd if="$work/core.img" of="$image" bs=512 seek="$sector" conv=notrunc status=none
}

size() { awk -v n="$1" '$1 == n { print $3 * 2048 }' <<<"$table"; }

# part N: a file as large as the partition, full of filler.
part() {
  perl "$here/filler.pl" $(($(size "$1") * 512)) "$(awk -v n="$1" '$1 == n { print $4 }' <<<"$table")" > "$work/p$1"
}

# make_ext N TYPE UUID LABEL OPTIONS...: every block that mke2fs may leave unwritten is written (lazy_*=0)
# or stays filler.
make_ext() {
  local n=$1 type=$2 uuid=$3 label=$4; shift 4
  mke2fs -q -F -t "$type" -U "$uuid" -L "$label" -m 1 -I 256 -b "${blocksize:-4096}" \
    -E "nodiscard,lazy_itable_init=0,lazy_journal_init=0,hash_seed=$uuid" -d "$work/tree$n" "$@" "$work/p$n"
}

make_ntfs() { # make_ntfs N SERIAL LABEL START
  part "$1"
  mkntfs -q -Q -F -p "$4" -H 255 -S 63 -L "$3" "$work/p$1" >/dev/null 2>&1
  ntfslabel --new-serial="$2" "$work/p$1" >/dev/null
  tree "$work/tree$1" "$1" 12 40
  fill_ntfs "$work/p$1" "$work/tree$1"
}

make_fat() { # make_fat N BITS SERIAL LABEL START
  part "$1"
  mkfs.fat --invariant -F "$2" -i "$3" -n "$4" -h "$5" "$work/p$1" >/dev/null
  tree "$work/tree$1" "$1" $((${2} / 4)) 20
  (cd "$work/tree$1" && mcopy -s -Q -i "$work/p$1" ./* ::)
}
