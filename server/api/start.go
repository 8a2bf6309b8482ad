package api

import (
	"fmt"
	"time"

	"clonecast/internal/protocol"
)

// SessionOrder says whether an order uses multicast, and when its session begins.
type SessionOrder struct {
	Multicast     bool      `json:"multicast,omitempty" doc:"deploy, cast: one transfer for all machines"`
	StartWhen     int       `json:"start_when,omitempty" doc:"begin when so many machines are there; default: all"`
	StartAt       time.Time `json:"start_at,omitzero" doc:"begin at this time instead"`
	StartManually bool      `json:"start_manually,omitempty" doc:"begin on command only"`
	WaitSeconds   int       `json:"wait_seconds,omitempty" doc:"at most so long after the first machine; default: 300"`
}

// maxWait bounds the wait for machines, in seconds.
const maxWait = 24 * 3600

// problem says what is wrong with it in an order.
func (m SessionOrder) problem(kind string, machines int, now time.Time) string {
	rules := 0
	for _, given := range []bool{m.StartWhen > 0, !m.StartAt.IsZero(), m.StartManually} {
		if given {
			rules++
		}
	}
	switch {
	case m.Multicast && kind != protocol.OpDeploy && kind != OrderCast:
		return "multicast is for a deploy"
	case m.Multicast && kind == OrderCast && (rules > 0 || m.WaitSeconds > 0):
		return "the sessions of a cast begin by themselves"
	case !m.Multicast && (rules > 0 || m.WaitSeconds > 0):
		return "when to start is for a deploy by multicast"
	case rules > 1:
		return "a session starts when machines are there, at a time, or manually: name one of these"
	case m.StartWhen > machines:
		return fmt.Sprintf("the session would wait for %d machines, the order has %d", m.StartWhen, machines)
	case !m.StartAt.IsZero() && !m.StartAt.After(now):
		return fmt.Sprintf("the session would start at %s, which is past", m.StartAt.Format("2006-01-02 15:04"))
	case m.StartWhen < 0:
		return fmt.Sprintf("the session would wait for %d machines", m.StartWhen)
	case m.WaitSeconds < 0 || m.WaitSeconds > maxWait:
		return fmt.Sprintf("a wait of %d seconds; at most %d are possible", m.WaitSeconds, maxWait)
	case m.WaitSeconds > 0 && (!m.StartAt.IsZero() || m.StartManually):
		return "a wait is for a session that starts when machines are there"
	}
	return ""
}

// rule is when the session begins, nil without multicast.
func (m SessionOrder) rule() *protocol.StartRule {
	if !m.Multicast {
		return nil
	}
	r := &protocol.StartRule{Machines: m.StartWhen, Manual: m.StartManually, WaitSeconds: m.WaitSeconds}
	if !m.StartAt.IsZero() {
		r.At = m.StartAt.Unix()
	}
	return r
}
