// Package capture stores disks as a version of an image.
//
// A Plan says what will be stored of each disk; making one only reads the tables. Execute then reads
// the allocated extents in disk order. Batches of neighbouring chunks are read, hashed and
// compressed side by side (pipeline.go); frames are stored in disk order; the manifest is
// published last, so that a capture which ends early leaves no version.
//
// Followers, if there are any, are told what will be captured before any content is read, and of
// chunks once these are stored.
package capture

import (
	"fmt"
	"io"
	"strings"

	"clonecast/internal/clone"
	"clonecast/internal/clone/layout"
	"clonecast/internal/filesystem"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

// Disk is a disk to capture, and what Inspect found on it.
type Disk struct {
	Reader io.ReaderAt
	Layout *layout.Layout
}

// Options say what a version is called, and what is captured all the same.
type Options struct {
	Image, Comment, Origin, Creator, Engine string

	Force bool // capture a hibernated system all the same
}

// Plan says what a capture stores. It is a value: Execute does what it says and nothing else.
type Plan struct {
	// Manifest is the version without its chunk ids: what is known of it before any content is read.
	Manifest *image.Manifest `json:"-"`
	Disks    []DiskPlan      `json:"disks"`
}

// DiskPlan says what is stored of a disk.
type DiskPlan struct {
	clone.Geometry
	Table   string         `json:"table"`           // kind of the partition table
	Notes   []string       `json:"notes,omitempty"` // what is wrong with the table
	Regions []Region       `json:"regions"`         // by place on the disk: boot areas, then partitions
	Stored  quantity.Bytes `json:"stored"`          // bytes that are read and stored
}

// Region is a boot area or a partition.
type Region struct {
	Name       string         `json:"name"`
	Start      quantity.Bytes `json:"start"`
	Length     quantity.Bytes `json:"length"`
	Filesystem string         `json:"filesystem,omitempty"`
	Mode       image.Mode     `json:"mode"`
	Reason     string         `json:"reason,omitempty"`    // why it is not stored by its allocation map
	Stored     quantity.Bytes `json:"stored"`              // bytes that are read and stored
	Discarded  []string       `json:"discarded,omitempty"` // what is allocated and stays unread
}

// NewPlan decides what is stored of the disks: of each what its layout says. A layout that forbids
// its capture is refused.
func NewPlan(disks []Disk, opts Options) (*Plan, error) {
	if err := image.CheckName(opts.Image); err != nil {
		return nil, err
	}
	p := &Plan{Manifest: &image.Manifest{Image: opts.Image, Comment: opts.Comment, Origin: opts.Origin,
		Creator: opts.Creator, Engine: opts.Engine}}
	for _, disk := range disks {
		if err := disk.Layout.Refusal(opts.Force); err != nil {
			return nil, err
		}
		d, err := manifestDisk(disk.Layout, disk.Reader)
		if err != nil {
			return nil, err
		}
		p.Manifest.Disks = append(p.Manifest.Disks, d)
		p.Disks = append(p.Disks, newDiskPlan(disk.Layout))
	}
	return p, nil
}

// manifestDisk makes the manifest's disk: all but the chunk ids.
func manifestDisk(l *layout.Layout, r io.ReaderAt) (image.Disk, error) {
	d := image.Disk{Size: l.Size, LogicalSector: l.LogicalSector, PhysicalSector: l.PhysicalSector, Model: l.Model,
		Serial: l.Serial, TableKind: string(l.Table.Kind), DiskID: l.Table.DiskID}
	for _, a := range l.Table.Areas {
		if a.Kind == partition.AreaBoot {
			d.Boot = append(d.Boot, image.Content{Start: a.Start, Length: a.Length,
				Extents: []quantity.Extent{{Start: 0, Length: a.Length}}})
			continue
		}
		data := a.Data
		if data == nil {
			data = make([]byte, a.Length)
			if err := clone.ReadFull(r, data, a.Start); err != nil {
				return image.Disk{}, fmt.Errorf("partition table: %w", err)
			}
		}
		d.Table = append(d.Table, image.TableArea{Start: a.Start, Data: data})
	}
	for _, p := range l.Partitions {
		fs := image.Filesystem{Type: p.Volume.Type, UUID: p.Volume.UUID, Label: p.Volume.Label,
			BlockSize: p.Volume.BlockSize}
		d.Partitions = append(d.Partitions, image.Partition{
			Number: p.Number, Type: p.Type, GUID: p.GUID, Name: p.Name, Mode: p.Mode, Reason: p.Reason, Filesystem: fs,
			Content: image.Content{Start: p.Start, Length: p.Length, Extents: p.Extents},
		})
	}
	return d, nil
}

func newDiskPlan(l *layout.Layout) DiskPlan {
	d := DiskPlan{Geometry: l.Geometry, Table: string(l.Table.Kind), Notes: l.Table.Notes}
	for _, a := range l.Table.Areas {
		if a.Kind == partition.AreaBoot {
			d.Regions = append(d.Regions, Region{Name: "boot area", Start: a.Start, Length: a.Length, Mode: image.ModeRaw,
				Stored: a.Length})
		}
	}
	for i := range l.Partitions {
		p := &l.Partitions[i]
		d.Regions = append(d.Regions, Region{Name: fmt.Sprintf("partition %d", p.Number), Start: p.Start, Length: p.Length,
			Filesystem: p.Volume.Type, Mode: p.Mode, Reason: p.Reason, Stored: p.Allocated() - p.Discarded(),
			Discarded: names(p.Discards())})
	}
	for _, r := range d.Regions {
		d.Stored += r.Stored
	}
	return d
}

func names(discards []filesystem.Discard) []string {
	var out []string
	for _, d := range discards {
		out = append(out, fmt.Sprintf("%s (%v)", d.What, quantity.Total(d.Extents)))
	}
	return out
}

// Stored is how many bytes of all disks are read and stored.
func (p *Plan) Stored() quantity.Bytes {
	var sum quantity.Bytes
	for _, d := range p.Disks {
		sum += d.Stored
	}
	return sum
}

// String gives the plan in lines that people read.
func (p *Plan) String() string {
	var b strings.Builder
	for i, d := range p.Disks {
		if len(p.Disks) > 1 {
			fmt.Fprintf(&b, "disk %d\n", i+1)
		}
		fmt.Fprintf(&b, "table  %s, byte for byte\n", d.Table)
		for _, r := range d.Regions {
			fmt.Fprintf(&b, "%-6s %s: %v of %v", r.Mode, r.Name, r.Stored, r.Length)
			if r.Reason != "" {
				fmt.Fprintf(&b, " (%s)", r.Reason)
			}
			fmt.Fprintln(&b)
			for _, what := range r.Discarded {
				fmt.Fprintf(&b, "       allocated, not stored: %s\n", what)
			}
		}
		for _, n := range d.Notes {
			fmt.Fprintf(&b, "note   %s\n", n)
		}
	}
	return b.String()
}
