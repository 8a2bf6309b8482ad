package clone

import (
	"context"
	"fmt"
	"slices"

	"clonecast/internal/diskrule"
	"clonecast/internal/image"
)

// Deployment is a disk of a version and the disk that is to hold it.
type Deployment struct {
	Disk     *image.Disk
	Target   Target
	Geometry Geometry
}

// Deploy makes the target hold the disk d. See the package comment for the order.
func Deploy(ctx context.Context, d *image.Disk, t Target, g Geometry, source Source, opts DeployOptions) (DeployResult, error) {
	results, err := DeployDisks(ctx, []Deployment{{d, t, g}}, source, opts)
	if len(results) == 0 {
		return DeployResult{}, err
	}
	return results[0], err
}

// DeployDisks makes several disks hold those of a version. All targets are checked and
// compared before any of them is written. If one of them differs, none boots until all are
// whole: each step is done for all disks before the next one begins, and the first disk
// is finished last. The results are by disk; there are none if a target is refused.
func deployDisksOld(ctx context.Context, disks []Deployment, source Source, opts DeployOptions) ([]DeployResult, error) {
	for i := range opts.Grow {
		if i >= len(disks) {
			return nil, &RefusedError{Reason: fmt.Sprintf("a partition of disk %d was to grow, the image has %d", i+1, len(disks))}
		}
	}
	var deploys []*deploy
	for i, d := range disks {
		dep, err := newDeploy(i, d.Disk, d.Target, d.Geometry, source, opts)
		if err != nil {
			return nil, ofDisk(err, i, len(disks))
		}
		deploys = append(deploys, dep)
	}
	err := runSteps(ctx, deploys, opts)
	var results []DeployResult
	for _, dep := range deploys {
		results = append(results, dep.result)
	}
	return results, err
}

func runSteps(ctx context.Context, deploys []*deploy, opts DeployOptions) error {
	for i, step := range []struct {
		name string
		do   func(context.Context, []*deploy) error
	}{
		{"compare", each((*deploy).compare)},
		{"save the old table", each((*deploy).saveTable)},
		{"prepare", prepare},
		{"invalidate the old table", each((*deploy).invalidate)},
		{"write", writeAll},
		{"trim free bytes", each((*deploy).trim)},
		{"flush", each((*deploy).flush)},
		{"verify", each((*deploy).verify)},
		{"finish", func(ctx context.Context, all []*deploy) error {
			all = slices.Clone(all)
			slices.Reverse(all) // the first disk was invalidated first, and is whole last
			return each((*deploy).finish)(ctx, all)
		}},
	} {
		if err := step.do(ctx, deploys); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if i == 0 && (opts.DryRun || !slices.ContainsFunc(deploys, func(d *deploy) bool { return d.result.Differ > 0 })) {
			break
		}
	}
	if opts.DryRun {
		return nil
	}
	return each((*deploy).grow)(ctx, deploys)
}

// each does a step for one disk after the other.
func each(step func(*deploy, context.Context) error) func(context.Context, []*deploy) error {
	return func(ctx context.Context, deploys []*deploy) error {
		for _, d := range deploys {
			if err := step(d, ctx); err != nil {
				return ofDisk(err, d.number, len(deploys))
			}
		}
		return nil
	}
}

// Wants tells what the disks of a version look for in a target.
func Wants(m *image.Manifest) []diskrule.Want {
	var wants []diskrule.Want
	for i := range m.Disks {
		d := &m.Disks[i]
		wants = append(wants, diskrule.Want{Model: d.Model, Size: d.Size, Need: needs(d)})
	}
	return wants
}

// ofDisk names the disk if there are several.
func ofDisk(err error, i, count int) error {
	if count == 1 {
		return err
	}
	return fmt.Errorf("disk %d: %w", i+1, err)
}
