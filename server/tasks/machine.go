package tasks

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"clonecast/internal/protocol"
	"clonecast/internal/text"
	"clonecast/server/database"
)

// Wants tells whether a machine has something to do in the appliance. It changes
// nothing: anybody on the network can ask. A reboot or power-off that was handed
// out counts as done.
func (s *Service) Wants(ctx context.Context, machine string) (bool, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT spec, state FROM operations
		WHERE machine_id = $1 AND state IN ('queued', 'running')`, machine)
	if err != nil {
		return false, fmt.Errorf("tasks of machine %s: %w", machine, err)
	}
	defer rows.Close()
	for rows.Next() {
		var spec, state string
		if err := rows.Scan(&spec, &state); err != nil {
			return false, fmt.Errorf("tasks of machine %s: %w", machine, err)
		}
		var op protocol.Operation
		if err := json.Unmarshal([]byte(spec), &op); err != nil {
			return false, fmt.Errorf("specification of an operation: %w", err)
		}
		if !(state == Running && ends(op.Kind)) {
			return true, nil
		}
	}
	return false, rows.Err()
}

// ends tells whether an operation ends the boot that does it.
func ends(kind string) bool { return kind == protocol.OpReboot || kind == protocol.OpPoweroff }

// Next gives a machine's next operation, or one of kind OpNone. boot names the boot
// that asks: asking again in the same boot gives the same operation again.
func (s *Service) Next(ctx context.Context, machine, boot string) (protocol.Operation, error) {
	next := protocol.Operation{Kind: protocol.OpNone}
	var touched []string
	failed := false
	err := database.Tx(ctx, s.db, func(tx *sql.Tx) error {
		for {
			task, found, err := currentRun(tx, machine)
			if err != nil || !found {
				return err
			}
			touched = append(touched, task)
			op, found, err := s.advance(tx, task, machine, boot)
			if err != nil {
				return err
			}
			failed = failed || !found
			if found {
				next = op
				return nil
			}
		}
	})
	if err != nil {
		return protocol.Operation{}, fmt.Errorf("next operation of machine %s: %w", machine, err)
	}
	s.wake(touched...)
	if failed {
		s.wakeAll()
	}
	return next, nil
}

// currentRun finds the oldest task of a machine that is not over.
func currentRun(tx *sql.Tx, machine string) (task string, found bool, err error) {
	err = tx.QueryRow("SELECT task_id FROM runs WHERE machine_id = $1 AND state IN ('queued', 'running') "+
		"ORDER BY task_id LIMIT 1", machine).Scan(&task)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	return task, err == nil, err
}

const operationColumns = "spec, state, attempts, boot, published, result, error, hint, notes, started, ended"

func operations(tx *sql.Tx, task, machine string) ([]Operation, error) {
	rows, err := tx.Query("SELECT "+operationColumns+" FROM operations "+
		"WHERE task_id = $1 AND machine_id = $2 ORDER BY position", task, machine)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []Operation
	for rows.Next() {
		op, err := scanOperation(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, op)
	}
	return list, rows.Err()
}

// advance gives the operation of a run that the machine has to do now; without one the
// run is over.
func (s *Service) advance(tx *sql.Tx, task, machine, boot string) (protocol.Operation, bool, error) {
	list, err := operations(tx, task, machine)
	if err != nil {
		return protocol.Operation{}, false, err
	}
	for _, op := range list {
		switch {
		case Over(op.State):
			continue
		case op.State == Running && op.boot == boot:
			return op.Operation, true, nil
		case op.State == Running && (op.published != "" || ends(op.Kind)):
			if err := s.setDone(tx, machine, op.Operation, op.published, nil); err != nil {
				return protocol.Operation{}, false, err
			}
			continue
		case op.Attempts >= MaxAttempts:
			err := s.fail(tx, machine, op.Operation,
				fmt.Sprintf("the machine booted %d times for this operation and never finished it", op.Attempts),
				"look at the machine's screen or serial console during the next attempt; is its power or network failing?", nil)
			return protocol.Operation{}, false, err
		}
		if err := s.hand(tx, machine, boot, op); err != nil {
			return protocol.Operation{}, false, err
		}
		return op.Operation, true, nil
	}
	return protocol.Operation{}, false, s.endRun(tx, task, machine, Done)
}

// hand records that a boot was given an operation.
func (s *Service) hand(tx *sql.Tx, machine, boot string, op Operation) error {
	_, err := tx.Exec(`UPDATE operations SET state = 'running', boot = $4, attempts = attempts + 1,
		started = CASE started WHEN 0 THEN $5 ELSE started END WHERE task_id = $1 AND machine_id = $2 AND position = $3`,
		op.TaskID, machine, op.Index, boot, database.Millis(s.now()))
	if err != nil {
		return err
	}
	_, err = tx.Exec("UPDATE runs SET state = 'running' WHERE task_id = $1 AND machine_id = $2", op.TaskID, machine)
	s.log.Info("operation begins", "machine", machine, "task", op.TaskID,
		"operation", op.Kind, "image", op.Image, "attempt", op.Attempts+1)
	return err
}

func (s *Service) setDone(tx *sql.Tx, machine string, op protocol.Operation, result string, notes []string) error {
	_, err := tx.Exec("UPDATE operations SET state = 'done', result = $4, notes = $5, ended = $6 "+
		"WHERE task_id = $1 AND machine_id = $2 AND position = $3",
		op.TaskID, machine, op.Index, result, encodeNotes(notes), database.Millis(s.now()))
	s.log.Info("operation done", "machine", machine, "task", op.TaskID, "operation", op.Kind)
	return err
}

// fail ends an operation, its run, and everything else that was ordered for the machine.
func (s *Service) fail(tx *sql.Tx, machine string, op protocol.Operation, cause, hint string, notes []string) error {
	_, err := tx.Exec("UPDATE operations SET state = 'failed', error = $4, hint = $5, notes = $6, ended = $7 "+
		"WHERE task_id = $1 AND machine_id = $2 AND position = $3",
		op.TaskID, machine, op.Index,
		text.Clean(cause, maxText), text.Clean(hint, maxText), encodeNotes(notes), database.Millis(s.now()))
	if err != nil {
		return err
	}
	s.log.Error("operation failed", "machine", machine, "task", op.TaskID,
		"operation", op.Kind, "error", text.Clean(cause, maxText))
	if err := s.endRun(tx, op.TaskID, machine, Failed); err != nil {
		return err
	}
	if op.Cast {
		if err := s.endQueued(tx, op.TaskID); err != nil {
			return err
		}
	}
	for {
		task, found, err := currentRun(tx, machine)
		if err != nil || !found {
			return err
		}
		if err := s.endRun(tx, task, machine, Cancelled); err != nil {
			return err
		}
	}
}

// endQueued cancels the runs of a task that have not begun. Those that follow a capture have
// nothing to begin with when it has failed.
func (s *Service) endQueued(tx *sql.Tx, task string) error {
	rows, err := tx.Query("SELECT machine_id FROM runs WHERE task_id = $1 AND state = 'queued'", task)
	if err != nil {
		return err
	}
	defer rows.Close()
	var machines []string
	for rows.Next() {
		var m string
		if err := rows.Scan(&m); err != nil {
			return err
		}
		machines = append(machines, m)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	for _, m := range machines {
		if err := s.endRun(tx, task, m, Cancelled); err != nil {
			return err
		}
	}
	return nil
}

// Report takes a machine's status of an operation.
func (s *Service) Report(ctx context.Context, machine string, st protocol.Status) (protocol.StatusResponse, error) {
	if len(st.Result) > maxResult || len(st.Result) > 0 && !json.Valid(st.Result) {
		return protocol.StatusResponse{}, problem(protocol.CodeInvalid, "",
			"result of %d bytes is too long or not JSON", len(st.Result))
	}
	if st.State != protocol.StateRunning && st.State != protocol.StateDone && st.State != protocol.StateFailed {
		return protocol.StatusResponse{}, problem(protocol.CodeInvalid, "", "unknown state %q", st.State)
	}
	var answer protocol.StatusResponse
	err := database.Tx(ctx, s.db, func(tx *sql.Tx) error {
		op, err := find(tx, st.TaskID, machine, st.Index)
		if err != nil {
			return err
		}
		if err := s.noteDisks(tx, machine, op, st); err != nil {
			return err
		}
		switch {
		case op.State == Cancelled || op.State == Skipped:
			answer.Cancel = true
			return nil
		case Over(op.State):
			return nil // the answer to the first report was lost
		case op.State == Queued:
			return problem(protocol.CodeConflict, "", "operation %d of task %s has not begun", st.Index, st.TaskID)
		case st.State == protocol.StateDone:
			return s.finish(tx, machine, op, st)
		case st.State == protocol.StateFailed:
			return s.fail(tx, machine, op.Operation, st.Error, st.Hint, st.Notes)
		}
		return nil
	})
	if err != nil {
		return protocol.StatusResponse{}, fmt.Errorf("status of machine %s: %w", machine, err)
	}
	s.progress(machine, st)
	switch st.State {
	case protocol.StateRunning:
		s.news.report(st.TaskID)
	case protocol.StateDone:
		s.wake(st.TaskID)
	default:
		s.wakeAll()
	}
	return answer, nil
}

// finish records success and ends the run with its last operation.
func (s *Service) finish(tx *sql.Tx, machine string, op Operation, st protocol.Status) error {
	if op.Kind == protocol.OpCapture && op.published == "" {
		return problem(protocol.CodeConflict, "", "capture of %s is not published", op.Image)
	}
	result := string(st.Result)
	if result == "" {
		result = op.published
	}
	if err := s.setDone(tx, machine, op.Operation, result, st.Notes); err != nil {
		return err
	}
	list, err := operations(tx, op.TaskID, machine)
	if err != nil || op.Index != len(list)-1 {
		return err
	}
	return s.endRun(tx, op.TaskID, machine, Done)
}

func (s *Service) progress(machine string, st protocol.Status) {
	s.mu.Lock()
	if st.State == protocol.StateRunning {
		if st.Progress != nil {
			st.Progress.Phase = text.Clean(st.Progress.Phase, maxText)
		}
		s.live[machine] = live{st.TaskID, st.Index, st.Progress, s.now()}
	} else {
		delete(s.live, machine)
	}
	s.mu.Unlock()
}

func find(tx *sql.Tx, task, machine string, index int) (Operation, error) {
	rows, err := tx.Query("SELECT "+operationColumns+" FROM operations "+
		"WHERE CAST(task_id AS TEXT) = $1 AND machine_id = $2 AND position = $3", task, machine, index)
	if err != nil {
		return Operation{}, err
	}
	defer rows.Close()
	if rows.Next() {
		return scanOperation(rows)
	}
	if err := rows.Err(); err != nil {
		return Operation{}, err
	}
	return Operation{}, problem(protocol.CodeNotFound, "", "this machine has no operation %d of task %.20q", index, task)
}

// Current gives the operation that a machine runs, for the data calls.
func (s *Service) Current(ctx context.Context, machine string) (op Operation, creator string, found bool, err error) {
	rows, err := s.db.QueryContext(ctx, `SELECT t.creator, o.spec, o.state, o.attempts, o.boot,
			o.published, o.result, o.error, o.hint, o.notes, o.started, o.ended
		FROM operations o JOIN tasks t ON t.id = o.task_id
		WHERE o.machine_id = $1 AND o.state = 'running' ORDER BY o.task_id LIMIT 1`, machine)
	if err != nil {
		return Operation{}, "", false, fmt.Errorf("current operation of machine %s: %w", machine, err)
	}
	defer rows.Close()
	if !rows.Next() {
		return Operation{}, "", false, rows.Err()
	}
	op, err = scanOperation(rows, &creator)
	s.addLive(machine, &op)
	return op, creator, err == nil, err
}

// Published gives what an operation has published already, or "".
func (op Operation) Published() string { return op.published }

// Boot names the boot that does the operation.
func (op Operation) Boot() string { return op.boot }

// SetPublished records the version that a capture made, so that neither a repeated
// call nor another boot makes it twice.
func (s *Service) SetPublished(ctx context.Context, machine string, op Operation, response string) error {
	_, err := s.db.ExecContext(ctx, "UPDATE operations SET published = $4 "+
		"WHERE task_id = $1 AND machine_id = $2 AND position = $3", op.TaskID, machine, op.Index, response)
	if err != nil {
		return fmt.Errorf("record version of task %s: %w", op.TaskID, err)
	}
	s.wake(op.TaskID)
	return nil
}

// LogOff ends a boot. A machine that leaves with an error fails its running operation, or the one that waits for
// it: it never got that far. kept tells whether there was one to keep the error.
func (s *Service) LogOff(ctx context.Context, machine string, req protocol.LogoffRequest) (kept bool, err error) {
	err = database.Tx(ctx, s.db, func(tx *sql.Tx) error {
		task, found, err := currentRun(tx, machine)
		if err != nil || !found {
			return err
		}
		list, err := operations(tx, task, machine)
		if err != nil {
			return err
		}
		for i, op := range list {
			switch {
			case Over(op.State):
			case req.Error != "" && (op.State == Running || !req.Reported):
				kept = true
				return s.fail(tx, machine, op.Operation, req.Error, req.Hint, nil)
			case op.State == Running && ends(op.Kind):
				if err := s.setDone(tx, machine, op.Operation, "", nil); err != nil || i != len(list)-1 {
					return err
				}
				return s.endRun(tx, task, machine, Done)
			}
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("log off machine %s: %w", machine, err)
	}
	s.wakeAll()
	return kept, nil
}

// Running gives what machines do now, by machine.
func (s *Service) Running(ctx context.Context) (map[string]Operation, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT machine_id, spec, state, attempts, boot,
			published, result, error, hint, notes, started, ended
		FROM operations WHERE task_id IN (SELECT task_id FROM runs WHERE state = $1) AND state = $1`, Running)
	if err != nil {
		return nil, fmt.Errorf("running operations: %w", err)
	}
	defer rows.Close()
	all := map[string]Operation{}
	for rows.Next() {
		var machine string
		op, err := scanOperation(rows, &machine)
		if err != nil {
			return nil, fmt.Errorf("running operations: %w", err)
		}
		s.addLive(machine, &op)
		all[machine] = op
	}
	return all, rows.Err()
}

