package api

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"clonecast/internal/partition/saved"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"
	"clonecast/server/tasks"
)

func tableOf(t *testing.T, data string) []byte {
	t.Helper()
	c, err := saved.Take(strings.NewReader(strings.Repeat("\x00", 1<<20)), quantity.MiB, 512)
	if err != nil {
		t.Fatal(err)
	}
	c.Areas = []saved.Area{{Start: 0, Length: 512, Data: []byte(data)}}
	b, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A machine that deploys can leave the old tables of its disks, once for each; nobody else.
func TestSavedTables(t *testing.T) {
	s := newSite(t)
	a, b := s.pc("a", 1), s.pc("b", 2)
	s.order(Order{Kind: "capture", Machines: []string{"a"}, Image: "win"})
	op := s.next(a, protocol.OpCapture)
	s.capture(a, newDisk(t, "win", 1, 2))
	first := protocol.PathTable + "0"
	s.refused(protocol.CodeForbidden, a, first, tableOf(t, "x"))
	s.report(a, op, protocol.StateDone)
	s.refused(protocol.CodeCancelled, a, first, tableOf(t, "x"))

	task := s.order(Order{Kind: "deploy", Machines: []string{"a", "b"}, Image: "win"})
	s.next(a, protocol.OpDeploy)
	for _, path := range []string{first, first, protocol.PathTable + "63"} {
		s.must(s.tls, a, "POST", path, tableOf(t, "first"), &struct{}{})
	}
	s.must(s.tls, a, "POST", first, tableOf(t, "half overwritten"), &struct{}{})
	for _, path := range []string{"64", "-1", "x"} {
		s.refused(protocol.CodeInvalid, a, protocol.PathTable+path, tableOf(t, "x"))
	}
	s.refused(protocol.CodeInvalid, a, first, []byte(`{"format":"other"}`))
	s.refused(protocol.CodeInvalid, a, first, make([]byte, protocol.MaxTable+1))
	s.refused(protocol.CodeCancelled, b, first, tableOf(t, "x"))

	var list []tasks.SavedTable
	s.must(s.local, "", "GET", "/api/v1/tasks/"+task.ID+"/tables", nil, &list)
	if len(list) != 2 || list[0].Machine != "a" || list[0].Disk != 0 || list[1].Disk != 63 || list[0].Saved.IsZero() {
		t.Fatalf("%+v", list)
	}
	if c, err := saved.Parse(list[0].Table); err != nil || string(c.Areas[0].Data) != "first" {
		t.Errorf("the table is %s, %v; want the one that came first", list[0].Table, err)
	}
	if _, err := s.call(s.local, "", "GET", "/api/v1/tasks/99/tables", nil); err == nil {
		t.Error("a task that does not exist has tables")
	}
	if _, err := s.call(s.tls, a, "GET", "/api/v1/tasks/"+task.ID+"/tables", nil); err == nil {
		t.Error("a machine may read what its task saved")
	}
}

// What no machine could do is refused when it is ordered, and what this one cannot do, as
// far as its disks are known.
func TestOrdersOfDisks(t *testing.T) {
	s := newSite(t)
	a := s.pc("a", 1)
	s.order(Order{Kind: "capture", Machines: []string{"a"}, Image: "win"})
	op := s.next(a, protocol.OpCapture)
	s.capture(a, newDisk(t, "win", 1, 2))
	s.report(a, op, protocol.StateDone)
	for _, tc := range []struct {
		order Order
		code  string
		title string
	}{
		{Order{Kind: "capture", Disks: []string{"sda"}}, protocol.CodeInvalid, "is no condition"},
		{Order{Kind: "capture", Policies: []string{"3=swap"}}, protocol.CodeInvalid, "not of the form"},
		{Order{Kind: "capture", Disks: []string{"serial=x", "serial=y"}, AllDisks: true},
			protocol.CodeInvalid, "at most one rule"},
		{Order{Kind: "capture", Disks: []string{"serial=other"}}, protocol.CodeConflict,
			`machine a: no disk fits the rule "serial=other": disk without model, serial disk-a`},
		{Order{Kind: "capture", Disks: []string{"serial=disk-a", "size>1G"}},
			protocol.CodeConflict, "two rules name the same disk"},
		{Order{Kind: "capture", Disks: []string{"serial=other"}, Unseen: true}, "", ""},
		{Order{Kind: "capture", AllDisks: true, Policies: []string{"1=skip,2:1=raw"}}, "", ""},
		{Order{Kind: "deploy", Policies: []string{"1=skip"}}, "", ""},
		{Order{Kind: "deploy", Policies: []string{"1=raw"}}, protocol.CodeInvalid, "a deploy can only skip"},
		{Order{Kind: "deploy", AllDisks: true}, protocol.CodeInvalid, "all_disks is for a capture"},
		{Order{Kind: "deploy", Disks: []string{"serial=disk-a", "serial=x"}},
			protocol.CodeConflict, "2 rules are given for 1 disks"},
	} {
		tc.order.Machines, tc.order.Image = []string{"a"}, "win"
		b, err := s.call(s.local, "", "POST", "/api/v1/tasks", tc.order)
		var p *protocol.Problem
		if tc.code == "" {
			var done Ordered
			if err != nil || json.Unmarshal(b, &done) != nil ||
				strings.Join(done.Task.Runs[0].Operations[0].Policies, " ") != strings.Join(tc.order.Policies, " ") {
				t.Errorf("%+v: %s, %v", tc.order, b, err)
			}
			continue
		}
		if !errors.As(err, &p) || p.Code != tc.code || !strings.Contains(p.Title, tc.title) {
			t.Errorf("%+v: %v (%+v), want %s with %q", tc.order, err, p, tc.code, tc.title)
		}
	}
}
