package partition

import (
	"errors"
	"strings"
	"testing"

	"clonecast/internal/quantity"
)

func TestTableCheck(t *testing.T) {
	part := func(start, length int64) Partition {
		return Partition{Number: 1, Start: quantity.Bytes(start), Length: quantity.Bytes(length)}
	}
	for _, tc := range []struct {
		name  string
		parts []Partition
		want  string
	}{
		{"touching", []Partition{part(512, 512), part(1024, 1024)}, ""},
		{"unordered", []Partition{part(1024, 1024), part(512, 512)}, ""},
		{"overlap", []Partition{part(512, 513), part(1024, 512)}, "overlaps partition 1"},
		{"over an area", []Partition{part(511, 100)}, "overlaps table area"},
		{"past the end", []Partition{part(1024, 1025)}, "inside the disk"},
		{"starts past the end", []Partition{part(4096, 1)}, "inside the disk"},
		{"overflow", []Partition{part(1024, 1<<63-1)}, "inside the disk"},
		{"negative", []Partition{part(-1, 1)}, "inside the disk"},
		{"empty", []Partition{part(1024, 0)}, "inside the disk"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table := Table{Kind: MBR, Partitions: tc.parts, Areas: []Area{{Kind: AreaTable, Length: 512}}}
			err := table.Check(2048)
			var corrupt *CorruptError
			switch {
			case tc.want == "" && err != nil:
				t.Fatalf("Check = %v, want nil", err)
			case tc.want != "" && (!errors.As(err, &corrupt) || !strings.Contains(err.Error(), tc.want)):
				t.Fatalf("Check = %v, want a *CorruptError with %q", err, tc.want)
			}
		})
	}
}
