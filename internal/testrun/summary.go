package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

const slowest = 10 // tests that are named with their times

// result is what came of all tests.
type result struct {
	first *tested
	again map[string]*testedPackage // those that were run twice
}

func (r result) passed() bool {
	return r.first.err == nil && !slices.ContainsFunc(r.first.failed(), func(p *testedPackage) bool { return !r.flaky(p) })
}

// flaky tells whether a package that failed has passed the second time.
func (r result) flaky(p *testedPackage) bool {
	again := r.again[p.name]
	return again != nil && again.state == "pass"
}

// String is what stands at the end of a run.
func (r result) String() string {
	var b strings.Builder
	r.writeTimes(&b)
	for _, p := range r.first.failed() {
		if r.flaky(p) {
			fmt.Fprintf(&b, "FLAKY: %s: failed, then passed when it was run again alone\n", p.culprits())
		} else {
			fmt.Fprintf(&b, "FAILED: %s\n", cmp.Or(r.again[p.name], p).culprits())
		}
	}
	failed := 0
	if r.first.err != nil {
		fmt.Fprintf(&b, "FAILED: %v\n", r.first.err)
		failed++
	}
	passed := 0
	for _, p := range r.first.packages {
		good, bad := cmp.Or(r.again[p.name], p).count()
		passed, failed = passed+good, failed+bad
	}
	fmt.Fprintf(&b, "%d passed, %d failed\n", passed, failed)
	return b.String()
}

// writeTimes writes how long packages and the slowest tests took.
func (r result) writeTimes(b *strings.Builder) {
	byTime := func(p, q *testedPackage) int { return cmp.Compare(q.seconds, p.seconds) }
	fmt.Fprintln(b, "Seconds of each package:")
	type timed struct {
		name    string
		seconds float64
	}
	var tests []timed
	for _, p := range slices.SortedFunc(slices.Values(r.first.packages), byTime) {
		if len(p.tests) > 0 {
			fmt.Fprintf(b, "%8.1f %s\n", p.seconds, p.name)
		}
		for _, t := range p.tests {
			if !t.part() {
				tests = append(tests, timed{p.name + " " + t.name, t.seconds})
			}
		}
	}
	slices.SortFunc(tests, func(s, t timed) int {
		return cmp.Or(cmp.Compare(t.seconds, s.seconds), cmp.Compare(s.name, t.name))
	})
	fmt.Fprintln(b, "Seconds of the slowest tests:")
	for _, t := range tests[:min(slowest, len(tests))] {
		fmt.Fprintf(b, "%8.1f %s\n", t.seconds, t.name)
	}
}

// part tells whether a test is a part of another one.
func (t *testedTest) part() bool { return strings.Contains(t.name, "/") }

func (t *testedTest) passed() bool { return t.state == "pass" || t.state == "skip" }

// culprits names a package and those of its tests that failed or did not end; of a test with parts, the parts.
func (p *testedPackage) culprits() string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(p.tests)) {
		if p.tests[name].passed() {
			continue
		}
		if n := len(names); n > 0 && strings.HasPrefix(name, names[n-1]+"/") {
			n--
			names = names[:n]
		}
		names = append(names, name)
	}
	return strings.Join(append([]string{p.name}, names...), " ")
}

// count gives the numbers of tests that passed and failed. A package can fail without any.
func (p *testedPackage) count() (passed, failed int) {
	for _, t := range p.tests {
		switch {
		case t.part():
		case t.state == "pass":
			passed++
		case !t.passed():
			failed++
		}
	}
	if p.state == "fail" {
		failed = max(failed, 1)
	}
	return passed, failed
}
