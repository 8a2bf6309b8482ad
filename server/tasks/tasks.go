// Package tasks keeps what admins ordered and leads machines through it.
//
// A task is an ordered list of operations for one or more machines; on each machine
// it is a run. A machine works on its oldest run that is not over, one operation
// at a time:
//
//	run        queued -> running -> done | failed | cancelled
//	operation  queued -> running -> done | failed | cancelled;  skipped: never begun
//
// State changes are in the database before anybody is told of them; progress is in
// memory only. A machine that boots again while its operation runs (a power cut) gets
// the same operation again, at most MaxAttempts times. When an operation fails, its run
// fails and the machine's other runs are cancelled: the next operation that an admin ordered
// may overwrite what the failed one should have saved. So after a failure a machine
// boots from its own disk, never in a loop into the appliance.
//
// Reboot and power-off are done when the machine boots again or logs off.
package tasks

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"clonecast/internal/protocol"
	"clonecast/server/database"
)

// States of runs and operations.
const (
	Queued    = "queued"
	Running   = "running"
	Done      = "done"
	Failed    = "failed"
	Cancelled = "cancelled"
	Skipped   = "skipped"
)

// Limits.
const (
	MaxAttempts = 10 // boots that may begin the same operation
	// SilentAfter is how long nothing must be heard of a machine at work to call it silent: it reports each second.
	SilentAfter = 30 * time.Second
	// AbsentAfter is how long until nobody waits for it any more: it hangs, or is switched off.
	AbsentAfter   = 5 * time.Minute
	maxOperations = 32
	maxMachines   = 2000
	maxResult     = 256 << 10
	maxText       = 4 << 10
	maxNotes      = 256
)

// Task is what an admin ordered.
type Task struct {
	ID      string    `json:"id"`
	Title   string    `json:"title"`
	Creator string    `json:"creator"`
	Created time.Time `json:"created"`
	State   string    `json:"state"` // over all runs
	Runs    []Run     `json:"runs"`
}

// Run is a task on one machine.
type Run struct {
	MachineID  string      `json:"machine_id"`
	Machine    string      `json:"machine"` // name
	State      string      `json:"state"`
	Ended      time.Time   `json:"ended,omitzero"`
	Operations []Operation `json:"operations"`

	// Unfinished are the disks that it has left half written; told of one task, not in lists.
	Unfinished []UnfinishedDisk `json:"unfinished_disks,omitempty"`
}

// Operation is one step of a run.
type Operation struct {
	protocol.Operation
	State    string             `json:"state"`
	Attempts int                `json:"attempts"`
	Error    string             `json:"error,omitempty"`
	Hint     string             `json:"hint,omitempty"`
	Notes    []string           `json:"notes,omitempty"`
	Result   json.RawMessage    `json:"result,omitempty"`
	Started  time.Time          `json:"started,omitzero"`
	Ended    time.Time          `json:"ended,omitzero"`
	Progress *protocol.Progress `json:"progress,omitempty"`
	Heard    time.Time          `json:"heard,omitzero"`   // last report, while running
	Silent   bool               `json:"silent,omitempty"` // running, and no report for SilentAfter

	boot      string
	published string
}

// Over tells whether nothing more will happen.
func Over(state string) bool { return state != Queued && state != Running }

// New is an order for machines.
type New struct {
	Title      string
	Creator    string
	Machines   []string // ids
	Operations []protocol.Operation
	First      []protocol.Operation // of the first machine, if it does something else than the others
}

// live is what is known of a running operation beyond the database.
type live struct {
	task     string
	index    int
	progress *protocol.Progress
	heard    time.Time
}

// Service leads machines through their tasks.
type Service struct {
	db  *sql.DB
	now func() time.Time
	log *slog.Logger

	begun time.Time // nothing was heard of anybody before

	mu   sync.Mutex
	live map[string]live // by machine
	news news
}

// NewService makes the service.
func NewService(db *sql.DB, now func() time.Time, log *slog.Logger) *Service {
	return &Service{db: db, now: now, log: log, begun: now(), live: map[string]live{}}
}

func problem(code, hint, format string, a ...any) error {
	return &protocol.Problem{Code: code, Title: fmt.Sprintf(format, a...), Hint: hint}
}

