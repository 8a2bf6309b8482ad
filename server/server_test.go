package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"clonecast/internal/netboot"
	"clonecast/internal/protocol"
	"clonecast/server/api"
	"clonecast/server/dhcp"
	"clonecast/server/machines"
)

// inNamespace runs the test again as the only one of a process with a network of its own:
// eth1 (10.99.0.1/24) is the server's, pc1 the other end of its cable. It reports true in
// that process.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const mark = "CLONECAST_TEST_NAMESPACE"
	if os.Getenv(mark) != "" {
		for _, line := range []string{
			"link set lo up", "link add eth1 type veth peer name pc1", "address add 10.99.0.1/24 dev eth1",
			"link set eth1 up", "link set pc1 up",
		} {
			if b, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
				t.Fatalf("ip %s: %v: %s (iproute2 is needed)", line, err, b)
			}
		}
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Errorf("in a network namespace (root or user namespaces are needed): %v\n%s", err, out)
	}
	return false
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func openData(t *testing.T, dir string) *Data {
	t.Helper()
	d, err := OpenData(context.Background(), dir, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// applianceIn makes the files of an appliance: the server only hands them out.
func applianceIn(t *testing.T) Appliance {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"vmlinuz", "initramfs", "undionly.kpxe", "snponly.efi"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Appliance{Class: "qemu", Directory: dir, CommandLine: "console=ttyS0"}
}

// running is a server that serves.
type running struct {
	*Server
	t    *testing.T
	stop func()
}

func serve(t *testing.T, data *Data, mode dhcp.Mode) *running {
	t.Helper()
	return serveWith(t, data, options(t, mode))
}

func serveWith(t *testing.T, data *Data, o Options) *running {
	t.Helper()
	s, err := Open(context.Background(), data, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	r := &running{Server: s, t: t}
	r.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	return r
}

func options(t *testing.T, mode dhcp.Mode) Options {
	return Options{
		Interface: "eth1", DHCP: mode, HTTPPort: 8080, HTTPSPort: 8443,
		Appliances: []Appliance{applianceIn(t)}, Log: quiet(),
		First: netip.MustParseAddr("10.99.0.100"), Last: netip.MustParseAddr("10.99.0.200"),
	}
}

// boot is what iPXE is told.
func (r *running) boot(mac, uuid string) string {
	r.t.Helper()
	response, err := http.Get("http://10.99.0.1:8080/boot/ipxe?mac=" + mac + "&uuid=" + uuid)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

func (r *running) expectBoot(what, mac, uuid string, appliance bool) {
	r.t.Helper()
	if script := r.boot(mac, uuid); strings.Contains(script, "vmlinuz") != appliance {
		r.t.Errorf("%s: appliance is %v, want %v:\n%s", what, !appliance, appliance, script)
	}
}

func call(t *testing.T, c *http.Client, method, url, token string, body, result any) int {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	q, err := http.NewRequest(method, url, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("Authorization", "Bearer "+token)
	response, err := c.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(result); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode
}

func pinned(ca []byte) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
}

func overSocket(path string) *http.Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
}

// The life of a PC as the server sees it, from the first packet to the failed task.
func TestBootDecisions(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := filepath.Join(t.TempDir(), "data")
	data := openData(t, dir)
	defer func() { data.Close() }()
	if password, err := data.FirstPassword(t.Context()); err != nil || len(password) < 20 {
		t.Errorf("password of the first start: %q, %v", password, err)
	}
	r := serve(t, data, dhcp.Proxy)
	https, local := pinned(data.CA()), overSocket(data.Socket())
	const mac, uuid = "02:00:00:00:00:01", "4c4c4544-0042-3510-8051-b4c04f445a31"
	facts := protocol.Facts{
		UUID: uuid, NICs: []protocol.NIC{{MAC: mac, Booted: true}},
		Disks: []protocol.Disk{{Serial: "D1", Bytes: 1 << 30}},
	}
	bootToken := ""
	register := func() (m protocol.RegisterResponse) {
		request := protocol.RegisterRequest{Version: protocol.Version, Facts: facts, BootToken: bootToken}
		call(t, https, "POST", r.URL()+protocol.PathRegister, "", request, &m)
		return m
	}

	r.expectBoot("unknown", mac, uuid, true)
	m := register()
	r.expectBoot("pending", mac, uuid, false)
	status := call(t, local, "POST", "http://x/api/v1/machines/"+m.MachineID+"/adopt", "",
		map[string]string{"name": "pc1", "ip": "10.99.0.50"}, &machines.Machine{})
	if status != 200 {
		t.Fatalf("adopt: %d", status)
	}
	got, ok := r.reserved.ByMAC(dhcp.MAC{2, 0, 0, 0, 0, 1})
	if !ok || got.IP != netip.MustParseAddr("10.99.0.50") || got.Hostname != "pc1" {
		t.Errorf("reservation is %+v, %v", got, ok)
	}
	r.expectBoot("adopted, no task", mac, uuid, false)
	var ordered api.Ordered
	order := api.Order{Kind: "capture", Machines: []string{"pc1"}, Image: "win"}
	call(t, local, "POST", "http://x/api/v1/tasks", "", order, &ordered)
	r.expectBoot("task waits", mac, uuid, true)
	// A PC whose UUID is another one registers as a new machine.
	r.expectBoot("another PC with the same MAC", mac, "99999999-0042-3510-8051-b4c04f445a31", true)
	var session protocol.LogonResponse
	logon := protocol.LogonRequest{MachineID: m.MachineID, BootToken: "b"}
	call(t, https, "POST", r.URL()+protocol.PathLogon, "", logon, &session)
	var op protocol.Operation
	call(t, https, "POST", r.URL()+protocol.PathNext, session.Token, struct{}{}, &op)
	r.expectBoot("task runs, power fails", mac, uuid, true)

	// The server restarts: nothing changes, no second password, the same authority, the token holds.
	r.stop()
	if err := data.Close(); err != nil {
		t.Fatal(err)
	}
	ca := data.CA()
	data = openData(t, dir)
	if password, err := data.FirstPassword(t.Context()); password != "" || err != nil || !bytes.Equal(ca, data.CA()) {
		t.Errorf("second start: password %q, %v, authority changed %v", password, err, !bytes.Equal(ca, data.CA()))
	}
	r = serve(t, data, dhcp.Off)
	defer func() { r.stop() }()
	r.expectBoot("after the restart", mac, uuid, true)
	var again protocol.Operation
	call(t, https, "POST", r.URL()+protocol.PathNext, session.Token, struct{}{}, &again)
	if !reflect.DeepEqual(again, op) {
		t.Errorf("operation after the restart is %+v, want %+v", again, op)
	}
	call(t, https, "POST", r.URL()+protocol.PathStatus, session.Token,
		protocol.Status{TaskID: op.TaskID, State: "failed", Error: "no disk"}, &struct{}{})
	r.expectBoot("task failed", mac, uuid, false)

	// An appliance that never gets as far as registering is not loaded for ever. Who only asks does not count.
	const loop = "02:00:00:00:00:09"
	for range 3 * maxBoots {
		r.expectBoot("asked", loop, "", true)
	}
	token := ""
	for range maxBoots {
		token = r.load(loop, "")
	}
	r.expectBoot("new PC in a loop", loop, "", false)

	// Linux shows another MAC and has the UUID in the other order: the boot is known by its token.
	facts = protocol.Facts{
		UUID: "33221100-5544-7766-8899-aabbccddeeff", Serial: "S9",
		NICs:  []protocol.NIC{{MAC: "02:00:00:00:00:99", Booted: true}},
		Disks: []protocol.Disk{{Serial: "D9", Bytes: 1 << 30}},
	}
	bootToken = token
	https = pinned(data.CA())
	laptop := register()
	r.expectBoot("it registered and is pending", loop, "", false)
	call(t, overSocket(data.Socket()), "POST", "http://x/api/v1/machines/"+laptop.MachineID+"/adopt", "",
		map[string]string{"name": "laptop"}, &machines.Machine{})
	for range 2 * maxBoots {
		r.expectBoot("adopted, no task", loop, "", false)
	}
	const shown, swapped = "02:00:00:00:00:99", "00112233-4455-6677-8899-aabbccddeeff"
	r.expectBoot("by the MAC that Linux shows, with the UUID in the other order", shown, swapped, false)
	order.Machines = []string{"laptop"}
	call(t, overSocket(data.Socket()), "POST", "http://x/api/v1/tasks", "", order, &ordered)
	for range 2 * maxBoots {
		bootToken = r.load(loop, "")
		register()
	}
	r.expectBoot("a PC with a task is led into the appliance every time", loop, "", true)
	r.expectBoot("and by the MAC that Linux shows", shown, swapped, true)
	call(t, overSocket(data.Socket()), "DELETE", "http://x/api/v1/machines/"+laptop.MachineID, "", nil, &struct{}{})
	r.expectBoot("removed: it is new", loop, "", true)
}

// load is a PC that boots the appliance; it gives the boot's token.
func (r *running) load(mac, uuid string) (token string) {
	r.t.Helper()
	script := r.boot(mac, uuid)
	_, after, _ := strings.Cut(script, "clonecast.token=")
	token, _, ok := strings.Cut(after, " ")
	if !ok {
		r.t.Fatalf("no token in\n%s", script)
	}
	for line := range strings.Lines(script) {
		for _, word := range strings.Fields(line) {
			if !strings.Contains(word, netboot.FilesPath) {
				continue
			}
			response, err := http.Get(word)
			if err != nil {
				r.t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != 200 {
				r.t.Fatalf("%s: %v, %v", word, response.Status, err)
			}
			response.Body.Close()
		}
	}
	return token
}

func TestFirstStart(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := filepath.Join(t.TempDir(), "data")
	data := openData(t, dir)
	defer data.Close()
	for name, mode := range map[string]os.FileMode{"": 0o700, "ca.key": 0o600, "clonecast.db": 0o600, "store": 0o700} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%q: %v, %v; want mode %o", name, info.Mode(), err, mode)
		}
	}
	var hint *Problem
	_, err := OpenData(context.Background(), dir, quiet())
	if !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "another") {
		t.Errorf("data opened twice: %v", err)
	}
	r := serve(t, data, dhcp.Full)
	defer r.stop()
	if info, err := os.Stat(data.Socket()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	for _, want := range []string{r.URL(), "10.99.0.100 to 10.99.0.200", "--data " + dir} {
		if !strings.Contains(r.Describe(), want) {
			t.Errorf("%q is not in:\n%s", want, r.Describe())
		}
	}
	var login api.LoginAnswer
	https := pinned(data.CA())
	password, err := data.FirstPassword(t.Context())
	if err != nil || password == "" {
		t.Fatalf("password of the first start: %q, %v", password, err)
	}
	credentials := api.Login{User: "admin", Password: password}
	if status := call(t, https, "POST", r.URL()+"/api/v1/login", "", credentials, &login); status != 200 {
		t.Errorf("log-in with the password of the first start: %d", status)
	}
	var st api.Status
	status := call(t, https, "GET", r.URL()+"/api/v1/status", login.Token, nil, &st)
	if status != 200 || st.DHCP != "full" {
		t.Errorf("status: %d %+v", status, st)
	}
	roots := https.Transport.(*http.Transport).TLSClientConfig.RootCAs
	old := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MaxVersion: tls.VersionTLS12},
	}}
	if _, err := old.Get(r.URL() + "/healthz"); err == nil {
		t.Error("TLS 1.2 is accepted")
	}
	if _, err := http.Get(r.URL() + "/healthz"); err == nil {
		t.Error("a client without our authority accepts the certificate")
	}
}

