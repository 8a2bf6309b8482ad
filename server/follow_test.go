package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"clonecast/internal/await"
	"clonecast/server/dhcp"
	"clonecast/server/link"
)

// ip changes the test's network.
func ip(t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if b, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, b)
		}
	}
}

// logText is a log that can be read while it is written.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logText) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), text)
}

// offer asks at the other end of the cable as a BIOS does.
func offer() *dhcpv4.DHCPv4 {
	c, err := nclient4.New("pc1", nclient4.WithTimeout(500*time.Millisecond), nclient4.WithRetry(1))
	if err != nil {
		return nil
	}
	defer c.Close()
	m, err := c.DiscoverOffer(context.Background(), dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient")))
	if err != nil {
		return nil
	}
	return m
}

// answers tells what the server does not serve at an address; nothing when all is well.
func (r *running) answers(address string) error {
	https := pinned(r.data.CA())
	for url, c := range map[string]*http.Client{
		"https://" + address + ":8443/healthz": https, "http://" + address + ":8080/boot/ipxe": http.DefaultClient,
	} {
		response, err := c.Get(url)
		if err != nil {
			return err
		}
		if err := errors.Join(response.Body.Close()); err != nil || response.StatusCode != 200 {
			return errors.Join(err, errors.New(response.Status))
		}
	}
	conn, err := net.Dial("udp", address+":69")
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "\x00\x01none\x00octet\x00"); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 100))
	return err
}

// The server follows its interface: a second address, another one, down and up, made anew under the same name.
func TestFollowsInterface(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	data := openData(t, filepath.Join(t.TempDir(), "data"))
	defer data.Close()
	log := &logText{}
	o := options(t, dhcp.Full)
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	r := serveWith(t, data, o)
	defer r.stop()
	expect := func(what string, addresses []string, dhcpFrom string) {
		t.Helper()
		var problem error
		if !await.True(func() bool {
			problem = nil
			for _, a := range addresses {
				problem = errors.Join(problem, r.answers(a))
			}
			m := offer()
			switch {
			case m == nil && dhcpFrom != "":
				problem = errors.Join(problem, errors.New("no DHCP"))
			case m != nil && m.ServerIdentifier().String() != dhcpFrom:
				problem = errors.Join(problem, errors.New("DHCP of "+m.ServerIdentifier().String()))
			}
			return problem == nil
		}) {
			t.Fatalf("%s: %v\n%s", what, problem, log.b.Bytes())
		}
	}
	expect("start", []string{"10.99.0.1"}, "10.99.0.1")

	ip(t, "address add 10.50.0.1/24 dev eth1")
	expect("a second address", []string{"10.99.0.1", "10.50.0.1"}, "10.99.0.1")
	if got := r.urlAt(netip.MustParseAddr("10.50.0.1")); got != "https://10.50.0.1:8443" {
		t.Errorf("a PC at the second address is told %s", got)
	}
	ip(t, "link set eth1 down", "link set eth1 up", "address del 10.50.0.1/24 dev eth1")
	expect("down and up", []string{"10.99.0.1"}, "10.99.0.1")

	asks, _ := r.querier.get()
	advertises, _ := r.radv.get()
	// The index is another one, as after a bridge or a USB card was made anew.
	ip(t, "link del eth1")
	if !await.True(func() bool { return log.has("the interface is gone") }) {
		t.Error("the log does not say that the interface is gone")
	}
	ip(t, "link add other type veth peer name other1", "link add eth1 type veth peer name pc1",
		"address add 10.99.0.1/24 dev eth1", "link set eth1 up", "link set pc1 up")
	expect("made anew", []string{"10.99.0.1"}, "10.99.0.1")
	if !await.True(func() bool {
		q, asking := r.querier.get()
		a, advertising := r.radv.get()
		return asking && advertising && q != asks && a != advertises
	}) {
		t.Error("the querier or the router advertisements stay with the old interface")
	}
	if !log.has("is served as it is now") {
		t.Errorf("nothing in the log:\n%s", log.b.Bytes())
	}

	// Another network: what needs no range goes on, and the log says what does.
	ip(t, "address flush dev eth1", "address add 10.77.0.1/24 dev eth1")
	expect("another network", []string{"10.77.0.1"}, "")
	told := await.True(func() bool { return log.has("range 10.99.0.100 to 10.99.0.200") })
	if r.URL() != "https://10.77.0.1:8443" || !told {
		t.Errorf("%s\n%s", r.URL(), log.b.Bytes())
	}
	if err := r.answers("10.99.0.1"); err == nil {
		t.Error("the old address still answers")
	}
	ip(t, "address flush dev eth1", "address add 10.99.0.3/24 dev eth1")
	expect("another address", []string{"10.99.0.3"}, "10.99.0.3")
}

