package agent

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"clonecast/internal/blockdev"
	"clonecast/internal/clone/layout"
	"clonecast/internal/disktest"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"
)

// TestDeployGrows orders two partitions to grow: NTFS, which the engine does, and ext4,
// for which the kernel is given its modules and asked. Build machines lack the capability
// that it wants for ext4; then the report must say so.
func TestDeployGrows(t *testing.T) {
	const mib = quantity.MiB
	path := disktest.Image(t, diskSize)
	disktest.Run(t, "label: dos\nstart=2048, size=8192, type=83\nstart=12288, size=10240, type=7\n", "sfdisk", "-q", path)
	first, second := quantity.Extent{Start: mib, Length: 4 * mib}, quantity.Extent{Start: 6 * mib, Length: 5 * mib}
	disktest.Run(t, "", "mke2fs", "-q", "-t", "ext4", disktest.LoopPart(t, path, first))
	disktest.Run(t, "", "mkntfs", "-q", "-F", "-Q", disktest.LoopPart(t, path, second))
	source := blockdev.Facts{Name: "source", Path: path, Size: diskSize, Model: "Test Disk", Serial: "source", Bus: "sata"}
	s := newTestServer(t, newAuthority(t, nil), protocol.Operation{Kind: protocol.OpCapture, Image: "lab"})
	if _, err := newBench(t, s, source).run(); err != nil {
		t.Fatalf("capture: %v", err)
	}

	target := diskFile(t, "target", true)
	if err := os.Truncate(target.Path, int64(3*diskSize)); err != nil {
		t.Fatal(err)
	}
	s.ops = []protocol.Operation{
		{Kind: protocol.OpDeploy, Image: "lab", Version: s.published.Version, TaskID: "t2", Grow: "1,2"},
	}
	s.statuses = nil
	b := newBench(t, s, target)
	var modules []string
	b.agent.config.LoadModule = func(name string) error {
		modules = append(modules, name)
		return nil
	}
	if outcome, err := b.run(); outcome != LocalBoot || err != nil {
		t.Fatalf("Run = %v, %v", outcome, err)
	}
	var r deployResult
	if err := json.Unmarshal(s.statuses[0].Result, &r); err != nil || len(r.Grown) != 2 {
		t.Fatalf("result = %s, %v", s.statuses[0].Result, err)
	}
	ext, ntfs := r.Grown[0], r.Grown[1]
	if ext.To != 5*mib || ext.Volume == 0 && !strings.Contains(ext.Note, "CAP_SYS_RESOURCE") {
		t.Errorf("ext4: %+v", ext)
	}
	if ntfs.To != 3*diskSize-6*mib || ntfs.Volume < ntfs.To-64*quantity.KiB || ntfs.Note != "" {
		t.Errorf("NTFS: %+v", ntfs)
	}
	if !slices.Equal(modules, []string{"loop", "ext4"}) {
		t.Errorf("modules %q were loaded", modules)
	}
	if ext.Note != "" && (len(s.statuses[0].Notes) != 1 || !strings.Contains(b.screen.String(), "grow: "+ext.String())) {
		t.Errorf("notes %q, screen:\n%s", s.statuses[0].Notes, b.screen)
	}
	disk, geometry, err := MachineDisks{}.Open(target.Path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	l, err := layout.Inspect(disk, geometry)
	if err != nil || len(l.Partitions) != 2 || l.Partitions[1].Reason != "" {
		t.Fatalf("Inspect = %+v, %v", l, err)
	}
	for i, check := range []string{"e2fsck -fn DEV", "ntfsresize -i -f DEV"} {
		p := l.Partitions[i]
		if p.Length != r.Grown[i].To {
			t.Errorf("partition %d has %d bytes", p.Number, p.Length)
		}
		part := quantity.Extent{Start: p.Start, Length: p.Length}
		disktest.Command(t, check, "DEV", disktest.LoopPart(t, target.Path, part))
	}
}
