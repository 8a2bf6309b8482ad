package agent

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"clonecast/initramfs/console"
	"clonecast/internal/await"
	"clonecast/internal/blockdev"
	"clonecast/internal/clone"
	"clonecast/internal/diskrule"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"

	"github.com/google/go-cmp/cmp"
)

func nullLog() *log.Logger { return log.New(io.Discard, "", 0) }

// fileDisks makes disk files the machine's disks.
type fileDisks []blockdev.Facts

func (f fileDisks) List() ([]blockdev.Facts, error) { return f, nil }
func (f fileDisks) Open(path string, write bool) (Disk, clone.Geometry, error) {
	return MachineDisks{}.Open(path, write)
}

const diskSize = 12 << 20

// diskFile makes a disk with an MBR and one unformatted partition of random bytes, or
// a blank one.
func diskFile(t *testing.T, name string, blank bool) blockdev.Facts {
	t.Helper()
	b := make([]byte, diskSize)
	if !blank {
		random := mathrand.NewChaCha8([32]byte{1})
		_, _ = random.Read(b[1<<20 : 8<<20]) // the rest stays zero
		b[446+4] = 0x83
		binary.LittleEndian.PutUint32(b[446+8:], 2048)
		binary.LittleEndian.PutUint32(b[446+12:], (diskSize-1<<20)/512)
		b[510], b[511] = 0x55, 0xaa
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return blockdev.Facts{Name: name, Path: path, Size: diskSize, Model: "Test Disk", Serial: name, Bus: "sata"}
}

type bench struct {
	*testServer
	disk   blockdev.Facts
	screen *bytes.Buffer
	agent  *Agent
}

func newBench(t *testing.T, server *testServer, disk blockdev.Facts) *bench {
	t.Helper()
	screen := &bytes.Buffer{}
	a, err := New(Config{
		Server: "https://" + server.address, CAs: []*x509.Certificate{server.ca.ca}, Keys: server.store.TrustedKeys(),
		BootToken: "boot", Build: "test",
		Inventory: func() protocol.Facts { return protocol.Facts{UUID: "u"} },
		Console:   console.New(time.Now, nil, []io.Writer{screen}), Disks: fileDisks{disk},
	})
	if err != nil {
		t.Fatal(err)
	}
	a.patience, a.partChunks, a.orderWait = 0, 4, 0
	return &bench{server, disk, screen, a}
}

func (b *bench) run() (Outcome, error) {
	return b.agent.Run(await.Context(b.t))
}

// captured makes a server that already has the image "lab" and is to deploy it.
func captured(t *testing.T, ca authority) (*testServer, []byte) {
	t.Helper()
	disk := diskFile(t, "source", false)
	s := newTestServer(t, ca, protocol.Operation{Kind: protocol.OpCapture, Image: "lab"})
	if _, err := newBench(t, s, disk).run(); err != nil {
		t.Fatalf("capture: %v", err)
	}
	content, err := os.ReadFile(disk.Path)
	if err != nil {
		t.Fatal(err)
	}
	s.ops = []protocol.Operation{{Kind: protocol.OpDeploy, Image: "lab", Version: s.published.Version, TaskID: "t2"}}
	s.statuses, s.calls = nil, map[string]int{}
	return s, content
}

func wantDisk(t *testing.T, disk blockdev.Facts, want []byte) {
	t.Helper()
	got, err := os.ReadFile(disk.Path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the target's bytes differ from the source's")
	}
}

func wantUntouched(t *testing.T, disk blockdev.Facts) {
	t.Helper()
	wantDisk(t, disk, make([]byte, diskSize))
}

func TestCaptureThenDeploy(t *testing.T) {
	s, content := captured(t, newAuthority(t, nil))
	b := newBench(t, s, diskFile(t, "target", true))
	if outcome, err := b.run(); outcome != LocalBoot || err != nil {
		t.Fatalf("Run = %v, %v", outcome, err)
	}
	wantDisk(t, b.disk, content)
	if len(s.statuses) != 1 || s.statuses[0].State != protocol.StateDone {
		t.Fatalf("statuses = %+v", s.statuses)
	}
	var r deployResult
	if err := json.Unmarshal(s.statuses[0].Result, &r); err != nil || r.Written == 0 || r.Version != s.published.Version {
		t.Errorf("result = %s, %v", s.statuses[0].Result, err)
	}
	want := []protocol.LogoffRequest{{Reason: "local boot"}, {Reason: "local boot"}}
	if diff := cmp.Diff(want, s.logoffs); diff != "" {
		t.Errorf("logoffs: %s", diff)
	}
}

// A disk that holds the version before fetches what changed as differences from it, also when
// a stream of them breaks off.
func TestDeployFetchesDifferences(t *testing.T) {
	s, old := captured(t, newAuthority(t, nil))
	changed := bytes.Clone(old)
	for at := 3 << 20; at < 4<<20; at += 50_000 {
		changed[at] ^= 0xff
	}
	source := diskFile(t, "source", false)
	if err := os.WriteFile(source.Path, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	s.ops = []protocol.Operation{{Kind: protocol.OpCapture, Image: "lab", TaskID: "t3"}}
	if _, err := newBench(t, s, source).run(); err != nil {
		t.Fatal(err)
	}
	s.ops = []protocol.Operation{{Kind: protocol.OpDeploy, Image: "lab", Version: s.published.Version, TaskID: "t4"}}
	s.statuses, s.calls = nil, map[string]int{}
	restartAt(s, protocol.PathDeltas)
	b := newBench(t, s, diskFile(t, "target", false)) // holds what the first version was made of
	if _, err := b.run(); err != nil {
		t.Fatal(err)
	}
	wantDisk(t, b.disk, changed)
	var r deployResult
	err := json.Unmarshal(s.statuses[0].Result, &r)
	if whole := s.calls[protocol.PathChunks]; err != nil || r.Fetched == 0 || r.Fetched > 10_000 || whole != 0 {
		t.Errorf("result = %s, %v, %d calls for whole chunks; 21 random bytes changed in 4 chunks",
			s.statuses[0].Result, err, whole)
	}
}

func TestServerRestartsMeanwhile(t *testing.T) {
	for _, path := range []string{protocol.PathFrame, protocol.PathPublish} {
		t.Run("capture"+path, func(t *testing.T) {
			s := newTestServer(t, newAuthority(t, nil), protocol.Operation{Kind: protocol.OpCapture, Image: "lab"})
			restartAt(s, path)
			if _, err := newBench(t, s, diskFile(t, "source", false)).run(); err != nil {
				t.Fatal(err)
			}
			if s.published == nil || s.logons != 2 {
				t.Errorf("published %v, %d logons, want 2", s.published, s.logons)
			}
		})
	}
	for _, path := range []string{protocol.PathManifest, protocol.PathChunks, protocol.PathStatus} {
		t.Run("deploy"+path, func(t *testing.T) {
			s, content := captured(t, newAuthority(t, nil))
			restartAt(s, path)
			b := newBench(t, s, diskFile(t, "target", true))
			if _, err := b.run(); err != nil {
				t.Fatal(err)
			}
			wantDisk(t, b.disk, content)
		})
	}
}

// restartAt restarts the server when the path is called for the first time.
func restartAt(s *testServer, path string) {
	s.hook = func(w http.ResponseWriter, r *http.Request, nth int) bool {
		if r.URL.Path != path || nth != 1 {
			return false
		}
		go s.restart(300 * time.Millisecond)
		<-r.Context().Done()
		return true
	}
}

func TestStreamBreaksOff(t *testing.T) {
	s, content := captured(t, newAuthority(t, nil))
	s.hook = func(w http.ResponseWriter, r *http.Request, nth int) bool {
		if r.URL.Path != protocol.PathChunks || nth > 4 {
			return false
		}
		body, _ := io.ReadAll(r.Body)
		sent := 0
		_ = s.store.Frames(r.Context(), splitIDs(body), func(frame []byte) error {
			if sent++; sent == 2 {
				frame = frame[:len(frame)/2]
			}
			_, _ = w.Write(frame)
			if sent == 2 {
				return io.ErrShortWrite
			}
			return nil
		})
		panic(http.ErrAbortHandler)
	}
	b := newBench(t, s, diskFile(t, "target", true))
	if _, err := b.run(); err != nil {
		t.Fatal(err)
	}
	wantDisk(t, b.disk, content)
}

func TestSessionForgotten(t *testing.T) {
	s := newTestServer(t, newAuthority(t, nil), protocol.Operation{Kind: protocol.OpCapture, Image: "lab"})
	s.hook = func(_ http.ResponseWriter, r *http.Request, nth int) bool {
		if r.URL.Path == protocol.PathFrame && nth == 1 {
			s.mu.Lock()
			s.tokens = map[string]bool{}
			s.mu.Unlock()
		}
		return false
	}
	if _, err := newBench(t, s, diskFile(t, "source", false)).run(); err != nil {
		t.Fatal(err)
	}
	if s.logons != 2 || s.published == nil {
		t.Errorf("%d logons, published %v", s.logons, s.published)
	}
}

func TestServerNamesAnotherOperationAfterwards(t *testing.T) {
	s := newTestServer(t, newAuthority(t, nil), protocol.Operation{Kind: protocol.OpCapture, Image: "lab"})
	s.hook = func(_ http.ResponseWriter, r *http.Request, nth int) bool {
		if r.URL.Path == protocol.PathFrame && nth == 1 {
			s.mu.Lock()
			s.tokens, s.ops = map[string]bool{}, []protocol.Operation{{Kind: protocol.OpReboot, TaskID: "t9"}}
			s.mu.Unlock()
		}
		return false
	}
	_, _ = newBench(t, s, diskFile(t, "source", false)).run()
	if s.published != nil {
		t.Error("a capture that the server no longer wanted was published")
	}
}

func TestCancel(t *testing.T) {
	s, _ := captured(t, newAuthority(t, nil))
	s.cancel = true
	s.hook = func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		if r.URL.Path == protocol.PathChunks {
			<-r.Context().Done() // until the client lets go
			return true
		}
		return false
	}
	outcome, err := newBench(t, s, diskFile(t, "target", true)).run()
	if outcome != LocalBoot || err != nil {
		t.Fatalf("Run = %v, %v", outcome, err)
	}
	if len(s.statuses) != 1 || s.statuses[0].State != protocol.StateFailed || s.statuses[0].Error != errCancelled.Error() {
		t.Errorf("statuses = %+v", s.statuses)
	}
}

func TestWrongServerIsRefused(t *testing.T) {
	right := newAuthority(t, nil)
	tests := map[string]authority{
		"another CA":   {right.ca, newAuthority(t, nil).leaf},
		"another name": newAuthority(t, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 9)} }),
		"another CA, not valid yet": {right.ca, newAuthority(t, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().AddDate(1, 0, 0), time.Now().AddDate(2, 0, 0)
		}).leaf},
	}
	for name, ca := range tests {
		t.Run(name, func(t *testing.T) {
			s := newTestServer(t, ca)
			_, err := newBench(t, s, diskFile(t, "target", true)).run()
			var refused *tls.CertificateVerificationError
			if !errors.As(err, &refused) || Hint(err) == "" {
				t.Fatalf("Run = %v, hint %q; want a refused certificate", err, Hint(err))
			}
			if len(s.calls) != 0 {
				t.Errorf("calls %v", s.calls)
			}
		})
	}
}

