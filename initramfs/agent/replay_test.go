package agent

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"clonecast/internal/blockdev"
	"clonecast/internal/disktest"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"
)

// TestCaptureReplays orders the capture of a disk that was cut off, with and without replay. The
// kernel is given its modules, and the server is told what was changed.
func TestCaptureReplays(t *testing.T) {
	part := quantity.Extent{Start: quantity.MiB, Length: 32 * quantity.MiB}
	path := disktest.Image(t, 34*quantity.MiB)
	disktest.Run(t, "label: dos\nstart=2048, size=65536, type=83\n", "sfdisk", "-q", path)
	dev := disktest.LoopPart(t, path, part)
	disktest.Run(t, "", "mke2fs", "-q", "-t", "ext4", dev)
	path, _ = disktest.Freeze(t, path, dev, "mount -t ext4 DEV DIR", 10, 100*quantity.KiB)
	source := blockdev.Facts{
		Name: "source", Path: path, Size: 34 * quantity.MiB, Model: "Test Disk", Serial: "source", Bus: "sata",
	}
	before := disktest.Run(t, "", "sha256sum", path)

	s := newTestServer(t, newAuthority(t, nil))
	var modules []string
	order := func(replay bool) (captureResult, []string) {
		t.Helper()
		s.ops = []protocol.Operation{{Kind: protocol.OpCapture, Image: "lab", Replay: replay}}
		s.statuses = nil
		b := newBench(t, s, source)
		b.agent.config.LoadModule = func(name string) error {
			modules = append(modules, name)
			return nil
		}
		if outcome, err := b.run(); outcome != LocalBoot || err != nil {
			t.Fatalf("Run = %v, %v\n%s", outcome, err, b.screen)
		}
		var r captureResult
		if err := json.Unmarshal(s.statuses[0].Result, &r); err != nil {
			t.Fatal(err)
		}
		if replay && !strings.Contains(b.screen.String(), "replaying its journal, which changes this disk") {
			t.Errorf("the screen does not say it before:\n%s", b.screen)
		}
		return r, s.statuses[0].Notes
	}
	whole, notes := order(false)
	if len(whole.Replayed) != 0 || len(modules) != 0 || len(notes) != 1 || !strings.Contains(notes[0], "--replay") {
		t.Errorf("without replay: %+v, modules %q, notes %q", whole, modules, notes)
	}
	if now := disktest.Run(t, "", "sha256sum", path); now != before {
		t.Fatal("a capture without replay changes the disk")
	}
	cloned, notes := order(true)
	if len(cloned.Replayed) != 1 || cloned.Replayed[0].Note != "" || cloned.Allocated > whole.Allocated/2 {
		t.Errorf("with replay: %+v, without %+v", cloned, whole)
	}
	if !slices.Equal(modules, []string{"loop", "ext4"}) {
		t.Errorf("modules %q were loaded", modules)
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "its journal was replayed; the disk was changed") {
		t.Errorf("notes %q", notes)
	}
	disktest.Run(t, "", "e2fsck", "-fn", disktest.LoopPart(t, path, part))
}
