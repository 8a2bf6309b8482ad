package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"clonecast/initramfs/console"
	"clonecast/internal/clone"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"
)

// tracker follows an operation: the engine tells it how far it is, it tells the screen and
// the server.
type tracker struct {
	client  *client
	console *console.Console
	title   string
	disks   diskStates

	mu    sync.Mutex
	phase string
	done  int64
	total int64
	// Where and when the rate was last measured, and what came out.
	markDone int64
	markTime time.Time
	rate     float64
}

func newTracker(c *client, screen *console.Console, op *protocol.Operation) *tracker {
	return &tracker{client: c, console: screen, title: fmt.Sprintf("task %s: %s %s", op.TaskID, op.Kind, op.Image)}
}

// progress is the engine's callback. It only notes.
func (t *tracker) progress(phase string, done, total quantity.Bytes) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if phase != t.phase {
		t.phase, t.markDone, t.markTime, t.rate = phase, 0, time.Now(), 0
	}
	t.done, t.total = int64(done), int64(total)
}

// wait notes that nothing can be done yet, and why.
func (t *tracker) wait(what string) { t.progress(what, 0, 0) }

// now gives the progress at this moment. The rate is smoothed over some seconds.
func (t *tracker) now() (p protocol.Progress, begun bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.phase == "" {
		return p, false
	}
	if elapsed := time.Since(t.markTime).Seconds(); elapsed >= 0.5 {
		fresh := float64(t.done-t.markDone) / elapsed
		if t.rate == 0 {
			t.rate = fresh
		}
		t.rate += (fresh - t.rate) * min(1, elapsed/4)
		t.markDone, t.markTime = t.done, time.Now()
	}
	p = protocol.Progress{Phase: t.phase, Done: t.done, Total: t.total, Rate: int64(max(t.rate, 0)), ETA: -1}
	if t.rate > 1 && t.total >= t.done {
		p.ETA = int64(float64(t.total-t.done) / t.rate)
	}
	return p, true
}

// start reports until the returned function is called. When the server wants an end,
// cancel is called with errCancelled.
func (t *tracker) start(ctx context.Context, cancel context.CancelCauseFunc) (stop func()) {
	ctx, end := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { t.show(ctx) })
	wg.Go(func() { t.beat(ctx, cancel) })
	return func() {
		end()
		wg.Wait()
	}
}

func (t *tracker) show(ctx context.Context) {
	for pause(ctx, 500*time.Millisecond) == nil {
		if p, begun := t.now(); begun {
			t.console.Progress(console.Progress{
				Title: t.title, Phase: p.Phase, Done: p.Done, Total: p.Total, Rate: p.Rate, ETA: p.ETA,
				Writing: p.Phase == clone.PhaseWrite || p.Phase == clone.PhaseVerify,
			})
		}
	}
}

// beat reports to the server. A report that gets lost does not matter: the data calls
// notice by themselves when the server is away.
func (t *tracker) beat(ctx context.Context, cancel context.CancelCauseFunc) {
	for pause(ctx, heartbeat) == nil {
		status := protocol.Status{State: protocol.StateRunning}
		if p, begun := t.now(); begun {
			status.Progress = &p
		}
		wanted, err := t.client.status(ctx, status)
		if err == nil && wanted || errors.Is(err, errSuperseded) {
			cancel(errCancelled)
			return
		}
	}
}
