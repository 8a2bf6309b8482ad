package packet

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"clonecast/internal/layouttest"

	"github.com/google/go-cmp/cmp"
)

func TestLayout(t *testing.T) {
	layouttest.Check[wireHeader](t, HeaderSize)
	layouttest.Check[Status](t, statusSize)
	layouttest.Check[Announce](t, announceSize)
	layouttest.Check[Order](t, orderSize)
	layouttest.Check[reportHead](t, reportHeadSize)
	layouttest.Check[Probe](t, probeSize)
	h := Header{KindData, true, 0x0102, 0x03040506, 0x0708090a0b0c0d0e, 0x0f10111213141516}
	w := wireHeader{Version, byte(KindData) | chachaBit, h.Symbol, h.Block, h.Session, h.Counter}
	want, err := binary.Append(nil, binary.LittleEndian, w)
	if got := h.Append(nil); err != nil || !bytes.Equal(got, want) {
		t.Errorf("header is written as %x, its layout says %x (%v)", got, want, err)
	}
	if SymbolSize != 1432 || MaxDigests%8 != 0 || MaxDigests*DigestSize+SignatureSize > MaxBody {
		t.Errorf("symbols of %d bytes, %d digests", SymbolSize, MaxDigests)
	}
}

// TestBytes holds the wire format down to the byte.
func TestBytes(t *testing.T) {
	for _, tc := range []struct {
		name string
		got  []byte
		want string
	}{
		{"header", Header{KindReport, false, 0, 7, 0xaabbccdd00112233, 9}.Append(nil),
			"0205 0000 07000000 33221100ddccbbaa 0900000000000000"},
		{"status", Status{Serial: 1, State: StateRunning, Poll: 2, ReportEvery: 40, Spread: 8, Rate: 1 << 20}.Append(nil),
			"0100000000000000 02 000000 02000000 28000000 08000000 0000100000000000"},
		{"order", Order{Verb: VerbLeave, Reason: ReasonDisk}.Append(nil), "0202 000000000000"},
		{"report", Report{
			Highest: 5, Received: 4, Poll: 3, Finished: 2, Fetched: 1, Backlog: 99,
			State: StateReceiving, Reason: ReasonNone, Suspect: 6, Paths: PathGroup | PathFull | PathUnicast,
			Runs: []Run{{10, 1, 128}, {11, 300, 2}},
		}.Append(nil),
			"0500000000000000 0400000000000000 03000000 02000000 01000000 63 04 00 06 0200 0b 00 0a018001 00ac0202"},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(tc.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(tc.got, want) {
			t.Errorf("%s = %x, want %x", tc.name, tc.got, want)
		}
	}
}

func newKey(t testing.TB, secret string, session uint64, purpose string, chacha bool) *Key {
	t.Helper()
	k, err := NewKey([]byte(secret), session, purpose, chacha)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func seal(t testing.TB, k *Key, h Header, body []byte) []byte {
	t.Helper()
	p, err := k.Seal(nil, h, body)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// open is what a receiver does with a packet.
func open(k *Key, p []byte) ([]byte, error) {
	h, err := ParseHeader(p)
	if err != nil {
		return nil, err
	}
	return k.Open(nil, h, p)
}

// TestSeal opens what was sealed, and nothing that was changed by one bit, sealed for another
// session or another purpose.
func TestSeal(t *testing.T) {
	body := bytes.Repeat([]byte("symbol.."), SymbolSize/8)
	for _, chacha := range []bool{false, true} {
		p := seal(t, newKey(t, "secret", 1, PurposeGroup, chacha), Header{Kind: KindData, Symbol: 3, Block: 4}, body)
		if len(p) != MaxSize {
			t.Fatalf("a data packet has %d bytes, want %d", len(p), MaxSize)
		}
		if got, err := open(newKey(t, "secret", 1, PurposeGroup, !chacha), p); err != nil || !bytes.Equal(got, body) {
			t.Fatalf("chacha %v: Open = %x, %v", chacha, got, err)
		}
		if bytes.Contains(p, body[:16]) {
			t.Error("the body can be read in the packet")
		}
		for _, other := range []*Key{
			newKey(t, "secret", 2, PurposeGroup, chacha),
			newKey(t, "secret", 1, PurposeUp, chacha),
			newKey(t, "Secret", 1, PurposeGroup, chacha),
		} {
			if _, err := open(other, p); !errors.Is(err, ErrSeal) {
				t.Errorf("chacha %v: another key opens the packet: %v", chacha, err)
			}
		}
		k := newKey(t, "secret", 1, PurposeGroup, chacha)
		for at := range p {
			p[at] ^= 1 << (at % 8)
			if _, err := open(k, p); !errors.Is(err, ErrSeal) && !errors.Is(err, ErrMalformed) {
				t.Fatalf("chacha %v: byte %d was changed and the packet opens: %v", chacha, at, err)
			}
			p[at] ^= 1 << (at % 8)
		}
	}
}

// TestNoncesAreNeverReused is S47: within a key, at the end of its counter, after a restart, with two senders.
func TestNoncesAreNeverReused(t *testing.T) {
	k := newKey(t, "secret", 1, PurposeGroup, false)
	seen := map[uint64]bool{}
	for range 1000 {
		h, err := ParseHeader(seal(t, k, Header{Kind: KindStatus}, nil))
		if err != nil || seen[h.Counter] {
			t.Fatalf("counter %d twice (%v)", h.Counter, err)
		}
		seen[h.Counter] = true
		if half := len(seen) > 500; h.ChaCha != half {
			t.Fatalf("packet %d is sealed with ChaCha: %v", len(seen), h.ChaCha)
		}
		if len(seen) == 500 { // a receiver without AES has joined: the counter goes on
			k.UseChaCha()
		}
	}
	k.sealed = maxCounter - 1
	if _, err := k.Seal(nil, Header{Kind: KindStatus}, nil); err != nil {
		t.Fatal(err)
	}
	_, errPlain := k.Seal(nil, Header{Kind: KindStatus}, nil)
	_, errSigned := k.SealSigned(nil, Header{Kind: KindStatus}, nil, ed25519.NewKeyFromSeed(make([]byte, 32)))
	if !errors.Is(errPlain, ErrCounter) || !errors.Is(errSigned, ErrCounter) {
		t.Errorf("the counter goes round: %v, %v", errPlain, errSigned)
	}
	// A sender that starts again, or a second one, has another session: the same counter seals other bytes.
	a := seal(t, newKey(t, "secret", 1, PurposeGroup, false), Header{Kind: KindStatus}, make([]byte, 64))
	b := seal(t, newKey(t, "secret", 2, PurposeGroup, false), Header{Kind: KindStatus}, make([]byte, 64))
	if bytes.Equal(a[HeaderSize:HeaderSize+64], b[HeaderSize:HeaderSize+64]) {
		t.Error("two sessions seal with the same key stream")
	}
}

// TestSignature is S45: the group key alone does not make a status or a digest.
func TestSignature(t *testing.T) {
	sender := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	insider := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))
	public := sender.Public().(ed25519.PublicKey)
	k := newKey(t, "secret", 1, PurposeGroup, false)
	body := Status{Serial: 1, State: StateEnded}.Append(nil)
	verify := func(p []byte) error {
		t.Helper()
		h, err := ParseHeader(p)
		if err != nil {
			t.Fatal(err)
		}
		b, err := k.Open(nil, h, p)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Verify(h, b, public)
		if err == nil && !bytes.Equal(got, body) {
			t.Errorf("Verify gives %x, want %x", got, body)
		}
		return err
	}
	good, err := k.SealSigned(nil, Header{Kind: KindStatus}, body, sender)
	if err != nil || verify(good) != nil {
		t.Errorf("the sender's status is refused: %v, %v", err, verify(good))
	}
	forged, err := k.SealSigned(nil, Header{Kind: KindStatus}, body, insider)
	if err != nil || !errors.Is(verify(forged), ErrSeal) {
		t.Errorf("an insider's status is taken: %v", err)
	}
	if p := seal(t, k, Header{Kind: KindStatus}, body); !errors.Is(verify(p), ErrMalformed) {
		t.Error("a status without signature is taken")
	}
	// The signature of one packet does not fit another one.
	ofStatus := ed25519.Sign(sender, signedBytes(Header{Kind: KindStatus, Session: 1, Counter: 1}, body))
	moved := seal(t, k, Header{Kind: KindDigest}, append(bytes.Clone(body), ofStatus...))
	if !errors.Is(verify(moved), ErrSeal) {
		t.Error("a signature was carried to another packet")
	}
}

// TestWindow compares the window with a set, over random counters that come late, twice and far ahead.
func TestWindow(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		var w Window
		seen, highest := map[uint64]bool{}, uint64(0)
		for range 20000 {
			c := 1 + highest - min(highest, uint64(r.IntN(2*windowSize)))
			switch r.IntN(10) {
			case 0:
				c = highest + 1 + uint64(r.IntN(100))
			case 1:
				if r.IntN(100) == 0 {
					c = highest + uint64(r.IntN(5*windowSize))
				}
			}
			want := c > highest || highest-c < windowSize && !seen[c]
			if got := w.Fresh(c); got != want {
				t.Fatalf("seed %d: Fresh(%d) = %v at highest %d, want %v", seed, c, got, highest, want)
			}
			if want {
				w.Note(c)
				seen[c], highest = true, max(highest, c)
			}
			if w.Highest() != highest {
				t.Fatalf("seed %d: highest %d, want %d", seed, w.Highest(), highest)
			}
		}
	}
}

