package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"clonecast/internal/clone"
	"clonecast/internal/clone/capture"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/clone/layout"
	"clonecast/internal/image"
	"clonecast/internal/kernelfs"
	"clonecast/internal/protocol"
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

	Replayed []capture.Replayed `json:"replayed,omitempty"`
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
	Followed int64   `json:"bytes_followed,omitempty"` // written while the capture went on
	Seconds  float64 `json:"seconds"`

	Grown     []deploy.Grown   `json:"grown,omitempty"`
	Multicast *multicastResult `json:"multicast,omitempty"`
}

// run does an operation and reports its end.
func (a *Agent) run(ctx context.Context, op *protocol.Operation) error {
	do := map[string]func(context.Context, *protocol.Operation, *tracker) (report, error){
		protocol.OpCapture: a.capture, protocol.OpDeploy: a.deploy, protocol.OpFollow: a.follow,
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
	if errors.Is(err, errCancelled) || errors.Is(err, errSuperseded) ||
		errors.As(err, &problem) && problem.Code == protocol.CodeCancelled {
		err = errCancelled
	}
	status := protocol.Status{State: protocol.StateDone, Notes: r.notes, Disks: track.disks.all()}
	if err != nil {
		status.State, status.Error, status.Hint = protocol.StateFailed, err.Error(), Hint(err)
	} else if status.Result, err = json.Marshal(r.result); err != nil {
		return err
	}
	a.incomplete(op, status.Disks)
	reportErr := a.client.finish(ctx, status)
	a.reported = reportErr == nil
	if reportErr != nil && !errors.Is(err, errCancelled) {
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

// capture reads the disks and stores them as a version.
func (a *Agent) capture(ctx context.Context, op *protocol.Operation, track *tracker) (report, error) {
	started := time.Now()
	policies, err := image.ParsePolicies(op.Policies)
	if err != nil {
		return report{}, err
	}
	facts, err := a.captureDisks(ctx, op)
	if err != nil {
		return report{}, err
	}
	a.say("capture of %s", diskText(facts...))
	disks, err := a.open(facts, op.Replay)
	if err != nil {
		return report{}, err
	}
	defer closeDisks(disks)
	captured, err := inspect(disks, policies)
	if err != nil {
		return report{}, err
	}
	replayed, notes, err := a.prepare(ctx, op, disks, captured, policies)
	if err != nil {
		return report{notes: notes}, err
	}
	for _, n := range notes {
		a.say("note: %s", n)
	}
	plan, err := capture.NewPlan(captured, capture.Options{Image: op.Image, Comment: op.Comment,
		Engine: a.config.Build, Force: op.Force})
	if err != nil {
		return report{notes: notes}, err
	}
	result, err := capture.Execute(ctx, plan, captured, a.means(op, track))
	if err != nil {
		return report{notes: notes}, fmt.Errorf("capture of %s: %w", diskText(facts...), err)
	}
	for _, u := range result.Unreadable {
		notes = append(notes, "zeroes are stored in the place of what cannot be read: "+u.Error())
	}
	v := result.Version
	a.say("image %s version %d (%s): %v allocated, %v new in the store",
		v.Image, v.Sequence, v.ID.Short(), result.Allocated, result.Stored)
	return report{captureResult{
		Image: v.Image, Sequence: v.Sequence, Version: v.ID.String(), Disk: diskText(facts...),
		Allocated: int64(result.Allocated), Read: int64(result.Read), Stored: int64(result.Stored),
		Seconds: time.Since(started).Seconds(), Replayed: replayed,
	}, notes}, nil
}

// inspect finds out what is on the disks.
func inspect(disks []opened, policies image.Policies) ([]capture.Disk, error) {
	var captured []capture.Disk
	for i, d := range disks {
		l, err := layout.Options{Policy: policies[i]}.Inspect(d, d.geometry)
		if err != nil {
			return nil, fmt.Errorf("inspect %s: %w", diskText(d.facts), err)
		}
		captured = append(captured, capture.Disk{Reader: d, Layout: l})
	}
	return captured, nil
}

// prepare lets the kernel replay journals if the operation wants it, decides how the disks are captured,
// and tells what people should know of that.
func (a *Agent) prepare(ctx context.Context, op *protocol.Operation, disks []opened, captured []capture.Disk,
	policies image.Policies) (replayed []capture.Replayed, notes []string, err error) {
	p := capture.Preparation{Policies: policies, Force: op.Force}
	if op.Replay {
		p.Replayer = func(i int) layout.Replayer {
			return kernelfs.Disk{Path: disks[i].facts.Path, Sector: disks[i].geometry.LogicalSector, Load: a.config.LoadModule}
		}
		p.Before = func(i int, r layout.Replayed) {
			a.say("%s: %v: replaying its journal, which changes this disk", diskText(disks[i].facts), r)
		}
	}
	replayed, err = capture.Prepare(ctx, captured, p)
	for _, r := range replayed {
		notes = append(notes, ofDisk(r.Disk-1, len(disks), r.Outcome()))
	}
	if err != nil {
		return replayed, notes, err
	}
	for i, c := range captured {
		for _, n := range c.Layout.Notes() {
			notes = append(notes, ofDisk(i, len(disks), n.String()))
		}
	}
	return replayed, notes, nil
}

// ofDisk says of which disk a note is if there are several.
func ofDisk(i, count int, note string) string {
	if count == 1 {
		return note
	}
	return fmt.Sprintf("disk %d: %s", i+1, note)
}

// deploy makes the disks hold the version. Everything that can refuse comes before the
// first write.
func (a *Agent) deploy(ctx context.Context, op *protocol.Operation, track *tracker) (report, error) {
	started := time.Now()
	want, err := image.ParseVersionID(op.Version)
	if err != nil {
		return report{}, fmt.Errorf("the task's version: %w", err)
	}
	grow, err := image.ParseGrow(op.Grow)
	if err != nil {
		return report{}, fmt.Errorf("the task's partitions to grow: %w", err)
	}
	server := transfer{a.client}
	m, err := server.manifest(ctx, want, a.config)
	if err != nil {
		return report{}, err
	}
	frames, err := a.reception(ctx, op, m, track)
	if err != nil {
		return report{}, err
	}
	defer frames.leave()
	if err := keep(m, op.Policies); err != nil {
		return report{}, err
	}
	parent, err := server.parent(ctx, m, a.config)
	if err != nil {
		return report{}, fmt.Errorf("version before: %w", err)
	}
	facts, err := a.deployDisks(ctx, op, m)
	if err != nil {
		return report{}, err
	}
	disks, err := a.open(facts, true)
	if err != nil {
		return report{}, err
	}
	defer closeDisks(disks)
	a.say("deploy of %s version %d (%s) to %s", m.Image, m.Sequence, want.Short(), diskText(facts...))
	track.disks.targets(facts)
	var targets []deploy.Disk
	var growers kernelfs.Disks
	for i, d := range disks {
		targets = append(targets, deploy.Disk{Image: &m.Disks[i], Target: d, Geometry: d.geometry})
		growers = append(growers, kernelfs.Disk{
			Path: d.facts.Path, Sector: d.geometry.LogicalSector, Load: a.config.LoadModule,
		})
	}
	var notes []string
	results, err := deploy.Run(ctx, targets, deploy.Options{Verify: true, Trim: !op.NoTrim, Grow: grow},
		deploy.Means{Source: frames.source(), Parent: parent, Progress: track.progress, Grower: growers,
			SaveTable: server.tableSaver(op, facts, &notes), Begin: track.begins})
	track.disks.took(results, err)
	if err == nil {
		frames.attend(ctx)
	}
	notes = append(notes, frames.notes...)
	if err != nil {
		return report{notes: notes}, fmt.Errorf("deploy to %s: %w", diskText(facts...), err)
	}
	sum, grown := a.afterwards(disks, results)
	notes = append(notes, grown...)
	a.say("disk is %s version %d: %v compared, %v kept, %v written",
		m.Image, m.Sequence, sum.Compared, sum.Kept, sum.Written)
	return report{deployResult{
		Image: m.Image, Sequence: m.Sequence, Version: want.String(), Disk: diskText(facts...),
		Compared: int64(sum.Compared), Kept: int64(sum.Kept), Written: int64(sum.Written), Fetched: int64(sum.Fetched),
		Verified: int64(sum.Verified), Seconds: time.Since(started).Seconds(),
		Grown: sum.Grown, Multicast: frames.result(int64(sum.Fetched)),
	}, notes}, nil
}

// afterwards tells the kernel of the new tables, and adds up what was done to all disks.
func (a *Agent) afterwards(disks []opened, results []deploy.Result) (sum deploy.Result, notes []string) {
	for i, r := range results {
		for _, g := range r.Grown {
			a.say("grow: %v", g)
			if g.Note != "" {
				notes = append(notes, "grow: "+g.String())
			}
		}
		if err := disks[i].Reread(); err != nil {
			notes = append(notes, fmt.Sprintf("the kernel did not read the new partition table of %s: %v",
				diskText(disks[i].facts), err))
		}
		sum.Add(r)
	}
	return sum, notes
}

// keep makes the manifest one that leaves partitions as they are.
func keep(m *image.Manifest, list []string) error {
	policies, err := image.ParsePolicies(list)
	if err != nil {
		return err
	}
	for i := range policies {
		if i >= len(m.Disks) {
			return &clone.RefusedError{Reason: fmt.Sprintf("a policy is for disk %d, and the image has %d", i+1, len(m.Disks))}
		}
	}
	for i := range m.Disks {
		if m.Disks[i], err = deploy.Keep(m.Disks[i], policies[i]); err != nil {
			return err
		}
	}
	return nil
}
