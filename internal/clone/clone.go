// Package clone is the vocabulary of the engine that captures disks into versions and deploys
// versions to disks. The engine's parts are its children, each of which decides first and acts
// then; what was decided is a value that can be shown, compared and refused:
//
//	layout   disk → Layout: what is on a disk, and how each part of it is captured
//	capture  Layout → Plan → version
//	deploy   version and target → Plan → the target holds the version
//	follow   a version that is still being captured → Plans, part by part
//
// None of them knows a device or a network: disks and stores come in as interfaces.
//
// Here stands what all of them share: how a region of a disk is cut into chunks (Piece),
// how these are read and compared with what they should be, and the kinds of errors.
package clone

import (
	"fmt"

	"clonecast/internal/quantity"
)

// Geometry is what a disk says of itself.
type Geometry struct {
	Size           quantity.Bytes      `json:"size"`
	LogicalSector  quantity.SectorSize `json:"logical_sector"`
	PhysicalSector quantity.SectorSize `json:"physical_sector"`
	Model          string              `json:"model,omitempty"`
	Serial         string              `json:"serial,omitempty"`
}

// Progress is called as work goes on: bytes done of total in a phase. It must be fast.
type Progress func(phase string, done, total quantity.Bytes)

// Phases of Progress.
const (
	PhaseRead    = "read"
	PhaseCompare = "compare"
	PhaseWrite   = "write"
	PhaseVerify  = "verify"
	PhaseFollow  = "follow"
)

// OfDisk names the disk, counted from 0, that an error is about if there are several.
func OfDisk(err error, disk, count int) error {
	if err == nil || count == 1 {
		return err
	}
	return fmt.Errorf("disk %d: %w", disk+1, err)
}
