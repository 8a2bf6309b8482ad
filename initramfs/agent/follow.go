package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"clonecast/internal/blockdev"
	"clonecast/internal/chunk"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/clone/follow"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"
)

// following is a machine that becomes another one while that is captured.
type following struct {
	agent   *Agent
	op      *protocol.Operation
	track   *tracker
	started time.Time
	notes   []string

	// Of the cast that is followed now, if any.
	outline  *image.Outline
	chain    image.Chain
	disks    []opened
	follower *follow.Follower
	written  quantity.Bytes // of all casts

	multicast multicastResult // of all sessions
}

// maxRestarts is how often a follower begins again before it gives up.
const maxRestarts = 20

// follow writes the parts of a capture as they come, and deploys the version once it is published.
func (a *Agent) follow(ctx context.Context, op *protocol.Operation, track *tracker) (report, error) {
	f := &following{agent: a, op: op, track: track, started: time.Now(), multicast: multicastResult{State: "done"}}
	defer f.end()
	a.say("waiting for what is captured as %s", op.Image)
	for restarts := 0; ; {
		now, err := f.news(ctx)
		if err != nil {
			return report{notes: f.notes}, fmt.Errorf("follow the capture: %w", err)
		}
		if now.Version != "" && (f.follower == nil || now.Cast != f.chain.Cast.String() || now.Parts <= f.chain.Parts) {
			return f.deploy(ctx, now.Version)
		}
		err = f.advance(ctx, now)
		var p *protocol.Problem
		if errors.As(err, &p) && p.Code == protocol.CodeNotFound && restarts < maxRestarts {
			restarts++
			a.say("the capture begins again")
			f.end()
			err = pause(ctx, firstPause)
		}
		if err != nil {
			return report{notes: f.notes}, err
		}
	}
}

// news asks what there is beyond what is known; the server waits a little if that is nothing.
func (f *following) news(ctx context.Context) (now protocol.Followed, err error) {
	known := protocol.Followed{Parts: f.chain.Parts}
	if f.follower != nil {
		known.Cast = f.chain.Cast.String()
	}
	err = f.agent.client.json(ctx, protocol.PathFollow, known, &now, f.agent.client.giveUp)
	return now, err
}

// advance takes an outline or the next part.
func (f *following) advance(ctx context.Context, now protocol.Followed) error {
	switch {
	case now.Cast == "":
		return nil
	case f.follower == nil || now.Cast != f.chain.Cast.String():
		f.end()
		return f.begin(ctx, now.Cast)
	case now.Parts > f.chain.Parts:
		return f.parts(ctx, now.Parts)
	}
	return nil
}

// begin checks the outline, and the disks against it. Nothing is written.
func (f *following) begin(ctx context.Context, cast string) error {
	want, err := image.ParseCastID(cast)
	if err != nil {
		return fmt.Errorf("the server's cast: %w", err)
	}
	server := transfer{f.agent.client}
	envelope, err := server.get(ctx, protocol.PathFollowOutline+cast, maxEnvelope)
	if err != nil {
		return fmt.Errorf("get the outline: %w", err)
	}
	o, id, err := image.OpenOutline(envelope, f.agent.config.Keys)
	switch {
	case err != nil:
		return fmt.Errorf("check the outline: %w", err)
	case id != want || o.Task != f.op.TaskID || o.Manifest.Image != f.op.Image:
		return fmt.Errorf("check the outline: it is that of task %s, image %s, not of this task", o.Task, o.Manifest.Image)
	}
	grow, err := image.ParseGrow(f.op.Grow)
	if err != nil {
		return fmt.Errorf("the task's partitions to grow: %w", err)
	}
	facts, err := f.agent.deployDisks(ctx, f.op, &o.Manifest)
	if err != nil {
		return err
	}
	if f.disks, err = f.agent.open(facts, true); err != nil {
		return err
	}
	f.track.disks.targets(facts)
	var targets []deploy.Disk
	for i, d := range f.disks {
		targets = append(targets, deploy.Disk{Image: &o.Manifest.Disks[i], Target: d, Geometry: d.geometry})
	}
	follower, err := follow.New(&o.Manifest, targets, deploy.Options{Grow: grow},
		deploy.Means{Progress: f.track.progress, SaveTable: server.tableSaver(f.op, facts, &f.notes),
			Begin: f.track.begins})
	if err != nil {
		return fmt.Errorf("follow to %s: %w", diskText(facts...), err)
	}
	f.follower, f.outline, f.chain = follower, o, image.NewChain(o, id)
	f.agent.say("following the capture of %s to %s", o.Manifest.Origin, diskText(facts...))
	return nil
}

// maxPart bounds the envelope of a part.
const maxPart = 1 << 20

