package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"clonecast/internal/blockdev"
	"clonecast/internal/clone"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/diskrule"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
)

// Disk is an open disk.
type Disk interface {
	deploy.Target
	io.Closer
	// Reread tells the kernel that the partition table changed.
	Reread() error
}

// Disks is the machine's disks.
type Disks interface {
	List() ([]blockdev.Facts, error)
	Open(path string, write bool) (Disk, clone.Geometry, error)
}

// MachineDisks is the disks of this machine.
type MachineDisks struct{}

// List lists the disks.
func (MachineDisks) List() ([]blockdev.Facts, error) { return blockdev.List() }

// Open opens a disk, for nobody else if it is to be written.
func (MachineDisks) Open(path string, write bool) (Disk, clone.Geometry, error) {
	open := blockdev.Open
	if write {
		open = blockdev.OpenExclusive
	}
	d, err := open(path)
	if err != nil {
		return nil, clone.Geometry{}, err
	}
	g := clone.Geometry{
		Size: d.Size, LogicalSector: d.LogicalSector, PhysicalSector: d.PhysicalSector,
		Model: d.Model, Serial: d.Serial,
	}
	return deviceDisk{d}, g, nil
}

type deviceDisk struct{ *blockdev.Device }

func (d deviceDisk) Reread() error { return d.RereadPartitions() }

// diskPatience is how long a disk that should be there may take to appear.
const diskPatience = 10 * time.Second

// chooser names disks of a list by their indices, or says why it cannot.
type chooser func([]diskrule.Disk) ([]int, error)

// chooseDisks gives the disks that choose names. A disk that should be there may take a
// while to appear; too many do not become fewer.
func chooseDisks(ctx context.Context, disks Disks, choose chooser, patience time.Duration) ([]blockdev.Facts, error) {
	started := time.Now()
	for {
		all, err := disks.List()
		if err != nil {
			return nil, fmt.Errorf("list disks: %w", err)
		}
		chosen, err := choose(blockdev.Rules(all))
		if err == nil {
			var out []blockdev.Facts
			for _, i := range chosen {
				out = append(out, all[i])
			}
			return out, nil
		}
		var refused *diskrule.Error
		if !errors.As(err, &refused) || refused.Matches > 1 || time.Since(started) >= patience {
			return nil, err
		}
		if err := pause(ctx, 250*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// rules gives the rules that name the operation's disks: its own or the hardware class's.
func (a *Agent) rules(op *protocol.Operation) ([]diskrule.Rule, error) {
	texts := op.Disks
	if len(texts) == 0 {
		texts = []string{a.config.Disk}
	}
	var rules []diskrule.Rule
	for _, text := range texts {
		rule, err := diskrule.Parse(text)
		if err != nil {
			return nil, err
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// captureDisks gives the disks that a capture reads.
func (a *Agent) captureDisks(ctx context.Context, op *protocol.Operation) ([]blockdev.Facts, error) {
	rules, err := a.rules(op)
	if err != nil {
		return nil, err
	}
	choose := func(disks []diskrule.Disk) ([]int, error) {
		return diskrule.Assign(rules, disks, make([]diskrule.Want, len(rules)))
	}
	if op.AllDisks {
		choose = rules[0].All
	}
	return chooseDisks(ctx, a.config.Disks, choose, a.patience)
}

// deployDisks gives the disks that are to hold those of a version.
func (a *Agent) deployDisks(ctx context.Context, op *protocol.Operation, m *image.Manifest) ([]blockdev.Facts, error) {
	rules, err := a.rules(op)
	if err != nil {
		return nil, err
	}
	return chooseDisks(ctx, a.config.Disks, func(disks []diskrule.Disk) ([]int, error) {
		return diskrule.Assign(rules, disks, deploy.Wants(m))
	}, a.patience)
}

// opened is a disk of an operation.
type opened struct {
	Disk
	facts    blockdev.Facts
	geometry clone.Geometry
}

// open opens the disks of an operation.
func (a *Agent) open(facts []blockdev.Facts, write bool) (disks []opened, err error) {
	for _, f := range facts {
		d, g, err := a.config.Disks.Open(f.Path, write)
		if err != nil {
			closeDisks(disks)
			return nil, err
		}
		disks = append(disks, opened{d, f, g})
	}
	return disks, nil
}

func closeDisks(disks []opened) {
	for _, d := range disks {
		d.Close()
	}
}

// diskText describes disks by what is printed on them.
func diskText(facts ...blockdev.Facts) string {
	var texts []string
	for _, f := range facts {
		texts = append(texts, f.Rule().String())
	}
	return strings.Join(texts, " and ")
}
