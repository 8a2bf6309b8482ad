package sessions

import (
	"testing"
	"time"

	"clonecast/internal/protocol"
)

func TestBegins(t *testing.T) {
	now := time.Unix(1e9, 0)
	all, two := protocol.StartRule{}, protocol.StartRule{Machines: 2}
	soon := protocol.StartRule{WaitSeconds: 60}
	past, future := protocol.StartRule{At: 1e9}, protocol.StartRule{At: 1e9 + 1}
	manual := protocol.StartRule{Manual: true, Machines: 1, WaitSeconds: 1}
	for name, tc := range map[string]struct {
		rule              protocol.StartRule
		waited            time.Duration // since the first machine joined
		present, expected int
		want              bool
	}{
		"nobody":              {all, time.Hour, 0, 3, false},
		"nobody at the time":  {past, time.Hour, 0, 3, false},
		"not all":             {all, 299 * time.Second, 2, 3, false},
		"all":                 {all, 0, 3, 3, true},
		"all that are left":   {all, 0, 2, 2, true},
		"more than expected":  {all, 0, 3, 2, true},
		"patience":            {all, 300 * time.Second, 1, 3, true},
		"two":                 {two, 0, 2, 3, true},
		"one of two":          {two, 0, 1, 3, false},
		"two, one is left":    {two, 0, 1, 1, true},
		"two, patience":       {two, 300 * time.Second, 1, 3, true},
		"own patience":        {soon, time.Minute, 1, 3, true},
		"within own patience": {soon, 59 * time.Second, 1, 3, false},
		"time has come":       {past, 0, 1, 3, true},
		"time is to come":     {future, time.Hour, 3, 3, false},
		"on command":          {manual, time.Hour, 3, 3, false},
	} {
		if got := begins(tc.rule, now, now.Add(-tc.waited), tc.present, tc.expected); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	if at := startsAt(all, time.Time{}); !at.IsZero() {
		t.Errorf("a session that nobody has joined starts at %v", at)
	}
}
