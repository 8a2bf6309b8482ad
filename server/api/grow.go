package api

import (
	"errors"
	"fmt"

	"clonecast/internal/clone"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"
)

// growable refuses to grow what the version has not.
func growable(m *image.Manifest, text string) error {
	grow, err := image.ParseGrow(text)
	for i := range grow {
		switch {
		case err != nil:
		case i >= len(m.Disks):
			reason := fmt.Sprintf("a partition of disk %d was to grow, the image has %d", i+1, len(m.Disks))
			err = &clone.RefusedError{Reason: reason}
		default:
			d := &m.Disks[i]
			_, err = deploy.PlanGrowth(d, clone.Geometry{Size: d.Size, LogicalSector: d.LogicalSector}, grow[i])
		}
	}
	var refused *clone.RefusedError
	if errors.As(err, &refused) {
		return &protocol.Problem{Code: protocol.CodeInvalid, Title: refused.Reason, Hint: refused.Remedy}
	}
	return err
}

// growth foretells what becomes of partitions on a machine's disks; nothing where they are
// not known, or where the deploy will be refused.
func growth(m *image.Manifest, disks []protocol.Disk, text string) []string {
	grow, err := image.ParseGrow(text)
	if err != nil || len(disks) != len(m.Disks) {
		return nil
	}
	var out []string
	for i, d := range disks {
		g := clone.Geometry{Size: quantity.Bytes(d.Bytes), LogicalSector: quantity.SectorSize(d.LogicalSector)}
		plan, err := deploy.PlanGrowth(&m.Disks[i], g, grow[i])
		if err != nil {
			return nil
		}
		for _, p := range plan {
			out = append(out, p.String())
		}
	}
	return out
}
