package deploy

import (
	"fmt"

	"clonecast/internal/clone"
	"clonecast/internal/partition/saved"
)

// Restore puts a saved table back onto the disk that it was taken of.
func Restore(t Target, g clone.Geometry, c saved.Copy) error {
	if c.Size != g.Size || c.Sector != g.LogicalSector || c.Serial != g.Serial {
		return &clone.RefusedError{
			Reason: fmt.Sprintf("the table was saved from a disk of %d bytes in sectors of %d, serial %q; "+
				"this one has %d in sectors of %d, serial %q",
				c.Size, c.Sector, c.Serial, g.Size, g.LogicalSector, g.Serial),
			Remedy: "choose the disk that it was saved from",
		}
	}
	for w := range c.Writes() {
		if w.Start == 0 { // the last one, and only on top of the others
			if err := t.Sync(); err != nil {
				return err
			}
		}
		if _, err := t.WriteAt(w.Data, int64(w.Start)); err != nil {
			return &clone.WriteError{Offset: w.Start, Err: err}
		}
	}
	return t.Sync()
}
