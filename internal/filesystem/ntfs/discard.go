package ntfs

import (
	"errors"
	"fmt"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// memoryFiles are the files of the root directory in which Windows keeps memory. Their
// content dies with the session: Windows reads it only to resume, and a volume that
// would be resumed is never read by its map (see examine).
func memoryFiles() []string { return []string{"pagefile.sys", "swapfile.sys", "hiberfil.sys"} }

// logFill fills a $LogFile that holds nothing.
const logFill = 0xFF

// discards lists what is in use, by used, but not content. The volume is clean.
//
// The log of a clean volume is replaced as a whole by an empty one. That is what ntfs-3g
// does with it (ntfs_empty_logfile) before the first change of every volume that it
// mounts; Windows begins a new log then. Zeroes would not do: they are no empty log.
func (v *volume) discards(used, system []quantity.Extent) ([]filesystem.Discard, error) {
	var out []filesystem.Discard
	taken := quantity.Normalize(system)
	add := func(what string, value byte, r record, s *stream) error {
		extents := quantity.Normalize(v.extents(s))
		for _, e := range extents {
			if !quantity.Covers(used, e) {
				return r.corrupt("$Bitmap calls bytes %d+%d of %s free", int64(e.Start), int64(e.Length), what)
			}
			if quantity.Overlaps(taken, e) {
				return r.corrupt("%s shares bytes %d+%d with another system file", what, int64(e.Start), int64(e.Length))
			}
		}
		if len(extents) > 0 {
			out = append(out, filesystem.Discard{What: what, Fill: value, Extents: extents})
			taken = quantity.Normalize(append(taken, extents...))
		}
		return nil
	}
	r, s, err := v.openLog()
	if err != nil {
		return nil, fmt.Errorf("read $LogFile: %w", err)
	}
	if err := add("$LogFile", logFill, r, &s); err != nil {
		return nil, err
	}
	for _, name := range memoryFiles() {
		r, ok, err := v.fileInRoot(name)
		if err != nil {
			return nil, fmt.Errorf("look for %s: %w", name, err)
		}
		if !ok {
			continue
		}
		s, err := v.open(r, typeData, "")
		if errors.Is(err, errNoAttribute) || err == nil && s.flags&attributeTransformed != 0 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		if err := add(name, 0, r, &s); err != nil {
			return nil, err
		}
	}
	return out, nil
}
