package tasks

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"clonecast/internal/protocol"
	"clonecast/server/database"
)

var (
	ctx     = context.Background()
	capture = protocol.Operation{Kind: protocol.OpCapture, Image: "win"}
	deploy  = protocol.Operation{Kind: protocol.OpDeploy, Image: "win", Version: "00"}
	off     = protocol.Operation{Kind: protocol.OpPoweroff}
)

func service(t *testing.T, machines ...string) (*Service, *sql.DB) {
	t.Helper()
	db, err := database.Open(ctx, filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	for _, m := range machines {
		_, err := db.Exec("INSERT INTO machines (id, name, state, facts, registered, last_seen) "+
			"VALUES ($1, $1, 'adopted', '{}', 1, 1)", m)
		if err != nil {
			t.Fatal(err)
		}
	}
	return NewService(db, time.Now, slog.New(slog.DiscardHandler)), db
}

func order(t *testing.T, s *Service, machines []string, ops ...protocol.Operation) Task {
	t.Helper()
	task, err := s.Create(ctx, New{Title: "x", Creator: "root", Machines: machines, Operations: ops})
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// next expects the operation that a boot is given.
func next(t *testing.T, s *Service, machine, boot, kind string) protocol.Operation {
	t.Helper()
	op, err := s.Next(ctx, machine, boot)
	if err != nil || op.Kind != kind {
		t.Fatalf("Next(%s, %s) = %q, %v; want %q", machine, boot, op.Kind, err, kind)
	}
	return op
}

func report(t *testing.T, s *Service, machine string, op protocol.Operation, state string) protocol.StatusResponse {
	t.Helper()
	answer, err := s.Report(ctx, machine, protocol.Status{
		TaskID: op.TaskID, Index: op.Index, State: state, Error: "disk\x1b broken",
		Notes: []string{"raw copy"}, Result: json.RawMessage(`{"seconds":1}`),
		Progress: &protocol.Progress{Phase: "write", Done: 5, Total: 10},
	})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func wants(t *testing.T, s *Service, machine string, want bool) {
	t.Helper()
	if got, err := s.Wants(ctx, machine); err != nil || got != want {
		t.Errorf("Wants(%s) = %v, %v; want %v", machine, got, err, want)
	}
}

func expect(t *testing.T, s *Service, id, state string, ops ...string) Task {
	t.Helper()
	task, err := s.Get(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range task.Runs {
		for _, op := range r.Operations {
			got = append(got, op.State)
		}
	}
	if task.State != state || fmt.Sprint(got) != fmt.Sprint(ops) {
		t.Errorf("task %s is %s %v, want %s %v", id, task.State, got, state, ops)
	}
	return task
}

func TestWholeTask(t *testing.T) {
	s, _ := service(t, "a", "b")
	wants(t, s, "a", false)
	next(t, s, "a", "boot1", protocol.OpNone)
	task := order(t, s, []string{"a", "b"}, deploy, off)
	wants(t, s, "a", true)
	op := next(t, s, "a", "boot1", protocol.OpDeploy)
	if again := next(t, s, "a", "boot1", protocol.OpDeploy); !reflect.DeepEqual(again, op) {
		t.Errorf("asked again: %+v, want %+v", again, op)
	}
	next1, stop1 := s.Watch(task.ID, true)
	states, stop2 := s.Watch(task.ID, false)
	other, stop3 := s.Watch("999", true)
	defer stop1()
	defer stop2()
	defer stop3()
	changed, quiet1, quiet2 := next1(), states(), other()
	report(t, s, "a", op, Running)
	select {
	case <-changed:
	default:
		t.Error("nobody was told of the progress")
	}
	for who, c := range map[string]<-chan struct{}{"who waits for states": quiet1, "who watches another task": quiet2} {
		select {
		case <-c:
			t.Errorf("%s was woken by a report of progress", who)
		default:
		}
	}
	run := expect(t, s, task.ID, Running, Running, Queued, Queued, Queued).Runs[0]
	if p := run.Operations[0].Progress; p == nil || p.Done != 5 {
		t.Errorf("progress is %+v", p)
	}
	report(t, s, "a", op, Done)
	report(t, s, "a", op, Done) // the first answer was lost
	wants(t, s, "a", true)
	next(t, s, "a", "boot1", protocol.OpPoweroff)
	wants(t, s, "a", false) // it is off already, as far as a boot decision goes
	if _, err := s.LogOff(ctx, "a", protocol.LogoffRequest{Reason: "poweroff"}); err != nil {
		t.Fatal(err)
	}
	done := expect(t, s, task.ID, Running, Done, Done, Queued, Queued).Runs[0]
	if op := done.Operations[0]; done.State != Done || string(op.Result) != `{"seconds":1}` ||
		op.Notes[0] != "raw copy" || op.Progress != nil {
		t.Errorf("run is %+v", done)
	}
}

func TestPowerCutContinuesTheSameOperation(t *testing.T) {
	s, _ := service(t, "a")
	task := order(t, s, []string{"a"}, deploy)
	op := next(t, s, "a", "boot1", protocol.OpDeploy)
	wants(t, s, "a", true)
	if again := next(t, s, "a", "boot2", protocol.OpDeploy); !reflect.DeepEqual(again, op) {
		t.Errorf("after the cut: %+v, want %+v", again, op)
	}
	if got := expect(t, s, task.ID, Running, Running).Runs[0].Operations[0].Attempts; got != 2 {
		t.Errorf("%d attempts, want 2", got)
	}
	for boot := 3; boot <= MaxAttempts; boot++ {
		next(t, s, "a", fmt.Sprint("boot", boot), protocol.OpDeploy)
	}
	next(t, s, "a", "one too many", protocol.OpNone)
	expect(t, s, task.ID, Failed, Failed)
	wants(t, s, "a", false)
}

func TestFailureStopsEverythingOfTheMachine(t *testing.T) {
	s, _ := service(t, "a", "b")
	save := order(t, s, []string{"a"}, capture, off)
	overwrite := order(t, s, []string{"a", "b"}, deploy)
	op := next(t, s, "a", "boot1", protocol.OpCapture)
	report(t, s, "a", op, Failed)
	failed := expect(t, s, save.ID, Failed, Failed, Skipped)
	if got := failed.Runs[0].Operations[0].Error; got != "disk broken" {
		t.Errorf("error is %q", got)
	}
	next(t, s, "a", "boot1", protocol.OpNone)
	wants(t, s, "a", false)
	wants(t, s, "b", true)
	expect(t, s, overwrite.ID, Running, Skipped, Queued)
	if a := report(t, s, "a", protocol.Operation{TaskID: overwrite.ID}, Running); !a.Cancel {
		t.Error("a skipped operation is not cancelled")
	}
}

func TestLogOffWithErrorFails(t *testing.T) {
	s, _ := service(t, "a")
	task := order(t, s, []string{"a"}, deploy)
	next(t, s, "a", "boot1", protocol.OpDeploy)
	if _, err := s.LogOff(ctx, "a", protocol.LogoffRequest{Reason: "failure", Error: "no disk"}); err != nil {
		t.Fatal(err)
	}
	expect(t, s, task.ID, Failed, Failed)
}

func TestCancel(t *testing.T) {
	s, _ := service(t, "a", "b")
	task := order(t, s, []string{"a", "b"}, deploy, off)
	op := next(t, s, "a", "boot1", protocol.OpDeploy)
	if _, err := s.Cancel(ctx, task.ID); err != nil {
		t.Fatal(err)
	}
	expect(t, s, task.ID, Cancelled, Cancelled, Skipped, Skipped, Skipped)
	if a := report(t, s, "a", op, Running); !a.Cancel {
		t.Error("the machine does not hear of it")
	}
	report(t, s, "a", op, Failed)
	expect(t, s, task.ID, Cancelled, Cancelled, Skipped, Skipped, Skipped)
	wants(t, s, "a", false)
	var p *protocol.Problem
	if _, err := s.Cancel(ctx, task.ID); !errors.As(err, &p) || p.Code != protocol.CodeConflict {
		t.Errorf("cancelled twice: %v", err)
	}
}

func TestCaptureIsPublishedOnce(t *testing.T) {
	s, _ := service(t, "a")
	task := order(t, s, []string{"a"}, capture, off)
	op := next(t, s, "a", "boot1", protocol.OpCapture)
	if _, err := s.Report(ctx, "a", protocol.Status{TaskID: op.TaskID, State: Done}); err == nil {
		t.Error("a capture without a version is done")
	}
	current, creator, found, err := s.Current(ctx, "a")
	if err != nil || !found || creator != "root" || current.Boot() != "boot1" {
		t.Fatalf("Current = %+v, %q, %v, %v", current, creator, found, err)
	}
	if err := s.SetPublished(ctx, "a", current, `{"image":"win"}`); err != nil {
		t.Fatal(err)
	}
	// The power fails before the machine reports: the version is there, nothing is read twice.
	next(t, s, "a", "boot2", protocol.OpPoweroff)
	// It goes off without a word; its next boot ends the task.
	next(t, s, "a", "boot3", protocol.OpNone)
	done := expect(t, s, task.ID, Done, Done, Done)
	if string(done.Runs[0].Operations[0].Result) != `{"image":"win"}` {
		t.Errorf("result is %s", done.Runs[0].Operations[0].Result)
	}
}

func TestRefusals(t *testing.T) {
	s, db := service(t, "a")
	_, err := db.Exec("INSERT INTO machines (id, name, state, facts, registered, last_seen) " +
		"VALUES ('p', 'p', 'pending', '{}', 1, 1)")
	if err != nil {
		t.Fatal(err)
	}
	task := order(t, s, []string{"a"}, deploy)
	tests := map[string]struct {
		err  error
		code string
	}{
		"pending": {second(s.Create(ctx, New{Machines: []string{"p"}, Operations: []protocol.Operation{deploy}})),
			protocol.CodePending},
		"unknown": {second(s.Create(ctx, New{Machines: []string{"x"}, Operations: []protocol.Operation{deploy}})),
			protocol.CodeNotFound},
		"no machines": {second(s.Create(ctx, New{Operations: []protocol.Operation{deploy}})), protocol.CodeInvalid},
		"kind": {second(s.Create(ctx, New{Machines: []string{"a"}, Operations: []protocol.Operation{{Kind: "wipe"}}})),
			protocol.CodeInvalid},
		"not begun": {second(s.Report(ctx, "a", protocol.Status{TaskID: task.ID, State: Done})), protocol.CodeConflict},
		"other's":   {second(s.Report(ctx, "p", protocol.Status{TaskID: task.ID, State: Done})), protocol.CodeNotFound},
		"no task":   {second(s.Report(ctx, "a", protocol.Status{TaskID: "1 OR 1=1", State: Done})), protocol.CodeNotFound},
		"state":     {second(s.Report(ctx, "a", protocol.Status{TaskID: task.ID, State: "queued"})), protocol.CodeInvalid},
		"result": {second(s.Report(ctx, "a",
			protocol.Status{TaskID: task.ID, State: Done, Result: json.RawMessage("{")})), protocol.CodeInvalid},
		"get":      {second(s.Get(ctx, "99")), protocol.CodeNotFound},
		"get text": {second(s.Get(ctx, "x")), protocol.CodeNotFound},
	}
	for name, test := range tests {
		var p *protocol.Problem
		if !errors.As(test.err, &p) || p.Code != test.code {
			t.Errorf("%s: %v, want code %s", name, test.err, test.code)
		}
	}
	if list, err := s.List(ctx, 10); err != nil || len(list) != 1 {
		t.Errorf("refused orders left %d tasks, %v", len(list), err)
	}
}

func second[T any](_ T, err error) error { return err }
