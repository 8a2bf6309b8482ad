package deploy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"clonecast/internal/clone"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// Plan says what a deploy does to its targets. It is a value, made without writing: it can be shown,
// compared and thrown away. Execute does its steps, in their order, and nothing else.
type Plan struct {
	Source string     `json:"source"` // where chunks come from that no target has
	Disks  []DiskPlan `json:"disks"`
	Steps  []Step     `json:"steps"`
}

// DiskPlan says what becomes of one target.
type DiskPlan struct {
	clone.Geometry
	Regions []Region `json:"regions"`       // boot areas, then partitions by their place
	Now     []Lost   `json:"now,omitempty"` // what the target holds now; only where the caller asked for it
	Growth  []Grown  `json:"growth,omitempty"`

	Compared quantity.Bytes `json:"bytes_compared"`  // allocated bytes of the version
	Kept     quantity.Bytes `json:"bytes_kept"`      // of them what the target holds already
	Differ   quantity.Bytes `json:"bytes_differing"` // the rest, with table and stale marks
}

// Fate is what becomes of a region.
type Fate string

// The fates.
const (
	Same   Fate = "same"   // the target holds it already
	Update Fate = "update" // most is there: only blocks that differ are written
	Write  Fate = "write"
	Leave  Fate = "leave" // the deploy leaves it as it is, whatever it holds
)

// Region is a boot area or a partition of the version, and what becomes of it.
type Region struct {
	Name       string         `json:"name"`
	Start      quantity.Bytes `json:"start"` // on the disk
	Length     quantity.Bytes `json:"length"`
	Filesystem string         `json:"filesystem,omitempty"`
	Fate       Fate           `json:"fate"`
	Kept       quantity.Bytes `json:"bytes_kept"`
	Differ     quantity.Bytes `json:"bytes_differing"`

	// Withheld: its first chunk stays away until everything else is written, so that nothing finds
	// a file system that is not whole. Firmware: that chunk comes last of all.
	Withheld bool `json:"withheld,omitempty"`
	Firmware bool `json:"firmware,omitempty"`

	Trim []quantity.Extent `json:"trim,omitempty"` // free bytes of the disk that it is told of

	Content *image.Content `json:"-"` // what the version stores
	Write   []bool         `json:"-"` // by chunk: it differs
}

// update tells whether only blocks that differ are written.
func (r *Region) update() bool { return r.Fate == Update }

// touched tells whether a chunk of the region is written.
func (r *Region) touched() bool { return r.Differ > 0 }

// Lost is a partition that the target has now and will not have any more.
type Lost struct {
	Number     int            `json:"partition"`
	Start      quantity.Bytes `json:"start"`
	Length     quantity.Bytes `json:"length"`
	Filesystem string         `json:"filesystem,omitempty"`
	Label      string         `json:"label,omitempty"`
	Kept       bool           `json:"kept,omitempty"` // it stays after all
}

// Action is what a step does.
type Action string

// The actions, in the order of a plan.
const (
	SaveTable  Action = "save table" // hand out the target's old table
	Prepare    Action = "prepare"    // let the source wait until chunks can come
	Invalidate Action = "invalidate" // take away what would make the disk boot; flush
	Withhold   Action = "withhold"   // take away the first bytes of partitions; flush
	Wipe       Action = "wipe"       // zero stale marks
	Fetch      Action = "fetch"      // fetch the chunks that differ, write their allocated bytes
	Discard    Action = "trim"       // tell the disk which bytes are free
	Flush      Action = "flush"
	Verify     Action = "verify" // read back what was written
	Finish     Action = "finish" // first chunks of partitions, swap headers, table, LBA 0 last
	Extend     Action = "grow"   // make file systems as large as their partitions
)

// AllDisks is the Disk of a step that is done for all disks at once.
const AllDisks = -1

// Step is one action of a deploy.
type Step struct {
	Do      Action         `json:"do"`
	Disk    int            `json:"disk"`              // from 0, or AllDisks
	Bytes   quantity.Bytes `json:"bytes,omitempty"`   // of chunks
	Patches []Patch        `json:"patches,omitempty"` // small writes, in order
}

// Patch is a small run of bytes to write.
type Patch struct {
	Start  quantity.Bytes `json:"start"` // on the disk
	Length quantity.Bytes `json:"length"`
	Why    string         `json:"why"`
	Data   []byte         `json:"-"` // nil: zeroes
}

// bytes are what is written.
func (r Patch) bytes() []byte {
	if r.Data == nil {
		return make([]byte, r.Length)
	}
	return r.Data
}

func newPatch(start quantity.Bytes, data []byte, why string) Patch {
	return Patch{Start: start, Length: quantity.Bytes(len(data)), Why: why, Data: data}
}

func zeroPatch(start, length quantity.Bytes, why string) Patch {
	return Patch{Start: start, Length: length, Why: why}
}

// sortedPatches gives patches from the disk's start on.
func sortedPatches(found map[quantity.Bytes]Patch) []Patch {
	var out []Patch
	for _, start := range slices.Sorted(maps.Keys(found)) {
		out = append(out, found[start])
	}
	return out
}

// Differ is how many bytes of all targets are not as they should be.
func (p *Plan) Differ() quantity.Bytes {
	var sum quantity.Bytes
	for _, d := range p.Disks {
		sum += d.Differ
	}
	return sum
}

// String gives the plan in lines that people read: what becomes of each disk, then the steps.
func (p *Plan) String() string {
	var b strings.Builder
	for i, d := range p.Disks {
		fmt.Fprintf(&b, "disk %d: %v are there already, %v differ\n", i+1, d.Kept, d.Differ)
		for _, r := range d.Regions {
			fmt.Fprintf(&b, "  %-6s  %s%s\n", r.Fate, r.Name, r.detail())
		}
		for _, l := range d.Now {
			if !l.Kept {
				fmt.Fprintf(&b, "  lost    partition %d of the target, %v %s %s\n", l.Number, l.Length, l.Filesystem, l.Label)
			}
		}
		for _, g := range d.Growth {
			fmt.Fprintf(&b, "  grow    %v\n", g)
		}
	}
	for i, s := range p.Steps {
		fmt.Fprintf(&b, "%2d. %s\n", i+1, s.text(len(p.Disks)))
	}
	return b.String()
}

func (r Region) detail() string {
	switch r.Fate {
	case Leave:
		return ": stays as it is"
	case Same:
		return fmt.Sprintf(": %v", r.Kept)
	}
	return fmt.Sprintf(": %v of %v", r.Differ, r.Kept+r.Differ)
}

func (s Step) text(disks int) string {
	text := string(s.Do)
	if s.Disk != AllDisks && disks > 1 {
		text += fmt.Sprintf(" disk %d", s.Disk+1)
	}
	if s.Bytes > 0 {
		text += fmt.Sprintf(": %v", s.Bytes)
	}
	for _, r := range s.Patches {
		text += fmt.Sprintf("\n      %s: %d bytes at byte %d", r.Why, r.Length, r.Start)
	}
	return text
}
