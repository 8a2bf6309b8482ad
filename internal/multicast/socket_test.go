package multicast

import (
	"clonecast/internal/await"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestOwnGroups opens the two sockets of a receiver, which share a port: each gets the packets of its own group alone.
func TestOwnGroups(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	data := groupOf(67)
	group, err := joinGroup(lo, data, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer group.conn.Close()
	link, err := listenGroup(lo, linkGroup)
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	sender, err := newGroupSender(lo, netip.MustParseAddr("127.0.0.1"), 1e6)
	if err != nil {
		t.Fatal(err)
	}
	defer sender.conn.Close()
	for _, to := range []netip.AddrPort{data, linkGroup, data, linkGroup} {
		text := []byte(to.String())
		if err := sender.send(net.UDPAddrFromAddrPort(to), text, len(text)); err != nil {
			t.Fatal(err)
		}
	}
	for what, read := range map[string]func() (string, error){
		data.String(): func() (got string, err error) {
			err = group.read(func(packet []byte) { got += string(packet) })
			return got, err
		},
		linkGroup.String(): func() (string, error) {
			buf := make([]byte, 100)
			n, _, err := link.ReadFrom(buf)
			return string(buf[:n]), err
		},
	} {
		_ = group.conn.SetReadDeadline(time.Now().Add(await.Limit))
		_ = link.SetReadDeadline(time.Now().Add(await.Limit))
		var got string
		for want := what + what; got != want; {
			more, err := read()
			if got += more; err != nil || !slices.Contains([]string{what, want}, got) {
				t.Fatalf("the socket of %s got %q: %v", what, got, err)
			}
		}
	}
}
