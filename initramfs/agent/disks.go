package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"clonecast/internal/blockdev"
	"clonecast/internal/clone"
	"clonecast/internal/diskrule"
	"clonecast/internal/protocol"
)

// Disk is an open disk.
type Disk interface {
	clone.Target
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
	g := clone.Geometry{Size: d.Size, LogicalSector: d.LogicalSector, PhysicalSector: d.PhysicalSector, Model: d.Model, Serial: d.Serial}
	return deviceDisk{d}, g, nil
}

type deviceDisk struct{ *blockdev.Device }

func (d deviceDisk) Reread() error { return d.RereadPartitions() }

// diskPatience is how long a disk that should be there may take to appear.
const diskPatience = 10 * time.Second

// chooseDisk gives the one disk that the rule names. A disk that should be there may take
// a while to appear; two that fit do not become one.
func chooseDisk(ctx context.Context, disks Disks, rule diskrule.Rule, patience time.Duration) (blockdev.Facts, error) {
	started := time.Now()
	for {
		all, err := disks.List()
		if err != nil {
			return blockdev.Facts{}, fmt.Errorf("list disks: %w", err)
		}
		i, err := rule.Choose(ruleDisks(all))
		if err == nil {
			return all[i], nil
		}
		var refused *diskrule.Error
		if !errors.As(err, &refused) || refused.Matches > 1 || time.Since(started) >= patience {
			return blockdev.Facts{}, err
		}
		if err := pause(ctx, 250*time.Millisecond); err != nil {
			return blockdev.Facts{}, err
		}
	}
}

func ruleDisks(all []blockdev.Facts) []diskrule.Disk {
	var disks []diskrule.Disk
	for _, f := range all {
		disks = append(disks, f.Rule())
	}
	return disks
}

// rule gives the rule that names the operation's disk: its own or the hardware class's.
func (a *Agent) rule(op *protocol.Operation) (diskrule.Rule, error) {
	text := a.config.Disk
	if len(op.Disks) > 0 {
		text = op.Disks[0]
	}
	return diskrule.Parse(text)
}

// diskText describes a disk by what is printed on it.
func diskText(f blockdev.Facts) string { return f.Rule().String() }
