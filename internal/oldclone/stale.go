package clone

import (
	"clonecast/internal/filesystem/probe"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

// staleSignatures finds marks of the target's old life that the version does not
// overwrite and that could win a later probe: file system magics in free blocks, and
// a GPT's backup header at the disk's end. Each is to be zeroed.
func (d *deploy) staleSignatures() ([]final, error) {
	var out []final
	look := func(start quantity.Bytes, magic []byte, length quantity.Bytes) error {
		f := final{start, magic}
		if !d.isFree(start, length) {
			return nil
		}
		stale, err := d.holds(f)
		if stale {
			out = append(out, final{start, make([]byte, length)})
		}
		return err
	}
	for _, p := range d.disk.Partitions {
		if p.Mode != image.ModeClone && p.Mode != image.ModeSwap && p.Mode != image.ModeFormat {
			continue
		}
		for _, s := range probe.Signatures(lengthOf(p, d.lengths)) {
			if err := look(p.Content.Start+s.Offset, s.Magic, s.Length()); err != nil {
				return nil, err
			}
		}
	}
	if d.disk.TableKind != string(partition.GPT) {
		sector := quantity.Bytes(d.geometry.LogicalSector)
		if err := look(d.geometry.Size-sector, []byte(gptMagic), sector); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// isFree tells whether the version stores nothing in these bytes of the disk.
func (d *deploy) isFree(start, length quantity.Bytes) bool {
	end := start + length
	for _, f := range d.finals {
		if f.start < end && start < f.start+quantity.Bytes(len(f.data)) {
			return false
		}
	}
	for i, c := range d.contents {
		if c.Start >= end || start >= c.Start+c.Length {
			continue
		}
		if i >= len(d.disk.Boot) && d.disk.Partitions[i-len(d.disk.Boot)].Mode == image.ModeSkip {
			return false
		}
		for _, e := range c.Extents {
			if c.Start+e.Start < end && start < c.Start+e.End() {
				return false
			}
		}
	}
	return true
}
