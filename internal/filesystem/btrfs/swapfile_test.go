package btrfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/quantity"
)

// TestSwapFiles looks for hibernated systems in swap files, as btrfs-progs makes them.
func TestSwapFiles(t *testing.T) {
	for _, tc := range []struct {
		name   string
		steps  []string // in the mounted file system
		file   string
		expect bool // to be found
	}{
		{"at the top", nil, "swapfile", true},
		{"in a directory", []string{"mkdir swap"}, "swap/swapfile", true},
		{"in a subvolume", []string{"btrfs subvolume create @swap", "btrfs subvolume create @"}, "@swap/swapfile",
			true},
		{"of a system in a subvolume", []string{"btrfs subvolume create @", "mkdir @/swap"}, "@/swap/swapfile", true},
		{"elsewhere", []string{"mkdir deep"}, "deep/any name", false}, // documented
	} {
		for _, signature := range []string{"S1SUSPEND\x00", "SWAPSPACE2"} {
			t.Run(fmt.Sprintf("%s/%.9s", tc.name, signature), func(t *testing.T) {
				path := makeImage(t, 256*quantity.MiB, "")
				dir := mount(t, path, "")
				for _, step := range tc.steps {
					disktest.Run(t, "", "sh", "-ec", "cd "+dir+"; "+step)
				}
				file := filepath.Join(dir, tc.file)
				disktest.Run(t, "", "btrfs", "filesystem", "mkswapfile", "--size", "8m", file)
				f, err := os.OpenFile(file, os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				_, err = f.WriteAt([]byte(signature), 4086)
				if f.Close(); err != nil {
					t.Fatal(err)
				}
				for i := range 3000 { // so that the trees have levels
					if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte("x"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				disktest.Unmount(t, dir)
				d := readFile(t, path).Doubt
				hibernated := tc.expect && signature != "SWAPSPACE2"
				if !hibernated && d != nil {
					t.Errorf("doubt %+v", d)
				}
				if hibernated && (d == nil || !d.Hibernated || !d.Refuse || d.Replay ||
					!strings.Contains(d.Reason, "swapfile")) {
					t.Errorf("doubt %+v, want that of a hibernated system", d)
				}
				disktest.Run(t, "", "btrfs", "check", "--readonly", path)
			})
		}
	}
}

// TestSwapFileBesideLog: a log tree must not be replayed under a hibernated system.
func TestSwapFileBesideLog(t *testing.T) {
	path := makeImage(t, 256*quantity.MiB, "")
	dir := mount(t, path, "")
	disktest.Run(t, "", "btrfs", "filesystem", "mkswapfile", "--size", "8m", filepath.Join(dir, "swapfile"))
	for _, signature := range []string{"SWAPSPACE2", "S1SUSPEND\x00"} {
		f, err := os.OpenFile(filepath.Join(dir, "swapfile"), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt([]byte(signature), 4086)
		if f.Close(); err != nil {
			t.Fatal(err)
		}
		disktest.Unmount(t, dir)
		frozen, _ := disktest.Freeze(t, path, disktest.Loop(t, path, 512), "mount -t btrfs DEV DIR", 3, quantity.KiB)
		d := readFile(t, frozen).Doubt
		hibernated := signature != "SWAPSPACE2"
		if d == nil || d.Hibernated != hibernated || d.Replay == hibernated {
			t.Errorf("%.9s: doubt %+v", signature, d)
		}
		dir = mount(t, path, "")
	}
	disktest.Unmount(t, dir)
}
