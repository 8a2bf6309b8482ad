package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"clonecast/internal/await"
	"clonecast/internal/multicast"
	"clonecast/internal/multicast/blocks"
	"clonecast/internal/multicast/packet"
	"clonecast/internal/protocol"
	"clonecast/server/sessions"
	"clonecast/server/tasks"
)

// receiver asks the server for places and blocks, as the appliance does.
type receiver struct {
	s     *site
	token string
}

func (h receiver) Join(_ context.Context, q protocol.SessionJoin) (place protocol.SessionPlace, err error) {
	h.s.must(h.s.tls, h.token, "POST", protocol.PathSessionJoin, q, &place)
	return place, nil
}

func (h receiver) Blocks(_ context.Context, first, count int, read func(io.Reader) error) error {
	path := fmt.Sprintf("%s?first=%d&count=%d", protocol.PathSessionBlocks, first, count)
	b, err := h.s.call(h.s.tls, h.token, "GET", path, nil)
	if err != nil {
		return err
	}
	return read(bytes.NewReader(b))
}

func (h receiver) Report(_ context.Context, report []byte) ([]byte, error) {
	return h.s.call(h.s.tls, h.token, "POST", protocol.PathSessionReport, report)
}

// receive gets the whole payload of the machine's session.
func (s *site) receive(token string) ([]byte, error) {
	var session protocol.Session
	s.must(s.tls, token, "GET", protocol.PathSession, nil, &session)
	return s.receiveIn(token, session)
}

func (s *site) receiveIn(token string, session protocol.Session) ([]byte, error) {
	found, err := multicast.Offered(session, receiver{s, token}, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	got := make([]byte, session.Payload)
	_, err = found.Receive(await.Context(s.t), blocks.FullSet(found.Geometry().Count()), func(b int, plain []byte) error {
		mu.Lock()
		defer mu.Unlock()
		copy(got[found.Geometry().Offset(b):], plain)
		return nil
	}, nil)
	return got, err
}

// session waits until a session is as the test wants it.
func (s *site) session(id, what string, ok func(sessions.Session) bool) sessions.Session {
	s.t.Helper()
	var one sessions.Session
	if !await.True(func() bool {
		one = sessions.Session{}
		s.must(s.local, "", "GET", "/api/v1/sessions/"+id, nil, &one)
		return ok(one)
	}) {
		s.t.Fatalf("%s: session is %+v", what, one)
	}
	return one
}

// captured is a site with an image of one disk, and the task number that comes next.
func captured(t *testing.T) (*site, disk) {
	s := newSite(t)
	a := s.pc("master", 99)
	s.order(Order{Kind: "capture", Machines: []string{"master"}, Image: "win"})
	op := s.next(a, protocol.OpCapture)
	d := newDisk(t, "win", 1, 5)
	s.capture(a, d)
	s.report(a, op, protocol.StateDone)
	return s, d
}

func TestDeployByMulticast(t *testing.T) {
	s, d := captured(t)
	want := bytes.Join(d.frames, nil)
	names := []string{"a", "b"}
	tokens := []string{s.pc("a", 1), s.pc("b", 2)}
	task := s.order(Order{Kind: "deploy", Machines: names, Image: "win", SessionOrder: SessionOrder{Multicast: true}})
	var ops []protocol.Operation
	for _, token := range tokens {
		op := s.next(token, protocol.OpDeploy)
		if !op.Multicast {
			t.Errorf("operation %+v does not say multicast", op)
		}
		ops = append(ops, op)
	}
	if _, err := s.call(s.local, "", "GET", "/api/v1/sessions/"+task.ID, nil); err == nil {
		t.Error("there is a session before anybody asks for it")
	}

	var group sync.WaitGroup
	for i, token := range tokens {
		group.Go(func() {
			got, err := s.receive(token)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("machine %s: %v, equal %v", names[i], err, bytes.Equal(got, want))
			}
		})
	}
	group.Wait()
	end := s.session(task.ID, "ended", func(one sessions.Session) bool { return one.State == "ended" })
	if len(end.Machines) != 2 || end.Payload != int64(len(want)) || end.Wire < end.Payload ||
		end.Seconds <= 0 || end.Error != "" {
		t.Errorf("the session was %+v", end)
	}
	for _, m := range end.Machines {
		if m.State != sessions.Done || m.Finished != end.Payload || m.Needed != end.Payload {
			t.Errorf("machine %+v, want done with all", m)
		}
	}
	for i, token := range tokens {
		s.report(token, ops[i], protocol.StateDone)
	}
	s.sessionRefused(protocol.CodeCancelled, tokens[0])
	var list []sessions.Session
	s.must(s.local, "", "GET", "/api/v1/sessions", nil, &list)
	if len(list) != 1 || list[0].ID != task.ID || list[0].Title != "deploy win@1" {
		t.Errorf("sessions are %+v", list)
	}
}