// parts takes the next part, or those that a multicast session sends; there are so many.
func (f *following) parts(ctx context.Context, count uint64) error {
	frames, err := f.session(ctx, count)
	if err != nil {
		return err
	}
	end, first := f.chain.Parts+1, f.chain.Next
	if frames != nil {
		end = frames.parts.End
		defer frames.leave()
	}
	var ids []chunk.ID
	for f.chain.Parts < end {
		more, err := f.part(ctx)
		if err != nil {
			return err
		}
		ids = append(ids, more...)
	}
	if frames == nil {
		err = f.follower.Part(ctx, ids, transfer{f.agent.client}.partSource())
	} else {
		err = f.receive(ctx, frames, first, ids)
	}
	if err != nil {
		return fmt.Errorf("parts before %d to %s: %w", end, diskText(f.facts()...), err)
	}
	return nil
}

// part gets the chunk ids of the next part.
func (f *following) part(ctx context.Context) ([]chunk.ID, error) {
	number := f.chain.Parts
	path := fmt.Sprintf("%s%s/%d", protocol.PathFollowPart, f.chain.Cast, number)
	envelope, err := transfer{f.agent.client}.get(ctx, path, maxPart)
	if err != nil {
		return nil, fmt.Errorf("get part %d: %w", number, err)
	}
	p, err := image.OpenPart(envelope, f.agent.config.Keys)
	if err == nil {
		err = f.chain.Add(p)
	}
	if err != nil {
		return nil, fmt.Errorf("check part %d: %w", number, err)
	}
	return p.Chunks, nil
}

// session gives the multicast session of the next parts, nil if these come by unicast.
func (f *following) session(ctx context.Context, count uint64) (*reception, error) {
	if !f.op.Multicast {
		return nil, nil
	}
	next := protocol.SessionParts{Cast: f.chain.Cast.String(), First: f.chain.Parts}
	server := transfer{f.agent.client}
	offer, err := server.ask(ctx, 0, &next)
	if err != nil {
		return nil, ending(ctx, err)
	}
	p := offer.Parts
	if p == nil || p.Cast != next.Cast || p.First != next.First || p.End <= p.First || p.End > count+maxAhead {
		return nil, nil
	}
	return &reception{
		transfer: server, track: f.track, ordered: true,
		offer: &offer, parts: p, done: multicastResult{State: "done"},
	}, nil
}

// maxAhead is how many parts there may be more by the time that a session is asked for.
const maxAhead = 1 << 16

// receive takes chunks in a session.
func (f *following) receive(ctx context.Context, frames *reception, first uint64, ids []chunk.ID) (err error) {
	if frames.whole, err = f.outline.Slice(first, ids); err != nil {
		return err
	}
	if err = f.follower.Part(ctx, ids, frames.source()); err == nil {
		frames.attend(ctx)
	}
	f.multicast.add(frames.done)
	for _, n := range frames.notes {
		if !slices.Contains(f.notes, n) {
			f.notes = append(f.notes, n)
		}
	}
	return err
}

// add adds what another session has brought.
func (r *multicastResult) add(o multicastResult) {
	r.Multicast += o.Multicast
	r.Unicast += o.Unicast
	r.Loss = max(r.Loss, o.Loss)
	if o.State != "done" {
		r.State = o.State
	}
	if o.Reason != "" {
		r.Cause, r.Reason, r.Hint = o.Cause, o.Reason, o.Hint
	}
}

// partSource fetches the chunks of parts. It knows no differences: there is no version before.
func (t transfer) partSource() deploy.Source {
	return deploy.Source{Name: "the server", Frames: t.Frames}
}

func (f *following) facts() []blockdev.Facts {
	var facts []blockdev.Facts
	for _, d := range f.disks {
		facts = append(facts, d.facts)
	}
	return facts
}

// end lets go of the cast and its disks.
func (f *following) end() {
	if f.follower != nil {
		f.written += f.follower.Result().Written
		f.follower.Close()
	}
	closeDisks(f.disks)
	f.follower, f.outline, f.disks, f.chain = nil, nil, nil, image.Chain{}
}

// deploy makes the disks whole when the version is published.
func (f *following) deploy(ctx context.Context, version string) (report, error) {
	op, a := *f.op, *f.agent
	op.Version, op.Multicast = version, false // what is left is little, and different on each machine
	if facts := f.facts(); facts != nil {
		a.config.Disks = onlyDisks{a.config.Disks, facts} // these and no others, though one may have appeared meanwhile
	}
	f.end()
	r, err := a.deploy(ctx, &op, f.track)
	r.notes = append(f.notes, r.notes...)
	if result, ok := r.result.(deployResult); ok {
		result.Followed = int64(f.written)
		result.Seconds = time.Since(f.started).Seconds()
		if f.op.Multicast {
			result.Multicast = &f.multicast
		}
		r.result = result
	}
	return r, err
}

// onlyDisks is some of a machine's disks.
type onlyDisks struct {
	Disks
	facts []blockdev.Facts
}

// List lists them.
func (d onlyDisks) List() ([]blockdev.Facts, error) { return d.facts, nil }

// get fetches a small answer.
func (t transfer) get(ctx context.Context, path string, limit int64) ([]byte, error) {
	return t.do(ctx, call{method: http.MethodGet, path: path, limit: limit, timeout: dataTimeout, giveUp: t.giveUp})
}
