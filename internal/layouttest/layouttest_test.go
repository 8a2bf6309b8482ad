package layouttest

import (
	"reflect"
	"strings"
	"testing"
)

type good struct {
	A uint16   `offset:"0x0"`
	_ [6]byte  `offset:"0x2"`
	B uint64   `offset:"0x8"`
	C [2]inner `offset:"16"`
}

type inner struct {
	X uint8  `offset:"0x0"`
	Y uint32 `offset:"0x1"`
}

type wrongOffset struct {
	A uint16 `offset:"0x0"`
	B uint32 `offset:"0x4"` // packed: 2
}

type noTag struct {
	A uint16
}

type noNumber struct {
	A uint16 `offset:"first"`
}

type noSize struct {
	A string `offset:"0x0"`
}

func TestProblems(t *testing.T) {
	for _, tc := range []struct {
		name string
		typ  reflect.Type
		size int
		want string // part of the only problem; empty: none
	}{
		{"good", reflect.TypeFor[good](), 26, ""},
		{"nested", reflect.TypeFor[inner](), 5, ""},
		{"wrong size", reflect.TypeFor[good](), 28, "takes 26 bytes, want 28"},
		{"wrong offset", reflect.TypeFor[wrongOffset](), 6, "stands at 0x2, its tag says 0x4"},
		{"no tag", reflect.TypeFor[noTag](), 2, "no offset tag"},
		{"no number", reflect.TypeFor[noNumber](), 2, "no number"},
		{"no fixed size", reflect.TypeFor[noSize](), 2, "no fixed size"},
		{"no struct", reflect.TypeFor[int](), 8, "not a struct"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := problems(tc.typ, tc.size)
			if tc.want == "" {
				if len(got) != 0 {
					t.Fatalf("problems = %q, want none", got)
				}
				return
			}
			if len(got) != 1 || !strings.Contains(got[0], tc.want) {
				t.Fatalf("problems = %q, want one with %q", got, tc.want)
			}
		})
	}
	Check[good](t, 26)
}
