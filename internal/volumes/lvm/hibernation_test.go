package lvm

import (
	"bytes"
	"os"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/quantity"
)

// suspended puts the header of a hibernated system at a place.
func suspended(b []byte, at quantity.Bytes) { copy(b[at+4086:], "S1SUSPEND\x00") }

// TestHibernation looks for hibernated systems in groups of which no map is given.
func TestHibernation(t *testing.T) {
	sound := newPV(t)
	const two = 5 * quantity.MiB // where the second logical volume begins
	const first = "physical_volumes {"
	other := first + " other {\nid = \"x\"\npe_start = 2048\npe_count = 1\n}\n"
	for name, tc := range map[string]struct {
		edit func(b []byte)
		at   quantity.Bytes
		want bool
	}{
		"another physical volume is listed first": {replace(first, other), two, true},
		"another one is listed behind": {replace("logical_volumes {", "x {\n}\nlogical_volumes {"), two,
			false}, // no doubt
		"shared": {replace("extent_size", "lock_type = \"sanlock\"\nextent_size"),
			two, true},
		"elsewhere": {replace(first, other), two + quantity.MiB, false},
		"on the other physical volume": {func(b []byte) {
			replace(first, other)(b)
			replace("\"pv0\", 4",
				"\"other\", 4")(b)
		}, two, false},
		"behind the end": {func(b []byte) {
			replace(first, other)(b)
			replace("\"pv0\", 4",
				"\"pv0\", 99999999999")(b)
		}, two, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(sound)
			tc.edit(b)
			suspended(b, tc.at)
			_, doubt, err := read(b)
			if err != nil {
				t.Fatal(err)
			}
			if got := doubt != nil && doubt.Hibernated && doubt.Refuse; got != tc.want {
				t.Errorf("doubt %+v, hibernated: want %v", doubt, tc.want)
			}
		})
	}
	for name, command := range map[string]string{
		"exported":                "vgexport lab",
		"a volume of type zero":   "lvcreate -y -an -Zn -Wn --type zero -L 8m -n zero lab",
		"no doubt: left to probe": "",
	} {
		t.Run(name, func(t *testing.T) {
			path := disktest.Image(t, 32*quantity.MiB)
			dev := disktest.Loop(t, path, 512)
			disktest.LVM(t, dev, "pvcreate -y DEV", "vgcreate -s 1m lab DEV",
				"lvcreate -y -an -Zn -Wn -L 4m -n swap lab")
			if command != "" {
				disktest.LVM(t, dev, command)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			suspended(b, quantity.MiB)
			_, doubt, err := read(b)
			if err != nil || (doubt != nil && doubt.Hibernated) != (command != "") {
				t.Errorf("doubt %+v, %v", doubt, err)
			}
		})
	}
}
