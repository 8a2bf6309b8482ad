#!/bin/sh
# What a guest with Linux 6.12 and busybox did to new file systems of 120 MiB, made with
#
#	mkfs.f2fs -q -U UUID -O sb_checksum IMAGE
#
# so that the images of this directory came about (zstd -19 IMAGE afterwards). The tests need
# what only the kernel's driver does: it deletes, it reuses segments, and fsync writes no checkpoint.
content() { yes "$1" | head -c $(($2 * $2)); }
fill() { for i in $(seq "$2"); do mkdir -p $1/d$((i % 7)) && content "$1 $i" "$i" >$1/d$((i % 7))/f$i; done; }
thin() { for i in $(seq 1 3 "$2"); do rm $1/d$((i % 7))/f$i; done; }

case $1 in
unmounted) # unmounted.img: files are deleted, overwritten, sparse, preallocated. Prints unmounted.sums.
	mount -t f2fs /dev/vda /a
	fill /a 150 && sync && thin /a 150 && sync
	fill /a/again 90 && sync && thin /a/again 90
	for i in $(seq 2 3 150); do content "new $i" 64 | dd of=/a/d$((i % 7))/f$i bs=4096 seek=1 conv=notrunc; done
	content sparse 100 | dd of=/a/d1/sparse bs=4096 seek=700
	fallocate -l 3000000 /a/d1/preallocated
	(cd /a && find . -type f -exec sha256sum {} +)
	umount /a
	;;
before-fsync) # before-fsync.img
	mount -t f2fs /dev/vda /a && fill /a 40 && umount /a
	;;
after-fsync) # after-fsync.img: before-fsync.img, then one file overwritten, and a power cut after fsync.
	mount -t f2fs /dev/vda /a
	content fsynced 60 | dd of=/a/d5/f40 bs=3600 conv=notrunc,fsync
	echo b >/proc/sysrq-trigger
	;;
esac
