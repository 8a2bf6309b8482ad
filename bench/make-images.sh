#!/bin/bash
# Makes 8 GiB partition images for benchmarks: about 3.5 GB of files from /usr, fragmented,
# with stale data in free space.
#
#     bench/make-images.sh WORKDIR [ext4] [ntfs]
#
# Method: three thirds of the files are copied; parts of the first two are deleted before the third fills the holes.
# An image that exists is kept.
set -eu
work=$1; shift
mount=$(mktemp -d)
trap 'umount -q "$mount" || true; rmdir "$mount"' EXIT

third() { (cd /usr && find . -type f -size -64M | sort | awk -v k="$1" 'NR % 3 == k'); }
copy() {
  mkdir -p "$mount/$2"
  third "$1" | (cd /usr && cpio -pdm --quiet "$mount/$2") 2>/dev/null || true
  sync -f "$mount"
}
drop() {
  find "$mount/$1" -type f | sort | awk -v n="$2" 'NR % n == 0' | tr '\n' '\0' | xargs -0 -r rm -f
  sync -f "$mount"
}

for type; do
  image=$work/$type.img
  [ ! -e "$image" ] || continue
  truncate -s 8G "$image.new"
  case $type in
  ext4) mkfs.ext4 -q -F "$image.new"; mount -o loop,nodiscard "$image.new" "$mount" ;;
  ntfs) mkntfs -q -F -f "$image.new" 2>/dev/null; ntfs-3g -o big_writes,noatime "$image.new" "$mount" ;;
  *) echo "no recipe for $type" >&2; exit 2 ;;
  esac
  copy 0 first; copy 1 second; drop second 3; drop first 7
  copy 2 third; drop second 2
  umount "$mount"; sync
  mv "$image.new" "$image"
  echo "$image: $(du -h "$image" | cut -f1) on disk"
done
