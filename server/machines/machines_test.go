package machines

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"clonecast/internal/protocol"
	"clonecast/server/database"
)

// The PC that the others are compared with.
var known = Evidence{
	UUID: "4c4c4544-0042-3510-8051-b4c04f445a31", Serial: "B5QDZ1",
	MACs: []string{"b8:ca:3a:00:00:01"}, Disks: []string{"S2R6NX0H7"},
}

func with(change func(*Evidence)) Evidence {
	e := known
	change(&e)
	return e
}

func TestScore(t *testing.T) {
	otherUUID := func(e *Evidence) { e.UUID = "11111111-2222-3333-4444-555555555555" }
	tests := map[string]struct {
		claim Evidence
		same  bool
	}{
		"same PC":            {known, true},
		"upper case":         {with(func(e *Evidence) { e.UUID = strings.ToUpper(e.UUID) }), true},
		"other disk":         {with(func(e *Evidence) { e.Disks = []string{"NEW1"} }), true},
		"other network card": {with(func(e *Evidence) { e.MACs = []string{"b8:ca:3a:00:00:99"} }), true},
		"further network card": {with(func(e *Evidence) {
			e.MACs = append([]string{"00:e0:4c:00:00:07"}, e.MACs...)
		}), true},
		"firmware update changed the UUID": {with(otherUUID), true},
		"only MAC, nothing contradicts":    {Evidence{MACs: known.MACs}, true},
		"boot: MAC and UUID":               {Evidence{MACs: known.MACs, UUID: known.UUID}, true},
		"MAC alone against another board":  {Evidence{MACs: known.MACs, UUID: "1", Serial: "OTHER"}, false},
		"dock that wanders": {Evidence{
			MACs: known.MACs, UUID: "1", Serial: "OTHER", Disks: []string{"D2"},
		}, false},
		"disk that wanders": {Evidence{
			MACs: []string{"02:00:00:00:00:02"}, UUID: "2", Serial: "OTHER", Disks: known.Disks,
		}, false},
		"board replaced, disk kept": {Evidence{
			MACs: []string{"02:00:00:00:00:02"}, UUID: "2", Disks: known.Disks,
		}, false},
		"same UUID by a careless maker": {Evidence{
			UUID: known.UUID, MACs: []string{"02:00:00:00:00:02"}, Disks: []string{"D2"},
		}, false},
		"same UUID and serial, all else not": {Evidence{
			UUID: known.UUID, Serial: known.Serial, MACs: []string{"02:00:00:00:00:02"}, Disks: []string{"D2"},
		}, false},
		"serial alone by a careless maker": {Evidence{
			UUID: "2", Serial: known.Serial, MACs: []string{"02:00:00:00:00:02"},
		}, false},
		"stranger": {Evidence{
			UUID: "2", Serial: "OTHER", MACs: []string{"02:00:00:00:00:02"}, Disks: []string{"D2"},
		}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := score(test.claim.items(), known.items())
			if (got >= enough) != test.same {
				t.Errorf("score = %d, want same PC %v", got, test.same)
			}
		})
	}
}

func TestPlaceholdersAreNoEvidence(t *testing.T) {
	e := Evidence{
		UUID: "00000000-0000-0000-0000-000000000000", Serial: " To  be filled by O.E.M. ",
		MACs: []string{"00:00:00:00:00:00", "FF:FF:FF:FF:FF:FF"}, Disks: []string{"", "None"},
	}
	if got := e.items(); len(got) != 0 {
		t.Errorf("items = %v, want none", got)
	}
}

func TestChooseNeedsALead(t *testing.T) {
	claim := Evidence{MACs: []string{"02:00:00:00:00:01"}}.items()
	a := candidate{"a", Evidence{MACs: []string{"02:00:00:00:00:01"}, UUID: "1"}.items()}
	b := candidate{"b", Evidence{MACs: []string{"02:00:00:00:00:01"}, UUID: "2"}.items()}
	exact := candidate{"c", claim}
	if id, rivals := choose(claim, []candidate{a, b}); id != "" || len(rivals) != 2 {
		t.Errorf("two alike: chose %q, rivals %v", id, rivals)
	}
	if id, rivals := choose(claim, []candidate{a, exact, b}); id != "c" || len(rivals) != 2 {
		t.Errorf("one is exactly this: chose %q, rivals %v", id, rivals)
	}
	if id, _ := choose(claim, nil); id != "" {
		t.Errorf("nobody: chose %q", id)
	}
}

