package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"clonecast/internal/clone"
	"clonecast/internal/image"
	"clonecast/internal/kernelfs"
	"clonecast/internal/protocol"

	"github.com/klauspost/compress/zstd"
)

// errCancelled ends an operation that an operator called off.
var errCancelled = errors.New("cancelled by the operator")

// report is what an operation has to tell when it is done.
type report struct {
	result any
	notes  []string
}

// captureResult and deployResult are the summaries that the server keeps. The names are
// those of the commands that do the same with local disks.
type captureResult struct {
	Image     string  `json:"image"`
	Sequence  uint64  `json:"sequence"`
	Version   string  `json:"version"`
	Disk      string  `json:"disk"`
	Allocated int64   `json:"bytes_allocated"`
	Read      int64   `json:"bytes_read"`
	Stored    int64   `json:"bytes_stored"`
	Seconds   float64 `json:"seconds"`
}

type deployResult struct {
	Image    string  `json:"image"`
	Sequence uint64  `json:"sequence"`
	Version  string  `json:"version"`
	Disk     string  `json:"disk"`
	Compared int64   `json:"bytes_compared"`
	Kept     int64   `json:"bytes_kept"`
	Written  int64   `json:"bytes_written"`
	Fetched  int64   `json:"bytes_fetched"`
	Verified int64   `json:"bytes_verified"`
	Seconds  float64 `json:"seconds"`

	Grown []clone.Grown `json:"grown,omitempty"`
}

// run does an operation and reports its end.
func (a *Agent) run(ctx context.Context, op *protocol.Operation) error {
	do := map[string]func(context.Context, *protocol.Operation, *tracker) (report, error){
		protocol.OpCapture: a.capture, protocol.OpDeploy: a.deploy,
	}[op.Kind]
	if do == nil {
		do = func(context.Context, *protocol.Operation, *tracker) (report, error) {
			return report{}, &unknownError{op.Kind}
		}
	}
	a.say("task %s, operation %d: %s %s", op.TaskID, op.Index, op.Kind, op.Image)
	opCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	track := newTracker(a.client, a.config.Console, op)
	stop := track.start(opCtx, cancel)
	r, err := do(opCtx, op, track)
	stop()
	if cause := context.Cause(opCtx); cause != nil && err != nil {
		err = cause // not what broke because of it
	}
	var problem *protocol.Problem
	if errors.Is(err, errSuperseded) || errors.As(err, &problem) && problem.Code == protocol.CodeCancelled {
		err = errCancelled
	}
	status := protocol.Status{State: protocol.StateDone, Notes: r.notes}
	if err != nil {
		status.State, status.Error, status.Hint = protocol.StateFailed, err.Error(), Hint(err)
	} else if status.Result, err = json.Marshal(r.result); err != nil {
		return err
	}
	if reportErr := a.client.finish(ctx, status); reportErr != nil && !errors.Is(err, errCancelled) {
		return errors.Join(err, reportErr)
	}
	if err == nil {
		a.say("task %s: %s done", op.TaskID, op.Kind)
	}
	return err
}

type unknownError struct{ kind string }

func (e *unknownError) Error() string {
	return fmt.Sprintf("this appliance does not know the operation %q", e.kind)
}

// Hint says what to do.
func (e *unknownError) Hint() string { return "build the appliance again with the server's version" }

