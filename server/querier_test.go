package server

import (
	"net"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"clonecast/internal/await"
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
	if _, running := r.querier.get(); !running {
		t.Fatal("the server is no querier")
	}
	ifi, err := net.InterfaceByName("pc1")
	if err != nil {
		t.Fatal(err)
	}
	wire, err := packet.Listen(ifi, packet.Datagram, unix.ETH_P_IP, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	if err := wire.SetReadDeadline(time.Now().Add(await.Limit)); err != nil {
		t.Fatal(err)
	}
	r.querier.Hurry()
	for buf := make([]byte, 2048); ; {
		n, _, err := wire.ReadFrom(buf)
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
		if !header.Src.Equal(net.IPv4(10, 99, 0, 1)) || !header.Dst.Equal(net.IPv4allsys) ||
			header.TTL != 1 || string(header.Options) != string(igmp.RouterAlert) {
			t.Errorf("the query comes as %v", header)
		}
		return
	}
}