// TestReportByHTTPS brings a report as a machine behind a firewall does: the sender answers it, and takes nothing else.
func TestReportByHTTPS(t *testing.T) {
	s, _ := captured(t)
	token := s.pc("a", 1)
	s.order(Order{
		Kind: "deploy", Machines: []string{"a"}, Image: "win",
		SessionOrder: SessionOrder{Multicast: true, StartManually: true},
	})
	s.next(token, protocol.OpDeploy)
	var session protocol.Session
	s.must(s.tls, token, "GET", protocol.PathSession, nil, &session)
	count := blocks.Geometry{Payload: session.Payload}.Count()
	var place protocol.SessionPlace
	s.must(s.tls, token, "POST", protocol.PathSessionJoin, protocol.SessionJoin{
		Nonce: make([]byte, protocol.NonceSize), AES: true, Need: blocks.FullSet(count).AppendBinary(nil),
	}, &place)
	key := func(purpose string) *packet.Key {
		k, err := packet.NewKey(place.Own, session.Session, purpose, false)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	header := packet.Header{Kind: packet.KindReport, Block: place.Receiver}
	receiving := packet.Report{State: packet.StateReceiving}.Append(nil)
	report, err := key(packet.PurposeUp).Seal(nil, header, receiving)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.call(s.tls, token, "POST", protocol.PathSessionReport, report)
	if err != nil {
		t.Fatal(err)
	}
	h, err := packet.ParseHeader(answer)
	if err != nil {
		t.Fatalf("the answer %x: %v", answer, err)
	}
	body, err := key(packet.PurposeDown).Open(nil, h, answer)
	if order, parsed := packet.ParseOrder(body); err != nil || parsed != nil || order.Verb != packet.VerbHeard {
		t.Errorf("the answer is %+v (%v, %v), want that the report is heard", order, err, parsed)
	}
	for name, b := range map[string][]byte{"the same report": report, "noise": make([]byte, 100), "nothing": {}} {
		if answer, err := s.call(s.tls, token, "POST", protocol.PathSessionReport, b); err != nil || len(answer) != 0 {
			t.Errorf("%s is answered %x, %v", name, answer, err)
		}
	}
	if _, err := s.call(s.tls, token, "POST", protocol.PathSessionReport, make([]byte, packet.MaxSize+1)); err == nil {
		t.Error("a report that is too long is taken")
	}
	stranger := s.pc("b", 2)
	s.order(Order{Kind: "deploy", Machines: []string{"b"}, Image: "win"})
	s.next(stranger, protocol.OpDeploy)
	if _, err := s.call(s.tls, stranger, "POST", protocol.PathSessionReport, report); err == nil {
		t.Error("a machine without place reports")
	}
}

// sessionRefused expects a problem from every call of a session.
func (s *site) sessionRefused(code, token string) {
	s.t.Helper()
	for path, method := range map[string]string{
		protocol.PathSession: "GET", protocol.PathSessionJoin: "POST", protocol.PathSessionBlocks + "?first=0&count=1": "GET",
		protocol.PathSessionReport: "POST",
	} {
		var body any
		if method == "POST" {
			body = protocol.SessionJoin{Nonce: make([]byte, protocol.NonceSize)}
		}
		_, err := s.call(s.tls, token, method, path, body)
		var p *protocol.Problem
		if !errors.As(err, &p) || p.Code != code {
			s.t.Errorf("%s %s: %v (%+v), want code %s", method, path, err, p, code)
		}
	}
}

// A deploy that is not by multicast, and a machine without a deploy, have no session.
func TestNoSession(t *testing.T) {
	s, _ := captured(t)
	a, b := s.pc("a", 1), s.pc("b", 2)
	s.order(Order{Kind: "deploy", Machines: []string{"a"}, Image: "win"})
	s.sessionRefused(protocol.CodeCancelled, a) // not begun
	s.next(a, protocol.OpDeploy)
	s.sessionRefused(protocol.CodeNotFound, a)
	s.sessionRefused(protocol.CodeCancelled, b)
	s.order(Order{Kind: "capture", Machines: []string{"b"}, Image: "other"})
	s.next(b, protocol.OpCapture)
	s.sessionRefused(protocol.CodeForbidden, b)
}

// TestSessionByHand waits for an admin, who adds a machine, drops one, retries it, and starts.
func TestSessionByHand(t *testing.T) {
	s, d := captured(t)
	want := bytes.Join(d.frames, nil)
	tokens := map[string]string{}
	for i, name := range []string{"a", "b", "c"} {
		tokens[name] = s.pc(name, i+1)
	}
	task := s.order(Order{
		Kind: "deploy", Machines: []string{"a", "b"}, Image: "win",
		SessionOrder: SessionOrder{Multicast: true, StartManually: true},
	})
	id := task.ID
	admin := func(path string, body any) sessions.Session {
		var one sessions.Session
		s.must(s.local, "", "POST", "/api/v1/sessions/"+id+path, body, &one)
		return one
	}
	problem := func(code, path string) {
		t.Helper()
		_, err := s.call(s.local, "", "POST", "/api/v1/sessions/"+path, struct{}{})
		var p *protocol.Problem
		if !errors.As(err, &p) || p.Code != code {
			t.Errorf("%s: %v (%+v), want code %s", path, err, p, code)
		}
	}
	problem(protocol.CodeNotFound, id+"/start")
	s.next(tokens["a"], protocol.OpDeploy)
	op := s.next(tokens["b"], protocol.OpDeploy)
	var session protocol.Session
	s.must(s.tls, tokens["a"], "GET", protocol.PathSession, nil, &session)
	if w := session.Waiting; !w.Manual || w.Machines != 2 || w.Present != 0 || w.StartsAt != 0 || len(session.Table) == 0 {
		t.Errorf("the session is %+v", session)
	}
	s.must(s.tls, tokens["a"], "GET", fmt.Sprintf("%s?known=%d", protocol.PathSession, session.Session), nil, &session)
	problem(protocol.CodeConflict, id+"/start") // nobody has joined

	var added Added
	s.must(s.local, "", "POST", "/api/v1/sessions/"+id+"/machines/c/add", map[string]bool{"dry_run": true}, &added)
	if len(added.Machine.Disks) != 1 || added.Version.Sequence != 1 || len(added.Session.Machines) != 2 {
		t.Errorf("would add %+v", added)
	}
	s.must(s.local, "", "POST", "/api/v1/sessions/"+id+"/machines/c/add", struct{}{}, &added)
	if len(added.Session.Machines) != 3 {
		t.Errorf("added %+v", added)
	}
	problem(protocol.CodeConflict, id+"/machines/c/add")
	problem(protocol.CodeConflict, id+"/machines/c/retry")
	problem(protocol.CodeNotFound, id+"/machines/master/drop")
	problem(protocol.CodeNotFound, "77/machines/a/drop")
	s.next(tokens["c"], protocol.OpDeploy)

	dropped := admin("/machines/b/drop", nil)
	if m := dropped.Machines[1]; m.Name != "b" || m.State != sessions.Dropped {
		t.Errorf("dropped is %+v", m)
	}
	if answer := s.report(tokens["b"], op, protocol.StateRunning); !answer.Cancel {
		t.Error("the dropped machine does not hear of it")
	}
	s.sessionRefused(protocol.CodeCancelled, tokens["b"])
	if m := admin("/machines/b/retry", nil).Machines[1]; m.State != sessions.Expected {
		t.Errorf("retried is %+v", m)
	}
	s.next(tokens["b"], protocol.OpDeploy)

	var group sync.WaitGroup
	for name, token := range tokens {
		group.Go(func() {
			if got, err := s.receive(token); err != nil || !bytes.Equal(got, want) {
				t.Errorf("machine %s: %v, equal %v", name, err, bytes.Equal(got, want))
			}
		})
	}
	s.session(id, "all wait", func(one sessions.Session) bool {
		return one.State == "waiting" && one.Waiting.Present == 3 && one.Machines[0].State == sessions.Waiting
	})
	admin("/start", nil)
	group.Wait()
	s.session(id, "ended", func(one sessions.Session) bool { return one.State == "ended" })
	problem(protocol.CodeConflict, id+"/start")
	problem(protocol.CodeConflict, id+"/machines/master/add")
	var list []sessions.Session
	s.must(s.local, "", "GET", "/api/v1/sessions", nil, &list)
	if len(list) != 1 {
		t.Errorf("%d sessions", len(list))
	}
	var got tasks.Task
	s.must(s.local, "", "GET", "/api/v1/tasks/"+id, nil, &got)
	if len(got.Runs) != 3 {
		t.Errorf("task %+v", got)
	}
}

// After a restart of the server the machines ask again, and there is a new session.
func TestSessionAfterRestart(t *testing.T) {
	s, d := captured(t)
	a, b := s.pc("a", 1), s.pc("b", 2)
	s.order(Order{Kind: "deploy", Machines: []string{"a", "b"}, Image: "win", SessionOrder: SessionOrder{Multicast: true}})
	s.next(a, protocol.OpDeploy)
	s.next(b, protocol.OpDeploy)
	var before, after protocol.Session
	s.must(s.tls, a, "GET", protocol.PathSession, nil, &before)
	s.restart()
	s.must(s.tls, a, "GET", protocol.PathSession, nil, &after)
	if before.Session == after.Session {
		t.Errorf("session %d is there again", before.Session)
	}
	var group sync.WaitGroup
	for _, token := range []string{a, b} {
		group.Go(func() {
			if got, err := s.receive(token); err != nil || !bytes.Equal(got, bytes.Join(d.frames, nil)) {
				t.Errorf("after the restart: %v", err)
			}
		})
	}
	group.Wait()
}

func TestSessionOrders(t *testing.T) {
	now := time.Now()
	for name, tc := range map[string]struct {
		kind string
		SessionOrder
		want string // empty: it is fine
	}{
		"plain":             {"deploy", SessionOrder{}, ""},
		"multicast":         {"deploy", SessionOrder{Multicast: true}, ""},
		"when, wait":        {"deploy", SessionOrder{Multicast: true, StartWhen: 2, WaitSeconds: 60}, ""},
		"at":                {"deploy", SessionOrder{Multicast: true, StartAt: now.Add(time.Hour)}, ""},
		"manually":          {"deploy", SessionOrder{Multicast: true, StartManually: true}, ""},
		"capture":           {"capture", SessionOrder{Multicast: true}, "is for a deploy"},
		"rule, unicast":     {"deploy", SessionOrder{StartManually: true}, "by multicast"},
		"wait, unicast":     {"deploy", SessionOrder{WaitSeconds: 1}, "by multicast"},
		"two rules":         {"deploy", SessionOrder{Multicast: true, StartManually: true, StartWhen: 1}, "name one"},
		"more than ordered": {"deploy", SessionOrder{Multicast: true, StartWhen: 3}, "wait for 3 machines, the order has 2"},
		"past":              {"deploy", SessionOrder{Multicast: true, StartAt: now.Add(-time.Second)}, "which is past"},
		"minus one":         {"deploy", SessionOrder{Multicast: true, StartWhen: -1}, "-1 machines"},
		"twelve days":       {"deploy", SessionOrder{Multicast: true, WaitSeconds: 1 << 20}, "at most 86400"},
		"wait at a time": {"deploy",
			SessionOrder{Multicast: true, StartAt: now.Add(time.Hour), WaitSeconds: 5}, "a wait is for"},
	} {
		got := tc.SessionOrder.problem(tc.kind, 2, now)
		if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}
