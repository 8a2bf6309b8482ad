package deploy

import (
	"clonecast/internal/diskrule"
	"clonecast/internal/image"
)

// Wants tells what the disks of a version look for in a target.
func Wants(m *image.Manifest) []diskrule.Want {
	var wants []diskrule.Want
	for i := range m.Disks {
		d := &m.Disks[i]
		wants = append(wants, diskrule.Want{Model: d.Model, Size: d.Size, Need: needs(d)})
	}
	return wants
}
