package diskrule

import (
	"fmt"
	"slices"

	"clonecast/internal/quantity"
)

// Want is a captured disk that looks for its target.
type Want struct {
	Model string
	Size  quantity.Bytes // of the captured disk
	Need  quantity.Bytes // smallest target that can hold it
}

// Assign gives for each captured disk the index of its target among disks. With a rule for
// each, these decide. With one rule, it has to fit as many disks as are wanted; which is
// for which follows from model and size, then from the size, then from what can hold what,
// and is refused where that leaves a choice. The error is an *Error or an *AssignError.
func Assign(rules []Rule, disks []Disk, wants []Want) ([]int, error) {
	if len(rules) == 1 && len(wants) > 1 {
		return rules[0].assign(disks, wants)
	}
	if len(rules) != len(wants) {
		return nil, &AssignError{Problem: fmt.Sprintf("%d rules are given for %d disks", len(rules), len(wants))}
	}
	var chosen []int
	for _, r := range rules {
		i, err := r.Choose(disks)
		if err != nil {
			return nil, err
		}
		if slices.Contains(chosen, i) {
			return nil, &AssignError{Problem: fmt.Sprintf("two rules name the same disk, %s", disks[i])}
		}
		chosen = append(chosen, i)
	}
	return chosen, nil
}

// AssignError reports that no target can be chosen for each captured disk.
type AssignError struct{ Problem string }

func (e *AssignError) Error() string { return e.Problem }

// Hint says what to do.
func (e *AssignError) Hint() string {
	return "give one rule for each disk of the image, in its order: serial=…"
}

// All gives the indices of the disks that fit the rule, at least one of them.
func (r Rule) All(disks []Disk) ([]int, error) {
	var fit []int
	for i, d := range disks {
		if r.Mismatch(d) == "" {
			fit = append(fit, i)
		}
	}
	if len(fit) == 0 {
		_, err := r.Choose(disks)
		return nil, err
	}
	return fit, nil
}

func (r Rule) assign(disks []Disk, wants []Want) ([]int, error) {
	fit, err := r.All(disks)
	if err != nil {
		return nil, err
	}
	if len(fit) != len(wants) {
		e := &Error{Rule: r, Matches: len(fit)}
		for _, d := range disks {
			e.Verdicts = append(e.Verdicts, Verdict{d, r.Mismatch(d)})
		}
		return nil, fmt.Errorf("the image has %d disks: %w", len(wants), e)
	}
	for _, likes := range []func(Want, Disk) bool{
		func(w Want, d Disk) bool { return w.Model == d.Model && w.Size == d.Size },
		func(w Want, d Disk) bool { return w.Size == d.Size },
		func(w Want, d Disk) bool { return w.Need <= d.Size },
	} {
		if chosen := onlyMatching(fit, len(wants), func(w, d int) bool { return likes(wants[w], disks[d]) }); chosen != nil {
			return chosen, nil
		}
	}
	return nil, &AssignError{Problem: fmt.Sprintf("which of the %d disks that fit the rule %q is which of the image's "+
		"cannot be told from their models and sizes", len(fit), r)}
}

// onlyMatching gives the one way to pair each of n wants with a disk of its own, nil if
// there is none or more than one. A single way always has a want with a single candidate.
func onlyMatching(disks []int, n int, likes func(want, disk int) bool) []int {
	chosen := make([]int, n)
	free := slices.Clone(disks)
	open := make(map[int]bool, n)
	for w := range n {
		open[w] = true
	}
	for len(open) > 0 {
		found := false
		for w := range n {
			if !open[w] {
				continue
			}
			var candidates []int
			for _, d := range free {
				if likes(w, d) {
					candidates = append(candidates, d)
				}
			}
			if len(candidates) != 1 {
				continue
			}
			chosen[w], found = candidates[0], true
			delete(open, w)
			free = slices.DeleteFunc(free, func(d int) bool { return d == candidates[0] })
		}
		if !found {
			return nil
		}
	}
	return chosen
}
