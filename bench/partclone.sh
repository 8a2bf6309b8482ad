#!/bin/bash
# Compares capture and deploy with partclone and zstd on the same partition images, alternately in one run.
#
#     bench/partclone.sh WORKDIR [ROUNDS] [IMAGE ...]
#
# An IMAGE is a file with an ext4 or NTFS file system; without any, 8 GiB ones with about 3.5 GB of files from /usr,
# fragmented and with stale data in free space, are made in WORKDIR (root; takes minutes). Prints every round and the
# medians; a ratio above 1 means that clonecast is faster, or its store smaller.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
work=$1 rounds=${2:-3}
shift; [ $# -eq 0 ] || shift
mkdir -p "$work"
clonecast=$here/bin/clonecast
[ -x "$clonecast" ] || { echo "build it first: make" >&2; exit 1; }
for tool in partclone.extfs partclone.ntfs zstd; do
  command -v $tool >/dev/null || { echo "$tool is missing: apt-get install partclone zstd" >&2; exit 1; }
done

seconds() { # runs a command, prints its wall time
  local start=$EPOCHREALTIME
  bash -o pipefail -c "$1" >/dev/null 2>"$work/log" || { echo "failed: $1" >&2; tail -5 "$work/log" >&2; exit 1; }
  awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f", b - a }'
}
median() { sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
over() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

compare() {
  local image=$1 type size
  type=$(blkid -p -o value -s TYPE "$image")
  size=$(stat -c %s "$image")
  local partclone=partclone.$type; [ "$type" != ext4 ] || partclone=partclone.extfs
  local target=$work/target.img store=$work/store image_zst=$work/$type.pcl.zst
  rm -f "$work/$type".*.ratio
  echo "== $type, $(basename "$image"), $(numfmt --to=iec "$size") of $(du -h "$image" | cut -f1) on disk"
  cat "$image" >/dev/null # both read from the page cache
  for round in $(seq "$rounds"); do
    local pc cc pd cd up
    pc=$(seconds "$partclone -c -s '$image' -o - -L /dev/null | zstd -3 -T0 -q -f -o '$image_zst'")
    rm -rf "$store"
    cc=$(seconds "'$clonecast' disk capture '$image' bench --store '$store' --json")
    rm -f "$target"; truncate -s "$size" "$target"
    pd=$(seconds "zstd -d -q -c '$image_zst' | $partclone -r -s - -O '$target' -L /dev/null")
    rm -f "$target"; truncate -s "$size" "$target"
    cd=$(seconds "'$clonecast' disk deploy bench '$target' --store '$store' --yes --json")
    up=$(seconds "'$clonecast' disk deploy bench '$target' --store '$store' --yes --json")
    echo "round $round: capture $cc s (partclone $pc s), deploy $cd s ($pd s), deploy to the same disk again $up s"
    over "$pc" "$cc" >>"$work/$type.capture.ratio"; echo >>"$work/$type.capture.ratio"
    over "$pd" "$cd" >>"$work/$type.deploy.ratio"; echo >>"$work/$type.deploy.ratio"
  done
  local ours=$(du -s --apparent-size -B1 "$store/packs" "$store/images" | awk '{ s += $1 } END { print s }')
  echo "median: capture $(median <"$work/$type.capture.ratio")x, deploy $(median <"$work/$type.deploy.ratio")x the speed;" \
    "store $ours bytes, partclone with zstd -3 $(stat -c %s "$image_zst") bytes ($(over "$ours" "$(stat -c %s "$image_zst")")x)"
  rm -rf "$store" "$target" "$image_zst"
}

if [ $# -eq 0 ]; then
  "$here/bench/make-images.sh" "$work" ext4 ntfs
  set -- "$work/ext4.img" "$work/ntfs.img"
fi
for image; do compare "$image"; done
