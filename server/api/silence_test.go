package api

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/internal/protocol"
)

// warnings hands out what the log says at Warn.
type warnings struct {
	slog.Handler
	texts chan string
}

func (w warnings) Handle(_ context.Context, r slog.Record) error {
	if r.Level == slog.LevelWarn {
		w.texts <- r.Message
	}
	return nil
}

func (w warnings) Enabled(context.Context, slog.Level) bool { return true }

// A PC that is switched off in the middle of its capture holds collections up until its silence
// has lasted long enough, and when it comes back it goes on with what it had sent.
func TestSilentCapture(t *testing.T) {
	s := newSite(t)
	said := warnings{slog.DiscardHandler, make(chan string, 16)}
	s.api.captures.log = slog.New(said)
	a := s.pc("a", 1)
	old, d := newDisk(t, "old", 2, 3), newDisk(t, "lab", 1, 3)
	s.order(Order{Kind: "capture", Machines: []string{"a"}, Image: "old"})
	s.report(a, s.next(a, protocol.OpCapture), protocol.StateRunning)
	s.capture(a, old)
	s.report(a, s.next(a, protocol.OpCapture), protocol.StateDone)
	s.order(Order{Kind: "capture", Machines: []string{"a"}, Image: "lab"})
	op := s.next(a, protocol.OpCapture)
	s.send(a, d, 0, 2)
	if err := s.store.Delete(t.Context(), "old", 1); err != nil {
		t.Fatal(err)
	}
	collect := func() chunkstore.CollectReport {
		t.Helper()
		r, err := s.store.Collect(t.Context(), chunkstore.CollectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	machine := mustFind(t, s, "a")
	if r := collect(); !r.Pinned || r.Removed > 0 {
		t.Fatalf("Collect beside a capture = %+v", r)
	}
	c := s.api.captures.byMachine[machine]
	silent := func(d time.Duration) {
		s.api.captures.mu.Lock()
		c.heard = time.Now().Add(-d)
		s.api.captures.mu.Unlock()
		s.api.captures.expire(machine, c)
	}
	silent(captureSilence - time.Minute)
	if r := collect(); !r.Pinned {
		t.Errorf("the capture was given up after %v: %+v", captureSilence-time.Minute, r)
	}
	// A report counts as a sign of life, and so does a call that takes long.
	s.api.captures.mu.Lock()
	c.heard = time.Now().Add(-captureSilence)
	s.api.captures.mu.Unlock()
	s.report(a, op, protocol.StateRunning)
	s.api.captures.expire(machine, c)
	err := c.use(func(chunkstore.Session) error { silent(captureSilence); return nil })
	if r := collect(); err != nil || !r.Pinned {
		t.Errorf("a capture that is not silent was given up: %+v, %v", r, err)
	}
	silent(captureSilence)
	select {
	case text := <-said.texts:
		if !strings.Contains(text, "silent") {
			t.Errorf("the log says %q", text)
		}
	default:
		t.Error("the log says nothing")
	}
	if r := collect(); r.Pinned || r.Removed == 0 {
		t.Errorf("Collect after the silence = %+v", r)
	}
	// What the capture had sent was in no version, and may be gone: the server asks for it again.
	p := s.problem(a, "POST", protocol.PathPublish, d.binary(t))
	if p.Code != protocol.CodeIncomplete {
		t.Errorf("publish after the silence: %+v", p)
	}
	s.capture(a, d)
}

// The timer itself ends a silent capture.
func TestSilenceEnds(t *testing.T) {
	s := newSite(t)
	said := warnings{slog.DiscardHandler, make(chan string, 16)}
	s.api.captures.log, s.api.captures.silence = slog.New(said), time.Millisecond
	a := s.pc("a", 1)
	s.order(Order{Kind: "capture", Machines: []string{"a"}, Image: "lab"})
	s.next(a, protocol.OpCapture)
	// It may end at once, and then the call finds no capture: that is what is wanted.
	_, _ = s.call(s.tls, a, "POST", protocol.PathMissing, idBytes(newDisk(t, "lab", 1, 3).ids...))
	<-said.texts
}
