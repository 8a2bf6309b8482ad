package clone

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"clonecast/internal/chunk"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// Follower writes a version onto disks while it is still being captured, from its outline and the
// ids of its chunks as they become known. A deploy of the version must follow: it finds on
// the disks what was written here, and does what is left.
//
// What a disk must not have before it is whole is left out: the first chunk of each partition, swap
// headers, table. Before the first write the old table is saved and invalidated as in a deploy,
// so that no disk boots meanwhile. As long as nothing differs nothing is written.
type Follower struct {
	deploys []*deploy
	opts    DeployOptions
	place   func() (place, bool) // of the next chunk
	stop    func()

	begun       bool // the old tables are invalid
	done, total quantity.Bytes
	result      DeployResult // of the parts
}

// place is where a chunk of the outline goes.
type place struct {
	disk int
	piece
}

// Follow checks the disks as a deploy does; an error means that none was touched. In disks the
// outline's partitions may be kept (Keep).
func Follow(outline *image.Manifest, disks []Deployment, opts DeployOptions) (*Follower, error) {
	if len(disks) != len(outline.Disks) {
		return nil, fmt.Errorf("the capture is of %d disks, there are targets for %d", len(outline.Disks), len(disks))
	}
	f := &Follower{opts: opts}
	for i, d := range disks {
		dep, err := newDeploy(i, d.Disk, d.Target, d.Geometry, nil, opts)
		if err != nil {
			return nil, ofDisk(err, i, len(disks))
		}
		for k, c := range dep.contents {
			f.total += c.Allocated()
			dep.differ[k] = []bool{len(c.Extents) > 0} // as far as invalidating goes
		}
		f.deploys = append(f.deploys, dep)
	}
	f.place, f.stop = iter.Pull(places(outline))
	return f, nil
}

// places gives the places of the outline's chunks in order.
func places(outline *image.Manifest) iter.Seq[place] {
	return func(yield func(place) bool) {
		for i := range outline.Disks {
			for k, c := range contentsOf(&outline.Disks[i]) {
				for p := range pieces(k, c) {
					if !yield(place{i, p}) {
						return
					}
				}
			}
		}
	}
}

// Close ends the following.
func (f *Follower) Close() { f.stop() }

// Result is what was done so far.
func (f *Follower) Result() DeployResult {
	sum := f.result
	for _, d := range f.deploys {
		sum.Written += d.result.Written
	}
	return sum
}

// Part brings the next chunks of the version onto the disks. The source is asked for those that
// differ.
func (f *Follower) Part(ctx context.Context, ids []chunk.ID, source Source) error {
	parts, err := f.cut(ids, source)
	if err != nil {
		return err
	}
	defer func() {
		for _, p := range parts {
			f.result.Add(p.result)
		}
	}()
	if err := each((*deploy).compareChunks)(ctx, parts); err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	var differ quantity.Bytes
	for _, p := range parts {
		f.done += p.result.Kept
		before := differ // what the disks before this one lack
		p.opts.Progress = func(_ string, done, _ quantity.Bytes) { f.progress(before + done) }
		differ += p.result.Differ
	}
	f.progress(0)
	if differ == 0 {
		return nil
	}
	if err := prepare(ctx, parts); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	if err := f.begin(ctx); err != nil {
		return err
	}
	if err := writeAll(ctx, parts); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	f.done += differ
	return nil
}

// begin saves and invalidates the old tables before the first write.
func (f *Follower) begin(ctx context.Context) error {
	if f.begun {
		return nil
	}
	if err := each((*deploy).saveTable)(ctx, f.deploys); err != nil {
		return fmt.Errorf("save the old table: %w", err)
	}
	if err := each((*deploy).invalidate)(ctx, f.deploys); err != nil {
		return fmt.Errorf("invalidate the old table: %w", err)
	}
	f.begun = true
	return nil
}

// cut makes of the next chunks one deploy for each disk that has some of them.
func (f *Follower) cut(ids []chunk.ID, source Source) ([]*deploy, error) {
	var parts []*deploy
	last := place{disk: -1}
	for _, id := range ids {
		at, ok := f.place()
		if !ok {
			return nil, errors.New("there are more chunks than the outline has room for")
		}
		whole := f.deploys[at.disk]
		c := whole.contents[at.region]
		if len(c.Extents) == 0 {
			continue // a kept partition
		}
		if whole.isHead[at.region] && at.start == c.Start {
			f.done += quantity.Total(at.extents)
			continue
		}
		if at.disk != last.disk {
			parts = append(parts, &deploy{number: at.disk, disk: whole.disk, target: whole.target, source: source, geometry: whole.geometry})
		}
		part := parts[len(parts)-1]
		if at.disk != last.disk || at.region != last.region {
			part.contents = append(part.contents, &image.Content{Start: at.start})
		}
		extend(part.contents[len(part.contents)-1], at.piece, id)
		last = at
	}
	for _, p := range parts {
		p.isHead, p.delta = make([]bool, len(p.contents)), make([]bool, len(p.contents))
		for _, c := range p.contents {
			p.differ = append(p.differ, make([]bool, len(c.Chunks)))
		}
	}
	return parts, nil
}

// extend makes a piece the end of a content that begins with one of its region.
func extend(c *image.Content, p piece, id chunk.ID) {
	base := p.start - c.Start
	for _, e := range p.extents {
		c.Extents = append(c.Extents, quantity.Extent{Start: base + e.Start, Length: e.Length})
	}
	c.Length = base + quantity.Bytes(p.length)
	c.Chunks = append(c.Chunks, id)
}

func (f *Follower) progress(more quantity.Bytes) {
	if f.opts.Progress != nil {
		f.opts.Progress(PhaseFollow, f.done+more, f.total)
	}
}