func TestReportRuns(t *testing.T) {
	r := Report{State: StateReceiving}
	for i := range uint32(2000) {
		r.Runs = append(r.Runs, Run{3 * i, 1 + i%2, uint16(i % 129)})
	}
	b := r.Append(nil)
	if len(b) > MaxBody || len(b) < MaxBody-8 {
		t.Errorf("a full report has %d bytes, want nearly %d", len(b), MaxBody)
	}
	got, err := ParseReport(b, nil)
	if err != nil || len(got.Runs) < 400 || cmp.Diff(got.Runs, r.Runs[:len(got.Runs)]) != "" {
		t.Errorf("runs come back as %d (%v), want the first ones of %d", len(got.Runs), err, len(r.Runs))
	}
}

func TestMalformed(t *testing.T) {
	header := func(change func(b []byte)) []byte {
		b := append(Header{Kind: KindReport, Block: 1, Session: 1, Counter: 1}.Append(nil), make([]byte, TagSize)...)
		change(b)
		return b
	}
	for name, b := range map[string][]byte{
		"short":             header(func([]byte) {})[:HeaderSize+TagSize-1],
		"long":              make([]byte, MaxSize+1),
		"version":           header(func(b []byte) { b[0] = 1 }),
		"kind 0":            header(func(b []byte) { b[1] = 0 }),
		"kind 8":            header(func(b []byte) { b[1] = 8 }),
		"counter 0":         header(func(b []byte) { b[16] = 0 }),
		"short data packet": header(func(b []byte) { b[1] = byte(KindData) }),
		"symbol":            header(func(b []byte) { b[2] = 1 }),
	} {
		if h, err := ParseHeader(b); !errors.Is(err, ErrMalformed) || h != (Header{}) {
			t.Errorf("%s: ParseHeader = %v, %v", name, h, err)
		}
	}
	report := Report{State: StateReceiving, Runs: []Run{{1, 1, 1}}}.Append(nil)
	for name, change := range map[string]func(b []byte) []byte{
		"cut":         func(b []byte) []byte { return b[:len(b)-1] },
		"state":       func(b []byte) []byte { b[0x1d] = byte(StateRunning); return b },
		"backlog":     func(b []byte) []byte { b[0x1c] = 101; return b },
		"empty run":   func(b []byte) []byte { b[len(b)-2] = 0; return b },
		"endless run": func(b []byte) []byte { return append(b[:len(b)-2], 0xff, 0xff, 0xff, 0xff, 0x0f, 1) },
		"far run": func(b []byte) []byte {
			return append(b[:len(b)-3], 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1, 1)
		},
		"missing runs": func(b []byte) []byte { b[0x21] = 0xff; return b },
	} {
		r, err := ParseReport(change(bytes.Clone(report)), nil)
		if !errors.Is(err, ErrMalformed) || cmp.Diff(r, Report{}) != "" {
			t.Errorf("%s: ParseReport = %v, %v", name, r, err)
		}
	}
	if _, err := ParseStatus(make([]byte, statusSize)); !errors.Is(err, ErrMalformed) {
		t.Errorf("status 0: %v", err)
	}
	if _, err := ParseOrder(make([]byte, orderSize)); !errors.Is(err, ErrMalformed) {
		t.Errorf("order 0: %v", err)
	}
	for name, b := range map[string][]byte{
		"short":              make([]byte, probeSize-1),
		"no way":             make([]byte, probeSize),
		"a full one, short":  Probe{Path: PathFull}.Append(nil)[:MaxBody-SignatureSize-1],
		"two ways":           Probe{Path: PathLink | PathFull}.Append(nil),
		"a way without name": Probe{Path: 16}.Append(nil),
	} {
		if p, err := ParseProbe(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: ParseProbe = %+v, %v", name, p, err)
		}
	}
}

