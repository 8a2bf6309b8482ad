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

// foretold says what a deploy does to the disks of a machine, as far as that follows from what is known of them. A
// machine whose disks are not known, or not as many, has no plan. The error says why the machine will refuse.
func foretold(m *image.Manifest, disks []protocol.Disk, text string) ([]deploy.DiskPlan, error) {
	grow, err := image.ParseGrow(text)
	if err != nil || len(disks) != len(m.Disks) {
		return nil, err
	}
	var plan []deploy.DiskPlan
	for i, d := range disks {
		if d.Bytes <= 0 || d.LogicalSector <= 0 {
			return nil, nil
		}
		g := clone.Geometry{Size: quantity.Bytes(d.Bytes), LogicalSector: quantity.SectorSize(d.LogicalSector)}
		p, err := deploy.Foretell(&m.Disks[i], g, grow[i])
		if err != nil {
			return nil, err
		}
		plan = append(plan, p)
	}
	return plan, nil
}
