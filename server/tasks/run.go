package tasks

import (
	"context"
	"database/sql"
	"fmt"

	"clonecast/internal/protocol"
	"clonecast/server/database"
)

// AddRun orders a task that is not over for one more machine: the same operations from the first on.
func (s *Service) AddRun(ctx context.Context, id, machine string) error {
	t, err := s.Get(ctx, id)
	if err != nil {
		return err
	}
	switch {
	case Over(t.State):
		return problem(protocol.CodeConflict, "order a task for the machine", "task %s is over: %s", id, t.State)
	case len(t.Runs) >= maxMachines:
		return problem(protocol.CodeConflict, "order another task", "task %s has %d machines already", id, len(t.Runs))
	}
	if r, ok := t.run(machine); ok {
		return problem(protocol.CodeConflict, again(r, id), "machine %s is in task %s already: %s", r.Machine, id, r.State)
	}
	var operations []protocol.Operation
	for _, op := range t.Runs[0].Operations {
		if op.Kind == protocol.OpCapture || op.Kind == protocol.OpFollow {
			return problem(protocol.CodeConflict, "order a task for the machine",
				"task %s captures: only a deploy takes more machines", id)
		}
		operations = append(operations, op.Operation)
	}
	return s.change(ctx, id, "add a machine to task "+id, func(tx *sql.Tx) error {
		var number int64
		if err := tx.QueryRow("SELECT id FROM tasks WHERE CAST(id AS TEXT) = $1", id).Scan(&number); err != nil {
			return err
		}
		return createRun(tx, number, machine, operations)
	})
}

// again is what to do with a machine that is in a task already.
func again(r Run, task string) string {
	if r.State == Failed || r.State == Cancelled {
		return "clonecast session retry " + task + " " + r.Machine
	}
	return ""
}

// CancelRun ends what is queued or running of a task on one machine, as Cancel does on all.
func (s *Service) CancelRun(ctx context.Context, id, machine string) error {
	r, err := s.runOf(ctx, id, machine)
	if err != nil {
		return err
	}
	if Over(r.State) {
		return problem(protocol.CodeConflict, "", "task %s is over on machine %s: %s", id, r.Machine, r.State)
	}
	return s.change(ctx, id, "cancel task "+id+" on machine "+machine,
		func(tx *sql.Tx) error { return s.endRun(tx, id, machine, Cancelled) })
}

// RetryRun queues a failed or cancelled run anew. What it has done stays done.
func (s *Service) RetryRun(ctx context.Context, id, machine string) error {
	r, err := s.runOf(ctx, id, machine)
	if err != nil {
		return err
	}
	if r.State != Failed && r.State != Cancelled {
		return problem(protocol.CodeConflict, "",
			"task %s has neither failed nor been cancelled on machine %s: %s", id, r.Machine, r.State)
	}
	return s.change(ctx, id, "retry task "+id+" on machine "+machine, func(tx *sql.Tx) error {
		result, err := tx.Exec(`UPDATE runs SET state = 'queued', ended = 0
			WHERE CAST(task_id AS TEXT) = $1 AND machine_id = $2 AND state IN ('failed', 'cancelled')
			AND EXISTS (SELECT 1 FROM machines WHERE id = runs.machine_id AND state = $3)`, id, machine, protocol.MachineAdopted)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return err // somebody was faster
		}
		_, err = tx.Exec(`UPDATE operations SET state = 'queued', attempts = 0, boot = '', published = '',
				result = '', error = '', hint = '', notes = '[]', started = 0, ended = 0
			WHERE CAST(task_id AS TEXT) = $1 AND machine_id = $2 AND state IN ('failed', 'cancelled', 'skipped')`, id, machine)
		return err
	})
}

func (s *Service) change(ctx context.Context, id, what string, do func(tx *sql.Tx) error) error {
	if err := database.Tx(ctx, s.db, do); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	s.wake(id)
	return nil
}

// runOf gives a task's run on a machine.
func (s *Service) runOf(ctx context.Context, id, machine string) (Run, error) {
	t, err := s.Get(ctx, id)
	if err != nil {
		return Run{}, err
	}
	r, ok := t.run(machine)
	if !ok {
		return Run{}, problem(protocol.CodeNotFound, "'clonecast task show "+id+"' lists its machines",
			"task %s is not for machine %s", id, machine)
	}
	return r, nil
}

func (t Task) run(machine string) (Run, bool) {
	for _, r := range t.Runs {
		if r.MachineID == machine {
			return r, true
		}
	}
	return Run{}, false
}
