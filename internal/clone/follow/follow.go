// Package follow makes machines a version while it is still being captured.
//
// A Follower knows the version's outline from the start, and the ids of its chunks as they become
// known, part by part. For each part it lets deploy plan what is lacking, and executes that. What a
// disk must not have before it is whole is left out: the first chunk of each partition, swap
// headers, table. Before the first write the old table is saved and invalidated as in a deploy,
// so that no disk boots meanwhile. As long as nothing differs nothing is written.
//
// A deploy of the version must follow: it finds on the disks what was written here, and does what
// is left.
package follow

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"clonecast/internal/chunk"
	"clonecast/internal/clone"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// Follower writes a version onto disks while it is still being captured.
type Follower struct {
	disks   []deploy.Disk
	version *deploy.Outlined
	means   deploy.Means
	regions [][]*image.Content      // of the outline, by disk
	next    func() (location, bool) // of the next chunk
	stop    func()

	begun       bool // the old tables are invalid
	done, total quantity.Bytes
	result      deploy.Result // of the parts
}

// location is where a chunk of the outline goes.
type location struct {
	disk int
	clone.Piece
}

// New checks the disks as a deploy does; an error means that none was touched. In disks the
// outline's partitions may be kept (deploy.Keep). Each part brings a source of its own.
func New(outline *image.Manifest, disks []deploy.Disk, opts deploy.Options, means deploy.Means) (*Follower, error) {
	if len(disks) != len(outline.Disks) {
		return nil, fmt.Errorf("the capture is of %d disks, there are targets for %d", len(outline.Disks), len(disks))
	}
	version, err := deploy.Outline(disks, opts)
	if err != nil {
		return nil, err
	}
	f := &Follower{disks: disks, version: version, means: means}
	for _, d := range disks {
		contents := clone.Contents(d.Image)
		for _, c := range contents {
			f.total += c.Allocated()
		}
		f.regions = append(f.regions, contents)
	}
	f.next, f.stop = iter.Pull(locations(outline))
	return f, nil
}

// locations gives where the outline's chunks go, in order.
func locations(outline *image.Manifest) iter.Seq[location] {
	return func(yield func(location) bool) {
		for i := range outline.Disks {
			for k, c := range clone.Contents(&outline.Disks[i]) {
				for p := range clone.Pieces(k, c) {
					if !yield(location{i, p}) {
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
func (f *Follower) Result() deploy.Result { return f.result }

// Part brings the next chunks of the version onto the disks. The source is asked for those that
// differ.
func (f *Follower) Part(ctx context.Context, ids []chunk.ID, source deploy.Source) error {
	regions, err := f.cut(ids)
	if err != nil {
		return err
	}
	plan, err := f.version.PlanPart(ctx, regions, source, !f.begun)
	if err != nil {
		return err
	}
	for _, d := range plan.Disks {
		f.done += d.Kept
	}
	f.progress(0)
	if len(plan.Steps) == 0 {
		return nil
	}
	means := f.means
	means.Source = source
	means.Progress = func(_ string, done, _ quantity.Bytes) { f.progress(done) }
	results, err := deploy.Execute(ctx, plan, f.disks, means)
	for _, r := range results {
		f.result.Add(r)
	}
	if err != nil {
		return err
	}
	f.begun = true
	f.done += plan.Differ()
	return nil
}

// cut makes of the next chunks regions of each disk.
func (f *Follower) cut(ids []chunk.ID) ([][]deploy.Region, error) {
	regions := make([][]deploy.Region, len(f.disks))
	var last *location
	for _, id := range ids {
		at, ok := f.next()
		if !ok {
			return nil, errors.New("there are more chunks than the outline has room for")
		}
		c := f.regions[at.disk][at.Region]
		if len(c.Extents) == 0 {
			continue // a kept partition
		}
		if f.version.Withholds(at.disk, at.Region) && at.Start == c.Start {
			f.done += at.Allocated()
			continue
		}
		list := &regions[at.disk]
		if last == nil || at.disk != last.disk || at.Region != last.Region {
			*list = append(*list, deploy.NewRegion("part", "", &image.Content{Start: at.Start}))
		}
		extend(&(*list)[len(*list)-1], at.Piece, id)
		last = &at
	}
	return regions, nil
}

// extend makes a chunk's place the end of a region.
func extend(r *deploy.Region, p clone.Piece, id chunk.ID) {
	c := r.Content
	base := p.Start - c.Start
	for _, e := range p.Extents {
		c.Extents = append(c.Extents, quantity.Extent{Start: base + e.Start, Length: e.Length})
	}
	c.Length = base + quantity.Bytes(p.Length)
	c.Chunks = append(c.Chunks, id)
	r.Length, r.Write = c.Length, append(r.Write, false)
}

func (f *Follower) progress(more quantity.Bytes) {
	if f.means.Progress != nil {
		f.means.Progress(clone.PhaseFollow, f.done+more, f.total)
	}
}