// Of gives a machine's first operation of a kind in a task, and the machine's name.
func (s *Service) Of(
	ctx context.Context, task, machine, kind string,
) (name string, op Operation, found bool, err error) {
	rows, err := s.db.QueryContext(ctx, `SELECT m.name, o.spec, o.state, o.attempts, o.boot,
			o.published, o.result, o.error, o.hint, o.notes, o.started, o.ended
		FROM operations o JOIN machines m ON m.id = o.machine_id
		WHERE o.task_id = $1 AND o.machine_id = $2 ORDER BY o.position`, task, machine)
	if err != nil {
		return "", op, false, fmt.Errorf("operations of task %s: %w", task, err)
	}
	defer rows.Close()
	for rows.Next() {
		if op, err = scanOperation(rows, &name); err != nil {
			return "", op, false, fmt.Errorf("operations of task %s: %w", task, err)
		}
		if op.Kind == kind {
			return name, op, true, nil
		}
	}
	return "", Operation{}, false, rows.Err()
}

// Abandon fails an operation whose machine was silent for so long that those who wait for it must go on without.
func (s *Service) Abandon(ctx context.Context, machine, task string, index int, silent time.Duration) error {
	err := database.Tx(ctx, s.db, func(tx *sql.Tx) error {
		op, err := find(tx, task, machine, index)
		if err != nil || op.State != Running || op.published != "" {
			return err
		}
		return s.fail(tx, machine, op.Operation,
			fmt.Sprintf("nothing was heard of the machine for %v, and others follow it", silent.Round(time.Second)),
			"does it hang, is it switched off, is its network gone? then order the task again", nil)
	})
	if err != nil {
		return fmt.Errorf("give up machine %s: %w", machine, err)
	}
	s.wakeAll()
	return nil
}

// CountUnfinished tells how many tasks are not over.
func (s *Service) CountUnfinished(ctx context.Context) (n int, err error) {
	err = s.db.QueryRowContext(ctx,
		"SELECT count(DISTINCT task_id) FROM runs WHERE state IN ('queued', 'running')").Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count tasks: %w", err)
	}
	return n, nil
}

func encodeNotes(notes []string) string {
	list := []string{}
	for _, n := range notes[:min(len(notes), maxNotes)] {
		list = append(list, text.Clean(n, maxText))
	}
	b, _ := json.Marshal(list) // strings only
	return string(b)
}
