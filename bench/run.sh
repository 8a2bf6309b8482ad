#!/bin/bash
# Compares clonecast with partclone, casync and qcow2 on the same partition images, alternately in one run.
#
#     bench/run.sh WORKDIR [ROUNDS] [TYPE ...]
#
# Other work on the machine spoils the ratios of seconds: the peers use fewer threads than clonecast, and what is left
# of the cores is shared by thread. The ratios of the time of all cores together hold all the same.
#
# TYPE is ext4 or ntfs (both by default): 8 GiB images with files of /usr, fragmented, with
# stale data in free space, which are made in WORKDIR when they are not there (root; takes
# minutes; 30 GB). Everything is read from the page cache. Prints every round, then the medians
# of the rounds' ratios. Above 1 means that clonecast is faster, or moves or stores less.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
work=$(cd "$1" && pwd) rounds=${2:-3}
shift; [ $# -eq 0 ] || shift
types=${*:-ext4 ntfs}
clonecast=$here/bin/clonecast measure=$work/measure
[ -x "$clonecast" ] || { echo "build it first: make" >&2; exit 1; }
missing=
for tool in partclone.extfs:partclone partclone.ntfs:partclone zstd:zstd casync:casync qemu-img:qemu-utils \
  mkntfs:ntfs-3g python3:python3; do
  command -v "${tool%:*}" >/dev/null || missing+=" ${tool#*:}"
done
[ -z "$missing" ] || { echo "tools are missing: apt-get install$missing" >&2; exit 1; }
(cd "$here" && go build -o "$measure" ./bench/measure)
"$here/bench/make-images.sh" "$work" $types

store=$work/store target=$work/target.img changed=$work/ext4.changed.img
rm -rf "$work/figures"; mkdir "$work/figures"
note() { echo "$2" >>"$work/figures/$1"; }                     # remembers a figure of this round
run() { "$measure" run "$1" || exit 1; }                       # prints seconds, KiB, seconds of all cores
median() {
  sort -n "$work/figures/$1" |
    awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}
most() { sort -n "$work/figures/$1" | tail -1; }
over() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }
blank() { rm -f "$target"; truncate -s "$(stat -c %s "$1")" "$target"; }
size() { du -s --apparent-size -B1 "$@" | awk '{ s += $1 } END { print s }'; }
clonecast_memory() { note memory "$1"; }

# compare TYPE: a full capture, a full deploy and a deploy to the same disk again, beside partclone.
compare() {
  local type=$1 image=$work/$1.img peer=partclone.$1 archive=$work/$1.pcl.zst
  [ "$type" != ext4 ] || peer=partclone.extfs
  cat "$image" >/dev/null
  local kib pc cc fast pd cd up bound pcores ccores pdcores cdcores
  read -r pc _ pcores < <(run "$peer -c -s '$image' -o - -L /dev/null | zstd -3 -T0 -q -f -o '$archive'")
  rm -rf "$store"
  read -r cc kib ccores < <(run "'$clonecast' disk capture '$image' bench --store '$store' --json")
  clonecast_memory "$kib"
  note "$type.stored" "$(over "$(size "$store/packs" "$store/images")" "$(stat -c %s "$archive")")"
  read -r fast kib _ < <(run "'$clonecast' disk capture '$image' bench --store '$store.fast' --compression fast --json")
  clonecast_memory "$kib"
  note "$type.fast" "$(over "$pc" "$fast")"
  note "$type.fast.stored" "$(over "$(size "$store.fast/packs" "$store.fast/images")" "$(stat -c %s "$archive")")"
  rm -rf "$store.fast"
  blank "$image"
  read -r pd _ pdcores < <(run "zstd -d -q -c '$archive' | $peer -r -s - -O '$target' -L /dev/null")
  blank "$image"
  read -r cd kib cdcores < <(run "'$clonecast' disk deploy bench '$target' --store '$store' --yes --json")
  clonecast_memory "$kib"
  cat "$target" >/dev/null; sync "$target" # what is still being written back would be measured, too
  bound=$("$measure" bound "$target")
  read -r up kib _ < <(run "'$clonecast' disk deploy bench '$target' --store '$store' --yes --json")
  clonecast_memory "$kib"
  note "$type.capture" "$(over "$pc" "$cc")"
  note "$type.capture.cores" "$(over "$pcores" "$ccores")"
  note "$type.deploy.cores" "$(over "$pdcores" "$cdcores")"
  note "$type.deploy" "$(over "$pd" "$cd")"
  note "$type.again" "$(over "$bound" "$up")"
  echo "$type: capture $cc s (partclone $pc s; compressed fast $fast s), deploy $cd s ($pd s)," \
    "again $up s (reading and hashing alone $bound s)," \
    "stored $(tail -1 "$work/figures/$type.stored") of partclone's"
  if [ "$type" = ext4 ]; then change "$cc" "$cd"; fi
  rm -rf "$archive"
}

