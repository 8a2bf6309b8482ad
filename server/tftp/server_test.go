package tftp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"clonecast/internal/await"
)

// content gives n bytes that no two blocks share.
func content(n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(b)
	return b
}

// serve starts a server for one test.
func serve(t *testing.T, files map[string][]byte) *Server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := Open(ctx, Config{Address: "127.0.0.1:0", Files: files, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
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

// Other people's clients are the judges.
func TestForeignClients(t *testing.T) {
	t.Parallel()
	files := map[string][]byte{
		"undionly.kpxe": content(70_001),
		"whole.bin":     content(512 * 7), // ends with an empty block
		"empty.bin":     {},
		"long.bin":      content(8*66_000 + 5), // more than 65536 blocks of 8 bytes
	}
	s := serve(t, files)
	host, port, _ := net.SplitHostPort(s.Addr().String())
	url := "tftp://" + s.Addr().String() + "/"
	out := filepath.Join(t.TempDir(), "out")
	hang := strconv.Itoa(int(await.Limit.Seconds()))
	tests := []struct {
		name, file string
		command    []string
	}{
		{"curl", "undionly.kpxe", []string{"curl", "-sS", "-m", hang, "-o", out, url + "undionly.kpxe"}},
		{"curl blksize 1468", "undionly.kpxe", []string{
			"curl", "-sS", "-m", hang, "--tftp-blksize", "1468", "-o", out, url + "undionly.kpxe"}},
		{"curl without options", "whole.bin", []string{
			"curl", "-sS", "-m", hang, "--tftp-no-options", "-o", out, url + "whole.bin"}},
		{"curl rollover", "long.bin", []string{
			"curl", "-sS", "-m", hang, "--tftp-blksize", "8", "-o", out, url + "long.bin"}},
		{"tftp-hpa", "undionly.kpxe", []string{"tftp", "-4", "-m", "binary", host, port, "-c", "get", "undionly.kpxe", out}},
		{"tftp-hpa empty", "empty.bin", []string{"tftp", "-4", "-m", "binary", host, port, "-c", "get", "/empty.bin", out}},
		{"atftp", "undionly.kpxe", []string{"atftp", "--option", "blksize 1024", "--option", "tsize 0",
			"-g", "-r", "undionly.kpxe", "-l", out, host, port}},
		{"atftp windowsize", "undionly.kpxe", []string{"atftp", "--option", "windowsize 8",
			"-g", "-r", "undionly.kpxe", "-l", out, host, port}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_ = os.Remove(out)
			if text, err := exec.Command(test.command[0], test.command[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v (make deps installs the clients)\n%s", strings.Join(test.command, " "), err, text)
			}
			got, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, files[test.file]) {
				t.Errorf("%s: %d bytes came, want %d or other ones", test.file, len(got), len(files[test.file]))
			}
		})
	}
}

// client is a hand-written TFTP client that can misbehave.
type client struct {
	t    *testing.T
	conn *net.UDPConn
	to   *net.UDPAddr // the server's port, later the transfer's
}

func dial(t *testing.T, s *Server) *client {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t, conn, s.Addr().(*net.UDPAddr)}
}

func (c *client) send(packet string) {
	c.t.Helper()
	if _, err := c.conn.WriteToUDP([]byte(packet), c.to); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) ack(n uint16) {
	c.send(string(binary.BigEndian.AppendUint16([]byte{0, opAck}, n)))
}

