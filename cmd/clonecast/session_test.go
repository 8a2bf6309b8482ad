package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"clonecast/internal/await"
	"clonecast/internal/chunkstore/storetest"
	"clonecast/internal/multicast"
	"clonecast/internal/multicast/blocks"
	"clonecast/internal/protocol"
	"clonecast/server/sessions"
	"clonecast/server/tasks"
)

// member is a machine of the room in a session: the session's side of the protocol for it, without a network.
type member struct {
	r  *room
	pc string
	op tasks.Operation
}

func (m member) Join(_ context.Context, q protocol.SessionJoin) (protocol.SessionPlace, error) {
	return m.r.api.Sessions.Join(m.pc, m.op, netip.MustParseAddrPort("127.0.0.1:1"), q)
}

func (m member) Blocks(ctx context.Context, first, count int, read func(io.Reader) error) error {
	var all bytes.Buffer
	err := m.r.api.Sessions.Blocks(ctx, m.pc, m.op, first, count, func(plain []byte) error {
		_, err := all.Write(plain)
		return err
	})
	if err != nil {
		return err
	}
	return read(&all)
}

func (m member) Report(_ context.Context, report []byte) ([]byte, error) {
	return m.r.api.Sessions.Report(m.pc, m.op, report)
}

// receive lets a machine begin its deploy and receive the session to its end.
func (r *room) receive(pc string) <-chan error {
	r.t.Helper()
	ctx := r.t.Context()
	if _, err := r.api.Tasks.Next(ctx, pc, "boot"); err != nil {
		r.t.Fatal(err)
	}
	op, _, _, err := r.api.Tasks.Current(ctx, pc)
	if err != nil {
		r.t.Fatal(err)
	}
	session, err := r.api.Sessions.Session(ctx, pc, op)
	if err != nil {
		r.t.Fatal(err)
	}
	found, err := multicast.Offered(session, member{r, pc, op}, slog.New(slog.DiscardHandler))
	if err != nil {
		r.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := found.Receive(ctx, blocks.FullSet(found.Geometry().Count()), func(int, []byte) error { return nil }, nil)
		done <- err
	}()
	return done
}

// wait runs a command until its output has a text.
func (r *room) wait(line, want string) {
	r.t.Helper()
	var out string
	if !await.True(func() bool {
		out = r.run("", exitOK, line)
		return strings.Contains(out, want)
	}) {
		r.t.Fatalf("clonecast %s: no %q in\n%s", line, want, out)
	}
}

func TestSessionCommands(t *testing.T) {
	r := newRoom(t)
	sample, err := storetest.NewSample("lab", 1, 20, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := sample.Capture(t.Context(), r.api.Store); err != nil {
		t.Fatal(err)
	}
	ids := []string{r.pc.ID}
	for n := range 2 {
		m, err := r.api.Machines.Register(t.Context(), protocol.Facts{
			UUID: fmt.Sprint("v-", n), NICs: []protocol.NIC{{MAC: fmt.Sprintf("02:00:00:00:01:%02x", n)}},
			Disks: []protocol.Disk{{Name: "sda", Serial: fmt.Sprint("E", n), Bytes: 1 << 33}},
		}, "10.0.0.9")
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, m.ID)
	}
	for i, id := range ids {
		r.run("", exitOK, fmt.Sprintf("machine adopt %s --name pc%d", id, i+1))
	}
	r.run("", exitOK, "session list", "no sessions yet")
	r.run("", exitNotFound, "session show 1", `no session "1"`, "hint: 'clonecast session list'")

	deploy := "task run deploy --machine pc1 --machine pc2 --image lab --yes --unseen"
	r.run("", exitUsage, deploy+" --start-manually", "--start-manually is for a deploy with --multicast")
	r.run("", exitUsage, deploy+" --multicast --start-when 0", "at least one machine")
	r.run("", exitUsage, deploy+" --multicast --start-when 3", "would wait for 3 machines, the order has 2")
	r.run("", exitUsage, deploy+" --multicast --start-at noon", "neither a time as 14:30")
	r.run("", exitUsage, deploy+" --multicast --start-when 2 --start-manually", "name one of these")
	r.run("", exitUsage, deploy+" --multicast --wait 1ms", "shorter than a second")
	r.run("", exitUsage, deploy+" --multicast --wait 100h", "at most 86400")
	r.run("", exitOK, deploy+" --multicast --start-manually", "task 1: deploy lab@1", "clonecast session show 1")

	first := r.receive(ids[0])
	r.wait("session show 1", "waiting: 1 of 2 machines are there; it begins with 'clonecast session start 1'")
	r.run("", exitOK, "session show 1", "deploy lab@1", "pc1", "waiting", "pc2", "expected")
	r.run("", exitOK, "session list", "waiting", "1 expected, 1 waiting")
	r.run("no\n", exitRefused, "session add 1 pc3", "lab@1 will overwrite:", "8.6 GB, E1, sda", "nothing was ordered")
	r.run("yes\n", exitOK, "session add 1 pc3", "pc3 is expected in session 1")
	r.run("", exitRefused, "session add 1 pc3 --yes", "in task 1 already")
	r.run("", exitOK, "session drop 1 pc2", "pc2 is dropped from session 1")
	r.run("", exitRefused, "session drop 1 pc2", "is over on machine pc2: cancelled")
	r.run("", exitOK, "session show 1", "its run was cancelled")
	r.run("", exitOK, "session retry 1 pc2", "pc2 is expected again in session 1")
	r.run("", exitRefused, "session retry 1 pc2", "has neither failed nor been cancelled")
	r.run("", exitNotFound, "session drop 1 pc9", "no machine")

	second := r.receive(ids[1])
	r.wait("session show 1", "waiting: 2 of 3 machines are there")
	r.run("", exitOK, "session start 1", "session 1 has begun")
	for i, done := range []<-chan error{first, second} {
		if err := <-done; err != nil {
			t.Errorf("pc%d: %v", i+1, err)
		}
	}
	r.wait("session show 1", "ended at")
	r.run("", exitOK, "session show 1", "pc1", "done", "100 %", "Mbit/s", "pc3", "expected")
	r.run("", exitRefused, "session start 1", "does not wait: it is ended")
	r.run("", exitRefused, "session add 1 pc3 --yes", "has ended", "hint: order a deploy")
	var one sessions.Session
	out := r.run("", exitOK, "session show 1 --json")
	if err := json.Unmarshal([]byte(out), &one); err != nil || len(one.Machines) != 3 || one.Payload == 0 {
		t.Errorf("session show --json: %+v, %v", one, err)
	}
	if list := listOf[sessions.Session](t, r.run("", exitOK, "session list --json"), "session"); len(list) != 1 {
		t.Errorf("session list --json: %+v", list)
	}
}

