package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"clonecast/internal/protocol"
	"clonecast/server/tasks"
)

func TestSizes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "", 1: "1 bytes", 512: "512 bytes", 4096: "4.1 KB", 10_000_000: "10.0 MB", 949_000_000: "949.0 MB",
		960_000_000: "1.0 GB", 64_000_000_000: "64.0 GB",
	} {
		if got := gigabytes(n); got != want {
			t.Errorf("gigabytes(%d) = %q, want %q", n, got, want)
		}
	}
}

// ofMachine is a task's run with one operation.
func ofMachine(machine, state, failure string, done int64, silent bool) tasks.Run {
	op := tasks.Operation{State: state, Error: failure, Silent: silent}
	op.Heard = time.Date(2026, 1, 1, 12, 0, 0, 0, time.Local)
	op.Kind, op.Image = protocol.OpDeploy, "lab"
	if done > 0 {
		op.Progress = &protocol.Progress{Phase: "write", Done: done, Total: 100}
	}
	return tasks.Run{Machine: machine, State: state, Operations: []tasks.Operation{op}}
}

// 'task list' says how far a task is, why it failed, and that a machine is silent.
func TestHowFar(t *testing.T) {
	long := strings.Repeat("no disk ", 20)
	for want, runs := range map[string][]tasks.Run{
		"":                                  {ofMachine("a", tasks.Queued, "", 0, false)},
		"write 45 %":                        {ofMachine("a", tasks.Running, "", 45, false)},
		"write 45 %, silent since 12:00:00": {ofMachine("a", tasks.Running, "", 45, true)},
		"a: no disk":                        {ofMachine("a", tasks.Failed, "no disk", 0, false)},
		"2 running (50 %), 1 done, 1 silent": {
			ofMachine("a", tasks.Running, "", 40, true), ofMachine("b", tasks.Running, "", 60, false),
			ofMachine("c", tasks.Done, "", 0, false),
		},
		"1 done, 1 failed (b: no disk)": {
			ofMachine("a", tasks.Done, "", 0, false),
			ofMachine("b", tasks.Failed, "no disk", 0, false),
		},
		"a: " + long[:maxCause-4] + "…": {ofMachine("a", tasks.Failed, long, 0, false)},
	} {
		if got := howFar(tasks.Task{Runs: runs}); got != want {
			t.Errorf("howFar = %q, want %q", got, want)
		}
	}
}

// 'task cancel' says what became of the disks of each machine, and what makes them whole.
func TestCancelled(t *testing.T) {
	half := ofMachine("pc2", tasks.Cancelled, "", 0, false)
	half.Unfinished = []tasks.UnfinishedDisk{{Name: "64 GB, serial X", Task: "2", Image: "lab"}}
	var out bytes.Buffer
	err := printCancelled(&out, tasks.Task{ID: "2", Runs: []tasks.Run{
		half, ofMachine("pc3", tasks.Skipped, "", 0, false), ofMachine("pc4", tasks.Done, "", 0, false),
	}})
	want := `task 2 is cancelled
  pc2:
      disk 64 GB, serial X is half written with lab and does not start (task 2)
      hint: clonecast task run deploy --machine pc2 --image lab makes it whole
  pc3: nothing was written to its disks
  pc4: its disks are whole
`
	if err != nil || out.String() != want {
		t.Errorf("%v, prints\n%s", err, &out)
	}
}