// receive gives the next packet, "" if none comes in time.
func (c *client) receive(wait time.Duration) string {
	c.t.Helper()
	if err := c.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		c.t.Fatal(err)
	}
	var b [2048]byte
	n, from, err := c.conn.ReadFromUDP(b[:])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ""
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.to = from
	return string(b[:n])
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := serve(t, map[string][]byte{"a": []byte("x"), "etc/shadow": nil})
	long := strings.Repeat("a", 480)
	const silence = 0xffff
	tests := map[string]struct {
		request string
		code    uint16
	}{
		"write":         {"\x00\x02a\x00octet\x00", errAccess},
		"dots":          {"\x00\x01../../etc/shadow\x00octet\x00", errNotFound},
		"backslashes":   {"\x00\x01..\\..\\etc\\shadow\x00octet\x00", errNotFound},
		"absolute":      {"\x00\x01//etc/passwd\x00octet\x00", errNotFound},
		"percent":       {"\x00\x01%2e%2e/etc/shadow\x00octet\x00", errNotFound},
		"UTF-16":        {"\x00\x01\xff\xfea\x00octet\x00", errNotFound},
		"long name":     {"\x00\x01" + long + "\x00octet\x00", errNotFound},
		"longer name":   {"\x00\x01" + strings.Repeat("a", 1400) + "\x00octet\x00", silence},
		"netascii":      {"\x00\x01a\x00netascii\x00", errIllegal},
		"noise":         {"GET / HTTP/1.0", silence},
		"stray ack":     {"\x00\x04\x00\x01", silence},
		"name is a NUL": {"\x00\x01\x00a\x00octet\x00", silence},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := dial(t, s)
			c.send(test.request)
			c.send("\x00\x01b\x00octet\x00") // what is answered first came first
			want := test.code
			if want == silence {
				want = errNotFound
			}
			got := c.receive(await.Limit)
			if len(got) < 5 || got[:4] != string([]byte{0, opError, 0, byte(want)}) ||
				test.code == silence && c.receive(time.Millisecond) != "" {
				t.Errorf("answer %q, want error %d", got, test.code)
			}
		})
	}
}

// A forged request brings three packets at most, repeated a few times one more each, and the
// transfer is forgotten.
func TestUnansweredTransferEnds(t *testing.T) {
	t.Parallel()
	s := serve(t, map[string][]byte{"a": content(1 << 20)})
	c := dial(t, s)
	c.send("\x00\x01a\x00octet\x00blksize\x001468\x00windowsize\x0064\x00timeout\x001\x00")
	c.send("\x00\x01a\x00octet\x00blksize\x001468\x00windowsize\x0064\x00timeout\x001\x00")
	await.True(func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, j := range s.active {
			return j.hurried == 1
		}
		return false
	})
	first := c.receive(await.Limit)
	packets, bytesSent := 1, len(first)
	forgotten := await.True(func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.active) == 0 && len(s.hosts) == 0
	})
	for p := c.receive(time.Millisecond); p != ""; p = c.receive(time.Millisecond) {
		packets++
		bytesSent += len(p)
	}
	if packets != firstTries+1 || bytesSent > 300 {
		t.Errorf("%d packets, %d bytes without an acknowledgement, want %d packets", packets, bytesSent, firstTries+1)
	}
	if !forgotten {
		t.Errorf("transfers are still counted: %v %v", s.active, s.hosts)
	}
}

func TestBoundsPerHost(t *testing.T) {
	t.Parallel()
	s := serve(t, map[string][]byte{"a": content(5000)})
	var clients []*client
	for range maxPerHost + 5 {
		c := dial(t, s)
		c.send("\x00\x01a\x00octet\x00")
		clients = append(clients, c)
	}
	last := dial(t, s)
	last.send("\x00\x01b\x00octet\x00")
	last.receive(await.Limit) // all requests before have been seen
	served := 0
	if !await.True(func() bool {
		for _, c := range clients {
			if c.receive(time.Millisecond) != "" {
				served++
			}
		}
		return served >= maxPerHost
	}) || served != maxPerHost {
		t.Errorf("%d transfers for one address, want %d", served, maxPerHost)
	}
}

func TestBoundsInAll(t *testing.T) {
	s := &Server{active: map[netip.AddrPort]*job{}, hosts: map[netip.Addr]int{}}
	entered := 0
	for n := range 10_000 {
		if s.enter(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 2070), &job{}) {
			entered++
		}
	}
	if entered != maxTransfers {
		t.Errorf("%d of 10000 half-open transfers are held, want %d", entered, maxTransfers)
	}
}

