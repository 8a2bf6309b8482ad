package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"

	"clonecast/internal/await"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"
)

// Bodies are bounded in sum: those of strangers, those of all machines, and those of one machine.
func TestBodiesAreBounded(t *testing.T) {
	b := &bodies{room: 100, by: map[string]quantity.Bytes{}}
	steps := []struct {
		machine string
		n       quantity.Bytes
		code    string
	}{
		{"a", 40, ""},
		{"a", 20, protocol.CodeBusy}, // more than half, with what it has
		{"b", 50, ""},
		{"c", 20, protocol.CodeBusy},     // no room
		{"c", 101, protocol.CodeInvalid}, // never
		{"c", 10, ""},
		{"", strangersRoom, ""},
		{"", 1, protocol.CodeBusy},
	}
	for _, step := range steps {
		var p *protocol.Problem
		err := b.take(step.machine, step.n)
		if (err != nil) != (step.code != "") || err != nil && (!errors.As(err, &p) || p.Code != step.code) {
			t.Errorf("take(%q, %d): %v, want %q", step.machine, step.n, err, step.code)
		}
	}
	for _, step := range steps {
		if step.code == "" {
			b.give(step.machine, step.n)
		}
	}
	if b.machines != 0 || b.strangers != 0 || len(b.by) != 0 {
		t.Errorf("after all were given back: %+v", b)
	}
	if err := b.take("a", 100); err != nil {
		t.Errorf("one body that takes all the room: %v", err)
	}
}

// stalled is a body of so many bytes that ends when it may.
func stalled(n int, end <-chan struct{}) io.Reader {
	return io.MultiReader(bytes.NewReader(make([]byte, n)), endOf(end))
}

type endOf <-chan struct{}

func (e endOf) Read([]byte) (int, error) {
	<-e
	return 0, io.EOF
}

// Many bodies at once fill the room, the next one hears that the server is busy and when to come again, and when they
// have ended there is room. Strangers do not take the machines' part.
func TestManyBodies(t *testing.T) {
	s := newSite(t)
	a, b := s.pc("a", 1), s.pc("b", 2)
	s.image(a)
	s.order(Order{Kind: "capture", Machines: []string{"a"}, Image: "lab"})
	s.order(Order{Kind: "capture", Machines: []string{"b"}, Image: "lab"})
	s.next(a, protocol.OpCapture)
	s.next(b, protocol.OpCapture)
	s.api.bodies.room = 3 << 20
	end := make(chan struct{})
	var wg sync.WaitGroup
	send := func(token, path string, n int) {
		wg.Go(func() {
			r, err := http.NewRequest("POST", s.tls.URL+path, stalled(n, end))
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Authorization", "Bearer "+token)
			response, err := s.tls.Client().Do(r)
			if err == nil {
				response.Body.Close()
			}
		})
	}
	send(a, protocol.PathFrame, 900<<10)
	send(b, protocol.PathFrame, 900<<10)
	s.holds(t, func(b *bodies) bool { return b.machines >= 2<<20 })
	for _, token := range []string{a, b} {
		response := s.answer(t, token, protocol.PathPublish, make([]byte, 2<<20))
		if response.StatusCode != http.StatusTooManyRequests || response.Header.Get("Retry-After") == "" {
			t.Errorf("a body for which there is no room: %s, %v", response.Status, response.Header)
		}
	}
	s.register("c", 3) // strangers have a part of their own
	close(end)
	wg.Wait()
	s.holds(t, func(b *bodies) bool { return b.machines == 0 && b.strangers == 0 })
	d := newDisk(t, "lab", 1, 1)
	s.capture(a, d)
}

func (s *site) holds(t *testing.T, ok func(*bodies) bool) {
	t.Helper()
	if !await.True(func() bool {
		s.api.bodies.mu.Lock()
		defer s.api.bodies.mu.Unlock()
		return ok(s.api.bodies)
	}) {
		t.Fatalf("bodies hold %+v", s.api.bodies)
	}
}

func (s *site) answer(t *testing.T, token, path string, body []byte) *http.Response {
	t.Helper()
	r, err := http.NewRequest("POST", s.tls.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	response, err := s.tls.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response
}

// The JSON that grows most takes what jsonCost says at most, or is refused before it is parsed.
func TestJSONCost(t *testing.T) {
	parse := func(what, body string, limit int64, cost int, v any) {
		t.Helper()
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		room := &bodies{room: 1 << 30, by: map[string]quantity.Bytes{}}
		r = r.WithContext(context.WithValue(t.Context(), bodiesKey{}, room))
		r = r.WithContext(context.WithValue(r.Context(), callerKey{}, caller{machine: "a"}))
		atMostTimes(t, what, cost, len(body), func() { _ = readJSONOf(httptest.NewRecorder(), r, limit, cost, v) })
	}
	for _, element := range []string{"{}", "null", "1", "[]", `{"":0}`, `{"":  0}`, "       1"} {
		for _, list := range []string{"disks", "nics"} {
			n := maxJSON/(len(element)+1) - 20
			body := fmt.Sprintf(`{"facts":{%q:[%s]}}`, list, strings.TrimSuffix(strings.Repeat(element+",", n), ","))
			parse(list+" of "+element, body, maxJSON, jsonCost, &protocol.RegisterRequest{})
		}
		for _, list := range []string{"disks", "notes"} {
			n := maxStatusJSON/(len(element)+1) - 20
			body := fmt.Sprintf(`{%q:[%s]}`, list, strings.TrimSuffix(strings.Repeat(element+",", n), ","))
			parse(list+" of "+element, body, maxStatusJSON, jsonCost, &protocol.Status{})
		}
	}
	body := fmt.Sprintf(`{"need":%q}`, strings.Repeat("AAAA", 1<<20))
	parse("join", body, protocol.MaxSessionJoin, joinCost, &protocol.SessionJoin{})
}

// atMostTimes checks that f allocates at most so many times the bytes of its input.
func atMostTimes(t *testing.T, what string, times, length int, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > uint64(times*length)+512<<10 {
		t.Errorf("%s: %d bytes of input make %d allocated, %d times as many; want at most %d",
			what, length, got, got/uint64(length), times)
	}
}
