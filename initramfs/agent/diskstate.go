package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"clonecast/internal/blockdev"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/protocol"
)

// diskStates is what an operation has made of its disks so far.
type diskStates struct {
	mu   sync.Mutex
	list []protocol.DiskState
}

// targets notes the disks that the operation is about to work on. Those that were noted before keep their state.
func (d *diskStates) targets(facts []blockdev.Facts) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := len(d.list); i < len(facts); i++ {
		d.list = append(d.list, protocol.DiskState{Disk: i, Name: diskText(facts[i]), State: protocol.DiskUntouched})
	}
}

// set gives a disk a state, and tells whether it had another one.
func (d *diskStates) set(disk int, state string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if disk >= len(d.list) || d.list[disk].State == state {
		return false
	}
	d.list[disk].State = state
	return true
}

func (d *diskStates) all() []protocol.DiskState {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]protocol.DiskState(nil), d.list...)
}

// took notes what a deploy has made of the disks.
func (d *diskStates) took(results []deploy.Result, err error) {
	for i, r := range results {
		if err == nil || r.Whole {
			d.set(i, protocol.DiskWhole)
		}
	}
}

// begins tells the server that a disk is about to be written, and returns when it knows.
func (t *tracker) begins(ctx context.Context, disk int) error {
	if !t.disks.set(disk, protocol.DiskIncomplete) {
		return nil
	}
	cancel, err := t.client.tell(ctx, protocol.Status{State: protocol.StateRunning, Disks: t.disks.all()})
	if err == nil && !cancel {
		return nil
	}
	t.disks.set(disk, protocol.DiskUntouched)
	if err != nil {
		return fmt.Errorf("tell the server that the disk is about to be written: %w", err)
	}
	return errCancelled
}

// orderWait is how long a machine whose disk is not whole waits for an order that makes it so.
const orderWait = time.Minute

// incomplete says on the screen which disks do not start.
func (a *Agent) incomplete(op *protocol.Operation, disks []protocol.DiskState) {
	a.halfWritten = false
	for _, d := range disks {
		if d.State != protocol.DiskIncomplete {
			continue
		}
		a.halfWritten = true
		a.say("task %s: disk %s is half written and does not start; on the server, a deploy makes it whole: "+
			"clonecast task run deploy", op.TaskID, d.Name)
	}
}

// adoptedWaits is how many times longer a machine waits that was adopted just now: somebody is about to order
// something for it.
const adoptedWaits = 10

// another waits for an order, until a time that is shown, while a disk is half written or when the machine was adopted
// just now; it tells whether to ask again.
func (a *Agent) another(ctx context.Context, since *time.Time) bool {
	wait, why := a.adopted, "this machine is adopted"
	if a.halfWritten {
		wait, why = a.orderWait, "the disk is half written and does not start"
	}
	if wait == 0 {
		return false
	}
	if since.IsZero() {
		*since = time.Now()
		a.say("%s: waiting %v for a task, until %s by this machine's clock; then it goes on to the local disk",
			why, wait, since.Add(wait).Format(time.TimeOnly))
	}
	return time.Since(*since) < wait && pause(ctx, a.orderPoll) == nil
}