// download plays a client over a bad line: it drops and repeats packets in both
// directions, and acknowledges as RFC 7440 wants.
func (c *client) download(name string, block, window int, loss float64, rng *rand.Rand) ([]byte, error) {
	request := fmt.Sprintf("\x00\x01%s\x00octet\x00blksize\x00%d\x00windowsize\x00%d\x00", name, block, window)
	c.send(request)
	var got []byte
	next, inWindow := uint64(1), 0
	opened, complained := false, false
	ack := func(n uint64) {
		for range 1 + rng.IntN(2) {
			if rng.Float64() >= loss {
				c.ack(uint16(n))
			}
		}
		inWindow = 0
	}
	for silent := 0; silent < 200; {
		p := c.receive(1100 * time.Millisecond)
		switch {
		case p == "" && !opened:
			silent++
			c.send(request)
			continue
		case p == "":
			silent++
			ack(next - 1)
			continue
		case rng.Float64() < loss:
			continue
		}
		silent = 0
		switch {
		case p[1] == opOACK:
			opened = true
			ack(0)
		case p[1] == opData && binary.BigEndian.Uint16([]byte(p[2:])) == uint16(next):
			opened, complained = true, false
			got = append(got, p[4:]...)
			next++
			if inWindow++; inWindow == window || len(p) < 4+block {
				ack(next - 1)
			}
			if len(p) < 4+block {
				return got, nil
			}
		case p[1] == opData && !complained: // a block is missing: tell which was the last good one
			complained = true
			ack(next - 1)
		case p[1] == opError:
			return nil, fmt.Errorf("error packet %q", p)
		}
	}
	return nil, errors.New("the server fell silent")
}

func TestBadLine(t *testing.T) {
	want := content(40_000)
	s := serve(t, map[string][]byte{"a": want})
	tests := []struct {
		window int
		loss   float64
	}{{1, 0}, {8, 0}, {64, 0}, {8, 0.03}, {16, 0.05}}
	for _, test := range tests {
		t.Run(fmt.Sprintf("window %d loss %.2f", test.window, test.loss), func(t *testing.T) {
			t.Parallel()
			got, err := dial(t, s).download("a", 200, test.window, test.loss, rand.New(rand.NewPCG(1, uint64(test.window))))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v; want %d", len(got), err, len(want))
			}
		})
	}
}

// from is a client at a port of its own, as after a reset.
func from(t *testing.T, s *Server, port int) *client {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t, conn, s.Addr().(*net.UDPAddr)}
}

// PXE ROMs ask from the same port after every reset: the old transfer ends, the new one begins at once.
func TestNewRequestEndsTheOldTransfer(t *testing.T) {
	t.Parallel()
	s := serve(t, map[string][]byte{"a": content(5000), "b": []byte("other")})
	c := from(t, s, 0)
	listen := c.to
	const request = "\x00\x01a\x00octet\x00blksize\x001456\x00"
	c.send(request)
	if p := c.receive(await.Limit); p != "\x00\x06blksize\x001456\x00" {
		t.Fatalf("answer %q", p)
	}
	c.ack(0)
	if p := c.receive(await.Limit); len(p) != 1460 {
		t.Fatalf("first block has %d bytes", len(p))
	}
	old := c.to
	// The request is made twice by the network: no second transfer.
	key := netip.MustParseAddrPort(c.conn.LocalAddr().String())
	s.mu.Lock()
	s.active[key].begun = time.Now()
	first := s.active[key]
	s.mu.Unlock()
	c.to = listen
	c.send(request)
	time.Sleep(2 * onTheWay) // so that the next one is no copy; nothing is judged by this time
	s.mu.Lock()
	if s.active[key] != first {
		t.Error("a copy of the request began another transfer")
	}
	s.mu.Unlock()
	for _, ask := range []string{request, "\x00\x01b\x00octet\x00"} {
		c.to = listen
		c.send(ask)
		if !await.True(func() bool {
			p := c.receive(time.Second)
			return c.to.Port != old.Port && (strings.HasPrefix(p, "\x00\x06blksize") || p == "\x00\x03\x00\x01other")
		}) {
			t.Fatalf("%q from the port of a transfer that was cut is not answered", ask)
		}
		old = c.to
	}
	if !await.True(func() bool {
		return errors.Is(first.conn.Load().SetReadDeadline(time.Time{}), net.ErrClosed)
	}) {
		t.Error("the old transfer goes on")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.active) != 1 || s.hosts[key.Addr()] != 1 {
		t.Errorf("%d transfers are under way, %v by host", len(s.active), s.hosts)
	}
}

