package image

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParsePolicies(t *testing.T) {
	got, err := ParsePolicies([]string{"3=skip,5=raw", "2:3=format", "0=clone"})
	want := Policies{0: {3: ModeSkip, 5: ModeRaw, 0: ModeClone}, 1: {3: ModeFormat}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v; -want +got\n%s", err, diff)
	}
	for _, bad := range []string{
		"", "3", "3=", "3=swap", "x=raw", "0:1=raw", "65:1=raw", "-1=raw", "3=raw,", "3=raw,3=skip", "1:3=raw,3=raw",
		"99999999999999999999=raw",
	} {
		if got, err := ParsePolicies([]string{bad}); err == nil || got != nil {
			t.Errorf("ParsePolicies(%q) = %v, %v, want an error", bad, got, err)
		}
	}
}
