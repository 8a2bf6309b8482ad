package partition_test

import (
	"strconv"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/partition"
)

// The names of types are those that fdisk knows them by.
func TestTypeNames(t *testing.T) {
	known := 0
	for _, label := range []string{"gpt", "dos"} {
		for _, line := range strings.Split(disktest.Run(t, "", "sfdisk", "--list-types", "--label", label), "\n") {
			code, name, ok := strings.Cut(strings.TrimSpace(line), "  ")
			if !ok {
				continue
			}
			typ := strings.ToLower(code)
			if n, err := strconv.ParseUint(code, 16, 8); label == "dos" && err == nil {
				typ = "0x" + strconv.FormatUint(0x100|n, 16)[1:]
			}
			switch got := (partition.Partition{Type: typ}).TypeName(); got {
			case strings.TrimSpace(name):
				known++
			case typ:
			default:
				t.Errorf("type %s is %q, fdisk calls it %q", typ, got, name)
			}
		}
	}
	if known != 23 {
		t.Errorf("fdisk knows %d of the 23 types", known)
	}
}
