#!/bin/bash
# Compares clonecast multicast with udpcast and uftp in a network of namespaces, in turn in one run (root).
#
#     bench/multicast.sh WORKDIR [ROUNDS] [CASE ...]
#
# A CASE is NAME:RECEIVERS:MBIT:LOSS:PAYLOAD_MB[:TOOLS]; without any, those of docs/performance.md. LOSS is in packets
# of 10,000, or RUN/EVERY (see multicast-lab.sh). In a case whose NAME begins with "tcp" a TCP flow passes a link of
# MBIT in the middle of the network all the time, LOSS is the buffer of that link (64k), and the session may have twice
# its rate; "tcp" is the part of that link that the flow had during the data phase. CLONECAST is another program to
# measure than that in bin. Prints every run and the medians as a table.
#
# The receivers wait already when a sender starts. "rate" is payload per second of the data phase (from the first to the
# last percent on the sender's interface) over the shaped rate, "wire" is bytes sent, headers included, over payload,
# "besides" is what the whole run takes longer than the data phase, in seconds, "cpu" is processor seconds per Gbit of
# payload of the sender and of one receiver. A run that does not end in 45 s or leaves a wrong file is "failed".
# clonecast encrypts, the others do not.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$1 rounds=${2:-5}
shift; [ $# -eq 0 ] || shift
cases=("$@")
[ ${#cases[@]} -gt 0 ] || cases=(
  8-0%:8:100:0:32 16-0%:16:50:0:32 16-1%:16:50:100:32 16-5%:16:50:500:32
  4-1%:4:50:100:32:clonecast 8-1%:8:50:100:32:clonecast 32-1%:32:50:100:32:clonecast
  12-2%:12:60:200:32:clonecast 10-8%:10:60:800:32:clonecast 8-bursts:8:60:40/2000:32:"clonecast udpcast"
  tcp-64k:4:60:64k:64:clonecast tcp-256k:4:60:256k:64:clonecast
  slow:4:100:0:16 1-1G:1:1000:0:256 4-1G:4:1000:0:128 8-1G:8:1000:0:128
)
clonecast=${CLONECAST:-$here/../bin/clonecast}
for tool in "$clonecast" udp-sender uftp nft ethtool python3; do
  command -v "$tool" >/dev/null || {
    echo "$tool is missing: make build, apt-get install udpcast uftp nftables ethtool" >&2
    exit 1
  }
done
mkdir -p "$work"
work=$(cd "$work" && pwd)
trap '"$here/multicast-lab.sh" down' EXIT
export TIMEFORMAT='%U %S'
LC_ALL=C

on() { local ns=$1; shift; ip netns exec "ccmb-$ns" "$@"; }

# watch FILE: writes time and bytes sent every 10 ms until it is killed.
watch() {
  mkfifo "$1.fifo" # nothing ever comes: reading from it is waiting
  exec ip netns exec ccmb-s bash -c 'exec 9<>"$1.fifo"
    while read -r b </sys/class/net/s0/statistics/tx_bytes; do
      echo "$EPOCHREALTIME $b"
      read -rt 0.01 -u 9 || :
    done >"$1"' - "$1"
}

# flow: a TCP flow from ccmb-t to ccmb-1 until it is killed; writes time and bytes that arrived every 10 ms.
flow() {
  ip netns exec ccmb-1 python3 -c '
import socket, sys, time
with socket.create_server(("10.99.0.1", 9999)) as server, open(sys.argv[1], "w") as out:
    came, said = 0, 0
    flow, _ = server.accept()
    while data := flow.recv(1 << 20):
        came += len(data)
        if time.time() - said >= 0.01:
            said = time.time()
            print(said, came, file=out, flush=True)' "$1" &
  flows=($!)
  sleep 0.5
  ip netns exec ccmb-t python3 -c '
import socket
with socket.create_connection(("10.99.0.1", 9999)) as flow:
    while True:
        flow.sendall(bytes(1 << 16))' &
  flows+=($!)
  sleep 2
}

# Each tool: receivers N starts them in the background, ready to receive into $run/out.I;
# sender N MBIT sends. Both leave "user sys" of the sender in $run/sender.cpu and of the
# receivers in $run/receiver.I.cpu; the time that receivers end is in $run/receiver.I.end.
timed() { # FILE COMMAND...
  local out=$1; shift
  # In a shell of its own: bash counts for "time" whatever other children of it end meanwhile.
  (time timeout -k 1 45 "$@" >"$out.log" 2>&1 || echo failed >"$out.failed") 2>"$out.cpu"
  echo "$EPOCHREALTIME" >"$out.end"
}
receivers_clonecast() {
  for i in $(seq "$1"); do
    timed "$run/receiver.$i" ip netns exec "ccmb-$i" "$clonecast" multicast receive \
      --file "$run/out.$i" --interface eth0 --key-file "$work/key" --json &
  done
}
sender_clonecast() {
  timed "$run/sender" ip netns exec ccmb-s "$clonecast" multicast send \
    --file "$payload" --interface s0 --receivers "$1" --max-rate "$2M" --key-file "$work/key" --json
}
receivers_udpcast() {
  for i in $(seq "$1"); do
    timed "$run/receiver.$i" ip netns exec "ccmb-$i" udp-receiver \
      --nokbd --no-progress --interface eth0 --file "$run/out.$i" &
  done
}
sender_udpcast() {
  timed "$run/sender" ip netns exec ccmb-s udp-sender \
    --nokbd --no-progress --interface s0 --min-receivers "$1" --file "$payload"
}
receivers_uftp() {
  for i in $(seq "$1"); do
    mkdir -p "$run/d.$i" "$run/t.$i"
    ip netns exec "ccmb-$i" uftpd -d -I eth0 -D "$run/d.$i" -T "$run/t.$i" >"$run/receiver.$i.log" 2>&1 &
    daemons+=($!)
  done
}
sender_uftp() {
  timed "$run/sender" ip netns exec ccmb-s uftp -I s0 -R $((950 * $2)) "$payload"
  for i in $(seq "$1"); do mv "$run/d.$i/$(basename "$payload")" "$run/out.$i" 2>/dev/null || :; done
}

# measure TOOL N MBIT MB KIND: one run; prints rate, wire, besides, cpu of sender, cpu of a receiver, the flow's part.
measure() {
  local tool=$1 n=$2 mbit=$3 mb=$4 kind=$5 slow=0 allowed=$3 i watcher started ended
  run=$work/run daemons=() flows=()
  rm -rf "$run"; mkdir "$run"
  [ "$kind" != slow ] || slow=1
  if [ "$kind" = tcp ]; then
    allowed=$((2 * mbit))
    flow "$run/flow"
  fi
  "receivers_$tool" "$n"
  sleep 1
  watch "$run/wire" & watcher=$!
  sleep 0.1
  started=$EPOCHREALTIME
  "sender_$tool" "$n" "$allowed"
  for i in "${daemons[@]}"; do kill "$i" 2>/dev/null || :; done
  while [ "$(jobs -rp | wc -l)" -gt $((1 + ${#flows[@]})) ]; do sleep 0.05; done # the watcher stays
  kill "$watcher" "${flows[@]}" || :
  wait 2>/dev/null || :
  [ ! -e "$run/sender.failed" ] || { echo failed; return; }
  for i in $(seq "$n"); do cmp -s "$payload" "$run/out.$i" || { echo failed; return; }; done
  ended=$(cat "$run"/sender.end "$run"/receiver.*.end 2>/dev/null | sort -n | tail -1)
  if [ "$slow" = 1 ] && [ "$tool" = clonecast ]; then # the others' end counts; the slow one goes on alone
    ended=$(for i in $(seq 2 "$n"); do cat "$run/receiver.$i.end"; done | sort -n | tail -1)
  fi
  cat "$run"/receiver.*.cpu 2>/dev/null >"$run/receivers.cpu" || :
  awk -v mb="$mb" -v mbit="$mbit" -v started="$started" -v ended="$ended" -v slow="$slow" '
    FILENAME ~ /wire$/ { t[n] = $1; b[n++] = $2 }
    FILENAME ~ /sender.cpu$/ { s += $1 + $2 }
    FILENAME ~ /receivers.cpu$/ { r += $1 + $2; rs++ }
    FILENAME ~ /flow$/ { tt[tn] = $1; tb[tn++] = $2 }
    END {
      payload = mb * 1e6; sent = b[n - 1] - b[0]
      for (i = 0; i < n; i++) {
        if (!first && b[i] - b[0] > 0.01 * payload) first = t[i]
        if (!last && b[i] - b[0] > 0.99 * sent) last = t[i]
      }
      took = (last - first) / 0.98
      if (slow == 1 && ended < last) took = ended - first
      gbit = payload * 8e-9
      for (i = 0; i < tn; i++) {
        if (tt[i] <= first) tcp0 = tb[i]
        if (tt[i] <= last) tcp1 = tb[i]
      }
      printf "%.3f %.3f %.2f %.2f %.2f %s\n", payload * 8 / took / mbit / 1e6, sent / payload,
        ended - started - took, s / gbit, rs ? r / rs / gbit : 0,
        tn ? sprintf("%.2f", (tcp1 - tcp0) * 8 / (last - first) / mbit / 1e6) : "-"
    }' "$run/wire" "$run/sender.cpu" "$run/receivers.cpu" $([ ! -e "$run/flow" ] || echo "$run/flow")
}

median() { sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$work/key"
table=
for case in "${cases[@]}"; do
  IFS=: read -r name n mbit loss mb tools <<<"$case"
  tools=${tools:-clonecast udpcast uftp}
  case $name in slow) kind=slow ;; tcp*) kind=tcp ;; *) kind=plain ;; esac
  payload=$work/payload
  head -c $((mb * 1000000)) /dev/urandom >"$payload"
  case $kind in
  slow) "$here/multicast-lab.sh" up "$n" "$mbit" "$loss" 1 $((mbit / 10)) ;;
  tcp) "$here/multicast-lab.sh" middle "$n" $((2 * mbit)) 0 "$mbit" "$loss" ;;
  *) "$here/multicast-lab.sh" up "$n" "$mbit" "$loss" ;;
  esac
  rm -f "$work"/*.runs
  for round in $(seq "$rounds"); do
    for tool in $tools; do
      result=$(measure "$tool" "$n" "$mbit" "$mb" "$kind")
      echo "$name round $round $tool: $result"
      echo "$result" >>"$work/$tool.runs"
    done
  done
  for tool in $tools; do
    good=$(grep -vc failed "$work/$tool.runs" || :)
    row="| $name | $tool |"
    if [ "$good" = 0 ]; then row+=" failed | | | | | |"; else
      for column in 1 2 3 4 5 6; do
        row+=" $(grep -v failed "$work/$tool.runs" | awk "{ print \$$column }" | median) |"
      done
    fi
    table+="$row $good of $rounds |"$'\n'
  done
done
echo
echo "| case | tool | rate | wire | besides, s | cpu sender | cpu receiver | tcp | ended well |"
echo "|---|---|---|---|---|---|---|---|---|"
printf '%s' "$table"
rm -rf "$work/payload" "$work/run"
