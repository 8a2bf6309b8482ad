package querier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"clonecast/internal/await"
	"clonecast/internal/multicast/igmp"
	"clonecast/internal/nettest"
)

const group = "239.255.140.1"

// snooped gives the test a switch with IGMP snooping and no querier: a bridge with "our" and "far" at it. What
// somebody said he wants it forgets after two seconds.
func snooped(t *testing.T) {
	t.Helper()
	nettest.Isolate(t,
		"ip link add br0 type bridge stp_state 0 forward_delay 0 "+
			"mcast_snooping 1 mcast_querier 0 mcast_membership_interval 200",
		"ip link set br0 up",
		"ip link add our type veth peer name port1",
		"ip link set port1 master br0 up",
		"ip link add far type veth peer name port2",
		"ip link set port2 master br0 up",
		"ip addr add 10.9.0.5/24 dev our",
		"ip link set our up",
	)
}

// farHost is a computer at the switch that wants the group.
type farHost struct {
	packets chan string
}

// newFarHost moves the interface "far" into a namespace of its own and joins the group there.
func newFarHost(t *testing.T) *farHost {
	t.Helper()
	h := &farHost{packets: make(chan string, 1)}
	ready, stopped := make(chan net.PacketConn), make(chan struct{})
	moved := make(chan error)
	tid := make(chan int)
	go func() {
		defer close(stopped)
		runtime.LockOSThread() // and never unlocked: the thread ends with the namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		tid <- unix.Gettid()
		if <-moved != nil {
			close(ready)
			return
		}
		conn, err := joinFar()
		if err != nil {
			t.Error(err)
			close(ready)
			return
		}
		ready <- conn
		buf := make([]byte, 100)
		for {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			select {
			case h.packets <- string(buf[:n]):
			default:
			}
		}
	}()
	err := exec.Command("ip", "link", "set", "far", "netns", fmt.Sprint(<-tid)).Run()
	moved <- err
	conn, ok := <-ready
	if err != nil || !ok {
		t.Fatalf("the far host does not start: %v", err)
	}
	t.Cleanup(func() {
		conn.Close()
		<-stopped
	})
	return h
}

func joinFar() (net.PacketConn, error) {
	for _, line := range []string{"ip addr add 10.9.0.7/24 dev far", "ip link set far up"} {
		if err := command(line); err != nil {
			return nil, err
		}
	}
	// What it wants it says twice, soon, and then no more until it is asked.
	for _, version := range []string{"2", "3"} {
		path := "/proc/sys/net/ipv4/conf/far/igmpv" + version + "_unsolicited_report_interval"
		if err := os.WriteFile(path, []byte("100"), 0); err != nil {
			return nil, err
		}
	}
	conn, err := net.ListenPacket("udp4", group+":9999")
	if err != nil {
		return nil, err
	}
	ifi, err := net.InterfaceByName("far")
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, ipv4.NewPacketConn(conn).JoinGroup(ifi, &net.IPAddr{IP: net.ParseIP(group)})
}

func command(line string) error {
	words := strings.Fields(line)
	if text, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, text)
	}
	return nil
}

// hears tells whether the host gets what is sent to the group now.
func (h *farHost) hears(t *testing.T, conn net.PacketConn, name string) bool {
	t.Helper()
	to := &net.UDPAddr{IP: net.ParseIP(group), Port: 9999}
	for range 20 {
		if _, err := conn.WriteTo([]byte(name), to); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-h.packets:
			if got == name {
				return true
			}
		case <-time.After(20 * time.Millisecond):
		}
	}
	return false
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	if !await.True(so) {
		t.Fatalf("not so after %v: %s", await.Limit, what)
	}
}

// known tells whether the switch knows somebody who wants the group.
func known(t *testing.T) bool {
	t.Helper()
	out, err := exec.Command("bridge", "mdb", "show", "dev", "br0").CombinedOutput()
	if err != nil {
		t.Fatalf("bridge mdb: %v\n%s", err, out)
	}
	return strings.Contains(string(out), group)
}

