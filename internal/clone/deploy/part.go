package deploy

import (
	"context"
	"fmt"

	"clonecast/internal/clone"
)

// Outlined is a version of which only the outline is known yet, and the targets that are to hold it. Plans
// for parts of its content write all that a cut may leave behind: the first chunks of partitions,
// swap headers and the table are left to the deploy of the version that must follow.
type Outlined struct {
	targets []*target
}

// Outline checks the targets as NewPlan does; the images of disks have no chunk ids.
func Outline(disks []Disk, opts Options) (*Outlined, error) {
	targets, err := checkAll(disks, opts)
	if err != nil {
		return nil, err
	}
	for _, t := range targets {
		for i := range t.plan.Regions {
			r := &t.plan.Regions[i]
			r.Differ = r.Content.Allocated() // as far as is known
			r.Firmware = t.bootsFirmware(i)
			r.Withheld = t.partition(i) != nil && r.touched()
		}
	}
	return &Outlined{targets: targets}, nil
}

// Withholds tells whether the plans of parts leave out a region's first chunk.
func (o *Outlined) Withholds(disk, region int) bool {
	return o.targets[disk].partition(region) != nil
}

// PlanPart decides what brings some regions of the disks onto them. They need not be those of the
// outline: each is a run of chunks. With begin, a plan that writes begins as a deploy does.
func (o *Outlined) PlanPart(ctx context.Context, regions [][]Region, s Source, begin bool) (*Plan, error) {
	p := &Plan{Source: s.Name}
	for i, t := range o.targets {
		d := DiskPlan{Geometry: t.Geometry, Regions: regions[i]}
		if err := d.compare(ctx, t.Target, &counter{}); err != nil {
			return nil, fmt.Errorf("compare: %w", clone.OfDisk(err, i, len(o.targets)))
		}
		p.Disks = append(p.Disks, d)
	}
	if p.Differ() == 0 {
		return p, nil
	}
	if begin {
		if err := p.addBegin(o.targets, s); err != nil {
			return nil, err
		}
	} else {
		p.addPrepare(s)
	}
	p.addFetch(s)
	return p, nil
}
