package ext4

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/quantity"
)

// TestSwapFiles looks for hibernated systems in the swap files of file systems that were not
// unmounted. The kernel writes the signature (kernel/power/swap.c, mark_swapfiles).
func TestSwapFiles(t *testing.T) {
	for _, tc := range []struct {
		name, mkfs string
		dirty      string // debugfs command
	}{
		{"ext4", "mke2fs -q -t ext4", "feature +needs_recovery"},
		{"ext4, small blocks", "mke2fs -q -t ext4 -b 1024 -O ^has_journal,metadata_csum", "ssv state 0"},
		{"ext3", "mke2fs -q -t ext3", "feature +needs_recovery"},
		{"ext2, no checksums", "mke2fs -q -t ext2 -b 1024", "ssv state 0"},
	} {
		for _, signature := range []string{"S1SUSPEND\x00", "SWAPSPACE2"} {
			t.Run(fmt.Sprintf("%s/%.9s", tc.name, signature), func(t *testing.T) {
				dir := t.TempDir()
				deep := filepath.Join(dir, "var", "lib", "any name")
				if err := os.MkdirAll(deep, 0o700); err != nil {
					t.Fatal(err)
				}
				for i := range 300 { // so that the swap file is in no first block of a table
					if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte("x"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				file := filepath.Join(deep, "swap")
				disktest.Run(t, "", "sh", "-ec", "head -c 8M /dev/urandom >'"+file+"'; mkswap -q '"+file+"'")
				f := disktest.Open(t, file)
				if _, err := f.WriteAt([]byte(signature), 4086); err != nil {
					t.Fatal(err)
				}
				path := disktest.Image(t, 64*quantity.MiB)
				disktest.Run(t, "", "sh", "-ec", tc.mkfs+" -d "+dir+" "+path)
				if v := disktest.Volume(t, path, Read); v.Doubt != nil {
					t.Fatalf("clean: doubt %+v", v.Doubt)
				}
				disktest.Run(t, "", "debugfs", "-w", "-R", tc.dirty, path)
				d := disktest.Volume(t, path, Read).Doubt
				hibernated := signature != "SWAPSPACE2"
				if d == nil || d.Hibernated != hibernated || d.Refuse != hibernated || hibernated && d.Replay {
					t.Fatalf("doubt %+v, hibernated is %v", d, hibernated)
				}
				if hibernated && !strings.Contains(d.Reason, "swap file (inode ") {
					t.Errorf("reason %q", d.Reason)
				}
			})
		}
	}
}

// TestSwapFilesUnreadable: where it cannot be told whether a system is hibernated, no journal may
// be replayed.
func TestSwapFilesUnreadable(t *testing.T) {
	path := disktest.Image(t, 64*quantity.MiB)
	disktest.Run(t, "", "sh", "-ec", "mke2fs -q -t ext4 "+path+"; debugfs -w -R 'feature +needs_recovery' "+path)
	f := disktest.Open(t, path)
	v, err := Read(f, 64*quantity.MiB)
	if err != nil || !v.Doubt.Replay {
		t.Fatalf("sound: %+v, %v", v.Doubt, err)
	}
	rd := reader{r: f, fsType: "ext4"}
	raw := make([]byte, superblockSize)
	if _, err := f.ReadAt(raw, superblockOffset); err != nil {
		t.Fatal(err)
	}
	sb, _, err := parseSuperblock(raw)
	if err != nil {
		t.Fatal(err)
	}
	rd.geometry, _ = newGeometry(&sb, 64*quantity.MiB)
	g, err := rd.group(0)
	if err != nil {
		t.Fatal(err)
	}
	bad := &disktest.Faulty{ReaderAt: f, Bad: []quantity.Extent{{Start: rd.offset(g.inodeTable), Length: 512}}}
	v, err = Read(bad, 64*quantity.MiB)
	if err != nil || v.Doubt == nil || v.Doubt.Replay || v.Doubt.Refuse ||
		!strings.Contains(v.Doubt.Reason, "not known") {
		t.Errorf("unreadable inode table: %+v, %v, want a doubt without replay", v.Doubt, err)
	}
}
