package agent

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"clonecast/internal/blockdev"
	"clonecast/internal/clone"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"
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

// chooseDisk gives the one disk that the rule names.
func chooseDisk(ctx context.Context, disks Disks, rule protocol.DiskRule, patience time.Duration) (blockdev.Facts, error) {
	started := time.Now()
	for {
		all, err := disks.List()
		if err != nil {
			return blockdev.Facts{}, fmt.Errorf("list disks: %w", err)
		}
		chosen, refusal := choose(all, rule)
		if refusal == nil {
			return chosen, nil
		}
		if len(refusal.matching) > 1 || time.Since(started) >= patience {
			return blockdev.Facts{}, refusal
		}
		if err := pause(ctx, 250*time.Millisecond); err != nil {
			return blockdev.Facts{}, err
		}
	}
}

// choose applies the rule. Disks that can be pulled out, and USB disks, count only if the rule
// names them by serial or WWN.
func choose(all []blockdev.Facts, rule protocol.DiskRule) (blockdev.Facts, *diskError) {
	var matching []blockdev.Facts
	for _, d := range all {
		if matches(d, rule) {
			matching = append(matching, d)
		}
	}
	if len(matching) != 1 {
		return blockdev.Facts{}, &diskError{rule, all, matching}
	}
	return matching[0], nil
}

func matches(d blockdev.Facts, rule protocol.DiskRule) bool {
	named := rule.Serial != "" || rule.WWN != ""
	same := func(want, have string) bool { return want == "" || strings.TrimSpace(want) == strings.TrimSpace(have) }
	return (named || !d.Removable && d.Bus != "usb") &&
		same(rule.Serial, d.Serial) && same(rule.WWN, d.WWN) && same(rule.Model, d.Model) &&
		int64(d.Size) >= rule.MinBytes && (rule.MaxBytes <= 0 || int64(d.Size) <= rule.MaxBytes)
}

// diskError says that the rule does not name exactly one disk.
type diskError struct {
	rule          protocol.DiskRule
	all, matching []blockdev.Facts
}

func (e *diskError) Error() string {
	switch {
	case len(e.all) == 0:
		return "this machine shows no disk"
	case len(e.matching) == 0:
		return fmt.Sprintf("no disk fits %s; there are: %s", ruleText(e.rule), listText(e.all))
	}
	return fmt.Sprintf("%d disks fit %s: %s", len(e.matching), ruleText(e.rule), listText(e.matching))
}

// Hint says what to do.
func (e *diskError) Hint() string {
	if len(e.all) == 0 {
		return "check the disk's cable and that the firmware shows it; if it does, its controller's driver is missing in the hardware class"
	}
	return "name the disk in the task by its serial number"
}

func ruleText(r protocol.DiskRule) string {
	var parts []string
	for _, p := range []struct{ name, value string }{{"serial", r.Serial}, {"WWN", r.WWN}, {"model", r.Model}} {
		if p.value != "" {
			parts = append(parts, p.name+" "+p.value)
		}
	}
	if r.MinBytes > 0 {
		parts = append(parts, fmt.Sprintf("at least %v", quantity.Bytes(r.MinBytes)))
	}
	if r.MaxBytes > 0 {
		parts = append(parts, fmt.Sprintf("at most %v", quantity.Bytes(r.MaxBytes)))
	}
	if len(parts) == 0 {
		return "the rule \"the only internal disk\""
	}
	return "the rule " + strings.Join(parts, ", ")
}

func listText(disks []blockdev.Facts) string {
	var lines []string
	for _, d := range slices.SortedFunc(slices.Values(disks), func(a, b blockdev.Facts) int { return strings.Compare(a.Name, b.Name) }) {
		lines = append(lines, diskText(d))
	}
	return strings.Join(lines, "; ")
}

// diskText describes a disk by what is printed on it; the kernel's name comes last.
func diskText(d blockdev.Facts) string {
	model, serial := d.Model, d.Serial
	if model == "" {
		model = "disk without model"
	}
	if serial == "" {
		serial = "unknown"
	}
	return fmt.Sprintf("%s, serial %s, %v (%s)", model, serial, d.Size, d.Name)
}
