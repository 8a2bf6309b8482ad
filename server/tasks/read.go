package tasks

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strconv"

	"clonecast/internal/protocol"
	"clonecast/server/database"
)

// Get gives a task with all that is known of it.
func (s *Service) Get(ctx context.Context, id string) (Task, error) {
	if _, err := strconv.ParseInt(id, 10, 63); err != nil {
		return Task{}, problem(protocol.CodeNotFound, "'clonecast task list' shows what there is", "no task %q", id)
	}
	list, err := s.load(ctx, "t.id = $1", id)
	if err != nil {
		return Task{}, fmt.Errorf("read task %s: %w", id, err)
	}
	if len(list) == 0 {
		return Task{}, problem(protocol.CodeNotFound, "'clonecast task list' shows what there is", "no task %q", id)
	}
	if err := s.addUnfinished(ctx, &list[0]); err != nil {
		return Task{}, fmt.Errorf("read task %s: %w", id, err)
	}
	return list[0], nil
}

// List gives the newest tasks, at most n.
func (s *Service) List(ctx context.Context, n int) ([]Task, error) {
	list, err := s.load(ctx, "t.id > (SELECT COALESCE(MAX(id), 0) FROM tasks) - $1", n)
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", err)
	}
	return list, nil
}

// Active lists the tasks of a machine that are not over.
func (s *Service) Active(ctx context.Context, machine string) ([]Task, error) {
	list, err := s.load(ctx,
		"t.id IN (SELECT task_id FROM runs WHERE machine_id = $1 AND state IN ('queued', 'running'))", machine)
	if err != nil {
		return nil, fmt.Errorf("tasks of machine %s: %w", machine, err)
	}
	return list, nil
}

// Unfinished lists the tasks of all machines that are not over.
func (s *Service) Unfinished(ctx context.Context) ([]Task, error) {
	list, err := s.load(ctx, "t.id IN (SELECT task_id FROM runs WHERE state = 'queued' OR state = $1)", Running)
	if err != nil {
		return nil, fmt.Errorf("unfinished tasks: %w", err)
	}
	return list, nil
}

func (s *Service) load(ctx context.Context, where string, arg any) ([]Task, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT t.id, t.title, t.creator, t.created,
		r.machine_id, m.name, r.state, r.ended,
		o.spec, o.state, o.attempts, o.boot, o.published, o.result, o.error, o.hint, o.notes, o.started, o.ended
		FROM tasks t JOIN runs r ON r.task_id = t.id JOIN machines m ON m.id = r.machine_id
		JOIN operations o ON o.task_id = r.task_id AND o.machine_id = r.machine_id
		WHERE `+where+` ORDER BY t.id DESC, m.name, o.position`, arg)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []Task{}
	for rows.Next() {
		var t Task
		var r Run
		var created, ended int64
		op, err := scanOperation(rows, &t.ID, &t.Title, &t.Creator, &created, &r.MachineID, &r.Machine, &r.State, &ended)
		if err != nil {
			return nil, err
		}
		t.Created, r.Ended = database.Time(created), database.Time(ended)
		if len(list) == 0 || list[len(list)-1].ID != t.ID {
			list = append(list, t)
		}
		last := &list[len(list)-1]
		if n := len(last.Runs); n == 0 || last.Runs[n-1].MachineID != r.MachineID {
			last.Runs = append(last.Runs, r)
		}
		run := &last.Runs[len(last.Runs)-1]
		s.addLive(run.MachineID, &op)
		run.Operations = append(run.Operations, op)
	}
	for i := range list {
		list[i].State = state(list[i].Runs)
	}
	return list, rows.Err()
}

// scanOperation reads the columns of an operation that follow those for before.
func scanOperation(rows *sql.Rows, before ...any) (Operation, error) {
	var op Operation
	var spec, result, notes string
	var started, ended int64
	err := rows.Scan(append(before, &spec, &op.State, &op.Attempts, &op.boot, &op.published,
		&result, &op.Error, &op.Hint, &notes, &started, &ended)...)
	if err != nil {
		return Operation{}, err
	}
	if err := json.Unmarshal([]byte(spec), &op.Operation); err != nil {
		return Operation{}, fmt.Errorf("specification of an operation: %w", err)
	}
	if err := json.Unmarshal([]byte(notes), &op.Notes); err != nil {
		return Operation{}, fmt.Errorf("notes of an operation: %w", err)
	}
	if result != "" {
		op.Result = json.RawMessage(result)
	}
	op.Started, op.Ended = database.Time(started), database.Time(ended)
	return op, nil
}

func (s *Service) addLive(machine string, op *Operation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if op.State != Running {
		return
	}
	op.Heard = op.Started
	if s.begun.After(op.Heard) {
		op.Heard = s.begun
	}
	if l, ok := s.live[machine]; ok && l.task == op.TaskID && l.index == op.Index {
		op.Progress, op.Heard = l.progress, l.heard
	}
	op.Silent = op.published == "" && !ends(op.Kind) && s.now().Sub(op.Heard) > SilentAfter
}

// state sums up runs: running if any runs or waits beside finished ones, failed if any failed.
func state(runs []Run) string {
	count := map[string]int{}
	for _, r := range runs {
		count[r.State]++
	}
	switch {
	case count[Running] > 0 || count[Queued] > 0 && count[Queued] < len(runs):
		return Running
	case count[Queued] > 0:
		return Queued
	case count[Failed] > 0:
		return Failed
	case count[Cancelled] > 0:
		return Cancelled
	}
	return Done
}
