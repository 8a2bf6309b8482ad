package bringup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"

	"clonecast/internal/sockopt"
)

// The network tests need root and ip(8): two network namespaces joined by veth pairs, with
// this test program running in each. In "room", DHCP answers on every network except the
// dead one; the server listens on home only.
//
//	home   10.77.1.1/24  DHCP and the server
//	other  10.77.2.1/24  DHCP, no server
//	dead   10.77.3.1/24  link, nobody answers
//	off                  no link
const roleVariable = "CLONECAST_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "room":
		if err := room(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	default:
		os.Exit(m.Run())
	}
}

// room serves until its standard input ends.
func room() error {
	// Bound to its interface: else the kernel would answer for it on every network.
	config := net.ListenConfig{Control: sockopt.With(sockopt.Interface("home-r"))}
	l, err := config.Listen(context.Background(), "tcp", "10.77.1.1:8443")
	if err != nil {
		return err
	}
	defer l.Close()
	for i, name := range []string{"home", "other"} {
		own, client := net.IPv4(10, 77, byte(i+1), 1), net.IPv4(10, 77, byte(i+1), 50)
		server, err := server4.NewServer(name+"-r", &net.UDPAddr{Port: 67}, answerer(own, client))
		if err != nil {
			return err
		}
		go func() { _ = server.Serve() }()
	}
	fmt.Println("ready")
	_, err = os.Stdin.Read(make([]byte, 1))
	_ = err // the end
	return nil
}

func answerer(own, client net.IP) server4.Handler {
	return func(conn net.PacketConn, peer net.Addr, m *dhcpv4.DHCPv4) {
		kind := dhcpv4.MessageTypeOffer
		if m.MessageType() == dhcpv4.MessageTypeRequest {
			kind = dhcpv4.MessageTypeAck
		}
		reply, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind),
			dhcpv4.WithYourIP(client), dhcpv4.WithServerIP(own),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(own)), dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithRouter(own),
			dhcpv4.WithDNS(own), dhcpv4.WithLeaseTime(3600))
		if err == nil {
			_, _ = conn.WriteTo(reply.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 68})
		}
	}
}

func TestConnect(t *testing.T) {
	if os.Getenv(roleVariable) == "machine" {
		inNamespace(t)
		return
	}
	if os.Getuid() != 0 {
		t.Fatal("needs root for network namespaces; run as root (make test says how)")
	}
	suffix := fmt.Sprint(os.Getpid())
	machine, rm := "appliance-m"+suffix, "appliance-r"+suffix
	ip(t, "netns", "add", machine)
	t.Cleanup(func() { ip(t, "netns", "del", machine) })
	ip(t, "netns", "add", rm)
	t.Cleanup(func() { ip(t, "netns", "del", rm) })
	for i, name := range []string{"home", "other", "dead", "off"} {
		ip(t, "-n", rm, "link", "add", name+"-r", "type", "veth", "peer", "name", name, "netns", machine)
		ip(t, "-n", rm, "addr", "add", fmt.Sprintf("10.77.%d.1/24", i+1), "dev", name+"-r")
		if name != "off" {
			ip(t, "-n", rm, "link", "set", name+"-r", "up")
		}
	}
	server := exec.Command("ip", "netns", "exec", rm, os.Args[0])
	server.Env = append(os.Environ(), roleVariable+"=room")
	server.Stderr = os.Stderr
	stdin, inErr := server.StdinPipe()
	stdout, outErr := server.StdoutPipe()
	if err := errors.Join(inErr, outErr, server.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); _ = server.Wait() })
	if n, err := stdout.Read(make([]byte, 16)); n == 0 {
		t.Fatalf("the room is not ready: %v", err)
	}
	client := exec.Command("ip", "netns", "exec", machine, os.Args[0], "-test.run=^TestConnect$", "-test.v")
	client.Env = append(os.Environ(), roleVariable+"=machine")
	out, err := client.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !bytes.Contains(out, []byte("PASS: TestConnect/")) {
		t.Errorf("in the machine's namespace: %v", err)
	}
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// inNamespace runs where the machine's four interfaces are.
func inNamespace(t *testing.T) {
	all := func() ([]netlink.Link, error) {
		links, err := netlink.LinkList()
		var veths []netlink.Link
		for _, l := range links {
			if l.Type() == "veth" {
				veths = append(veths, l)
			}
		}
		return veths, err
	}
	newRace := func(mac string) *race {
		return &race{server: "10.77.1.1:8443", links: all, results: make(chan result), running: map[string]bool{},
			opts: NetworkOptions{MAC: mac, Say: func(f string, a ...any) { t.Logf(f, a...) }}}
	}
	t.Run("first that reaches the server wins", func(t *testing.T) {
		started := time.Now()
		n, err := newRace("").connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n.Interface != "home" || n.Address != "10.77.1.50/24" || n.Router != "10.77.1.1" ||
			time.Since(started) >= connectTimeout {
			t.Errorf("%+v after %v", n, time.Since(started))
		}
		if got := addresses(t); got != "home 10.77.1.50/24" {
			t.Errorf("addresses left: %s", got)
		}
		resolv := t.TempDir() + "/resolv.conf"
		if err := n.lease.settle(resolv); err != nil {
			t.Fatal(err)
		}
		if b, _ := os.ReadFile(resolv); string(b) != "nameserver 10.77.1.1\n" {
			t.Errorf("resolv.conf = %q", b)
		}
		if err := n.lease.renew(t.Context()); err != nil {
			t.Errorf("renew: %v", err)
		}
		n.lease.drop()
	})
	t.Run("preferred interface without server does not stop the other", func(t *testing.T) {
		link, err := netlink.LinkByName("dead")
		if err != nil {
			t.Fatal(err)
		}
		n, err := newRace(link.Attrs().HardwareAddr.String()).connect(t.Context())
		if err != nil || n.Interface != "home" {
			t.Fatalf("%+v, %v", n, err)
		}
		n.lease.drop()
	})
	t.Run("nothing reaches the server", func(t *testing.T) {
		r := newRace("")
		r.server = "10.77.1.1:1"
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r.opts.Say = func(f string, a ...any) {
			t.Logf(f, a...)
			if strings.HasPrefix(fmt.Sprintf(f, a...), "home: address") {
				cancel() // that is all there is to find out
			}
		}
		_, err := r.connect(ctx)
		var none *NoNetworkError
		if !errors.As(err, &none) {
			t.Fatalf("connect = %v", err)
		}
		for _, want := range []string{
			"home: address 10.77.1.50/24, server 10.77.1.1:1 does not answer (connect: connection refused)",
			"dead has a link, but no DHCP server answers", "off has no link",
		} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error %q lacks %q", err, want)
			}
		}
		if got := addresses(t); got != "" {
			t.Errorf("addresses left: %s", got)
		}
	})
}

func addresses(t *testing.T) string {
	t.Helper()
	list, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, a := range list {
		if !a.IP.IsLoopback() {
			texts = append(texts, a.Label+" "+a.IPNet.String())
		}
	}
	return strings.Join(texts, ", ")
}
