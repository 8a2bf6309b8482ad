package querier

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"clonecast/internal/multicast/igmp"
)

var (
	low   = netip.MustParseAddr("10.0.0.1")
	our   = netip.MustParseAddr("10.0.0.5")
	high  = netip.MustParseAddr("10.0.0.9")
	plain = igmp.Query{Version: 2, MaxResponse: 100, Group: netip.IPv4Unspecified()}
)

// heard is a query that reaches the querier at a time, or with hurry a call of Hurry.
type heard struct {
	at    int // seconds
	from  netip.Addr
	query igmp.Query
	hurry bool
}

// queries runs a querier on a virtual clock and lists when it queries: "130" or, with quick answers, "130!".
func queries(q *Querier, until int, events ...heard) []string {
	var out []string
	for now := time.Duration(0); now <= time.Duration(until)*time.Second; {
		for len(events) > 0 && time.Duration(events[0].at)*time.Second <= now {
			if e := events[0]; e.hurry {
				q.Hurry(now)
			} else {
				q.Hear(now, e.from, e.query)
			}
			events = events[1:]
		}
		query, due, wait := q.Next(now)
		if due {
			mark := ""
			if query.MaxResponse == 10 {
				mark = "!"
			}
			out = append(out, fmt.Sprint(now.Seconds(), mark))
			continue
		}
		now += wait
		if len(events) > 0 {
			now = min(now, max(time.Duration(events[0].at)*time.Second, 0))
		}
	}
	return out
}

func TestElection(t *testing.T) {
	slow := igmp.Query{Version: 3, MaxResponse: 100, Group: netip.IPv4Unspecified(), Robustness: 3, Interval: 200}
	never := igmp.Query{Version: 3, MaxResponse: 100, Group: netip.IPv4Unspecified(), Robustness: 7, Interval: 31744}
	specific := igmp.Query{Version: 2, MaxResponse: 10, Group: netip.MustParseAddr("239.1.1.1")}
	for name, tc := range map[string]struct {
		events []heard
		until  int
		want   []string
		state  State
	}{
		"alone": {nil, 450, []string{"130", "161.25", "286.25", "411.25"}, Querying},
		"a querier is there": {[]heard{
			{100, high, plain, false}, {225, high, plain, false}, {350, high, plain, false},
		}, 600, nil, Yielding},
		"the querier falls silent": {[]heard{{100, high, plain, false}}, 400, []string{"355", "386.25"}, Querying},
		"a lower one comes later": {[]heard{
			{140, low, plain, false}, {265, low, plain, false},
		}, 500, []string{"130"}, Yielding},
		"a higher one comes later": {[]heard{{140, high, plain, false}}, 200, []string{"130", "161.25"}, Querying},
		"its own words come back":  {[]heard{{140, our, plain, false}}, 200, []string{"130", "161.25"}, Querying},
		"a switch that stands in": {[]heard{
			{100, netip.IPv4Unspecified(), plain, false},
		}, 140, []string{"130"}, Querying},
		"a query for one group":           {[]heard{{100, low, specific, false}}, 140, []string{"130"}, Querying},
		"the other one's times count":     {[]heard{{0, low, slow, false}}, 620, []string{"605"}, Querying},
		"nobody may be silent for longer": {[]heard{{0, low, never, false}}, 3610, []string{"3600"}, Querying},
		"hurry makes it begin":            {[]heard{{1, our, plain, true}}, 140, []string{"1!", "32.25"}, Querying},
		"hurry, once in ten seconds": {[]heard{
			{1, our, plain, true}, {2, our, plain, true}, {10, our, plain, true}, {11, our, plain, true},
		}, 20, []string{"1!", "11!"}, Querying},
		"hurry does not take a querier's place": {[]heard{
			{1, high, plain, false}, {2, our, plain, true},
		}, 200, nil, Yielding},
		"hurry while querying": {[]heard{{170, our, plain, true}}, 300, []string{"130", "161.25", "170!", "295"}, Querying},
		"after hurry a lower one takes its place": {[]heard{
			{1, our, plain, true}, {3, low, plain, false},
		}, 200, []string{"1!"}, Yielding},
	} {
		q := New(0, our)
		got := queries(q, tc.until, tc.events...)
		if state, _ := q.State(); !slices.Equal(got, tc.want) || state != tc.state {
			t.Errorf("%s: queries at %v, then %v; want %v, %v", name, got, state, tc.want, tc.state)
		}
	}
}

// TestTwo runs two queriers that hear each other: the lower address stays.
func TestTwo(t *testing.T) {
	a, b := New(0, low), New(20*time.Second, high)
	last := time.Duration(0)
	for now := time.Duration(0); now < time.Hour; now += time.Second / 4 {
		if query, due, _ := b.Next(now); due {
			last = now
			a.Hear(now, high, query)
		}
		if query, due, _ := a.Next(now); due {
			b.Hear(now, low, query)
		}
	}
	stateA, _ := a.State()
	if stateB, other := b.State(); stateA != Querying || stateB != Yielding || other != low || last > 3*time.Minute {
		t.Errorf("the lower one is %v, the higher one %v to %v, and queried until %v", stateA, stateB, other, last)
	}
}
