package sessions

import (
	"time"

	"clonecast/internal/protocol"
)

// begins tells whether a session that waits is to start. firstJoin is when the first machine joined (zero: none has),
// present how many are there, expected how many of the task are not over.
func begins(rule protocol.StartRule, now, firstJoin time.Time, present, expected int) bool {
	if present == 0 || rule.Manual {
		return false
	}
	if rule.At == 0 && present >= wanted(rule, expected) {
		return true
	}
	at := startsAt(rule, firstJoin)
	return !at.IsZero() && !now.Before(at)
}

// wanted is how many machines a session waits for. It does not wait for more than can come.
func wanted(rule protocol.StartRule, expected int) int {
	if rule.Machines > 0 {
		return min(rule.Machines, expected)
	}
	return expected
}

// startsAt is when a session begins at the latest, zero when no time is set.
func startsAt(rule protocol.StartRule, firstJoin time.Time) time.Time {
	switch {
	case rule.Manual:
		return time.Time{}
	case rule.At != 0:
		return time.Unix(rule.At, 0)
	case firstJoin.IsZero():
		return time.Time{}
	}
	wait := rule.WaitSeconds
	if wait == 0 {
		wait = protocol.DefaultWait
	}
	return firstJoin.Add(time.Duration(wait) * time.Second)
}