// With --wait the server begins when its interface has come and has an address.
func TestWait(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	log := &logText{}
	done := make(chan error, 1)
	go func() { done <- Wait(context.Background(), "late", slog.New(slog.NewTextHandler(log, nil))) }()
	if !await.True(func() bool { return log.has("interface=late") }) {
		t.Fatal("the log does not say what is waited for")
	}
	ip(t, "link add late type veth peer name end", "link set late up")
	select {
	case err := <-done:
		t.Fatalf("it did not wait for the address: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	ip(t, "address add 10.66.0.1/24 dev late")
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Wait(ctx, "never", quiet()); !errors.Is(err, context.Canceled) {
		t.Errorf("a wait that was ended: %v", err)
	}
}

// What is given for networks is checked against the interface before anything is built.
func TestNetworksAreChecked(t *testing.T) {
	own := netip.MustParsePrefix("10.99.0.1/24")
	subnet := func(text string) dhcp.Subnet {
		s, err := dhcp.ParseSubnet(text)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ranged := subnet("10.99.0.0/24,range=10.99.0.10-10.99.0.20,router=10.99.0.254,lease=8h")
	far := subnet("10.98.0.0/24,range=10.98.0.10-10.98.0.20")
	twice := Options{DHCP: dhcp.Full, First: ranged.First, Last: ranged.Last, Networks: []dhcp.Subnet{ranged}}
	for name, test := range map[string]struct {
		o    Options
		want string // of the error
	}{
		"proxy":         {Options{DHCP: dhcp.Proxy, Networks: []dhcp.Subnet{subnet("192.0.2.0/24")}}, ""},
		"range":         {options(t, dhcp.Full), ""},
		"own network":   {Options{DHCP: dhcp.Full, Networks: []dhcp.Subnet{ranged, far}}, ""},
		"relay only":    {Options{DHCP: dhcp.Full, Networks: []dhcp.Subnet{far}}, ""},
		"two ranges":    {twice, "two ranges"},
		"range outside": {Options{DHCP: dhcp.Full, First: far.First, Last: far.Last}, "not inside"},
		"overlap":       {Options{DHCP: dhcp.Full, Networks: []dhcp.Subnet{subnet("10.99.0.0/16")}}, "overlap"},
	} {
		test.o.Interface, test.o.HTTPPort = "eth1", 8080
		_, err := dhcpConfig(test.o, own)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	config, err := dhcpConfig(Options{DHCP: dhcp.Full, HTTPPort: 8080, Networks: []dhcp.Subnet{far, ranged}}, own)
	if err != nil || len(config.Subnets) != 2 || config.Subnets[1].LeaseTime != 8*time.Hour {
		t.Errorf("%+v, %v", config.Subnets, err)
	}
}

// A server that answers no DHCP says what the site's has to be told, and keeps the lines right.
func TestSiteLines(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	data := openData(t, filepath.Join(t.TempDir(), "data"))
	defer data.Close()
	r := serve(t, data, dhcp.Off)
	defer r.stop()
	dir := filepath.Join(data.Directory, "dhcp")
	for _, want := range []string{"http://10.99.0.1:8080/boot/ipxe\n", "undionly.kpxe", "snponly.efi", dir} {
		if !strings.Contains(r.Describe(), want) {
			t.Errorf("no %q in\n%s", want, r.Describe())
		}
	}
	ip(t, "address add 10.77.0.1/24 dev eth1", "address del 10.99.0.1/24 dev eth1")
	for _, name := range []string{"dnsmasq.conf", "isc-dhcpd.conf", "kea-dhcp4.json"} {
		if !await.True(func() bool {
			b, err := os.ReadFile(filepath.Join(dir, name))
			return err == nil && bytes.Contains(b, []byte("http://10.77.0.1:8080/boot/ipxe")) &&
				!bytes.Contains(b, []byte("10.99.0.1"))
		}) {
			t.Errorf("%s does not follow the address", name)
		}
	}
}

// The state of an interface without addresses names none.
func TestNoAddress(t *testing.T) {
	if a := (link.State{}).Address(); a.IsValid() {
		t.Errorf("address %s", a)
	}
}