func TestOwnClockDecidesNothing(t *testing.T) {
	for name, from := range map[string]time.Time{
		"not valid yet": time.Now().AddDate(3, 0, 0),
		"expired":       time.Now().AddDate(-3, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			ca := newAuthority(t, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = from, from.AddDate(1, 0, 0) })
			if _, err := newBench(t, newTestServer(t, ca), diskFile(t, "target", true)).run(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	ca := newAuthority(t, nil)
	config := &tls.Config{Certificates: []tls.Certificate{ca.leaf}, MaxVersion: tls.VersionTLS12}
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { _ = http.Serve(l, http.NotFoundHandler()) }()
	s := newTestServer(t, ca)
	s.address = l.Addr().String()
	if _, err := newBench(t, s, diskFile(t, "target", true)).run(); err == nil {
		t.Error("a TLS 1.2 server was accepted")
	}
}

func TestPendingMachine(t *testing.T) {
	t.Run("adopted later", func(t *testing.T) {
		s := newTestServer(t, newAuthority(t, nil))
		s.adoptAfter = 1
		b := newBench(t, s, diskFile(t, "target", true))
		if outcome, err := b.run(); outcome != LocalBoot || err != nil {
			t.Fatalf("Run = %v, %v", outcome, err)
		}
		if s.logons != 1 || s.calls[protocol.PathRegister] != 2 ||
			!strings.Contains(b.screen.String(), "clonecast machine adopt m1") {
			t.Errorf("%d logons, calls %v, screen:\n%s", s.logons, s.calls, b.screen)
		}
	})
	t.Run("never adopted", func(t *testing.T) {
		s := newTestServer(t, newAuthority(t, nil), protocol.Operation{Kind: protocol.OpPoweroff})
		s.adoptAfter, s.wait = -1, 1
		outcome, err := newBench(t, s, diskFile(t, "target", true)).run()
		if outcome != LocalBoot || err != nil || s.logons != 0 {
			t.Errorf("Run = %v, %v; %d logons", outcome, err, s.logons)
		}
	})
}

func TestRebootAndPoweroff(t *testing.T) {
	for kind, want := range map[string]Outcome{protocol.OpReboot: Reboot, protocol.OpPoweroff: Poweroff} {
		s := newTestServer(t, newAuthority(t, nil), protocol.Operation{Kind: kind})
		if got, err := newBench(t, s, diskFile(t, "target", true)).run(); got != want || err != nil {
			t.Errorf("%s: Run = %v, %v", kind, got, err)
		}
		if len(s.statuses) != 1 || s.statuses[0].State != protocol.StateDone ||
			len(s.logoffs) != 1 || s.logoffs[0].Reason != kind {
			t.Errorf("%s: statuses %+v, logoffs %+v", kind, s.statuses, s.logoffs)
		}
	}
}

// A failure is told with cause and hint, and nothing was written.
func TestDeployIsRefused(t *testing.T) {
	ca := newAuthority(t, nil)
	tests := map[string]struct {
		change func(*testServer, *Config)
		want   string
	}{
		"signature altered": {func(s *testServer, _ *Config) {
			s.envelope = func(b []byte) []byte { b[50] ^= 1; return b }
		}, "not signed by a trusted key"},
		"manifest altered": {func(s *testServer, _ *Config) {
			s.envelope = func(b []byte) []byte { b[len(b)/2+50] ^= 1; return b }
		}, "check the manifest"},
		"key of another server": {func(_ *testServer, c *Config) {
			c.Keys = []ed25519.PublicKey{make([]byte, 32)}
		}, "not signed by a trusted key"},
		"another version": {func(s *testServer, _ *Config) {
			s.ops[0].Version = image.VersionID{1}.String()
		}, "the task names version"},
		"wrong disk": {func(s *testServer, _ *Config) { s.ops[0].Disks = []string{"size<=1MiB"} },
			`no disk fits the rule "size<=1MiB": Test Disk, serial target, 12.0 MiB (target): ` +
				`its size of 12582912 bytes is not <=1MiB`},
		"grow": {func(s *testServer, _ *Config) { s.ops[0].Grow = "first" },
			"neither \"last\" nor a partition's number"},
		"grow what": {func(s *testServer, _ *Config) { s.ops[0].Grow = "7" },
			"partition 7 was to grow, the image has none"},
		"unknown operation": {func(s *testServer, _ *Config) { s.ops[0].Kind = "dance" },
			`does not know the operation "dance"`},
		"too small": {func(_ *testServer, c *Config) {
			small := c.Disks.(fileDisks)
			_ = os.Truncate(small[0].Path, 1<<20)
		}, "the image needs"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := captured(t, ca)
			b := newBench(t, s, diskFile(t, "target", true))
			test.change(s, &b.agent.config)
			_, err := b.run()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("Run = %v, want %q", err, test.want)
			}
			if len(s.statuses) != 1 || s.statuses[0].State != protocol.StateFailed ||
				!strings.Contains(s.statuses[0].Error, test.want) {
				t.Errorf("statuses = %+v", s.statuses)
			}
			if last := s.logoffs[len(s.logoffs)-1]; last.Reason != "failure" || last.Error == "" {
				t.Errorf("logoff = %+v", last)
			}
			if name == "too small" {
				if err := os.Truncate(b.disk.Path, diskSize); err != nil {
					t.Fatal(err)
				}
			}
			wantUntouched(t, b.disk)
		})
	}
}