// open starts a querier on the interface "our".
func open(t *testing.T) *Server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := Open(ctx, "our", netip.MustParseAddr("10.9.0.5"), slog.New(slog.DiscardHandler))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s
}

// TestSwitchForgets shows what a session without a querier meets: the switch forgets who wants the group, and nothing
// arrives any more. A query brings it back.
func TestSwitchForgets(t *testing.T) {
	snooped(t)
	s := open(t)
	ours, err := net.ListenPacket("udp4", "10.9.0.5:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	ifi, err := net.InterfaceByName("our")
	if err != nil {
		t.Fatal(err)
	}
	if err := ipv4.NewPacketConn(ours).SetMulticastInterface(ifi); err != nil {
		t.Fatal(err)
	}
	// A querier was there once; without ever having heard one the bridge floods everything.
	eventually(t, "the switch has heard a querier", func() bool {
		if err := s.send(igmp.Query{Version: 2, MaxResponse: 10, Group: netip.IPv4Unspecified()}); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("bridge", "-d", "mdb", "show", "dev", "br0").CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(out), "router ports on br0: port1")
	})
	far := newFarHost(t)
	eventually(t, "the far host is heard to want the group, and gets it", func() bool {
		return known(t) && far.hears(t, ours, "joined")
	})
	eventually(t, "the switch forgets the group, and nothing arrives", func() bool {
		return !known(t) && !far.hears(t, ours, "forgotten")
	})
	s.Hurry()
	eventually(t, "after a query the group arrives again", func() bool { return known(t) && far.hears(t, ours, "asked") })
	if state, _ := s.State(); state != Querying {
		t.Errorf("the querier is %v", state)
	}
}

// TestBridgeAsks lets the switch itself be the querier: its queries are understood, and we yield.
func TestBridgeAsks(t *testing.T) {
	for version := 2; version <= 3; version++ {
		snooped(t)
		s := open(t)
		// The bridge is in the same namespace.
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/our/accept_local", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			"ip addr add 10.9.0.2/24 dev br0",
			fmt.Sprintf("ip link set br0 type bridge mcast_igmp_version %d mcast_query_use_ifaddr 1 "+
				"mcast_startup_query_interval 20 mcast_querier 1", version),
		} {
			if err := command(line); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "we yield to the bridge", func() bool { state, _ := s.State(); return state == Yielding })
		if _, other := s.State(); other != netip.MustParseAddr("10.9.0.2") {
			t.Errorf("version %d: the other querier is %v", version, other)
		}
		s.Hurry()
		if state, _ := s.State(); state != Yielding {
			t.Errorf("version %d: after Hurry the querier is %v", version, state)
		}
	}
}

// TestForwardedQuery does not believe a query that a router forwarded.
func TestForwardedQuery(t *testing.T) {
	s := &Server{querier: New(0, our), start: time.Now(), log: slog.New(slog.DiscardHandler), ifi: &net.Interface{}}
	header := ipv4.Header{Src: low.AsSlice(), Dst: igmp.AllSystems.AsSlice(), TTL: 2}
	for _, tc := range []struct {
		ttl  int
		dst  netip.Addr
		want State
	}{{2, igmp.AllSystems, Listening}, {1, our, Listening}, {1, igmp.AllSystems, Yielding}} {
		header.TTL, header.Dst = tc.ttl, tc.dst.AsSlice()
		if s.hear(&header, plain.Append(nil)); s.querier.state != tc.want {
			t.Errorf("TTL %d, to %v: %v, want %v", tc.ttl, tc.dst, s.querier.state, tc.want)
		}
	}
}

// TestNoInterface refuses an interface that is not there.
func TestNoInterface(t *testing.T) {
	_, err := Open(t.Context(), "no-such", our, slog.New(slog.DiscardHandler))
	if err == nil || errors.Is(err, os.ErrPermission) {
		t.Errorf("Open = %v", err)
	}
}
