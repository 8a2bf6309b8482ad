package server

import (
	"net"
	"testing"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"clonecast/internal/multicast/igmp"
	"clonecast/server/dhcp"
)

// TestServesAsQuerier makes a server ask its network for groups at once, as a session does that does not get through,
// and sees the query at the other end of the cable.
func TestServesAsQuerier(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	data := openData(t, t.TempDir())
	defer data.Close()
	r := serve(t, data, dhcp.Off)
	defer r.stop()
	if r.querier == nil {
		t.Fatal("the server is no querier")
	}
	ifi, err := net.InterfaceByName("pc1")
	if err != nil {
		t.Fatal(err)
	}
	const ip = unix.ETH_P_IP>>8 | unix.ETH_P_IP&0xff<<8 // in the network's byte order
	wire, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, ip)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(wire)
	if err := unix.Bind(wire, &unix.SockaddrLinklayer{Protocol: ip, Ifindex: ifi.Index}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(wire, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30}); err != nil {
		t.Fatal(err)
	}
	r.querier.Hurry()
	for buf := make([]byte, 2048); ; {
		n, _, err := unix.Recvfrom(wire, buf, 0)
		if err != nil {
			t.Fatalf("no query arrives: %v", err)
		}
		header, err := ipv4.ParseHeader(buf[:n])
		if err != nil {
			t.Fatal(err)
		}
		q, err := igmp.Parse(buf[header.Len:n])
		if err != nil || !q.General() {
			continue
		}
		if !header.Src.Equal(net.IPv4(10, 99, 0, 1)) || !header.Dst.Equal(net.IPv4allsys) || header.TTL != 1 || string(header.Options) != string(igmp.RouterAlert) {
			t.Errorf("the query comes as %v", header)
		}
		return
	}
}