func TestServerAwayForTooLong(t *testing.T) {
	s := newTestServer(t, newAuthority(t, nil))
	b := newBench(t, s, diskFile(t, "target", true))
	b.agent.client.giveUp, b.agent.config.GiveUp = time.Second, time.Second
	s.stop()
	_, err := b.run()
	var away *awayError
	if !errors.As(err, &away) || Hint(err) == "" {
		t.Errorf("Run = %v, hint %q", err, Hint(err))
	}
}

func TestChooseDisk(t *testing.T) {
	disk := func(name, serial, bus string, size int64, removable bool) blockdev.Facts {
		return blockdev.Facts{
			Name: name, Serial: serial, WWN: "naa." + serial, Model: "M",
			Bus: bus, Size: quantity.Bytes(size), Removable: removable,
		}
	}
	sda, nvme := disk("sda", "A", "sata", 500, false), disk("nvme0n1", "N", "nvme", 1000, false)
	stick, card := disk("sdb", "U", "usb", 100, false), disk("sdc", "C", "scsi", 100, true)
	tests := map[string]struct {
		disks []blockdev.Facts
		rule  string
		want  string // kernel name, or what the error says
	}{
		"only internal disk": {[]blockdev.Facts{stick, sda, card}, "", "sda"},
		"two internal disks": {[]blockdev.Facts{sda, nvme}, "", "2 disks fit"},
		"no disk":            {nil, "", "there is no disk"},
		"only a stick":       {[]blockdev.Facts{stick}, "", "it is on USB"},
		"stick by serial":    {[]blockdev.Facts{sda, stick}, "serial=u", "sdb"},
		"by WWN":             {[]blockdev.Facts{sda, nvme}, "wwn=A", "sda"},
		"by size":            {[]blockdev.Facts{sda, nvme}, "size>=600", "nvme0n1"},
		"other serial": {[]blockdev.Facts{sda}, "serial=X",
			"no disk fits the rule \"serial=X\": M, serial A, 500 B (sda): its serial is A"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			rule, err := diskrule.Parse(test.rule)
			if err != nil {
				t.Fatal(err)
			}
			got, err := chooseDisks(t.Context(), fileDisks(test.disks), func(disks []diskrule.Disk) ([]int, error) {
				return diskrule.Assign([]diskrule.Rule{rule}, disks, make([]diskrule.Want, 1))
			}, 0)
			if err == nil && len(got) == 1 && got[0].Name == test.want ||
				err != nil && strings.Contains(err.Error(), test.want) && Hint(err) != "" {
				return
			}
			t.Errorf("chooseDisks = %v, %v, want %q", got, err, test.want)
		})
	}
}

// The rule of the operation is what counts, then that of the hardware class.
func TestRuleOfOperation(t *testing.T) {
	for want, test := range map[string]struct {
		class string
		op    []string
	}{"only-internal": {}, "bus=nvme": {class: "bus=nvme"}, "serial=A": {"bus=nvme", []string{"serial=A"}}} {
		a := &Agent{config: Config{Disk: test.class}}
		if got, err := a.rules(&protocol.Operation{Disks: test.op}); err != nil || len(got) != 1 || got[0].String() != want {
			t.Errorf("rule of %+v = %v, %v, want %s", test, got, err, want)
		}
	}
	if _, err := (&Agent{}).rules(&protocol.Operation{Disks: []string{"sda"}}); err == nil {
		t.Error("an operation with a malformed rule is accepted")
	}
}
