// Package saved keeps the partition table of a disk that is about to be overwritten.
//
// A Copy holds the table sectors (LBA 0, EBRs, both copies of a GPT) byte for byte, and
// of each boot area up to MaxBoot bytes: where GRUB keeps its second stage. It is JSON,
// so that a person can see what it is of; writing its areas back in the order of Writes
// makes the table what it was. Of a table that cannot be understood the first MiB of the disk
// and its last 33 sectors are kept, where MBR and GPT are. Bytes that cannot be read are left
// out: a bad sector must not keep a disk from being written.
package saved

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"clonecast/internal/partition"
	"clonecast/internal/partition/table"
	"clonecast/internal/quantity"
)

// Limits of a copy.
const (
	MaxBoot   = quantity.MiB // of a boot area
	MaxBinary = 64 << 20     // of the JSON
	maxAreas  = 2048
	maxCommas = 4*maxAreas + 2*maxText + 1024 + 16 // also those in texts
	maxArea   = quantity.MiB
	maxSize   = 1 << 56 // of the disk
	maxText   = 256
)

// format is what a copy begins with.
const format = "clonecast saved table 1"

// Copy is a saved table.
type Copy struct {
	Format string              `json:"format"`
	Model  string              `json:"model"`
	Serial string              `json:"serial"`
	Size   quantity.Bytes      `json:"size"`
	Sector quantity.SectorSize `json:"logical_sector"`
	Table  partition.Kind      `json:"table"`
	Note   string              `json:"note,omitempty"` // why the table could not be read
	Areas  []Area              `json:"areas"`
}

// Area is a run of the disk's bytes: Data, and zeroes up to Length.
type Area struct {
	Start  quantity.Bytes `json:"start"`
	Length quantity.Bytes `json:"length"`
	Data   []byte         `json:"data"`
}

// Take reads the table of the disk r. A disk without a table gives a copy without areas. It
// fails only if nothing can be read where the table should be.
func Take(r io.ReaderAt, size quantity.Bytes, sector quantity.SectorSize) (Copy, error) {
	c := Copy{Format: format, Size: size, Sector: sector, Areas: []Area{}}
	t, err := table.Read(r, size, sector)
	c.Table = t.Kind
	var corrupt *partition.CorruptError
	var unreadable *partition.UnreadableError
	switch {
	case errors.As(err, &corrupt), errors.As(err, &unreadable), errors.Is(err, partition.ErrUnsupported):
		c.Note, c.Table = err.Error(), partition.None
		t.Areas = usualPlaces(size, sector)
	case err != nil:
		return Copy{}, err
	case t.Kind == partition.None:
		return c, nil
	}
	var failed error
	for _, a := range t.Areas {
		if a.Kind == partition.AreaBoot {
			a.Length = min(a.Length, MaxBoot)
		}
		for a.Length > 0 {
			n := min(a.Length, maxArea)
			if a.Data != nil {
				c.add(a.Start, a.Data[:n])
				a.Data = a.Data[n:]
			} else if err := c.read(r, a.Start, n); err != nil {
				failed = fmt.Errorf("read the %s area at byte %d: %w", a.Kind, int64(a.Start), err)
			}
			a.Start, a.Length = a.Start+n, a.Length-n
		}
	}
	if failed != nil && c.Empty() {
		return Copy{}, failed
	}
	if failed != nil && c.Note == "" {
		c.Note = failed.Error()
	}
	return c, nil
}

// readStep is the length in which what cannot be read as a whole is tried again: the page of
// the kernel's cache.
const readStep = 4 * quantity.KiB

// read adds what can be read of n bytes at start. The error is that of the rest.
func (c *Copy) read(r io.ReaderAt, start, n quantity.Bytes) error {
	data, err := partition.ReadFull(r, start, int(n))
	if err == nil {
		c.add(start, data)
		return nil
	}
	for end := start + n; start < end; {
		step := min(readStep-start%readStep, end-start)
		if data, err := partition.ReadFull(r, start, int(step)); err == nil {
			c.add(start, data)
		}
		start += step
	}
	return err
}

// add adds an area.
func (c *Copy) add(start quantity.Bytes, data []byte) {
	c.Areas = append(c.Areas, Area{start, quantity.Bytes(len(data)), bytes.TrimRight(data, "\x00")})
}

// usualPlaces is where tables are.
func usualPlaces(size quantity.Bytes, sector quantity.SectorSize) []partition.Area {
	head := min(size, quantity.MiB)
	tail := max(head, size-33*quantity.Bytes(sector))
	return []partition.Area{{Kind: partition.AreaTable, Length: head},
		{Kind: partition.AreaTable, Start: tail, Length: size - tail}}
}

// Empty tells whether there was nothing to save.
func (c Copy) Empty() bool { return len(c.Areas) == 0 }

// Marshal gives the copy as JSON.
func (c Copy) Marshal() ([]byte, error) {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// Parse reads what Marshal wrote. Every area of the result lies inside the disk, and none
// touches another's bytes.
func Parse(b []byte) (Copy, error) {
	var c Copy
	if len(b) > MaxBinary {
		return Copy{}, fmt.Errorf("saved table of %d bytes, at most %d are read", len(b), MaxBinary)
	}
	// Every item of a list and every field has a comma behind it, or is the last one: many in few bytes would take
	// much more memory than the text has bytes.
	if n := bytes.Count(b, []byte(",")); n > maxCommas {
		return Copy{}, fmt.Errorf("saved table: %d areas and fields, that is too many", n)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Copy{}, fmt.Errorf("saved table: %w", err)
	}
	if problem := c.problem(); problem != "" {
		return Copy{}, fmt.Errorf("saved table: %s", problem)
	}
	return c, nil
}

func (c Copy) problem() string {
	switch {
	case c.Format != format:
		return fmt.Sprintf("its format is %.40q, not %q", c.Format, format)
	case !c.Sector.Valid() || c.Size <= 0 || c.Size > maxSize:
		return fmt.Sprintf("disk of %d bytes in sectors of %d", c.Size, c.Sector)
	case len(c.Areas) > maxAreas || len(c.Model) > maxText || len(c.Serial) > maxText:
		return "it is too long"
	}
	end := quantity.Bytes(0)
	for _, a := range c.Areas {
		if a.Start < end || a.Length <= 0 || a.Length > maxArea || a.Start > c.Size-a.Length ||
			quantity.Bytes(len(a.Data)) > a.Length {
			return fmt.Sprintf("area of %d bytes at byte %d with %d bytes of data", a.Length, a.Start, len(a.Data))
		}
		end = a.Start + a.Length
	}
	return ""
}

// Writes gives what to write to put the table back, one area at a time, the disk's first
// sector last and alone.
func (c Copy) Writes() iter.Seq[partition.Content] {
	return func(yield func(partition.Content) bool) {
		for _, a := range slices.Backward(c.Areas) {
			data := make([]byte, a.Length)
			copy(data, a.Data)
			if first := int(c.Sector); a.Start == 0 && len(data) > first {
				if !yield(partition.Content{Start: quantity.Bytes(first), Data: data[first:]}) {
					return
				}
				data = data[:first]
			}
			if !yield(partition.Content{Start: a.Start, Data: data}) {
				return
			}
		}
	}
}