func TestErrorsThatPeopleMeet(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	data := openData(t, filepath.Join(t.TempDir(), "data"))
	defer data.Close()
	expect := func(what string, change func(*Options), wants ...string) {
		t.Helper()
		o := options(t, dhcp.Off)
		change(&o)
		s, err := Open(context.Background(), data, o)
		if err == nil {
			s.Close()
			t.Errorf("%s: opened", what)
			return
		}
		var p *Problem
		text := err.Error()
		if errors.As(err, &p) {
			text += " / " + p.Hint()
		}
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q has no %q", what, text, want)
			}
		}
	}
	expect("no such interface", func(o *Options) { o.Interface = "eth9" }, "eth9", "eth1")
	expect("no address", func(o *Options) { o.Interface = "pc1" }, "no IPv4 address", "ip address add")
	l, err := net.Listen("tcp", "10.99.0.1:8443")
	if err != nil {
		t.Fatal(err)
	}
	expect("port in use", func(*Options) {}, "8443", fmt.Sprintf("process %d", os.Getpid()))
	l.Close()
	u, err := net.ListenPacket("udp", "10.99.0.1:69")
	if err != nil {
		t.Fatal(err)
	}
	expect("TFTP port in use", func(*Options) {}, "udp port 69", fmt.Sprintf("process %d", os.Getpid()))
	u.Close()
	for what, check := range map[string]struct {
		change func(*Options)
		wants  []string
	}{
		"range of another network": {func(o *Options) {
			o.DHCP, o.First, o.Last = dhcp.Full, netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("10.0.0.200")
		}, []string{"10.0.0.100", "not inside", "10.99.0.100-10.99.0.200"}},
		"one port for two": {func(o *Options) { o.HTTPPort = o.HTTPSPort }, []string{"8443", "--http-port"}},
	} {
		o := options(t, dhcp.Off)
		check.change(&o)
		err := Preflight(t.Context(), o)
		var p *Problem
		if !errors.As(err, &p) {
			t.Errorf("%s: %v", what, err)
			continue
		}
		for _, want := range check.wants {
			if !strings.Contains(err.Error()+" / "+p.Hint(), want) {
				t.Errorf("%s: %v / %s has no %q", what, err, p.Hint(), want)
			}
		}
	}
	for _, mode := range []dhcp.Mode{dhcp.Off, dhcp.Proxy, dhcp.Full} {
		if err := Preflight(t.Context(), options(t, mode)); err != nil {
			t.Errorf("nothing is wrong with mode %s: %v", mode, err)
		}
	}
	for network, port := range map[string]int{"tcp": 8443, "udp": 67} {
		var busy io.Closer
		if network == "tcp" {
			busy, err = net.Listen(network, "10.99.0.1:8443")
		} else {
			busy, err = net.ListenPacket(network, "0.0.0.0:67")
		}
		if err != nil {
			t.Fatal(err)
		}
		var p *Problem
		err := Preflight(t.Context(), options(t, dhcp.Proxy))
		if !errors.As(err, &p) || !strings.Contains(p.Hint(), fmt.Sprint(port)) {
			t.Errorf("port %d in use: %v", port, err)
		}
		busy.Close()
	}
	expect("no boot programs", func(o *Options) {
		o.Appliances = []Appliance{{Class: "x", Directory: t.TempDir()}}
	}, "read boot program", "clonecast build")
	s := serve(t, data, dhcp.Off) // nothing of the failed attempts stayed bound
	s.stop()

	// The computer at the other end of the cable is a DHCP server already.
	other, err := dhcp.NewHandler(dhcp.Config{
		Mode: dhcp.Full, Address: netip.MustParsePrefix("10.99.0.2/24"),
		HTTP: "http://10.99.0.2", Programs: netboot.DefaultPrograms(),
		Subnets: []dhcp.Subnet{{
			Prefix: netip.MustParsePrefix("10.99.0.0/24"),
			First:  netip.MustParseAddr("10.99.0.30"), Last: netip.MustParseAddr("10.99.0.40"),
		}},
	}, &dhcp.ReservationTable{}, &dhcp.MemoryLeases{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ds, err := dhcp.Open(context.Background(), other, dhcp.Options{Interface: "pc1", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go ds.Serve(ctx)
	if b, err := exec.Command("ip", "address", "add", "10.99.0.2/24", "dev", "pc1").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	expect("another DHCP server", func(o *Options) { o.DHCP = dhcp.Full },
		"another DHCP server", "10.99.0.2", "--dhcp proxy")
	cancel()
}

func TestLeafFollowsAddresses(t *testing.T) {
	dir := t.TempDir()
	a, err := openAuthorities(dir, time.Now(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	addresses := []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	l := &leaf{authorities: a, directory: dir, addresses: func() ([]netip.Addr, error) { return addresses, nil },
		now: time.Now}
	get := func(l *leaf) *x509.Certificate {
		t.Helper()
		c, err := l.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf
	}
	first := get(l)
	if kept := get(&leaf{authorities: a, directory: dir, addresses: l.addresses, now: time.Now}); !kept.Equal(first) {
		t.Error("a restart makes a new certificate")
	}
	addresses = append(addresses, netip.MustParseAddr("10.0.0.2"))
	if !get(l).Equal(first) {
		t.Error("addresses are asked for at every handshake")
	}
	l.checked = time.Time{}
	second := get(l)
	if second.Equal(first) || second.VerifyHostname("10.0.0.2") != nil || second.VerifyHostname("10.0.0.1") != nil {
		t.Errorf("certificate is for %v", second.IPAddresses)
	}
	soon := &leaf{authorities: a, current: l.current}
	if soon.fits(second, addresses, second.NotAfter.Add(-leafRenewal/2)) || !soon.fits(second, addresses, time.Now()) {
		t.Error("renewal does not follow the certificate's end")
	}
	other, err := openAuthorities(t.TempDir(), time.Now(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	if (&leaf{authorities: other}).fits(second, addresses, time.Now()) {
		t.Error("another authority's certificate fits")
	}
}

func TestLeases(t *testing.T) {
	data := openData(t, filepath.Join(t.TempDir(), "data"))
	defer data.Close()
	l := &leases{data.DB}
	want := dhcp.Lease{
		IP: netip.MustParseAddr("10.0.0.9"), MAC: dhcp.MAC{2, 0, 0, 0, 0, 9}, Hostname: "pc\x1b",
		Expires: time.UnixMilli(1_800_000_000_000).UTC(),
	}
	for range 2 {
		if err := l.Save(want); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := l.Load(); err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("Load = %+v, %v", got, err)
	}
}
