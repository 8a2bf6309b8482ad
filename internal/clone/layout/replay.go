package layout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"clonecast/internal/clone"
	"clonecast/internal/filesystem"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// Replayer lets a kernel replay the journal of the file system in a range of the disk. A
// *filesystem.UnchangedError says that the file system is as it was, and why.
type Replayer interface {
	Replay(ctx context.Context, fsType string, where quantity.Extent) error
}

// Replayed is a file system whose journal waited for replay.
type Replayed struct {
	Number     int    `json:"partition"`
	Name       string `json:"name,omitempty"` // of a volume inside of the partition: "logical volume root"
	Filesystem string `json:"filesystem"`
	Note       string `json:"note,omitempty"` // why its map is not used all the same

	place quantity.Extent // on the disk
}

// String names it.
func (r Replayed) String() string {
	if r.Name != "" {
		return fmt.Sprintf("%s in partition %d (%s)", r.Name, r.Number, r.Filesystem)
	}
	return fmt.Sprintf("partition %d (%s)", r.Number, r.Filesystem)
}

// Outcome tells how the replay went.
func (r Replayed) Outcome() string {
	if r.Note != "" {
		return fmt.Sprintf("%v: the replay of its journal did not help, it is copied whole: %s", r, r.Note)
	}
	return fmt.Sprintf("%v: its journal was replayed; the disk was changed", r)
}

// ReplayOptions say what Replay may do.
type ReplayOptions struct {
	Policy map[int]image.Mode // those of the capture that follows; what it does not clone is left alone
	Force  bool               // of the capture that follows
	Before func(Replayed)     // is told of each before it is changed
}

// Remedy is what can be done about a doubt, in an operator's words.
func Remedy(d *filesystem.Doubt) string {
	if d.Replay {
		return d.Remedy + "; or capture with --replay, which changes this disk: " +
			"the kernel mounts the file system and replays its journal"
	}
	return d.Remedy
}

// Replay replays the journals that are all that is wrong with file systems of the disk r, and
// inspects it again. It changes the disk. If the capture that is to follow would be refused,
// nothing is changed.
func Replay(
	ctx context.Context, r io.ReaderAt, l *Layout, replayer Replayer, opts ReplayOptions,
) (*Layout, []Replayed, error) {
	replayed := l.dirty(opts.Policy)
	if len(replayed) == 0 {
		return l, nil, nil
	}
	if err := l.MayReplay(r, opts); err != nil {
		return nil, nil, err
	}
	for i := range replayed {
		p := &replayed[i]
		if opts.Before != nil {
			opts.Before(*p)
		}
		err := replayer.Replay(ctx, p.Filesystem, p.place)
		var unchanged *filesystem.UnchangedError
		if errors.As(err, &unchanged) {
			p.Note = unchanged.Reason
		} else if err != nil {
			return nil, nil, fmt.Errorf("replay the journal of %v: %w", p, err)
		}
	}
	after, err := Inspect(r, l.Geometry)
	if err != nil {
		return nil, nil, err
	}
	for i := range replayed {
		after.note(&replayed[i])
	}
	return after, replayed, nil
}

// dirty lists the file systems of which a journal is all that is wrong.
func (l *Layout) dirty(policy map[int]image.Mode) []Replayed {
	var out []Replayed
	for _, p := range l.Partitions {
		if mode, ordered := policy[p.Number]; ordered && mode != image.ModeClone {
			continue
		}
		if p.Volume.Doubt != nil && p.Volume.Doubt.Replay {
			place := quantity.Extent{Start: p.Start, Length: p.Length}
			out = append(out, Replayed{Number: p.Number, Filesystem: p.Volume.Type, place: place})
		}
		for _, part := range p.Volume.Whole {
			if part.Doubt.Replay && part.Place.Length > 0 {
				place := quantity.Extent{Start: p.Start + part.Place.Start, Length: part.Place.Length}
				out = append(out, Replayed{Number: p.Number, Name: part.Name, Filesystem: part.Type, place: place})
			}
		}
	}
	return out
}

// MayReplay refuses what the capture would refuse afterwards. The file systems of a hibernated
// Linux must stay as it left them in any case.
func (l *Layout) MayReplay(r io.ReaderAt, opts ReplayOptions) error {
	if len(l.dirty(opts.Policy)) == 0 {
		return nil
	}
	trial := *l
	trial.Partitions = slices.Clone(l.Partitions)
	policy := maps.Clone(opts.Policy)
	maps.DeleteFunc(policy, func(_ int, mode image.Mode) bool { return mode == image.ModeClone })
	if err := trial.Apply(r, policy); err != nil {
		return err
	}
	if err := trial.Refusal(opts.Force); err != nil {
		return err
	}
	for i := range l.Partitions {
		p := &l.Partitions[i]
		if asleep := p.hibernated(); asleep != nil {
			return &clone.RefusedError{
				Reason: fmt.Sprintf("no journal may be replayed beside a hibernated system: partition %d (%s): %s",
					p.Number, p.Volume.Type, asleep.Reason),
				Remedy: asleep.Remedy,
			}
		}
	}
	return nil
}

// hibernated gives the doubt that says that a system sleeps in the partition, or in a volume inside of it.
func (p *Partition) hibernated() *filesystem.Doubt {
	if d := p.Volume.Doubt; d != nil && d.Hibernated {
		return d
	}
	for _, part := range p.Volume.Whole {
		if part.Doubt.Hibernated {
			return part.Doubt
		}
	}
	return nil
}

// note says of a file system, and of its partition, what is still wrong after a replay.
func (l *Layout) note(r *Replayed) {
	for i := range l.Partitions {
		p := &l.Partitions[i]
		if p.Number != r.Number {
			continue
		}
		doubt := p.Volume.Doubt
		if r.Name != "" {
			doubt = nil
			for j := range p.Volume.Whole {
				if p.Volume.Whole[j].Name == r.Name {
					doubt = p.Volume.Whole[j].Doubt
				}
			}
		}
		if doubt == nil {
			return
		}
		if r.Note != "" {
			doubt.Reason += "; replay: " + r.Note
		}
		r.Note, doubt.Replay = doubt.Reason, false
		if r.Name == "" {
			p.Reason, p.Remedy = doubt.Reason, doubt.Remedy
		}
	}
}
