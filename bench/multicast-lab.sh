#!/bin/bash
# A network of namespaces to measure multicast in (root; nftables; no netem needed).
#
#     bench/multicast-lab.sh up N RATE_MBIT LOSS_PER_10000 [SLOW_RECEIVER SLOW_MBIT]
#     bench/multicast-lab.sh down
#
# Namespace ccmb-s is the sender (s0, 10.99.0.254), ccmb-1..N are receivers (eth0, 10.99.0.I), ccmb-sw holds the bridge.
# The sender's link is shaped to RATE (0: not at all), each receiver drops packets at random, and the switch port of
# one receiver may be slow, with a buffer of 256 KiB. Offloads are off, so that what is dropped is a packet.
set -eu

down() {
  ip netns list | awk '/^ccmb-/ { print $1 }' | while read -r ns; do ip netns del "$ns"; done
}

# port NS DEVICE ADDRESS PORT: a cable from the switch to a computer.
port() {
  ip netns add "$1"
  ip -n "$1" link add "$2" type veth peer name "$4" netns ccmb-sw
  ip -n "$1" link set lo up
  ip -n "$1" addr add "$3/24" brd + dev "$2"
  ip -n "$1" link set "$2" up
  ip -n "$1" route add 224.0.0.0/4 dev "$2"
  ip -n ccmb-sw link set "$4" master br0 up
  ip netns exec "$1" ethtool -K "$2" tso off gso off gro off tx-udp-segmentation off >/dev/null 2>&1 || true
  ip netns exec ccmb-sw ethtool -K "$4" tso off gso off gro off tx-udp-segmentation off >/dev/null 2>&1 || true
}

up() {
  local n=$1 rate=$2 loss=$3 slow=${4:-0} slow_rate=${5:-0} i
  down
  ip netns add ccmb-sw
  ip -n ccmb-sw link add br0 type bridge mcast_snooping 0 stp_state 0 forward_delay 0
  ip -n ccmb-sw link set br0 up
  port ccmb-s s0 10.99.0.254 ps
  # The queue is longer than a socket's send buffer: the sender waits, as with a real network card.
  [ "$rate" = 0 ] || ip netns exec ccmb-s tc qdisc add dev s0 root tbf rate "${rate}mbit" burst 64k limit 4mb
  for i in $(seq "$n"); do
    port "ccmb-$i" eth0 "10.99.0.$i" "p$i"
    if [ "$loss" != 0 ]; then
      ip netns exec "ccmb-$i" nft -f - <<EOF
table netdev lossy {
  chain in { type filter hook ingress device "eth0" priority 0;
    meta protocol ip numgen random mod 10000 < $loss counter drop
  }
}
EOF
    fi
    [ "$i" != "$slow" ] ||
      ip netns exec ccmb-sw tc qdisc add dev "p$i" root tbf rate "${slow_rate}mbit" burst 32k limit 256k
  done
}

"$@"
