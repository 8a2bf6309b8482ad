package deploy

import (
	"context"
	"fmt"
	"slices"

	"clonecast/internal/clone"
	"clonecast/internal/clone/layout"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

// NewPlan decides what a deploy does. All targets are checked and compared; they are only read. A
// target that cannot hold its disk, or must not, is a *clone.RefusedError.
func NewPlan(ctx context.Context, disks []Disk, s Source, opts Options, progress clone.Progress) (*Plan, error) {
	targets, err := checkAll(disks, opts)
	if err != nil {
		return nil, err
	}
	p := &Plan{Source: s.Name}
	compared := &counter{phase: clone.PhaseCompare, tell: progress}
	for _, t := range targets {
		compared.total += t.plan.allocated()
	}
	for i, t := range targets {
		if err := t.decide(ctx, opts, compared); err != nil {
			return nil, clone.OfDisk(err, i, len(disks))
		}
		p.Disks = append(p.Disks, t.plan)
	}
	if p.Differ() > 0 {
		if err := p.addWrites(targets, s, opts); err != nil {
			return nil, err
		}
	}
	for i, d := range p.Disks {
		if len(lengthsOf(d.Growth)) > 0 {
			p.add(Step{Do: Extend, Disk: i})
		}
	}
	return p, nil
}

// Foretell says what a deploy does to a target that cannot be read now: what it writes at most, what it
// leaves, and what grows. A target that cannot hold the disk is a *clone.RefusedError.
func Foretell(d *image.Disk, g clone.Geometry, grow image.GrowDisk) (DiskPlan, error) {
	if err := Fits(d, g); err != nil {
		return DiskPlan{}, err
	}
	growth, err := PlanGrowth(d, g, grow)
	if err != nil {
		return DiskPlan{}, err
	}
	p := DiskPlan{Geometry: g, Regions: regions(d), Growth: growth}
	for i := range p.Regions {
		r := &p.Regions[i]
		if r.Fate == Leave {
			continue
		}
		r.Fate, r.Differ = Write, r.Content.Allocated()
		p.Differ += r.Differ
	}
	return p, nil
}

// target is a disk of which the plan is made.
type target struct {
	Disk
	plan    DiskPlan
	old     partition.Table   // the target's, if a partition is kept
	before  []quantity.Extent // of the disk, kept by a deploy that was cut
	lengths map[int]quantity.Bytes
	table   []Patch // table sectors in the order of writing
	closing []Patch // swap headers, then the table: what is written last
	stale   []Patch // marks to zero
}

// checkAll refuses what can be refused without reading the version's places.
func checkAll(disks []Disk, opts Options) ([]*target, error) {
	for i := range opts.Grow {
		if i >= len(disks) {
			return nil, &clone.RefusedError{
				Reason: fmt.Sprintf("a partition of disk %d was to grow, the image has %d", i+1, len(disks)),
			}
		}
	}
	var targets []*target
	for i, d := range disks {
		t, err := check(d, opts.Grow[i])
		if err != nil {
			return nil, clone.OfDisk(err, i, len(disks))
		}
		targets = append(targets, t)
	}
	return targets, nil
}

func check(d Disk, grow image.GrowDisk) (*target, error) {
	if err := Fits(d.Image, d.Geometry); err != nil {
		return nil, err
	}
	t := &target{Disk: d}
	var err error
	if t.old, err = keepable(d.Image, d.Target, d.Geometry); err != nil {
		return nil, err
	}
	if t.before, err = keptBefore(d.Image, d.Target, d.Geometry); err != nil {
		return nil, err
	}
	t.plan = DiskPlan{Geometry: d.Geometry, Regions: regions(d.Image)}
	if t.plan.Growth, err = PlanGrowth(d.Image, d.Geometry, grow); err != nil {
		return nil, err
	}
	t.lengths = lengthsOf(t.plan.Growth)
	swaps, err := swapHeaders(d.Image, t.lengths)
	if err != nil {
		return nil, err
	}
	if t.table, err = tableFor(d.Image, d.Geometry, t.lengths); err != nil {
		return nil, err
	}
	t.closing = append(swaps, t.table...)
	return t, nil
}

// regions are those of the version, in the order of clone.Contents.
func regions(d *image.Disk) []Region {
	var out []Region
	for i := range d.Boot {
		out = append(out, NewRegion("boot area", "", &d.Boot[i]))
	}
	for i := range d.Partitions {
		p := &d.Partitions[i]
		r := NewRegion(fmt.Sprintf("partition %d", p.Number), p.Filesystem.Type, &p.Content)
		if p.Mode == image.ModeSkip {
			r.Fate = Leave
		}
		out = append(out, r)
	}
	return out
}

// NewRegion is a region of which nothing is decided yet.
func NewRegion(name, fs string, c *image.Content) Region {
	return Region{Name: name, Start: c.Start, Length: c.Length, Filesystem: fs, Fate: Same, Content: c,
		Write: make([]bool, len(c.Chunks))}
}

// partition gives the partition that region i is; nil for a boot area.
func (t *target) partition(i int) *image.Partition {
	if i < len(t.Image.Boot) {
		return nil
	}
	return &t.Image.Partitions[i-len(t.Image.Boot)]
}

// decide compares the target with the version and says what becomes of each part.
func (t *target) decide(ctx context.Context, opts Options, compared *counter) error {
	if err := t.plan.compare(ctx, t.Target, compared); err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	for _, r := range t.closing {
		same, err := holds(t.Target, r)
		if err != nil {
			return fmt.Errorf("compare: %w", err)
		}
		if !same {
			t.plan.Differ += r.Length
		}
	}
	var err error
	if t.stale, err = t.staleMarks(); err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	for _, r := range t.stale {
		t.plan.Differ += r.Length
	}
	for i := range t.plan.Regions {
		r := &t.plan.Regions[i]
		r.Firmware = t.bootsFirmware(i)
		r.Withheld = t.partition(i) != nil && (r.touched() || r.Firmware)
		if opts.Trim {
			r.Trim = t.free(i)
		}
	}
	if opts.Show {
		t.plan.Now = t.now()
	}
	return nil
}

// now lists what the target holds now, as far as it can be read.
func (t *target) now() []Lost {
	l, err := layout.Inspect(t.Target, t.Geometry)
	if err != nil {
		return nil
	}
	var out []Lost
	for _, p := range l.Partitions {
		if p.Number == 0 && p.Volume.Type == "" {
			continue // a disk without a table, and nothing known on it
		}
		kept := slices.ContainsFunc(t.plan.Regions, func(r Region) bool {
			return r.Fate == Leave && r.Start == p.Start && r.Length == p.Length
		})
		out = append(out, Lost{p.Number, p.Start, p.Length, p.Volume.Type, p.Volume.Label, kept})
	}
	return out
}

func (p *Plan) add(s Step) { p.Steps = append(p.Steps, s) }

// addWrites lists what brings the version onto the targets. Each step is done for all disks before
// the next one begins: none boots until all are whole.
func (p *Plan) addWrites(targets []*target, s Source, opts Options) error {
	if err := p.addBegin(targets, s); err != nil {
		return err
	}
	for i, t := range targets {
		if len(t.stale) > 0 {
			p.add(Step{Do: Wipe, Disk: i, Patches: t.stale})
		}
	}
	p.addFetch(s)
	for i := range targets {
		if slices.ContainsFunc(p.Disks[i].Regions, func(r Region) bool { return len(r.Trim) > 0 }) {
			p.add(Step{Do: Discard, Disk: i})
		}
	}
	for i := range targets {
		p.add(Step{Do: Flush, Disk: i})
	}
	for i := range targets {
		if opts.Verify {
			p.add(Step{Do: Verify, Disk: i, Bytes: p.Disks[i].lacking(), Patches: targets[i].untrimmed()})
		}
	}
	for i := len(targets) - 1; i >= 0; i-- { // the first disk was invalidated first, and is whole last
		p.add(Step{Do: Finish, Disk: i, Patches: targets[i].closing})
	}
	return nil
}

// addBegin lists what comes before the first content is written: the old tables are saved, the source
// has its say, and what would make the disks boot is taken away.
func (p *Plan) addBegin(targets []*target, s Source) error {
	for i, t := range targets {
		changes, err := t.changesTable()
		if err != nil {
			return clone.OfDisk(err, i, len(targets))
		}
		if changes {
			p.add(Step{Do: SaveTable, Disk: i})
		}
	}
	p.addPrepare(s)
	for i, t := range targets {
		patches, err := t.invalidations()
		if err != nil {
			return clone.OfDisk(err, i, len(targets))
		}
		if len(patches) > 0 {
			p.add(Step{Do: Invalidate, Disk: i, Patches: patches})
		}
		if patches, err = t.plan.firstBytes(t.Target); err != nil {
			return clone.OfDisk(err, i, len(targets))
		}
		if slices.ContainsFunc(t.plan.Regions, func(r Region) bool { return r.Withheld }) {
			p.add(Step{Do: Withhold, Disk: i, Patches: patches})
		}
	}
	return nil
}

// addPrepare lets a source that has an order of its own have its say.
func (p *Plan) addPrepare(s Source) {
	if s.Prepare != nil {
		p.add(Step{Do: Prepare, Disk: AllDisks, Bytes: p.lacking()})
	}
}

// addFetch lists the fetching of the chunks that differ: disk by disk, or at once if the source
// has an order of its own.
func (p *Plan) addFetch(s Source) {
	if s.Prepare != nil {
		p.add(Step{Do: Fetch, Disk: AllDisks, Bytes: p.lacking()})
		return
	}
	for i := range p.Disks {
		if n := p.Disks[i].lacking(); n > 0 {
			p.add(Step{Do: Fetch, Disk: i, Bytes: n})
		}
	}
}

// lacking is how many bytes of chunks the targets lack.
func (p *Plan) lacking() quantity.Bytes {
	var sum quantity.Bytes
	for i := range p.Disks {
		sum += p.Disks[i].lacking()
	}
	return sum
}

func (d *DiskPlan) lacking() quantity.Bytes {
	var sum quantity.Bytes
	for _, r := range d.Regions {
		sum += r.Differ
	}
	return sum
}
