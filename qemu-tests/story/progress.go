package story

import "clonecast/qemu-tests/lab"

// tellProgress says how far the PCs of a task are, at every new quarter of a phase.
func tellProgress(say Say) func(lab.Task) {
	type operation struct{ task, machine, phase string }
	reported := map[operation]int64{} // the quarter
	return func(t lab.Task) {
		for _, run := range t.Runs {
			for _, op := range run.Operations {
				p := op.Progress
				if op.State != "running" || p == nil || p.Total <= 0 {
					continue
				}
				at, quarter := operation{t.ID, run.Machine, p.Phase}, 4*p.Done/p.Total
				if last, seen := reported[at]; seen && quarter <= last {
					continue
				}
				reported[at] = quarter
				say("    %s: %s, %s: %d %% of %s", run.Machine, op.Kind, p.Phase, 100*p.Done/p.Total, mib(p.Total))
			}
		}
	}
}
