package image

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseGrow(t *testing.T) {
	for text, want := range map[string]Grow{
		"":             {},
		"last":         {0: {Last: true}},
		"0":            {0: {Numbers: []int{0}}},
		"2, 5":         {0: {Numbers: []int{2, 5}}},
		"1:last,2:3":   {0: {Last: true}, 1: {Numbers: []int{3}}},
		"2:last,4,2:0": nil,
	} {
		got, err := ParseGrow(text)
		if (err == nil) != (want != nil) || want != nil && !cmp.Equal(got, want) {
			t.Errorf("ParseGrow(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, bad := range []string{
		"first", "-1", "2,", "2,2", "last,2", "2,last", "last,last", "0:1", "65:1", "x:1", "1:", "99999999999999999999",
	} {
		if got, err := ParseGrow(bad); err == nil || got != nil {
			t.Errorf("ParseGrow(%q) = %+v, %v, want an error", bad, got, err)
		}
	}
}
