package clone_test

import (
	"cmp"
	"context"
	"io"

	"clonecast/internal/chunk"
	"clonecast/internal/clone"
	"clonecast/internal/clone/capture"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/clone/follow"
	"clonecast/internal/clone/layout"
	"clonecast/internal/image"
	"clonecast/internal/partition/saved"

	"github.com/klauspost/compress/zstd"
)

// The tests of this package are those of the whole engine: layout, capture and deploy together. What
// they order stands in one struct each.

// deployOrder is what a test wants of a deploy.
type deployOrder struct {
	DryRun, Verify, Trim bool

	SaveTable func(ctx context.Context, disk int, c saved.Copy) error
	Grow      image.Grow
	Grower    deploy.Grower
	Parent    *image.Manifest
	Progress  clone.Progress
}

// framer is the least that a source does.
type framer interface {
	Frames(ctx context.Context, ids []chunk.ID, yield func(frame []byte) error) error
}

// sourceOf says all that a test's source can do.
func sourceOf(f framer) deploy.Source {
	s := deploy.Source{Name: "test", Frames: f.Frames}
	if d, ok := f.(interface {
		Deltas(ctx context.Context, wants []chunk.Want, yield func(delta []byte) error) error
	}); ok {
		s.Deltas = d.Deltas
	}
	if p, ok := f.(interface {
		Prepare(ctx context.Context, ids []chunk.ID) error
	}); ok {
		s.Prepare = p.Prepare
	}
	return s
}

func deployDisks(disks []deploy.Disk, source framer, o deployOrder) ([]deploy.Result, error) {
	s := sourceOf(source)
	opts := deploy.Options{Verify: o.Verify, Trim: o.Trim, Grow: o.Grow}
	ctx := context.Background()
	plan, err := deploy.NewPlan(ctx, disks, s, opts, o.Progress)
	if err != nil {
		return nil, err
	}
	if o.DryRun {
		plan.Steps = nil
	}
	return deploy.Execute(ctx, plan, disks, deploy.Means{Source: s, SaveTable: o.SaveTable, Grower: o.Grower,
		Parent: o.Parent, Progress: o.Progress})
}

func deployOne(d *image.Disk, t deploy.Target, g clone.Geometry, source framer, o deployOrder) (deploy.Result, error) {
	results, err := deployDisks([]deploy.Disk{{Image: d, Target: t, Geometry: g}}, source, o)
	if len(results) == 0 {
		return deploy.Result{}, err
	}
	return results[0], err
}

// captureOrder is what a test wants of a capture.
type captureOrder struct {
	Image                 string
	Force, FillBadSectors bool
	Level                 zstd.EncoderLevel
	Followers             capture.Followers
	Progress              clone.Progress
}

// captureDisks compresses as little as can be, unless the order says how much.
func captureDisks(disks []capture.Disk, sink capture.Sink, o captureOrder) (capture.Result, error) {
	level := cmp.Or(o.Level, zstd.SpeedFastest)
	means := capture.Means{Sink: sink, Level: level, FillBadSectors: o.FillBadSectors, Followers: o.Followers,
		Progress: o.Progress}
	return capture.Run(context.Background(), disks, capture.Options{Image: o.Image, Force: o.Force}, means)
}

func captureOne(disk io.ReaderAt, l *layout.Layout, sink capture.Sink, o captureOrder) (capture.Result, error) {
	return captureDisks([]capture.Disk{{Reader: disk, Layout: l}}, sink, o)
}

func newFollower(outline *image.Manifest, disks []deploy.Disk, o deployOrder) (*follow.Follower, error) {
	means := deploy.Means{SaveTable: o.SaveTable, Progress: o.Progress}
	return follow.New(outline, disks, deploy.Options{Grow: o.Grow}, means)
}
