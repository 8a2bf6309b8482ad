package api

import (
	"testing"

	"clonecast/internal/image"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"

	"github.com/google/go-cmp/cmp"
)

// TestGrowth foretells from what machines say of their disks, true or not.
func TestGrowth(t *testing.T) {
	const mib = quantity.MiB
	m := &image.Manifest{Disks: []image.Disk{{
		Size: 100 * mib, LogicalSector: 512, TableKind: "none",
		Partitions: []image.Partition{{
			Mode: image.ModeClone, Filesystem: image.Filesystem{Type: "ntfs"}, Content: image.Content{Length: 100 * mib},
		}},
	}}}
	const noRoom = "partition 0 (ntfs): stays at 100.0 MiB: the disk has no free room behind it"
	for name, tc := range map[string]struct {
		disks []protocol.Disk
		grow  string
		want  []string
	}{
		"larger": {[]protocol.Disk{{Bytes: 300 << 20, LogicalSector: 512}}, "last",
			[]string{"partition 0 (ntfs): 100.0 MiB to 300.0 MiB"}},
		"as large":       {[]protocol.Disk{{Bytes: 100 << 20, LogicalSector: 512}}, "0", []string{noRoom}},
		"not asked":      {[]protocol.Disk{{Bytes: 300 << 20, LogicalSector: 512}}, "", nil},
		"unknown disks":  {nil, "last", nil},
		"a hostile size": {[]protocol.Disk{{Bytes: -1 << 63, LogicalSector: -1}}, "last", []string{noRoom}},
	} {
		if diff := cmp.Diff(tc.want, growth(m, tc.disks, tc.grow)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
