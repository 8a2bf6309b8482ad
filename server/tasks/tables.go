package tasks

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"clonecast/server/database"
)

// SavedTable is a partition table as it was before a deploy overwrote it.
type SavedTable struct {
	Machine   string          `json:"machine"` // name
	Operation int             `json:"operation"`
	Disk      int             `json:"disk"` // of the operation, from 0
	Saved     time.Time       `json:"saved"`
	Table     json.RawMessage `json:"table"` // package saved
}

// SaveTable keeps the old table of an operation's disk. The first one stays: when a deploy
// was cut, the disk of the next try may be half overwritten.
func (s *Service) SaveTable(ctx context.Context, machine string, op Operation, disk int, content []byte) error {
	_, err := s.db.ExecContext(ctx, `INSERT INTO saved_tables (task_id, machine_id, position, disk, content, saved)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
		op.TaskID, machine, op.Index, disk, string(content), database.Millis(s.now()))
	if err != nil {
		return fmt.Errorf("save the old table of task %s: %w", op.TaskID, err)
	}
	return nil
}

// SavedTables gives the old tables that a task saved.
func (s *Service) SavedTables(ctx context.Context, task string) ([]SavedTable, error) {
	if _, err := s.Get(ctx, task); err != nil {
		return nil, err
	}
	rows, err := s.db.QueryContext(ctx, `SELECT m.name, t.position, t.disk, t.saved, t.content FROM saved_tables t
		JOIN machines m ON m.id = t.machine_id WHERE t.task_id = $1 ORDER BY m.name, t.position, t.disk`, task)
	if err != nil {
		return nil, fmt.Errorf("saved tables of task %s: %w", task, err)
	}
	defer rows.Close()
	list := []SavedTable{}
	for rows.Next() {
		var t SavedTable
		var saved int64
		var content string
		if err := rows.Scan(&t.Machine, &t.Operation, &t.Disk, &saved, &content); err != nil {
			return nil, fmt.Errorf("saved tables of task %s: %w", task, err)
		}
		t.Saved, t.Table = database.Time(saved), json.RawMessage(content)
		list = append(list, t)
	}
	return list, rows.Err()
}
