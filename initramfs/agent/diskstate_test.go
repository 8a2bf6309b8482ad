package agent

import (
	"bytes"
	"crypto/x509"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"clonecast/internal/blockdev"
	"clonecast/internal/protocol"
)

// states gives what a status tells of the disks.
func states(st protocol.Status) (list []string) {
	for _, d := range st.Disks {
		list = append(list, d.State)
	}
	return list
}

// usedDisk is a disk that holds something else than the image, with a table.
func usedDisk(t *testing.T) blockdev.Facts {
	t.Helper()
	d := diskFile(t, "target", false)
	f, err := os.OpenFile(d.Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(bytes.Repeat([]byte("old "), 1<<20), 4<<20); err != nil {
		t.Fatal(err)
	}
	return d
}

// The server knows of a disk that is about to be written before its first byte changes, and hears when it is whole.
func TestServerKnowsBeforeTheFirstWrite(t *testing.T) {
	s, content := captured(t, newAuthority(t, nil))
	target := diskFile(t, "target", true)
	told := 0
	s.seen = func(st protocol.Status) {
		if slices.Contains(states(st), protocol.DiskIncomplete) {
			told++
			wantUntouched(t, target)
		}
	}
	b := newBench(t, s, target)
	if _, err := b.run(); err != nil {
		t.Fatal(err)
	}
	wantDisk(t, target, content)
	if told != 1 || !slices.Equal(states(s.statuses[0]), []string{protocol.DiskWhole}) {
		t.Errorf("told %d times; the end says %v", told, states(s.statuses[0]))
	}
	if name := s.statuses[0].Disks[0].Name; !strings.Contains(name, "target") {
		t.Errorf("the disk is called %q", name)
	}
	// Nothing differs: nothing is begun.
	s.ops, s.statuses = []protocol.Operation{{Kind: protocol.OpDeploy, Image: "lab", Version: s.published.Version}}, nil
	told = 0
	s.seen = func(st protocol.Status) { told += len(states(st)) }
	if _, err := newBench(t, s, target).run(); err != nil || told != 0 {
		t.Errorf("a disk that is up to date: %v, told %d times", err, told)
	}
}

func fetches(r *http.Request) bool {
	return r.URL.Path == protocol.PathChunks || r.URL.Path == protocol.PathDeltas
}

// A deploy that is cancelled in the middle says on the screen and to the server what became of the disk, and waits for
// an order that makes it whole.
func TestCancelInTheMiddle(t *testing.T) {
	s, content := captured(t, newAuthority(t, nil))
	deploy := s.ops[0]
	s.hook = func(_ http.ResponseWriter, r *http.Request, nth int) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case fetches(r) && nth == 1: // the table is zeroed by now
			s.cancel = true
			s.mu.Unlock()
			<-r.Context().Done() // until the client lets go
			s.mu.Lock()
			return true
		case r.URL.Path == protocol.PathNext && nth == 3: // once with nothing to do
			s.cancel, s.ops = false, []protocol.Operation{deploy}
		}
		return false
	}
	b := newBench(t, s, usedDisk(t))
	b.agent.orderWait = time.Hour
	b.agent.orderPoll = time.Millisecond
	if outcome, err := b.run(); outcome != LocalBoot || err != nil {
		t.Errorf("Run = %v, %v", outcome, err)
	}
	wantDisk(t, b.disk, content)
	if len(s.statuses) != 2 {
		t.Fatalf("statuses = %+v", s.statuses)
	}
	if !slices.Equal(states(s.statuses[0]), []string{protocol.DiskIncomplete}) ||
		!slices.Equal(states(s.statuses[1]), []string{protocol.DiskWhole}) {
		t.Errorf("the server hears %v, then %v", states(s.statuses[0]), states(s.statuses[1]))
	}
	for _, want := range []string{"is half written and does not start", "clonecast task run deploy", "waiting 1h"} {
		if !strings.Contains(b.screen.String(), want) {
			t.Errorf("the screen does not say %q:\n%s", want, b.screen)
		}
	}
}

// A failure says which disks it left half written.
func TestFailureInTheMiddle(t *testing.T) {
	s, _ := captured(t, newAuthority(t, nil))
	s.hook = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if fetches(r) {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	}
	b := newBench(t, s, usedDisk(t))
	if _, err := b.run(); err == nil {
		t.Fatal("the deploy succeeded")
	}
	if !slices.Equal(states(s.statuses[0]), []string{protocol.DiskIncomplete}) {
		t.Errorf("the server hears %v", states(s.statuses[0]))
	}
	if !strings.Contains(b.screen.String(), "is half written and does not start") {
		t.Errorf("the screen says\n%s", b.screen)
	}
	if q := s.logoffs[len(s.logoffs)-1]; q.Error == "" || !q.Reported {
		t.Errorf("logged off with %+v", q)
	}
}

// An appliance that was built while the authority had a successor trusts both.
func TestSuccessorIsTrusted(t *testing.T) {
	old, next := newAuthority(t, nil), newAuthority(t, nil)
	for name, ca := range map[string]authority{"old": old, "successor": next} {
		s := newTestServer(t, ca)
		b := newBench(t, s, diskFile(t, "target", true))
		config := b.agent.config
		config.CAs = []*x509.Certificate{old.ca, next.ca}
		a, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		b.agent = a
		if _, err := b.run(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A machine that is adopted while it waits stays for a task, until a time that it shows.
func TestAdoptedMachineWaitsForATask(t *testing.T) {
	s, content := captured(t, newAuthority(t, nil))
	deploy := s.ops[0]
	s.adoptAfter, s.wait, s.ops = 1, 3600, nil
	s.hook = func(_ http.ResponseWriter, r *http.Request, nth int) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.URL.Path == protocol.PathNext && nth == 4 {
			s.ops = []protocol.Operation{deploy}
		}
		return false
	}
	b := newBench(t, s, diskFile(t, "target", true))
	b.agent.orderWait, b.agent.orderPoll = time.Hour, time.Millisecond
	if outcome, err := b.run(); outcome != LocalBoot || err != nil {
		t.Fatalf("Run = %v, %v", outcome, err)
	}
	wantDisk(t, b.disk, content)
	if !strings.Contains(b.screen.String(), "this machine is adopted: waiting 10h0m0s for a task, until ") {
		t.Errorf("the screen says\n%s", b.screen)
	}
}
