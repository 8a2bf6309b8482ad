package tasks

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"clonecast/internal/protocol"
)

const diskA, diskB = "64 GB, Test, serial A", "64 GB, Test, serial B"

func tell(
	t *testing.T, s *Service, machine string, op protocol.Operation, state string, disks ...protocol.DiskState,
) bool {
	t.Helper()
	answer, err := s.Report(ctx, machine, protocol.Status{
		TaskID: op.TaskID, Index: op.Index, State: state, Error: "e", Disks: disks,
	})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Cancel
}

func unfinished(t *testing.T, s *Service, machine string, want ...string) {
	t.Helper()
	list, err := s.UnfinishedDisksOf(ctx, machine)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range list {
		got = append(got, d.Name+" of task "+d.Task)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("disks of %s that are not whole: %q, want %q", machine, got, want)
	}
}

// A disk that was begun keeps its note through a cancel, a failure and other tasks, until a deploy has made it whole.
func TestDisksThatAreNotWhole(t *testing.T) {
	s, _ := service(t, "a", "b")
	one, two := protocol.DiskState{Disk: 0, Name: diskA}, protocol.DiskState{Disk: 1, Name: diskB}
	is := func(d protocol.DiskState, state string) protocol.DiskState {
		d.State = state
		return d
	}
	first := order(t, s, []string{"a", "b"}, deploy)
	op := next(t, s, "a", "boot1", protocol.OpDeploy)
	tell(t, s, "a", op, Running, is(one, protocol.DiskUntouched), is(two, protocol.DiskUntouched))
	unfinished(t, s, "a")
	tell(t, s, "a", op, Running, is(one, protocol.DiskIncomplete), is(two, protocol.DiskUntouched))
	unfinished(t, s, "a", diskA+" of task 1")
	// The PC is cut here; then an admin cancels the task.
	task, err := s.Cancel(ctx, first.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got := task.Runs[0].Unfinished; len(got) != 1 || got[0].Name != diskA || got[0].Image != "win" ||
		task.Runs[1].Unfinished != nil {
		t.Errorf("the cancelled task says of the disks: %+v, %+v", got, task.Runs[1].Unfinished)
	}
	// What the PC tells when it hears of the cancel counts, also of a disk that was begun meanwhile.
	if !tell(t, s, "a", op, Failed, is(one, protocol.DiskIncomplete), is(two, protocol.DiskIncomplete)) {
		t.Error("the PC is not told of the cancel")
	}
	unfinished(t, s, "a", diskA+" of task 1", diskB+" of task 1")
	// Another deploy fails half way: one disk is whole by then.
	order(t, s, []string{"a"}, deploy)
	op = next(t, s, "a", "boot2", protocol.OpDeploy)
	tell(t, s, "a", op, Failed, is(one, protocol.DiskIncomplete), is(two, protocol.DiskWhole))
	unfinished(t, s, "a", diskA+" of task 2")
	all, err := s.UnfinishedDisks(ctx)
	if err != nil || len(all) != 1 || len(all["a"]) != 1 {
		t.Errorf("all that is not whole: %v, %v", all, err)
	}
	// A capture says nothing of it; a deploy that is done does.
	order(t, s, []string{"a"}, deploy)
	op = next(t, s, "a", "boot3", protocol.OpDeploy)
	tell(t, s, "a", op, Done, is(one, protocol.DiskWhole))
	unfinished(t, s, "a")
	if task, _ := s.Get(ctx, first.ID); task.Runs[0].Unfinished != nil {
		t.Errorf("the old task still says: %+v", task.Runs[0].Unfinished)
	}
}

// A machine at work of which nothing is heard is silent, since its last report, or since it began or the server did.
func TestSilence(t *testing.T) {
	s, db := service(t, "a", "b")
	now := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	s.now = func() time.Time { return now }
	task := order(t, s, []string{"a", "b"}, capture, off)
	op := next(t, s, "a", "boot1", protocol.OpCapture)
	check := func(what string, silent bool, heard time.Time) {
		t.Helper()
		task, err := s.Get(ctx, task.ID)
		if err != nil {
			t.Fatal(err)
		}
		got := task.Runs[0].Operations[0]
		if got.Silent != silent || !got.Heard.Equal(heard.Truncate(time.Millisecond)) && !got.Heard.Equal(heard) {
			t.Errorf("%s: silent %v, heard %v; want %v, %v", what, got.Silent, got.Heard, silent, heard)
		}
		if b := task.Runs[1].Operations[0]; b.Silent || !b.Heard.IsZero() {
			t.Errorf("%s: a machine that has not begun is silent: %+v", what, b)
		}
		running, err := s.Running(ctx)
		if err != nil || len(running) != 1 || running["a"].Silent != silent {
			t.Errorf("%s: Running = %+v, %v", what, running, err)
		}
	}
	began := now
	now = now.Add(SilentAfter)
	check("just begun", false, began)
	now = now.Add(time.Second)
	check("no report", true, began)
	heard := now
	report(t, s, "a", op, Running)
	check("a report", false, heard)
	now = now.Add(SilentAfter + time.Second)
	check("no report any more", true, heard)
	again := NewService(db, s.now, s.log) // the server was restarted
	s, heard = again, now
	check("after a restart", false, heard)
	now = now.Add(SilentAfter + time.Second)
	check("after a restart, and nothing is heard", true, heard)

	// It is given up when others wait for it.
	if err := s.Abandon(ctx, "a", task.ID, 0, 30*time.Minute); err != nil {
		t.Fatal(err)
	}
	got := expect(t, s, task.ID, Running, Failed, Skipped, Queued, Queued)
	if !strings.Contains(got.Runs[0].Operations[0].Error, "nothing was heard of the machine for 30m0s") {
		t.Errorf("the cause is %q", got.Runs[0].Operations[0].Error)
	}
}

// An appliance that fails before its first operation fails the task that waited for it; what was told already, and
// what nothing was ordered for, fails nothing.
func TestFailureBeforeTheFirstOperation(t *testing.T) {
	s, _ := service(t, "a")
	logoff := func(q protocol.LogoffRequest, want bool) {
		t.Helper()
		if kept, err := s.LogOff(ctx, "a", q); err != nil || kept != want {
			t.Errorf("LogOff(%+v) = %v, %v; want %v", q, kept, err, want)
		}
	}
	broken := protocol.LogoffRequest{Reason: "failure", Error: "no memory", Hint: "more RAM"}
	logoff(broken, false)
	task := order(t, s, []string{"a"}, deploy, off)
	told := broken
	told.Reported = true
	logoff(told, false)
	expect(t, s, task.ID, Queued, Queued, Queued)
	logoff(broken, true)
	got := expect(t, s, task.ID, Failed, Failed, Skipped)
	if op := got.Runs[0].Operations[0]; op.Error != "no memory" || op.Hint != "more RAM" {
		t.Errorf("the operation says %q, %q", op.Error, op.Hint)
	}
	wants(t, s, "a", false)
}