func TestPrintSession(t *testing.T) {
	var out bytes.Buffer
	const reason, hint = "no multicast packet arrives", "look at the switch"
	s := sessions.Session{
		ID: "7", Title: "deploy win@3", State: "running", Group: "239.255.130.5:9068",
		Payload: 40e9, Sent: 12e9, Wire: 13e9, Rate: 110e6, MaxRate: 125e6, Repair: 1234,
		Began: time.Date(2026, 5, 31, 14, 30, 0, 0, time.Local),
		Machines: []sessions.MachineState{
			{Name: "pc1", State: sessions.Receiving, Address: "10.0.0.1", Loss: 0.002, Needed: 40e9, Finished: 12e9},
			{
				Name: "pc2", State: sessions.Unicast, Address: "10.0.0.2",
				Needed: 40e9, Finished: 2e9, Fetched: 1e9, Reason: reason, Hint: hint,
			},
			{Name: "pc3", State: sessions.Unicast, Address: "10.0.0.3", Reason: reason, Hint: hint},
			{Name: "pc4", State: sessions.Expected},
		},
	}
	if err := printSession(&out, s); err != nil {
		t.Fatal(err)
	}
	want := `session 7: deploy win@3, running since 14:30:00
  sent      12.0 GB of 40.0 GB, 30 %, 880 Mbit/s of at most 1000 Mbit/s, 5 min left
  repair    1234 symbols; 13.0 GB on the wire
  group     239.255.130.5:9068
  machines  1 expected, 1 receiving, 2 unicast

  MACHINE  STATE      HAS   LOST   WHY
  pc1      receiving  30 %  0.2 %
  pc2      unicast    5 %   0.0 %  no multicast packet arrives; 1.0 GB by unicast
  pc3      unicast    all   0.0 %  no multicast packet arrives
  pc4      expected

hint for pc2, pc3: look at the switch
`
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.TrimRight(line, " \n")+"\n")
	}
	if got := strings.Join(lines, ""); got != want {
		t.Errorf("printed\n%s\nwant\n%s", got, want)
	}
}

func TestSessionState(t *testing.T) {
	at := time.Date(2026, 5, 31, 14, 30, 0, 0, time.Local)
	waiting := protocol.SessionWaiting{Machines: 3, Present: 1}
	timed := waiting
	timed.StartsAt = at.Unix()
	for want, s := range map[string]sessions.Session{
		"waiting: 1 of 3 machines are there":                                      {State: "waiting", Waiting: &waiting},
		"waiting: 1 of 3 machines are there; it begins at 14:30:00 at the latest": {State: "waiting", Waiting: &timed},
		"waiting: 1 of 3 machines are there; it begins at 2026-05-31 14:30": {
			State: "waiting", Waiting: &timed, Rule: protocol.StartRule{At: at.Unix()},
		},
		"running since 14:30:00":     {State: "running", Began: at},
		"ended at 14:30:00":          {State: "ended", Began: at, Ended: at},
		"ended without having begun": {State: "ended", Ended: at},
	} {
		if got := sessionState(s); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestParseStart(t *testing.T) {
	zone := time.FixedZone("", 2*3600)
	now := time.Date(2026, 5, 31, 14, 0, 30, 0, zone)
	for text, want := range map[string]time.Time{
		"14:30":                time.Date(2026, 5, 31, 14, 30, 0, 0, zone),
		"2026-06-01 07:00":     time.Date(2026, 6, 1, 7, 0, 0, 0, zone),
		"2026-06-01T07:00:00Z": time.Date(2026, 6, 1, 7, 0, 0, 0, time.UTC),
		"14:00":                {}, "2026-05-30 15:00": {}, "25:00": {}, "": {}, "tomorrow": {},
	} {
		if got, err := parseStart(text, now); !got.Equal(want) || (err == nil) == want.IsZero() {
			t.Errorf("parseStart(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
}
