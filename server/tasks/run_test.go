package tasks

import (
	"errors"
	"testing"

	"clonecast/internal/protocol"
)

func TestAddRun(t *testing.T) {
	s, _ := service(t, "a", "b", "c")
	task := order(t, s, []string{"a"}, deploy, off)
	report(t, s, "a", next(t, s, "a", "boot1", protocol.OpDeploy), Done)
	if err := s.AddRun(ctx, task.ID, "b"); err != nil {
		t.Fatal(err)
	}
	wants(t, s, "b", true)
	expect(t, s, task.ID, Running, Done, Queued, Queued, Queued)
	op := next(t, s, "b", "boot1", protocol.OpDeploy)
	if op.TaskID != task.ID || op.Image != "win" || op.Index != 0 {
		t.Errorf("the added machine does %+v", op)
	}
	fails(t, s.AddRun(ctx, task.ID, "b"), protocol.CodeConflict)
	fails(t, s.AddRun(ctx, task.ID, "x"), protocol.CodeNotFound)
	fails(t, s.AddRun(ctx, "99", "c"), protocol.CodeNotFound)
	if _, err := s.Cancel(ctx, task.ID); err != nil {
		t.Fatal(err)
	}
	fails(t, s.AddRun(ctx, task.ID, "c"), protocol.CodeConflict)
	save := order(t, s, []string{"a"}, capture)
	fails(t, s.AddRun(ctx, save.ID, "c"), protocol.CodeConflict)
}

func fails(t *testing.T, err error, code string) {
	t.Helper()
	var p *protocol.Problem
	if !errors.As(err, &p) || p.Code != code {
		t.Errorf("%v, want code %s", err, code)
	}
}

func TestCancelRunAndRetryIt(t *testing.T) {
	s, _ := service(t, "a", "b")
	task := order(t, s, []string{"a", "b"}, deploy, off)
	op := next(t, s, "a", "boot1", protocol.OpDeploy)
	if err := s.CancelRun(ctx, task.ID, "a"); err != nil {
		t.Fatal(err)
	}
	expect(t, s, task.ID, Running, Cancelled, Skipped, Queued, Queued)
	if a := report(t, s, "a", op, Running); !a.Cancel {
		t.Error("the machine does not hear that its run is cancelled")
	}
	fails(t, s.CancelRun(ctx, task.ID, "a"), protocol.CodeConflict)
	fails(t, s.CancelRun(ctx, task.ID, "x"), protocol.CodeNotFound)
	fails(t, s.RetryRun(ctx, task.ID, "b"), protocol.CodeConflict)
	fails(t, s.RetryRun(ctx, task.ID, "x"), protocol.CodeNotFound)

	if err := s.RetryRun(ctx, task.ID, "a"); err != nil {
		t.Fatal(err)
	}
	expect(t, s, task.ID, Queued, Queued, Queued, Queued, Queued)
	again := next(t, s, "a", "boot1", protocol.OpDeploy)
	report(t, s, "a", again, Failed)
	failed := expect(t, s, task.ID, Running, Failed, Skipped, Queued, Queued)
	if err := s.RetryRun(ctx, task.ID, "a"); err != nil {
		t.Fatal(err)
	}
	retried := expect(t, s, task.ID, Queued, Queued, Queued, Queued, Queued).Runs[0]
	if op := retried.Operations[0]; op.Error != "" || op.Attempts != 0 || !op.Started.IsZero() || !retried.Ended.IsZero() {
		t.Errorf("retried is %+v; it was %+v", retried, failed.Runs[0])
	}
	report(t, s, "a", next(t, s, "a", "boot1", protocol.OpDeploy), Done)
	next(t, s, "a", "boot1", protocol.OpPoweroff)
	expect(t, s, task.ID, Running, Done, Running, Queued, Queued)
}

// What a machine has done before it failed is not done again.
func TestRetryGoesOn(t *testing.T) {
	s, _ := service(t, "a")
	task := order(t, s, []string{"a"}, deploy, deploy, off)
	report(t, s, "a", next(t, s, "a", "boot1", protocol.OpDeploy), Done)
	report(t, s, "a", next(t, s, "a", "boot1", protocol.OpDeploy), Failed)
	if err := s.RetryRun(ctx, task.ID, "a"); err != nil {
		t.Fatal(err)
	}
	expect(t, s, task.ID, Queued, Done, Queued, Queued)
	if op := next(t, s, "a", "boot2", protocol.OpDeploy); op.Index != 1 {
		t.Errorf("begins again with %+v", op)
	}
}