// capture reads the disk and stores it as a version.
func (a *Agent) capture(ctx context.Context, op *protocol.Operation, track *tracker) (report, error) {
	started := time.Now()
	rule, err := a.rule(op)
	if err != nil {
		return report{}, err
	}
	facts, err := chooseDisk(ctx, a.config.Disks, rule, a.patience)
	if err != nil {
		return report{}, err
	}
	a.say("capture of %s", diskText(facts))
	disk, geometry, err := a.config.Disks.Open(facts.Path, false)
	if err != nil {
		return report{}, err
	}
	defer disk.Close()
	layout, err := clone.Inspect(disk, geometry)
	if err != nil {
		return report{}, fmt.Errorf("inspect %s: %w", diskText(facts), err)
	}
	notes := notesOf(layout)
	for _, n := range notes {
		a.say("note: %s", n)
	}
	result, err := clone.Capture(ctx, disk, layout, transfer{a.client}, clone.CaptureOptions{
		Image: op.Image, Comment: op.Comment, Engine: a.config.Build, Force: op.Force, Level: zstd.SpeedDefault, Progress: track.progress,
	})
	if err != nil {
		return report{notes: notes}, fmt.Errorf("capture of %s: %w", diskText(facts), err)
	}
	v := result.Version
	a.say("image %s version %d (%s): %v allocated, %v new in the store", v.Image, v.Sequence, v.ID.Short(), result.Allocated, result.Stored)
	return report{captureResult{Image: v.Image, Sequence: v.Sequence, Version: v.ID.String(), Disk: diskText(facts),
		Allocated: int64(result.Allocated), Read: int64(result.Read), Stored: int64(result.Stored), Seconds: time.Since(started).Seconds()}, notes}, nil
}

// notesOf tells what a person should know of how the partitions are captured.
func notesOf(layout *clone.Layout) []string {
	var notes []string
	for _, p := range layout.Partitions {
		if p.Mode != image.ModeRaw || p.Reason == "" {
			continue
		}
		note := fmt.Sprintf("partition %d is copied whole: %s", p.Number, p.Reason)
		if p.Remedy != "" {
			note += "; " + p.Remedy
		}
		notes = append(notes, note)
	}
	return notes
}

// deploy makes the disk hold the version. Everything that can refuse comes before the
// first write.
func (a *Agent) deploy(ctx context.Context, op *protocol.Operation, track *tracker) (report, error) {
	started := time.Now()
	want, err := image.ParseVersionID(op.Version)
	if err != nil {
		return report{}, fmt.Errorf("the task's version: %w", err)
	}
	rule, err := a.rule(op)
	if err != nil {
		return report{}, err
	}
	facts, err := chooseDisk(ctx, a.config.Disks, rule, a.patience)
	if err != nil {
		return report{}, err
	}
	grow, err := image.ParseGrow(op.Grow)
	if err != nil {
		return report{}, fmt.Errorf("the task's partitions to grow: %w", err)
	}
	source := transfer{a.client}
	m, err := source.manifest(ctx, want, a.config)
	if err != nil {
		return report{}, err
	}
	if len(m.Disks) != 1 {
		return report{}, &clone.RefusedError{Reason: fmt.Sprintf("image %s has %d disks; one operation deploys one", m.Image, len(m.Disks))}
	}
	parent, err := source.parent(ctx, m, a.config)
	if err != nil {
		return report{}, fmt.Errorf("version before: %w", err)
	}
	disk, geometry, err := a.config.Disks.Open(facts.Path, true)
	if err != nil {
		return report{}, err
	}
	defer disk.Close()
	a.say("deploy of %s version %d (%s) to %s", m.Image, m.Sequence, want.Short(), diskText(facts))
	result, err := clone.Deploy(ctx, &m.Disks[0], disk, geometry, source, clone.DeployOptions{
		Verify: true, Parent: parent, Progress: track.progress, Grow: grow,
		Grower: kernelfs.Disks{{Path: facts.Path, Sector: geometry.LogicalSector, Load: a.config.LoadModule}},
	})
	if err != nil {
		return report{}, fmt.Errorf("deploy to %s: %w", diskText(facts), err)
	}
	var notes []string
	for _, g := range result.Grown {
		a.say("grow: %v", g)
		if g.Note != "" {
			notes = append(notes, "grow: "+g.String())
		}
	}
	if err := disk.Reread(); err != nil {
		notes = append(notes, "the kernel did not read the new partition table: "+err.Error())
	}
	a.say("disk is %s version %d: %v compared, %v kept, %v written", m.Image, m.Sequence, result.Compared, result.Kept, result.Written)
	return report{deployResult{Image: m.Image, Sequence: m.Sequence, Version: want.String(), Disk: diskText(facts),
		Compared: int64(result.Compared), Kept: int64(result.Kept), Written: int64(result.Written), Fetched: int64(result.Fetched),
		Verified: int64(result.Verified), Seconds: time.Since(started).Seconds(), Grown: result.Grown}, notes}, nil
}