type clock struct{ at time.Time }

func (c *clock) now() time.Time { c.at = c.at.Add(time.Second); return c.at }

func registry(t *testing.T) (*Registry, *clock) {
	t.Helper()
	db, err := database.Open(context.Background(), filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	c := &clock{time.Unix(1_800_000_000, 0)}
	return New(db, c.now, slog.New(slog.DiscardHandler), func() {}), c
}

func facts(uuid, serial, mac, disk string) protocol.Facts {
	return protocol.Facts{
		UUID: uuid, Serial: serial, NICs: []protocol.NIC{{Name: "eth0", MAC: mac, Link: true}},
		Disks: []protocol.Disk{{Serial: disk, Bytes: 1 << 30}},
	}
}

func register(t *testing.T, r *Registry, f protocol.Facts, from string) Machine {
	t.Helper()
	m, err := r.Register(context.Background(), f, from)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func code(err error) string {
	var p *protocol.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return fmt.Sprint(err)
}

// shortest is the beginning of an id that another one does not have.
func shortest(id, other string) string {
	n := 1
	for id[:n] == other[:n] {
		n++
	}
	return id[:n]
}

func TestRegisterAdoptFind(t *testing.T) {
	r, _ := registry(t)
	ctx := context.Background()
	a := register(t, r, facts("u-1", "s-1", "02:00:00:00:00:01", "d-1"), "10.0.0.1")
	b := register(t, r, facts("u-2", "s-2", "02:00:00:00:00:02", "d-2"), "10.0.0.2")
	if a.State != protocol.MachinePending || a.ID == b.ID {
		t.Fatalf("a is %+v, b is %+v", a, b)
	}
	if _, err := r.Adopt(ctx, a.ID, Adoption{Name: "pc1", IP: "10.0.0.77"}); err != nil {
		t.Fatal(err)
	}
	again := register(t, r, facts("u-1", "s-1", "02:00:00:00:00:01", "new disk"), "10.0.0.1")
	if again.ID != a.ID || again.State != protocol.MachineAdopted || again.Name != "pc1" ||
		!strings.Contains(again.Note, "another disk") {
		t.Errorf("after a repair: %+v", again)
	}
	if h, err := r.History(ctx, a.ID); err != nil || len(h) != 2 || h[0].Facts.Disks[0].Serial != "new disk" {
		t.Errorf("history: %+v, %v", h, err)
	}
	for _, ref := range []string{"pc1", a.ID, a.ID[:6], "02:00:00:00:00:01", shortest(a.ID, b.ID)} {
		if m, err := r.Find(ctx, ref); err != nil || m.ID != a.ID {
			t.Errorf("Find(%q) = %s, %v", ref, m.ID, err)
		}
	}
	for name, err := range map[string]error{
		protocol.CodeNotFound: second(r.Find(ctx, "pc9")),
		protocol.CodeConflict: second(r.Adopt(ctx, b.ID, Adoption{Name: "pc1"})),
		protocol.CodeInvalid:  second(r.Adopt(ctx, b.ID, Adoption{Name: "a b"})),
	} {
		if code(err) != name {
			t.Errorf("got %v, want code %s", err, name)
		}
	}
	if err := second(r.Find(ctx, "")); code(err) != protocol.CodeInvalid {
		t.Errorf("no reference at all: %v", err)
	}
	for i := range 1000 { // until there is one whose id begins as a's
		like := fmt.Sprint("like-", i)
		other := register(t, r, facts(like, like, "", like), like)
		if other.ID[0] != a.ID[0] {
			if err := r.Remove(ctx, other.ID); err != nil {
				t.Fatal(err)
			}
			continue
		}
		err := second(r.Find(ctx, a.ID[:1]))
		if code(err) != protocol.CodeConflict || !strings.Contains(err.Error(), a.ID) ||
			!strings.Contains(err.Error(), other.ID) {
			t.Errorf("what means two: %v", err)
		}
		if err := r.Remove(ctx, other.ID); err != nil {
			t.Fatal(err)
		}
		break
	}
	if err := second(r.Adopt(ctx, b.ID, Adoption{IP: "10.0.0.77"})); code(err) != protocol.CodeConflict {
		t.Errorf("address given twice: %v", err)
	}
	if err := r.Remove(ctx, a.ID); err != nil {
		t.Fatal(err)
	}
	m := register(t, r, facts("u-1", "s-1", "02:00:00:00:00:01", "d-1"), "10.0.0.1")
	if m.ID == a.ID || m.State != protocol.MachinePending {
		t.Errorf("after removal: %+v", m)
	}
}

func second[T any](_ T, err error) error { return err }

func TestIdentifyForBoot(t *testing.T) {
	r, _ := registry(t)
	a := register(t, r, facts("u-1", "s-1", "02:00:00:00:00:01", "d-1"), "10.0.0.1")
	for name, test := range map[string]struct {
		e    Evidence
		want bool
	}{
		"known":           {Evidence{UUID: "u-1", MACs: []string{"02:00:00:00:00:01"}}, true},
		"through a dock":  {Evidence{UUID: "u-1", Serial: "s-1", MACs: []string{"02:00:00:00:00:09"}}, false},
		"dock of another": {Evidence{UUID: "u-7", MACs: []string{"02:00:00:00:00:01"}}, false},
		"stranger":        {Evidence{UUID: "u-7", MACs: []string{"02:00:00:00:00:07"}}, false},
	} {
		if m, ok, err := r.Identify(context.Background(), test.e); err != nil || ok != test.want || ok && m.ID != a.ID {
			t.Errorf("%s: %v %v, want %v", name, ok, err, test.want)
		}
	}
}

func TestDuplicateIdentityIsNoted(t *testing.T) {
	r, _ := registry(t)
	a := register(t, r, facts("u-1", "s-1", "02:00:00:00:00:01", "d-1"), "10.0.0.1")
	b := register(t, r, facts("u-1", "s-1", "02:00:00:00:00:02", "d-2"), "10.0.0.2")
	if a.ID == b.ID || !strings.Contains(b.Note, a.Name) {
		t.Errorf("twin is %+v beside %+v", b, a)
	}
	for range 3 { // and both are known from now on
		if m := register(t, r, facts("u-1", "s-1", "02:00:00:00:00:01", "d-1"), "10.0.0.1"); m.ID != a.ID {
			t.Errorf("first became %s", m.ID)
		}
		if m := register(t, r, facts("u-1", "s-1", "02:00:00:00:00:02", "d-2"), "10.0.0.2"); m.ID != b.ID {
			t.Errorf("twin became %s", m.ID)
		}
	}
}

func TestFloodOfRegistrations(t *testing.T) {
	r, c := registry(t)
	ctx := context.Background()
	one := func(i int, from string) error {
		mac := fmt.Sprintf("02:00:00:00:%02x:%02x", i/256, i%256)
		_, err := r.Register(ctx, facts(fmt.Sprint("u-", i), "", mac, ""), from)
		return err
	}
	for i := range maxPendingPerHost {
		if err := one(i, "10.0.0.1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := one(900, "10.0.0.1"); code(err) != protocol.CodeBusy {
		t.Errorf("one more from the same address: %v", err)
	}
	if err := one(3, "10.0.0.1"); err != nil {
		t.Errorf("one that is known already: %v", err)
	}
	if err := one(901, "10.0.0.2"); err != nil {
		t.Errorf("another address: %v", err)
	}
	c.at = c.at.Add(pendingLifetime + time.Hour)
	if err := one(902, "10.0.0.1"); err != nil {
		t.Errorf("after a week: %v", err)
	}
}

// Hostile facts are cut to size and cannot act on a terminal.
func TestCleanFacts(t *testing.T) {
	r, _ := registry(t)
	f := facts("u-1", "\x1b[2Jserial\r\nfake log line\xff", "02:00:00:00:00:01", strings.Repeat("d", 5000))
	for i := range 500 {
		f.NICs = append(f.NICs, protocol.NIC{MAC: fmt.Sprintf("02:00:00:00:%02x:%02x", i/256, i%256)})
	}
	m := register(t, r, f, "10.0.0.1")
	if m.Facts.Serial != "[2Jserial fake log line" ||
		len(m.Facts.Disks[0].Serial) != maxText || len(m.Facts.NICs) != maxNICs {
		t.Errorf("facts: serial %q, disk serial of %d bytes, %d NICs",
			m.Facts.Serial, len(m.Facts.Disks[0].Serial), len(m.Facts.NICs))
	}
	if _, err := r.Register(context.Background(), protocol.Facts{Serial: "none"}, "x"); code(err) != protocol.CodeInvalid {
		t.Errorf("no evidence at all: %v", err)
	}
}