// Create orders a task.
func (s *Service) Create(ctx context.Context, n New) (Task, error) {
	if len(n.Machines) == 0 || len(n.Machines) > maxMachines ||
		len(n.Operations) == 0 || max(len(n.Operations), len(n.First)) > maxOperations {
		return Task{}, problem(protocol.CodeInvalid, "",
			"a task has 1 to %d machines and 1 to %d operations", maxMachines, maxOperations)
	}
	for _, op := range slices.Concat(n.First, n.Operations) {
		switch op.Kind {
		case protocol.OpCapture, protocol.OpDeploy, protocol.OpFollow, protocol.OpReboot, protocol.OpPoweroff:
		default:
			return Task{}, problem(protocol.CodeInvalid, "", "unknown operation %q", op.Kind)
		}
	}
	var id int64
	err := database.Tx(ctx, s.db, func(tx *sql.Tx) error {
		err := tx.QueryRow(`INSERT INTO tasks (id, title, creator, created)
			SELECT COALESCE(MAX(id), 0) + 1, CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS BIGINT) FROM tasks RETURNING id`,
			n.Title, n.Creator, database.Millis(s.now())).Scan(&id)
		if err != nil {
			return err
		}
		for i, machine := range n.Machines {
			operations := n.Operations
			if i == 0 && n.First != nil {
				operations = n.First
			}
			if err := createRun(tx, id, machine, operations); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Task{}, fmt.Errorf("create task: %w", err)
	}
	s.wake(fmt.Sprint(id))
	return s.Get(ctx, fmt.Sprint(id))
}

func createRun(tx *sql.Tx, task int64, machine string, operations []protocol.Operation) error {
	var name, state string
	switch err := tx.QueryRow("SELECT name, state FROM machines WHERE id = $1", machine).Scan(&name, &state); {
	case err == sql.ErrNoRows:
		return problem(protocol.CodeNotFound, "", "no machine %q", machine)
	case err != nil:
		return err
	case state != protocol.MachineAdopted:
		return problem(protocol.CodePending, "'clonecast machine adopt "+machine+"' makes it yours",
			"machine %s is not adopted", name)
	}
	_, err := tx.Exec("INSERT INTO runs (task_id, machine_id, state) VALUES ($1, $2, $3)", task, machine, Queued)
	if err != nil {
		return err
	}
	for i, op := range operations {
		op.TaskID, op.Index = fmt.Sprint(task), i
		spec, err := json.Marshal(op)
		if err != nil {
			return err
		}
		_, err = tx.Exec("INSERT INTO operations (task_id, machine_id, position, spec, state) "+
			"VALUES ($1, $2, $3, $4, $5)", task, machine, i, string(spec), Queued)
		if err != nil {
			return err
		}
	}
	return nil
}

// Cancel ends what is queued or running of a task. A machine in the middle of an
// operation hears of it with its next status; its data calls are refused at once.
func (s *Service) Cancel(ctx context.Context, id string) (Task, error) {
	t, err := s.Get(ctx, id)
	if err != nil {
		return Task{}, err
	}
	if Over(t.State) {
		return t, problem(protocol.CodeConflict, "", "task %s is over: %s", id, t.State)
	}
	err = database.Tx(ctx, s.db, func(tx *sql.Tx) error {
		for _, run := range t.Runs {
			if err := s.endRun(tx, id, run.MachineID, Cancelled); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Task{}, fmt.Errorf("cancel task %s: %w", id, err)
	}
	s.wake(id)
	return s.Get(ctx, id)
}

// endRun ends a run that is not over, with what is left of its operations.
func (s *Service) endRun(tx *sql.Tx, task, machine, state string) error {
	now := database.Millis(s.now())
	result, err := tx.Exec("UPDATE runs SET state = $3, ended = $4 "+
		"WHERE task_id = $1 AND machine_id = $2 AND state IN ('queued', 'running')", task, machine, state, now)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return err
	}
	_, err = tx.Exec(`UPDATE operations
		SET state = CASE state WHEN 'queued' THEN 'skipped' ELSE 'cancelled' END, ended = $3
		WHERE task_id = $1 AND machine_id = $2 AND state IN ('queued', 'running')`, task, machine, now)
	return err
}
