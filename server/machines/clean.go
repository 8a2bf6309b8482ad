package machines

import (
	"strings"

	"clonecast/internal/protocol"
	"clonecast/internal/text"
)

// Limits of what a machine may tell of itself.
const (
	maxText  = 128
	maxNICs  = 32
	maxDisks = 64
)

// clean makes facts harmless to store and to show: bounded, valid UTF-8, without
// control characters.
func clean(f protocol.Facts) protocol.Facts {
	for _, s := range []*string{
		&f.UUID, &f.Serial, &f.Manufacturer, &f.Product, &f.Firmware, &f.CPU, &f.Appliance, &f.Class,
	} {
		*s = text.Clean(*s, maxText)
	}
	f.NICs = append([]protocol.NIC(nil), f.NICs[:min(len(f.NICs), maxNICs)]...)
	for i := range f.NICs {
		n := &f.NICs[i]
		for _, s := range []*string{&n.Name, &n.MAC, &n.Driver} {
			*s = text.Clean(*s, maxText)
		}
		n.MAC = strings.ToLower(n.MAC)
	}
	f.Disks = append([]protocol.Disk(nil), f.Disks[:min(len(f.Disks), maxDisks)]...)
	for i := range f.Disks {
		d := &f.Disks[i]
		for _, s := range []*string{&d.Name, &d.Model, &d.Serial, &d.WWN, &d.Bus} {
			*s = text.Clean(*s, maxText)
		}
	}
	return f
}

// checkName tells why name cannot name a machine: it becomes a host name.
func checkName(name string) error {
	if name == "" || len(name) > 63 {
		return invalid("machine name %q: want 1 to 63 characters", name)
	}
	for i, r := range name {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alnum && (r != '-' || i == 0 || i == len(name)-1) {
			return invalid("machine name %q: use letters, digits and inner dashes, as in a host name", name)
		}
	}
	return nil
}