// A client that repeats its request before it has heard anything gets the answer from the same port once more: it may
// have taken the first one already.
func TestRepeatedRequest(t *testing.T) {
	t.Parallel()
	s := serve(t, map[string][]byte{"a": content(5000)})
	c := dial(t, s)
	listen := c.to
	ports := map[int]bool{}
	for range 1 + mostHurries {
		c.to = listen
		c.send("\x00\x01a\x00octet\x00tsize\x000\x00")
		if p := c.receive(await.Limit); !strings.HasPrefix(p, "\x00\x06tsize") {
			t.Fatalf("answer %q", p)
		}
		ports[c.to.Port] = true
	}
	if len(ports) != 1 {
		t.Errorf("answers came from the ports %v", ports)
	}
}

// iPXE that is told its own program again is led to the script; firmware that comes back is not.
func TestLoopEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := Open(ctx, Config{
		Address: "127.0.0.1:0", Files: map[string][]byte{"undionly.kpxe": []byte("program")},
		Script: func(at netip.Addr) []byte { return []byte("#!ipxe " + at.String()) }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	load := func(options string) string {
		c := dial(t, s)
		c.send("\x00\x01undionly.kpxe\x00octet\x00" + options)
		if p := c.receive(await.Limit); p[1] == opOACK {
			c.ack(0)
			p = c.receive(await.Limit)
			c.ack(1)
			await.True(func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.active) == 0 })
			return p[4:]
		}
		return ""
	}
	const ipxeOptions, romOptions = "blksize\x001432\x00tsize\x000\x00", "tsize\x000\x00blksize\x001456\x00"
	for i, step := range []struct{ options, want string }{
		{ipxeOptions, "program"}, // the ROM of the card is an iPXE
		{ipxeOptions, "#!ipxe 127.0.0.1"},
		{romOptions, "program"},
		{ipxeOptions, "#!ipxe 127.0.0.1"},
	} {
		if got := load(step.options); got != step.want {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
	s.mu.Lock()
	s.loaded.Add(netip.MustParseAddr("127.0.0.1"), time.Now().Add(-loopTime))
	s.mu.Unlock()
	if got := load(ipxeOptions); got != "program" {
		t.Errorf("a later start: %q", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	s := serve(t, map[string][]byte{"a": []byte("text")})
	port := s.Addr().(*net.UDPAddr).Port
	load := func(at string) string {
		c := dial(t, s)
		c.to = &net.UDPAddr{IP: net.ParseIP(at), Port: port}
		c.send("\x00\x01a\x00octet\x00")
		p := c.receive(time.Second)
		if p != "" && c.to.IP.String() != at {
			t.Errorf("asked at %s, answered from %s", at, c.to.IP)
		}
		return p
	}
	addresses := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}
	if err := s.Follow(t.Context(), addresses); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"127.0.0.1", "127.0.0.2"} {
		if !await.True(func() bool { return load(at) != "" }) {
			t.Errorf("no answer at %s", at)
		}
	}
	if err := s.Follow(t.Context(), addresses[1:]); err != nil {
		t.Fatal(err)
	}
	if p := load("127.0.0.1"); p != "" {
		t.Errorf("the old address still answers: %q", p)
	}
	if err := s.Follow(t.Context(), []netip.Addr{netip.MustParseAddr("192.0.2.77"), addresses[1]}); err == nil {
		t.Error("an address that is not ours was bound")
	}
	if load("127.0.0.2") == "" {
		t.Error("an address that cannot be had took the others with it")
	}
}
