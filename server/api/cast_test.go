package api

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/image"
	"clonecast/internal/multicast/blocks"
	"clonecast/internal/protocol"
	"clonecast/server/sessions"
	"clonecast/server/tasks"

	"github.com/google/go-cmp/cmp"
)

// outlineOf is what is known of a disk before its content is read.
func outlineOf(t *testing.T, d disk) []byte {
	t.Helper()
	o := image.Outline{Manifest: *d.manifest}
	o.Manifest.Disks = append([]image.Disk(nil), o.Manifest.Disks...)
	first := &o.Manifest.Disks[0]
	first.Partitions = append([]image.Partition(nil), first.Partitions...)
	first.Partitions[0].Content.Chunks = nil
	b, err := o.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s *site) outline(token string, d disk) image.CastID {
	s.t.Helper()
	var answer protocol.OutlineResponse
	s.must(s.tls, token, "POST", protocol.PathOutline, outlineOf(s.t, d), &answer)
	id, err := image.ParseCastID(answer.Cast)
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

func partBody(cast image.CastID, first int, ids ...chunk.ID) []byte {
	return append(binary.LittleEndian.AppendUint64(cast[:], uint64(first)), idBytes(ids...)...)
}

func (s *site) part(token string, cast image.CastID, first int, ids ...chunk.ID) {
	s.t.Helper()
	s.must(s.tls, token, "POST", protocol.PathPart, partBody(cast, first, ids...), &struct{}{})
}

func (s *site) follow(token string, known protocol.Followed) protocol.Followed {
	s.t.Helper()
	var now protocol.Followed
	s.must(s.tls, token, "POST", protocol.PathFollow, known, &now)
	return now
}

// chain gets the outline and all parts of a cast and verifies them.
func (s *site) chain(token string, known protocol.Followed) (*image.Outline, []chunk.ID) {
	s.t.Helper()
	envelope, err := s.call(s.tls, token, "GET", protocol.PathFollowOutline+known.Cast, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	o, id, err := image.OpenOutline(envelope, s.store.TrustedKeys())
	if err != nil || id.String() != known.Cast {
		s.t.Fatalf("outline of cast %s, %v; want %s", id, err, known.Cast)
	}
	chain := image.NewChain(o, id)
	var ids []chunk.ID
	for i := range known.Parts {
		envelope, err := s.call(s.tls, token, "GET", fmt.Sprintf("%s%s/%d", protocol.PathFollowPart, known.Cast, i), nil)
		if err != nil {
			s.t.Fatal(err)
		}
		p, err := image.OpenPart(envelope, s.store.TrustedKeys())
		if err != nil {
			s.t.Fatal(err)
		}
		if err := chain.Add(p); err != nil {
			s.t.Fatal(err)
		}
		ids = append(ids, p.Chunks...)
	}
	return o, ids
}

func (s *site) problem(token, method, path string, body any) *protocol.Problem {
	s.t.Helper()
	_, err := s.call(s.tls, token, method, path, body)
	var p *protocol.Problem
	if !errors.As(err, &p) {
		s.t.Fatalf("%s %s: %v, want a problem", method, path, err)
	}
	return p
}

func TestCast(t *testing.T) {
	s := newSite(t)
	a, b, c := s.pc("a", 1), s.pc("b", 2), s.pc("c", 3)
	s.image(a) // something else in the store
	task := s.order(Order{
		Kind: OrderCast, From: "a", Machines: []string{"b", "c"}, Image: "lab",
		Comment: "why", Grow: "last", Policies: []string{"1=raw"},
	})
	op, following := s.next(a, protocol.OpCapture), s.next(b, protocol.OpFollow)
	if !op.Cast || op.Grow != "" || len(op.Policies) != 1 ||
		following.From != mustFind(t, s, "a") || following.Grow != "last" || following.Policies != nil {
		t.Errorf("operations %+v and %+v", op, following)
	}
	d := newDisk(t, "lab", 1, 6)
	s.refused(protocol.CodeNotFound, b, protocol.PathChunks, idBytes(d.ids[0]))
	if p := s.problem(b, "GET", protocol.PathManifest, nil); p.Code != protocol.CodeConflict {
		t.Errorf("a manifest that is not there yet: %+v", p)
	}
	s.refused(protocol.CodeForbidden, a, protocol.PathOutline, outlineOf(t, newDisk(t, "other", 1, 6)))
	s.refused(protocol.CodeForbidden, b, protocol.PathOutline, outlineOf(t, d))
	s.refused(protocol.CodeNotFound, a, protocol.PathPart, partBody(image.CastID{}, 0, d.ids[0]))
	cast := s.outline(a, d)
	now := s.follow(b, protocol.Followed{})
	if now != (protocol.Followed{Cast: cast.String()}) {
		t.Fatalf("after the outline: %+v", now)
	}
	o, _ := s.chain(b, now)
	if o.Task != task.ID || o.Manifest.Comment != "why" || o.Manifest.Origin != "a" ||
		o.Manifest.Creator != "root" || o.Count() != 6 {
		t.Errorf("outline %+v: task, comment, origin and creator come from the order", o)
	}

	s.send(a, d, 0, 3)
	s.refused(protocol.CodeIncomplete, a, protocol.PathPart, partBody(cast, 0, d.ids[:4]...))
	s.refused(protocol.CodeConflict, a, protocol.PathPart, partBody(cast, 1, d.ids[1]))
	s.refused(protocol.CodeInvalid, a, protocol.PathPart, partBody(cast, 7, d.ids[0]))
	s.refused(protocol.CodeInvalid, a, protocol.PathPart, partBody(cast, 0))
	s.refused(protocol.CodeNotFound, a, protocol.PathPart, partBody(image.CastID{}, 0, d.ids[0]))
	waited := make(chan protocol.Followed)
	go func() { waited <- s.follow(b, now) }()
	s.part(a, cast, 0, d.ids[:2]...)
	s.part(a, cast, 0, d.ids[:2]...) // the answer was lost
	if now = <-waited; now != (protocol.Followed{Cast: cast.String(), Parts: 1}) {
		now = s.follow(b, now) // it may have given up waiting
	}
	if _, ids := s.chain(b, now); !cmp.Equal(ids, d.ids[:2]) {
		t.Errorf("part 0 has chunks %v", ids)
	}
	if got := s.fetch(b, d.ids[:2]...); len(got) != 2 || !bytes.Equal(got[d.ids[1]], d.plain[d.ids[1]]) {
		t.Errorf("%d chunks of part 0", len(got))
	}
	// A chunk that is stored, but in no part yet; one of another version.
	s.refused(protocol.CodeForbidden, b, protocol.PathChunks, idBytes(d.ids[2]))
	s.refused(protocol.CodeForbidden, b, protocol.PathChunks, idBytes(newDisk(t, "img", 9, 1).ids...))
	s.refused(protocol.CodeCancelled, c, protocol.PathChunks, idBytes(d.ids[0]))

	s.send(a, d, 3, 6)
	s.refused(protocol.CodeInvalid, a, protocol.PathPart, partBody(cast, 2, append(d.ids[2:6:6], d.ids[0])...))
	s.part(a, cast, 2, d.ids[2:]...)
	if _, ids := s.chain(b, s.follow(b, now)); !cmp.Equal(ids, d.ids) {
		t.Errorf("the parts have chunks %v, want %v", ids, d.ids)
	}
	published := s.capture(a, d)
	if now = s.follow(b, protocol.Followed{Cast: cast.String(), Parts: 2}); now.Version != published.Version {
		t.Errorf("after the publication: %+v, want version %s", now, published.Version)
	}
	s.report(a, op, protocol.StateDone)
	s.next(a, protocol.OpNone)
	if now = s.follow(b, now); now != (protocol.Followed{Version: published.Version}) {
		t.Errorf("after the capture: %+v", now)
	}
	s.deployFollowed(b, following, d, published)
	if p := s.deleteProblem("lab@1"); p.Code != protocol.CodeConflict {
		t.Errorf("the version is deleted while a machine has yet to deploy it: %+v", p)
	}
	late := s.next(c, protocol.OpFollow)
	if now = s.follow(c, protocol.Followed{}); now.Version != published.Version {
		t.Errorf("a late machine hears %+v", now)
	}
	s.deployFollowed(c, late, d, published)
	s.must(s.local, "", "GET", "/api/v1/tasks/"+task.ID, nil, &task)
	if task.State != tasks.Done {
		t.Errorf("the task is %s", task.State)
	}
}

// deployFollowed does what is left to do for a machine when the capture is published.
func (s *site) deployFollowed(token string, op protocol.Operation, d disk, want protocol.PublishResponse) {
	s.t.Helper()
	envelope, err := s.call(s.tls, token, "GET", protocol.PathManifest, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, id, err := image.Open(envelope, s.store.TrustedKeys()); err != nil || id.String() != want.Version {
		s.t.Fatalf("manifest %v, %v; want %s", id, err, want.Version)
	}
	if got := s.fetch(token, d.ids...); len(got) != len(d.ids) {
		s.t.Errorf("%d of %d chunks", len(got), len(d.ids))
	}
	s.report(token, op, protocol.StateDone)
	s.next(token, protocol.OpNone)
}

func (s *site) deleteProblem(ref string) *protocol.Problem {
	s.t.Helper()
	_, err := s.call(s.local, "", "DELETE", "/api/v1/images/"+ref, nil)
	var p *protocol.Problem
	if !errors.As(err, &p) {
		s.t.Fatalf("delete %s: %v, want a problem", ref, err)
	}
	return p
}

// A capture that fails fails those that follow it, with the cause, and those that have not begun
// do not begin.
func TestCastFails(t *testing.T) {
	s := newSite(t)
	a, b := s.pc("a", 1), s.pc("b", 2)
	s.pc("c", 3)
	task := s.order(Order{Kind: OrderCast, From: "a", Machines: []string{"b", "c"}, Image: "lab", Then: "poweroff"})
	op := s.next(a, protocol.OpCapture)
	s.next(b, protocol.OpFollow)
	d := newDisk(t, "lab", 1, 2)
	cast := s.outline(a, d)
	s.send(a, d, 0, 1)
	s.part(a, cast, 0, d.ids[0])
	s.must(s.tls, a, "POST", protocol.PathStatus, protocol.Status{
		TaskID: op.TaskID, Index: op.Index, State: protocol.StateFailed, Error: "the disk is failing",
	}, &struct{}{})
	for path, method := range map[string]string{
		protocol.PathFollow: "POST", protocol.PathManifest: "GET", protocol.PathChunks: "POST",
	} {
		var body any = protocol.Followed{Cast: cast.String()}
		if path == protocol.PathChunks {
			body = idBytes(d.ids[0])
		}
		const cause = "capture of a has failed: the disk is failing"
		p := s.problem(b, method, path, body)
		if p.Code != protocol.CodeConflict || !strings.Contains(p.Title, cause) || p.Hint == "" {
			t.Errorf("%s: %+v, want the cause", path, p)
		}
	}
	s.must(s.local, "", "GET", "/api/v1/tasks/"+task.ID, nil, &task)
	var states []string
	for _, r := range task.Runs {
		states = append(states, r.State)
	}
	if want := []string{tasks.Failed, tasks.Running, tasks.Cancelled}; !cmp.Equal(states, want) {
		t.Errorf("runs are %v, want %v", states, want)
	}
}

// The server restarts, or the captured machine boots again: the cast begins anew.
func TestCastBeginsAnew(t *testing.T) {
	s := newSite(t)
	a, b := s.pc("a", 1), s.pc("b", 2)
	task := s.order(Order{Kind: OrderCast, From: "a", Machines: []string{"b"}, Image: "lab"})
	s.next(a, protocol.OpCapture)
	s.next(b, protocol.OpFollow)
	d := newDisk(t, "lab", 1, 3)
	first := s.outline(a, d)
	s.send(a, d, 0, 2)
	s.part(a, first, 0, d.ids[:2]...)
	s.restart()
	s.refused(protocol.CodeNotFound, a, protocol.PathPart, partBody(first, 2, d.ids[2]))
	p := s.problem(b, "GET", fmt.Sprintf("%s%s/0", protocol.PathFollowPart, first), nil)
	if p.Code != protocol.CodeNotFound {
		t.Errorf("a part of a cast that is over: %+v", p)
	}
	s.refused(protocol.CodeNotFound, b, protocol.PathChunks, idBytes(d.ids[0]))
	second := s.outline(a, d)
	if first == second {
		t.Error("two casts have one name")
	}
	s.send(a, d, 0, 3)
	s.part(a, second, 0, d.ids...)
	now := s.follow(b, protocol.Followed{Cast: first.String(), Parts: 1})
	if _, ids := s.chain(b, now); now.Cast != second.String() || !cmp.Equal(ids, d.ids) {
		t.Errorf("a follower of the first cast hears %+v", now)
	}
	s.must(s.local, "", "POST", "/api/v1/tasks/"+task.ID+"/cancel", nil, &task)
	s.refused(protocol.CodeCancelled, b, protocol.PathFollow, protocol.Followed{})
	s.refused(protocol.CodeCancelled, b, protocol.PathChunks, idBytes(d.ids[0]))
}

func TestCastOrders(t *testing.T) {
	s := newSite(t)
	s.pc("a", 1)
	s.pc("b", 2)
	var plan Ordered
	s.must(s.local, "", "POST", "/api/v1/tasks", Order{
		Kind: OrderCast, From: "a", Machines: []string{"b"}, Image: "lab",
		DryRun: true, FromDisk: []string{"serial=disk-a"},
	}, &plan)
	if plan.Task != nil || plan.From == nil || plan.From.Name != "a" || len(plan.From.Disks) != 1 ||
		len(plan.Machines) != 1 || len(plan.Machines[0].Disks) != 1 {
		t.Errorf("plan %+v", plan)
	}
	for name, o := range map[string]Order{
		"without from": {Kind: OrderCast, Machines: []string{"b"}, Image: "lab"},
		"to itself":    {Kind: OrderCast, From: "a", Machines: []string{"a"}, Image: "lab"},
		"of a version": {Kind: OrderCast, From: "a", Machines: []string{"b"}, Image: "lab@1"},
		"bad rule": {Kind: OrderCast, From: "a", Machines: []string{"b"}, Image: "lab",
			FromDisk: []string{"colour=red"}},
		"bad growth":  {Kind: OrderCast, From: "a", Machines: []string{"b"}, Image: "lab", Grow: "first"},
		"deploy from": {Kind: "deploy", From: "a", Machines: []string{"b"}, Image: "lab"},
		"two rules, all disks": {Kind: OrderCast, From: "a", Machines: []string{"b"}, Image: "lab",
			AllDisks: true, FromDisk: []string{"size>1", "size>2"}},
	} {
		var p *protocol.Problem
		if _, err := s.call(s.local, "", "POST", "/api/v1/tasks", o); !errors.As(err, &p) || p.Code != protocol.CodeInvalid {
			t.Errorf("%s: %v (%+v), want invalid", name, err, p)
		}
	}
	var p *protocol.Problem
	_, err := s.call(s.local, "", "POST", "/api/v1/tasks", Order{
		Kind: OrderCast, From: "a", Machines: []string{"b"}, Image: "lab", Disks: []string{"serial=none"},
	})
	if !errors.As(err, &p) || p.Code != protocol.CodeConflict || p.Hint == "" {
		t.Errorf("a rule that names no disk: %v", err)
	}
}

// Followers get the same parts in one session, the next ones in another; who is behind goes by unicast.
func TestCastByMulticast(t *testing.T) {
	s := newSite(t)
	a := s.pc("a", 1)
	followers := []string{s.pc("b", 2), s.pc("c", 3)}
	late := s.pc("d", 4)
	task := s.order(Order{
		Kind: OrderCast, From: "a", Machines: []string{"b", "c", "d"}, Image: "lab",
		SessionOrder: SessionOrder{Multicast: true},
	})
	s.next(a, protocol.OpCapture)
	for _, token := range followers {
		if op := s.next(token, protocol.OpFollow); !op.Multicast || op.Start == nil {
			t.Errorf("operation %+v", op)
		}
	}
	d := newDisk(t, "lab", 1, 6)
	cast := s.outline(a, d)
	none := func(token, from, code string) {
		t.Helper()
		if p := s.problem(token, "GET", protocol.PathSession+"?from="+from, nil); p.Code != code {
			t.Errorf("a session from part %s: %+v, want %s", from, p, code)
		}
	}
	none(followers[0], "0", protocol.CodeNotFound)
	none(followers[0], "x", protocol.CodeInvalid)
	none(a, "0", protocol.CodeForbidden)
	none(late, "0", protocol.CodeCancelled)
	s.send(a, d, 0, 6)
	for from, parts := range [][]int{{0, 1, 3}, {3, 6}} {
		for i := range len(parts) - 1 {
			s.part(a, cast, parts[i], d.ids[parts[i]:parts[i+1]]...)
		}
		part, want := uint64(2*from), bytes.Join(d.frames[parts[0]:parts[len(parts)-1]], nil)
		var group sync.WaitGroup
		for _, token := range followers {
			group.Go(func() {
				var session protocol.Session
				s.must(s.tls, token, "GET", fmt.Sprintf("%s?from=%d", protocol.PathSession, part), nil, &session)
				described := protocol.SessionParts{Cast: cast.String(), First: part, End: part + uint64(len(parts)-1)}
				if session.Parts == nil || *session.Parts != described {
					t.Errorf("session of parts %+v", session.Parts)
				}
				got, err := s.receiveIn(token, session)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("session from part %d: %d bytes, want %d; %v", part, len(got), len(want), err)
				}
			})
		}
		group.Wait()
		id := task.ID
		if from > 0 {
			id += "-2"
		}
		end := s.session(id, "ended", func(one sessions.Session) bool { return one.State == "ended" })
		if len(end.Machines) != 3 || end.Machines[0].State != sessions.Done ||
			end.Machines[1].State != sessions.Done || end.Error != "" {
			t.Errorf("session %+v", end)
		}
	}
	// A place is given only in the session that is meant.
	var session protocol.Session
	s.must(s.tls, followers[0], "GET", protocol.PathSession+"?from=1", nil, &session)
	none(followers[1], "0", protocol.CodeNotFound)
	join := protocol.SessionJoin{
		Session: session.Session + 1, Nonce: make([]byte, protocol.NonceSize),
		Need: blocks.FullSet(1).AppendBinary(nil),
	}
	if p := s.problem(followers[0], "POST", protocol.PathSessionJoin, join); p.Code != protocol.CodeNotFound {
		t.Errorf("a place in another session: %+v", p)
	}
}
