package capture

import (
	"context"
	"fmt"

	"clonecast/internal/clone"
	"clonecast/internal/clone/layout"
	"clonecast/internal/image"
)

// Preparation is what happens to layouts before a capture of them is planned.
type Preparation struct {
	Policies image.Policies // modes that an operator wants
	Force    bool           // of the capture that follows

	// Replayer, if not nil, gives who replays the journals of a disk. That changes the disk.
	Replayer func(disk int) layout.Replayer
	// Before is told of each file system whose journal is about to be replayed.
	Before func(disk int, r layout.Replayed)
}

// Replayed is a file system of a disk, counted from 1, whose journal was replayed.
type Replayed struct {
	Disk int `json:"disk"`
	layout.Replayed
}

// Prepare replays the journals on the disks, if that is wanted, and applies the policies: the layouts
// of disks change. If one of the disks must not be changed none is.
func Prepare(ctx context.Context, disks []Disk, p Preparation) (replayed []Replayed, err error) {
	for i := range p.Policies {
		if i >= len(disks) {
			return nil, &clone.RefusedError{
				Reason: fmt.Sprintf("a policy is for disk %d, and the capture is of %d", i+1, len(disks)),
			}
		}
	}
	if p.Replayer != nil {
		if replayed, err = replay(ctx, disks, p); err != nil {
			return replayed, err
		}
	}
	for i, d := range disks {
		if err := d.Layout.Apply(d.Reader, p.Policies[i]); err != nil {
			return replayed, clone.OfDisk(err, i, len(disks))
		}
	}
	return replayed, nil
}

func replay(ctx context.Context, disks []Disk, p Preparation) (replayed []Replayed, err error) {
	var options []layout.ReplayOptions
	for i, d := range disks {
		options = append(options, layout.ReplayOptions{Policy: p.Policies[i], Force: p.Force,
			Before: func(r layout.Replayed) { p.Before(i, r) }})
		if err := d.Layout.MayReplay(d.Reader, options[i]); err != nil {
			return nil, clone.OfDisk(err, i, len(disks))
		}
	}
	for i, d := range disks {
		after, list, err := layout.Replay(ctx, d.Reader, d.Layout, p.Replayer(i), options[i])
		if err != nil {
			return replayed, clone.OfDisk(err, i, len(disks))
		}
		disks[i].Layout = after
		for _, r := range list {
			replayed = append(replayed, Replayed{i + 1, r})
		}
	}
	return replayed, nil
}
