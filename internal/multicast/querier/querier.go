// Package querier asks a network which multicast groups its hosts want, if nobody else does.
//
// Switches with IGMP snooping send a group only to the ports behind which somebody wants it. They learn that from the
// hosts' answers to general queries and forget it after 260 s. In a network without a querier, as most flat ones
// are, the group then goes nowhere in the middle of a session, or never crosses from one switch to the next.
//
// Querier is the state machine of RFC 3376 section 6.6.2 without socket and clock; Server gives it both.
//
//	listening  at first: whoever is here already shall stay it
//	querying   nobody was heard for a while: two queries in a row, then one every 125 s
//	yielding   a querier with a lower address was heard, or any while listening; until it falls silent
//
// Queries are of version 2: hosts of version 3 understand them too, and switches that know only
// version 2 understand the answers.
//
// Not guaranteed: whoever is in the network can say that it is the querier and then not query. RFC 3376 has no remedy.
package querier

import (
	"net/netip"
	"time"

	"clonecast/internal/multicast/igmp"
)

// Defaults of RFC 3376 section 8.
const (
	robustness    = 2
	queryInterval = 125 * time.Second
	queryResponse = 10 * time.Second
)

// Others of ours.
const (
	listenFor     = queryInterval + queryResponse/2 // a querier is heard in that time
	hurryResponse = time.Second
	hurryEvery    = 10 * time.Second // at most
	longestSilent = time.Hour        // of a querier that says it has long intervals
)

// State is what a querier does.
type State int

// The states.
const (
	Listening State = iota
	Querying
	Yielding
)

func (s State) String() string {
	return [...]string{Listening: "listening", Querying: "querying", Yielding: "yielding"}[s]
}

// Querier decides when to query.
type Querier struct {
	address netip.Addr // ours
	state   State
	other   netip.Addr    // the querier that was heard last
	until   time.Duration // listening, yielding: whether nobody else is here
	queryAt time.Duration // querying: the next query
	startup int           // querying: queries to come in quick succession
	hurry   bool          // querying: answers are wanted soon
	hurried time.Duration // the last time
}

// New makes a querier that listens.
func New(now time.Duration, address netip.Addr) *Querier {
	return &Querier{address: address, until: now + listenFor, hurried: now - hurryEvery}
}

// State is what the querier does, and who the other one is if there is one.
func (q *Querier) State() (State, netip.Addr) {
	if q.state != Yielding {
		return q.state, netip.Addr{}
	}
	return q.state, q.other
}

// Hear takes a query that came from an address. Queries from 0.0.0.0 are made by switches that stand in for a
// querier; they take no part in the election (RFC 4541 section 2.1.1), and ours repeats itself.
func (q *Querier) Hear(now time.Duration, from netip.Addr, query igmp.Query) {
	if !query.General() || !from.Is4() || from.IsUnspecified() || from.IsMulticast() || from == q.address {
		return
	}
	if q.state == Querying && q.address.Less(from) {
		return // it yields to us
	}
	q.state, q.other, q.hurry = Yielding, from, false
	q.until = now + otherPresent(query)
}

// otherPresent is how long a querier may be silent (RFC 3376 section 8.5).
func otherPresent(q igmp.Query) time.Duration {
	r, interval := robustness, queryInterval
	if q.Robustness > 0 {
		r = q.Robustness
	}
	if q.Interval > 0 {
		interval = time.Duration(q.Interval) * time.Second
	}
	return min(time.Duration(r)*interval+time.Duration(q.MaxResponse)*time.Second/20, longestSilent)
}

// Hurry tells that a group does not get to somebody who wants it. If there is no querier this one begins at
// once; if it is the querier, it asks again. It tells whether that is so; not more often than every ten seconds.
func (q *Querier) Hurry(now time.Duration) bool {
	if q.state == Yielding || now-q.hurried < hurryEvery {
		return false
	}
	if q.state == Listening {
		q.begin(now)
	}
	q.hurry, q.hurried, q.queryAt = true, now, now
	return true
}

func (q *Querier) begin(now time.Duration) {
	q.state, q.startup, q.queryAt = Querying, robustness, now
}

// Next gives a query to send to igmp.AllSystems, if one is due, and says how long to wait for the next one.
func (q *Querier) Next(now time.Duration) (query igmp.Query, due bool, wait time.Duration) {
	if q.state != Querying {
		if now < q.until {
			return query, false, q.until - now
		}
		q.begin(now)
	}
	if now < q.queryAt {
		return query, false, q.queryAt - now
	}
	response := queryResponse
	if q.hurry {
		q.hurry, response = false, hurryResponse
	}
	q.startup = max(q.startup-1, 0)
	every := queryInterval
	if q.startup > 0 {
		every /= 4
	}
	q.queryAt = now + every
	query = igmp.Query{Version: 2, MaxResponse: int(response / (time.Second / 10)), Group: netip.IPv4Unspecified()}
	return query, true, every
}
