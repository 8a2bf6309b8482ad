package multicast

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"clonecast/internal/await"
	"clonecast/internal/multicast/blocks"
	"clonecast/internal/multicast/querier"
)

// The tests of this file run a sender and receivers as processes of their own, in network namespaces with
// a bridge between them and random loss at the receivers. The test program is all of them.

const (
	roleVariable = "CLONECAST_MULTICAST_ROLE" // which end of a session the process is
	testKey      = "a key for tests, long enough"
	testRate     = 60e6 / 8
)

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(roleVariable) {
	case "send":
		err = sendRole(os.Args[1], os.Args[2])
	case "receive":
		err = receiveRole(os.Args[1])
	case "send image":
		err = sendImageRole(os.Args[1])
	case "flood":
		err = floodRole(os.Args[1])
	case "query":
		err = queryRole()
	case "receive image":
		err = receiveImageRole(os.Args[1], os.Args[2])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// sendRole sends a file to a number of receivers and prints the summary.
func sendRole(name, receivers string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(receivers)
	if err != nil {
		return err
	}
	_, signer, err := NewPairing()
	if err != nil {
		return err
	}
	pairing, err := KeyFile([]byte(testKey))
	if err != nil {
		return err
	}
	summary, err := Send(context.Background(), SendOptions{
		Interface: "eth0", Pairing: pairing, Signer: signer, Receivers: n, MaxRate: testRate,
		Payload: info.Size(), Source: FileSource(f, info.Size()), Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(summary)
}

// queryRole asks the network once for its groups, as a querier that is switched off soon.
func queryRole() error {
	ifi, addr, err := localAddress("eth0")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	q, err := querier.Open(ctx, ifi.Name, addr, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	q.Hurry()
	go func() {
		defer cancel()
		for state := querier.Listening; state == querier.Listening; state, _ = q.State() {
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond) // Serve sends it now
	}()
	return q.Serve(ctx)
}

// receiveRole receives into a file; the first byte on standard output says that half of it is there.
func receiveRole(name string) error {
	pairing, err := KeyFile([]byte(testKey))
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	found, err := Find(context.Background(), "eth0", pairing, log)
	if err != nil {
		return err
	}
	defer found.Close()
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	half := false
	need := blocks.FullSet(found.Geometry().Count())
	summary, err := found.Receive(context.Background(), need, func(b int, plain []byte) error {
		_, err := f.WriteAt(plain, found.Geometry().Offset(b))
		return err
	}, func(done, total int64) {
		if !half && done >= total/2 {
			half = true
			fmt.Println("half")
		}
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stderr).Encode(summary)
}

// network is a bridge with namespaces around it.
type network struct {
	t      *testing.T
	prefix string
	n      int
}

func newNetwork(t *testing.T) *network {
	n := &network{t: t, prefix: fmt.Sprintf("clonecast-mc-%d-", os.Getpid())}
	n.ip("netns", "add", n.prefix+"switch")
	t.Cleanup(func() { n.ip("netns", "del", n.prefix+"switch") })
	n.ip("-n", n.prefix+"switch", "link", "add", "br0", "type", "bridge",
		"mcast_snooping", "0", "stp_state", "0", "forward_delay", "0")
	n.ip("-n", n.prefix+"switch", "link", "set", "br0", "up")
	return n
}

func (n *network) ip(args ...string) { n.run("ip", args...) }

func (n *network) run(name string, args ...string) {
	n.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		n.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// computer makes a namespace with eth0 at the bridge that loses a share of what it receives.
func (n *network) computer(lossPercent int) string {
	n.t.Helper()
	n.n++
	ns := n.prefix + strconv.Itoa(n.n)
	n.ip("netns", "add", ns)
	n.t.Cleanup(func() { n.ip("netns", "del", ns) })
	port := "p" + strconv.Itoa(n.n)
	n.ip("-n", ns, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", n.prefix+"switch")
	n.ip("-n", ns, "addr", "add", fmt.Sprintf("10.99.1.%d/24", n.n), "dev", "eth0")
	n.ip("-n", ns, "link", "set", "eth0", "up")
	n.ip("-n", ns, "link", "set", "lo", "up")
	n.ip("-n", ns, "route", "add", "224.0.0.0/4", "dev", "eth0")
	n.ip("-n", n.prefix+"switch", "link", "set", port, "master", "br0", "up")
	n.run("ip", "netns", "exec", ns, "ethtool", "-K", "eth0",
		"tso", "off", "gso", "off", "gro", "off", "tx-udp-segmentation", "off")
	if lossPercent > 0 {
		n.drop(ns, fmt.Sprintf("numgen random mod 100 < %d", lossPercent))
	}
	return ns
}

// drop makes a computer lose those IPv4 packets that match.
func (n *network) drop(ns, match string) {
	n.t.Helper()
	n.run("ip", "netns", "exec", ns, "nft", fmt.Sprintf(`table netdev lossy { chain in { `+
		`type filter hook ingress device "eth0" priority 0; meta protocol ip %s drop; }; }`, match))
}

// process is this test program in a namespace.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	output io.Reader
	lines  *bufio.Scanner // of output, where they are read one by one
	errors bytes.Buffer
}

func start(t *testing.T, ns, role string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command("ip", append([]string{"netns", "exec", ns, os.Args[0]}, args...)...)}
	p.cmd.Env = append(os.Environ(), roleVariable+"="+role)
	p.cmd.Stderr = &p.errors
	output, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.output = output
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.kill()
		}
	})
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // ip has become the program itself
	_ = p.cmd.Wait()
}

// half waits until the receiver has half of the payload.
func (p *process) half() {
	p.t.Helper()
	if _, err := io.ReadFull(p.output, make([]byte, 5)); err != nil {
		p.t.Fatalf("a receiver ends before it has half: %v\n%s", err, &p.errors)
	}
}

// wait waits for the end and gives what the process printed.
func (p *process) wait() []byte {
	p.t.Helper()
	timer := time.AfterFunc(await.Limit, func() { p.cmd.Process.Kill() })
	defer timer.Stop()
	out, err := io.ReadAll(p.output)
	if err := cmp.Or(p.cmd.Wait(), err); err != nil {
		p.t.Fatalf("%v: %v\n%s", p.cmd.Args, err, &p.errors)
	}
	return out
}

// TestRoom sends to three receivers that lose 3 % each; one of them is killed when it has half, and a fourth one
// joins then. All but the killed one end with the exact bytes, the late one without a word by unicast.
func TestRoom(t *testing.T) {
	dir := t.TempDir()
	payload := make([]byte, 9_000_001)
	rand.NewChaCha8([32]byte{1}).Read(payload)
	file := filepath.Join(dir, "payload")
	if err := os.WriteFile(file, payload, 0o600); err != nil {
		t.Fatal(err)
	}
	n := newNetwork(t)
	sender := start(t, n.computer(0), "send", file, "3")
	var receivers []*process
	out := func(i int) string { return filepath.Join(dir, fmt.Sprint("out", i)) }
	for i := range 3 {
		receivers = append(receivers, start(t, n.computer(3), "receive", out(i)))
	}
	late := n.computer(3)
	receivers[2].half()
	receivers[2].kill()
	receivers = append(receivers[:2], start(t, late, "receive", out(2)))
	for i, r := range receivers {
		r.wait()
		if got, err := os.ReadFile(out(i)); err != nil || !bytes.Equal(got, payload) {
			t.Errorf("receiver %d has %d bytes that are not the payload (%v)", i, len(got), err)
		}
	}
	var s SendSummary
	if err := json.Unmarshal(sender.wait(), &s); err != nil {
		t.Fatal(err)
	}
	states := map[string]int{}
	for _, r := range s.Receivers {
		states[r.State]++
		if r.State == "done" && r.Loss == 0 {
			t.Errorf("receiver %d lost nothing, want about 3 %%", r.Receiver)
		}
	}
	if states["done"] != 3 || states["vanished"] != 1 {
		t.Errorf("receivers end as %v, want 3 done and 1 vanished", states)
	}
	if wire := float64(s.Wire) / float64(s.Payload); wire > 3 {
		t.Errorf("%.2f bytes on the wire for one of payload: "+
			"a second pass for the late one explains 2, a busy machine some more", wire)
	}
	t.Logf("%+v", s)
}

// filtered are computers behind what keeps a session's packets away, and the cause that both ends must name. All of
// them still hear the announcement.
var filtered = []struct {
	name, drops string // what nftables drops on the way in
	silent      bool   // no UDP leaves, either
	subnet      bool   // the address is in another subnet
	cause       string
	paths       []string
}{
	{"nothing", "ip protocol 200", false, false, "", []string{"group", "full-packets", "unicast"}},
	{"a switch that forgot all groups", "ip daddr 239.0.0.0/8", false, false,
		"igmp-snooping", []string{"link-local", "unicast"}},
	{"a small MTU", "ip daddr 239.255.128.0/18 ip length > 1400", false, false,
		"mtu", []string{"group", "link-local", "unicast"}},
	{"a filter of multicast", "udp dport 9068", false, false, "no-multicast", []string{"unicast"}},
	{"a firewall", "ip protocol udp ip daddr != 239.255.67.67", false, false, "firewall", []string{}},
	{"a firewall for both directions", "ip protocol udp ip daddr != 239.255.67.67", true, false, "firewall", []string{}},
	{"a router", "udp dport 9068", false, true, "other-subnet", []string{"unicast"}},
	{"a firewall for reports only", "ip protocol 200", true, false, "", []string{"group", "full-packets"}},
}

// TestNoPath sends to receivers with filters before them: each says the cause, the sender hears it even where no report
// gets through by UDP, everybody ends with all bytes, and the one without a filter does not wait for the others.
func TestNoPath(t *testing.T) {
	payload := make([]byte, 2_000_000)
	rand.NewChaCha8([32]byte{5}).Read(payload)
	file := filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(file, payload, 0o600); err != nil {
		t.Fatal(err)
	}
	n := newNetwork(t)
	at := n.computer(0)
	n.ip("-n", at, "route", "add", "10.99.2.0/24", "dev", "eth0")
	sender := start(t, at, "send", file, strconv.Itoa(len(filtered)))
	receivers := map[string]*process{}
	for _, f := range filtered {
		ns := n.computer(0)
		address := fmt.Sprintf("10.99.1.%d", n.n)
		if f.subnet {
			n.ip("-n", ns, "addr", "del", address+"/24", "dev", "eth0")
			address = fmt.Sprintf("10.99.2.%d", n.n)
			n.ip("-n", ns, "addr", "add", address+"/24", "dev", "eth0")
			n.ip("-n", ns, "route", "add", "10.99.1.0/24", "dev", "eth0")
		}
		n.drop(ns, f.drops)
		if f.silent {
			n.run("ip", "netns", "exec", ns, "nft",
				"table ip silent { chain out { type filter hook output priority 0; ip protocol udp drop; }; }")
		}
		receivers[address] = start(t, ns, "receive", file+"."+address)
	}
	for address, r := range receivers {
		r.wait()
		if got, err := os.ReadFile(file + "." + address); err != nil || !bytes.Equal(got, payload) {
			t.Errorf("receiver %s has %d bytes that are not the payload (%v)", address, len(got), err)
		}
	}
	var s SendSummary
	if err := json.Unmarshal(sender.wait(), &s); err != nil {
		t.Fatal(err)
	}
	for i, f := range filtered {
		address := fmt.Sprintf("10.99.%d.%d", map[bool]int{false: 1, true: 2}[f.subnet], i+2)
		i := slices.IndexFunc(s.Receivers, func(r ReceiverSummary) bool { return r.Address == address })
		if i < 0 {
			t.Fatalf("the sender knows no receiver %s: %+v", address, s.Receivers)
		}
		checkPath(t, f.name, f.cause, f.paths, s.Receivers[i], receivers[address].errors.String())
	}
}

// checkPath compares what both ends say of a receiver with what they must say.
func checkPath(t *testing.T, name, cause string, paths []string, r ReceiverSummary, said string) {
	t.Helper()
	heard := slices.DeleteFunc(slices.Clone(r.Paths), func(s string) bool {
		return cause == "" && s == "link-local" // perhaps: the test was over before
	})
	if r.State != "done" || r.Cause != cause || !slices.Equal(heard, paths) {
		t.Errorf("behind %s: the sender sees the receiver %s for %q, which heard %v; want done, %q, %v",
			name, r.State, r.Cause, r.Paths, cause, paths)
	}
	if cause != "" && (r.Reason == "" || r.Hint == "" ||
		!strings.Contains(said, r.Reason) || !strings.Contains(said, r.Hint)) {
		t.Errorf("behind %s: the sender says %q, hint %q, the receiver\n%s", name, r.Reason, r.Hint, said)
	}
	if all := r.Fetched >= r.Needed; all != (cause != "") {
		t.Errorf("behind %s: %d of %d bytes came by unicast", name, r.Fetched, r.Needed)
	}
}

// TestQuerier lets the switch forget the session's group while receivers wait: the sender notices, asks the network as
// a querier would, and nobody has to fetch anything.
func TestQuerier(t *testing.T) {
	payload := make([]byte, 2_000_000)
	rand.NewChaCha8([32]byte{7}).Read(payload)
	file := filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(file, payload, 0o600); err != nil {
		t.Fatal(err)
	}
	n := newNetwork(t)
	n.ip("-n", n.prefix+"switch", "link", "set", "br0", "type", "bridge", "mcast_snooping", "1", "mcast_querier", "0")
	hosts := []string{n.computer(0), n.computer(0), n.computer(0), n.computer(0)}
	for _, ns := range hosts { // what it wants a host says twice, and then no more until it is asked
		n.run("ip", "netns", "exec", ns, "sh", "-c", "for v in 2 3; do "+
			"echo 100 > /proc/sys/net/ipv4/conf/eth0/igmpv${v}_unsolicited_report_interval; done")
	}
	n.await("the switch hears a query", func() bool { // one that never heard a querier floods
		start(t, hosts[3], "query").wait()
		return strings.Contains(n.mdb("router ports"), "p4")
	})
	sender := start(t, hosts[0], "send", file, "2")
	receivers := []*process{start(t, hosts[1], "receive", file+".0")}
	n.forget(" port p2 ")
	n.await("the group is asked for", func() bool { return n.mdb(" port p2 ") != "" })
	receivers = append(receivers, start(t, hosts[2], "receive", file+".1"))
	for i, r := range receivers {
		r.wait()
		if got, err := os.ReadFile(fmt.Sprint(file, ".", i)); err != nil || !bytes.Equal(got, payload) {
			t.Errorf("receiver %d has %d bytes that are not the payload (%v)", i, len(got), err)
		}
	}
	var s SendSummary
	if err := json.Unmarshal(sender.wait(), &s); err != nil {
		t.Fatal(err)
	}
	for _, r := range s.Receivers {
		if r.State != "done" || r.Cause != "" || r.Fetched != 0 {
			t.Errorf("receiver %d is %s by %q, with %d bytes by unicast", r.Receiver, r.State, r.Reason, r.Fetched)
		}
	}
	if said := sender.errors.String(); !strings.Contains(said, "no IGMP querier: this computer does its work") {
		t.Errorf("the sender does not say that it is the querier:\n%s", said)
	}
}

// mdb gives the lines of the switch's table of groups that are of sessions, or that contain a word.
func (n *network) mdb(word string) string {
	n.t.Helper()
	out, err := exec.Command("bridge", "-n", n.prefix+"switch", "-d", "mdb", "show", "dev", "br0").CombinedOutput()
	if err != nil {
		n.t.Fatalf("bridge mdb: %v\n%s", err, out)
	}
	lines := ""
	for line := range strings.Lines(string(out)) {
		ofSession := strings.Contains(line, " grp 239.255.1") && !strings.Contains(line, "239.255.1.")
		if strings.Contains(line, word) && (word == "router ports" || ofSession) {
			lines += line
		}
	}
	return lines
}

// forget makes the switch forget the group that it sends to a port, and waits until the host has said all that it says
// without being asked.
func (n *network) forget(port string) {
	n.t.Helper()
	n.await("the switch knows the group", func() bool { return n.mdb(port) != "" })
	gone := time.Now()
	n.await("the switch has forgotten the group", func() bool {
		if line := strings.Fields(n.mdb(port)); len(line) > 0 { // dev br0 port p2 grp G ...
			n.run("bridge", "-n", n.prefix+"switch", "mdb", "del", "dev", "br0", "port", line[3], "grp", line[5], "temp")
			gone = time.Now()
		}
		return time.Since(gone) > 500*time.Millisecond
	})
}

func (n *network) await(what string, so func() bool) {
	n.t.Helper()
	if !await.True(so) {
		n.t.Fatalf("not so after %v: %s\n%s", await.Limit, what, n.mdb(""))
	}
}

// TestPairing refuses what is no code, and keeps those apart that have another one.
func TestPairing(t *testing.T) {
	a, signer, err := NewPairing()
	if err != nil {
		t.Fatal(err)
	}
	public := signer.Public().(ed25519.PublicKey)
	again, err := ParseCode(" " + strings.ToUpper(a.Code()) + "\n")
	if err != nil || !again.trusts(public) || again.Code() != a.Code() || len(a.Code()) != 23 {
		t.Errorf("code %q comes back as %q, %v", a.Code(), again.Code(), err)
	}
	b, _, err := NewPairing()
	if err != nil || b.trusts(public) {
		t.Errorf("another code trusts the sender (%v)", err)
	}
	tokenA, errA := a.token(1)
	tokenB, errB := b.token(1)
	tokenC, errC := a.token(2)
	if errA != nil || errB != nil || errC != nil || tokenA == tokenB || tokenA == tokenC {
		t.Error("two sessions or pairings have the same token")
	}
	for _, s := range []string{
		"", "abcde", a.Code() + "a", strings.Replace(a.Code(), "-", "1", 1)[:23], "ä" + a.Code()[2:],
	} {
		if _, err := ParseCode(s); err == nil {
			t.Errorf("%q is taken for a code", s)
		}
	}
	if _, err := KeyFile([]byte(" short \n")); err == nil {
		t.Error("a short key file is taken")
	}
}