// TestProbe fills a frame where the way asks for it.
func TestProbe(t *testing.T) {
	k, signer := newKey(t, "secret", 1, PurposeProbe, false), ed25519.NewKeyFromSeed(make([]byte, 32))
	for path, size := range map[Paths]int{PathFull: MaxSize, PathLink: HeaderSize + probeSize + SignatureSize + TagSize} {
		p, err := k.SealSigned(nil, Header{Kind: KindProbe}, Probe{Path: path}.Append(nil), signer)
		if err != nil || len(p) != size {
			t.Fatalf("the probe of way %d has %d bytes, want %d (%v)", path, len(p), size, err)
		}
		h, err := ParseHeader(p)
		if err != nil {
			t.Fatal(err)
		}
		body, err := k.Open(nil, h, p)
		if err != nil {
			t.Fatal(err)
		}
		body, err = Verify(h, body, signer.Public().(ed25519.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseProbe(body); err != nil || got.Path != path {
			t.Errorf("way %d comes back as %+v, %v", path, got, err)
		}
	}
	if got := (PathGroup | PathLink | 128).Names(); cmp.Diff(got, []string{"group", "link-local"}) != "" {
		t.Errorf("names of ways: %v", got)
	}
}

// TestReasons holds that every reason has words for people and another one for programs.
func TestReasons(t *testing.T) {
	codes := map[string]Reason{}
	for r := ReasonNone; int(r) < len(reasons); r++ {
		if other, twice := codes[r.Cause()]; twice || r.String() == "" || (r.Cause() == "") != (r == ReasonNone) {
			t.Errorf("reason %d is %q, %q, like %d", r, r.Cause(), r, other)
		}
		codes[r.Cause()] = r
	}
	if unknown := Reason(200); unknown.String() != "reason 200" || unknown.Cause() != "unknown" || unknown.Hint() != "" {
		t.Errorf("a reason of a later version is %q, %q, %q", unknown, unknown.Cause(), unknown.Hint())
	}
}

// FuzzPacket feeds bytes to every parser: no panic, what parses is written back as it was, and nothing opens.
func FuzzPacket(f *testing.F) {
	k := newKey(f, "secret", 1, PurposeGroup, false)
	f.Add(seal(f, k, Header{Kind: KindData}, make([]byte, SymbolSize)))
	f.Add(Report{Highest: 7, State: StateDone, Runs: []Run{{1, 2, 3}, {9, 1, 0}}}.Append(nil))
	f.Add(Status{Serial: 1, State: StateRunning}.Append(nil))
	f.Add(Order{Verb: VerbForget}.Append(nil))
	f.Add(Announce{Port: 1}.Append(nil))
	f.Add(Probe{Path: PathLink}.Append(nil))
	f.Add(Probe{Path: PathFull}.Append(nil))
	opener := newKey(f, "another secret", 1, PurposeGroup, false)
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := ParseHeader(b); err == nil {
			if got := h.Append(nil); !bytes.Equal(got, b[:HeaderSize]) {
				t.Errorf("header %x comes back as %x", b[:HeaderSize], got)
			}
			if _, err := opener.Open(nil, h, b); err == nil {
				t.Error("a packet opens without its key")
			}
		}
		if r, err := ParseReport(b, nil); err == nil {
			again, err := ParseReport(r.Append(nil), nil)
			if err != nil || len(again.Runs) > len(r.Runs) || cmp.Diff(again.Runs, r.Runs[:len(again.Runs)]) != "" {
				t.Errorf("report %+v comes back as %+v, %v", r, again, err)
			}
		}
		if s, err := ParseStatus(b); err == nil {
			if again, err := ParseStatus(s.Append(nil)); err != nil || again != s {
				t.Errorf("status %+v comes back as %+v, %v", s, again, err)
			}
		}
		if o, err := ParseOrder(b); err == nil {
			if again, err := ParseOrder(o.Append(nil)); err != nil || again != o {
				t.Errorf("order %+v comes back as %+v, %v", o, again, err)
			}
		}
		if p, err := ParseProbe(b); err == nil {
			if again, err := ParseProbe(p.Append(nil)); err != nil || again.Path != p.Path {
				t.Errorf("probe %+v comes back as %+v, %v", p, again, err)
			}
		}
		if a, err := ParseAnnounce(b); err == nil {
			if again, err := ParseAnnounce(a.Append(nil)); err != nil || again != a {
				t.Errorf("announcement %+v comes back as %+v, %v", a, again, err)
			}
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	for name, chacha := range map[string]bool{"AES-128-GCM": false, "ChaCha20-Poly1305": true} {
		b.Run(name, func(b *testing.B) {
			k := newKey(b, "secret", 1, PurposeGroup, chacha)
			p := seal(b, k, Header{Kind: KindData}, make([]byte, SymbolSize))
			buf := make([]byte, 0, SymbolSize)
			b.SetBytes(MaxSize)
			for b.Loop() {
				h, err := ParseHeader(p)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := k.Open(buf, h, p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
