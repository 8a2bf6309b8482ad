package api

import (
	"strings"
	"testing"

	"clonecast/internal/clone/deploy"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"

	"github.com/google/go-cmp/cmp"
)

// TestForetold foretells a deploy from what machines say of their disks, true or not.
func TestForetold(t *testing.T) {
	const mib = quantity.MiB
	m := &image.Manifest{Disks: []image.Disk{{
		Size: 100 * mib, LogicalSector: 512, TableKind: "none",
		Partitions: []image.Partition{{
			Mode: image.ModeClone, Filesystem: image.Filesystem{Type: "ntfs"}, Content: image.Content{Length: 100 * mib},
		}},
	}}}
	const noRoom = "partition 0 (ntfs): stays at 100.0 MiB: the disk has no free room behind it"
	for name, tc := range map[string]struct {
		disks   []protocol.Disk
		grow    string
		want    []string
		refused string
	}{
		"larger": {[]protocol.Disk{{Bytes: 300 << 20, LogicalSector: 512}}, "last",
			[]string{"partition 0 (ntfs): 100.0 MiB to 300.0 MiB"}, ""},
		"as large":      {[]protocol.Disk{{Bytes: 100 << 20, LogicalSector: 512}}, "0", []string{noRoom}, ""},
		"not asked":     {[]protocol.Disk{{Bytes: 300 << 20, LogicalSector: 512}}, "", nil, ""},
		"unknown disks": {nil, "last", nil, ""},
		"too small":     {[]protocol.Disk{{Bytes: 99 << 20, LogicalSector: 512}}, "last", nil, "the target has 99.0 MiB"},
		"other sectors": {[]protocol.Disk{{Bytes: 300 << 20, LogicalSector: 4096}}, "last", nil, "sectors of 512 bytes"},
		"hostile":       {[]protocol.Disk{{Bytes: -1 << 63, LogicalSector: -1}}, "last", nil, ""},
	} {
		plan, err := foretold(m, tc.disks, tc.grow)
		if tc.refused != "" {
			if err == nil || !strings.Contains(err.Error(), tc.refused) {
				t.Errorf("%s: %v, want refused with %q", name, err, tc.refused)
			}
			continue
		}
		var got []string
		for _, d := range plan {
			if len(d.Regions) != 1 || d.Regions[0].Fate != deploy.Write {
				t.Errorf("%s: regions %+v", name, d.Regions)
			}
			for _, g := range d.Growth {
				got = append(got, g.String())
			}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}
