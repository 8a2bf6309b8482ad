#!/bin/bash
# A network of namespaces to measure multicast in (root; nftables; no netem needed).
#
#     bench/multicast-lab.sh up N RATE_MBIT LOSS [SLOW_RECEIVER SLOW_MBIT]
#     bench/multicast-lab.sh middle N RATE_MBIT LOSS MIDDLE_MBIT BUFFER
#     bench/multicast-lab.sh down
#
# LOSS is how many of 10,000 packets each receiver drops at random, or RUN/EVERY: in turn RUN of so many, each receiver
# at another time. "middle" makes a second switch for the receivers, behind a link of MIDDLE_MBIT with a buffer of
# BUFFER (as tc has it: 64k); ccmb-t (t0, 10.99.0.253) is on the sender's side of it, for what else is to pass there.
#
# Namespace ccmb-s is the sender (s0, 10.99.0.254), ccmb-1..N are receivers (eth0, 10.99.0.I), ccmb-sw holds the bridge.
# The sender's link is shaped to RATE (0: not at all), each receiver drops packets at random, and the switch port of
# one receiver may be slow, with a buffer of 256 KiB. Offloads are off, so that what is dropped is a packet.
set -eu

down() {
  ip netns list | awk '/^ccmb-/ { print $1 }' | while read -r ns; do ip netns del "$ns"; done
}

# port NS DEVICE ADDRESS PORT [BRIDGE]: a cable from a switch to a computer.
port() {
  ip netns add "$1"
  ip -n "$1" link add "$2" type veth peer name "$4" netns ccmb-sw
  ip -n "$1" link set lo up
  ip -n "$1" addr add "$3/24" brd + dev "$2"
  ip -n "$1" link set "$2" up
  ip -n "$1" route add 224.0.0.0/4 dev "$2"
  ip -n ccmb-sw link set "$4" master "${5:-br0}" up
  ip netns exec "$1" ethtool -K "$2" tso off gso off gro off tx-udp-segmentation off >/dev/null 2>&1 || true
  ip netns exec ccmb-sw ethtool -K "$4" tso off gso off gro off tx-udp-segmentation off >/dev/null 2>&1 || true
}

bridge() {
  ip -n ccmb-sw link add "$1" type bridge mcast_snooping 0 stp_state 0 forward_delay 0
  ip -n ccmb-sw link set "$1" up
}

# lossy NUMBER OF LOSS: the packets that a receiver drops.
lossy() {
  local which="random mod 10000 < $3"
  case $3 in
  */*)
    local run=${3%/*} every=${3#*/}
    local from=$((($1 - 1) * (every - run) / $2))
    which="inc mod $every $from-$((from + run - 1))"
    ;;
  esac
  ip netns exec "ccmb-$1" nft -f - <<EOF
table netdev lossy {
  chain in { type filter hook ingress device "eth0" priority 0;
    meta protocol ip numgen $which counter drop
  }
}
EOF
}

up() {
  local n=$1 rate=$2 loss=$3 slow=${4:-0} slow_rate=${5:-0} side=${6:-br0} i
  down
  ip netns add ccmb-sw
  bridge br0
  [ "$side" = br0 ] || bridge "$side"
  port ccmb-s s0 10.99.0.254 ps "$side"
  # The queue is longer than a socket's send buffer: the sender waits, as with a real network card.
  [ "$rate" = 0 ] || ip netns exec ccmb-s tc qdisc add dev s0 root tbf rate "${rate}mbit" burst 64k limit 4mb
  for i in $(seq "$n"); do
    port "ccmb-$i" eth0 "10.99.0.$i" "p$i"
    [ "$loss" = 0 ] || lossy "$i" "$n" "$loss"
    [ "$i" != "$slow" ] ||
      ip netns exec ccmb-sw tc qdisc add dev "p$i" root tbf rate "${slow_rate}mbit" burst 32k limit 256k
  done
}

middle() {
  up "$1" "$2" "$3" 0 0 br1
  port ccmb-t t0 10.99.0.253 pt br1
  ip -n ccmb-sw link add m1 type veth peer name m0
  ip -n ccmb-sw link set m1 master br1 up
  ip -n ccmb-sw link set m0 master br0 up
  for device in m0 m1; do
    ip netns exec ccmb-sw ethtool -K $device tso off gso off gro off tx-udp-segmentation off >/dev/null 2>&1 || true
  done
  ip netns exec ccmb-sw tc qdisc add dev m1 root tbf rate "${4}mbit" burst 16k limit "$5"
}

"$@"