# change CAPTURE DEPLOY: the changed disk is captured as the next version and deployed to the disk that holds the one
# before. The seconds are those of the full ones.
change() {
  local kib capture back fetch bytes
  [ -e "$changed" ] || make_changed
  cat "$changed" >/dev/null
  read -r capture kib _ < <(run "'$clonecast' disk capture '$changed' bench --store '$store' --json")
  clonecast_memory "$kib"
  cat "$target" >/dev/null
  read -r fetch bytes kib < <("$measure" delta "$store" bench "$target"); clonecast_memory "$kib"
  cat "$target" >/dev/null # a deploy drops the cache to read back what matters
  read -r back kib _ < <(run "'$clonecast' disk deploy bench@1 '$target' --store '$store' --yes --json")
  clonecast_memory "$kib"
  note change.capture.seconds "$capture"
  note change.deploy.seconds "$back"
  note change.capture "$(over "$1" "$capture")"
  note change.deploy "$(over "$2" "$back")"
  note change.bytes "$bytes"
  echo "ext4 after the change: capture $capture s, deploy $back s; as differences $bytes bytes fetched in $fetch s"
}

make_changed() {
  local mount; mount=$(mktemp -d)
  cp --sparse=always "$work/ext4.img" "$changed.new"
  mount -o loop,nodiscard "$changed.new" "$mount"
  "$here/bench/change-files.py" "$mount" || { umount "$mount"; exit 1; }
  umount "$mount"; rmdir "$mount"
  mv "$changed.new" "$changed"
}

# peers: what casync and a qcow2 difference move and take for the same change. Once: they take minutes.
peers() {
  local make extract diff before
  rm -rf "$work/casync"; mkdir "$work/casync"
  run "casync make --store='$work/casync/store' '$work/casync/old.caibx' '$work/ext4.img'" >/dev/null
  before=$(size "$work/casync/store")
  read -r make _ _ < <(run "casync make --store='$work/casync/store' '$work/casync/new.caibx' '$changed'")
  note casync.bytes $(($(size "$work/casync/store") - before + $(stat -c %s "$work/casync/new.caibx")))
  read -r extract _ < <(run "casync extract --store='$work/casync/store' --seed='$work/ext4.img' \
    '$work/casync/new.caibx' '$work/casync/new.img'")
  rm -rf "$work/casync"
  # The way of the manual of qemu-img rebase; then only what differs is compressed.
  qemu-img create -q -f qcow2 -b "$changed" -F raw "$work/plain.qcow2"
  read -r diff _ < <(run "qemu-img rebase -b '$work/ext4.img' -F raw '$work/plain.qcow2' &&
    qemu-img convert -c -O qcow2 -o compression_type=zstd -B '$work/ext4.img' -F raw \
      '$work/plain.qcow2' '$work/diff.qcow2'")
  note qcow2.bytes "$(stat -c %s "$work/diff.qcow2")"
  rm -f "$work/plain.qcow2" "$work/diff.qcow2"
  note casync.make "$make"
  note casync.extract "$extract"
  echo "the change: casync make $make s, extract $extract s, $(median casync.bytes) bytes;" \
    "qcow2 difference $diff s, $(median qcow2.bytes) bytes"
}

for round in $(seq "$rounds"); do
  echo "== round $round of $rounds"
  for type in $types; do compare "$type"; done
done
rm -rf "$store" "$target"
case " $types " in *" ext4 "*) peers ;; esac

row() { printf '| %s | %s | %s |\n' "$@"; }
echo
echo "medians of $rounds rounds, $(nproc) cores, $(date -u +%F)"
echo
row "" measured "to reach"
row --- --- ---
for type in $types; do
  row "$type: capture, speed over partclone \\| zstd -3 -T0" "$(median "$type.capture")x" "2x"
  row "$type: the same in time of all cores together" "$(median "$type.capture.cores")x" ""
  row "$type: capture compressed fast" "$(median "$type.fast")x, stored $(median "$type.fast.stored")x" ""
  row "$type: stored, of partclone's" "$(median "$type.stored")x" "1.03x at most"
  row "$type: full deploy, speed over zstd -d \\| partclone" "$(median "$type.deploy")x" "2x"
  row "$type: the same in time of all cores together" "$(median "$type.deploy.cores")x" ""
  row "$type: deploy to an unchanged disk, of the speed of reading and hashing" "$(median "$type.again")" "0.85"
done
if [ -e "$work/figures/change.bytes" ]; then
  row "change: bytes fetched, of casync's ($(median casync.bytes))" \
    "$(over "$(median change.bytes)" "$(median casync.bytes)")x" "0.85x at most"
  row "change: bytes fetched, of the qcow2 difference's ($(median qcow2.bytes))" \
    "$(over "$(median change.bytes)" "$(median qcow2.bytes)")x" "0.90x at most"
  row "change: capture, speed over a full one" "$(median change.capture)x" "3x"
  row "change: deploy, speed over a full one" "$(median change.deploy)x" "3x"
  row "change: capture, speed over casync make" \
    "$(over "$(median casync.make)" "$(median change.capture.seconds)")x" "5x"
  row "change: deploy, speed over casync extract" \
    "$(over "$(median casync.extract)" "$(median change.deploy.seconds)")x" "5x"
fi
row "peak memory of clonecast, MiB" "$(($(most memory) / 1024))" "256 at most"
