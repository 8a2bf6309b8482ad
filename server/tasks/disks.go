package tasks

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"clonecast/internal/protocol"
	"clonecast/internal/text"
	"clonecast/server/database"
)

// Limits of what a machine may tell of its disks.
const (
	maxDiskName = 256
	maxDisks    = 64 // of one machine
)

// UnfinishedDisk is a disk that an operation began to write and that no deploy has made whole since: it does
// not start.
type UnfinishedDisk struct {
	Machine string    `json:"machine_id"`
	Name    string    `json:"name"` // as people know it
	Task    string    `json:"task"`
	Image   string    `json:"image"`
	Since   time.Time `json:"since"`
}

// noteDisks keeps what a machine tells of the disks of its operation. The note on a disk stays until a deploy
// has made that disk whole, whatever becomes of the operation.
func (s *Service) noteDisks(tx *sql.Tx, machine string, op Operation, st protocol.Status) error {
	if op.Kind != protocol.OpDeploy && op.Kind != protocol.OpFollow {
		return nil
	}
	if st.State == protocol.StateDone && len(st.Disks) == 0 { // an appliance that does not tell
		_, err := tx.Exec("DELETE FROM unfinished_disks WHERE machine_id = $1", machine)
		return err
	}
	for _, d := range st.Disks[:min(len(st.Disks), maxDisks)] {
		name := text.Clean(d.Name, maxDiskName)
		var err error
		switch {
		case d.State == protocol.DiskWhole && !Over(op.State):
			_, err = tx.Exec("DELETE FROM unfinished_disks WHERE machine_id = $1 AND name = $2", machine, name)
		case d.State == protocol.DiskIncomplete:
			err = s.noteDisk(tx, machine, name, op)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) noteDisk(tx *sql.Tx, machine, name string, op Operation) error {
	var known int
	err := tx.QueryRow("SELECT count(*) FROM unfinished_disks WHERE machine_id = $1", machine).Scan(&known)
	if err != nil || known >= maxDisks {
		return err
	}
	_, err = tx.Exec(`INSERT INTO unfinished_disks (machine_id, name, task_id, position, image, since)
		VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (machine_id, name) DO UPDATE SET task_id = excluded.task_id, position = excluded.position,
			image = excluded.image`, machine, name, op.TaskID, op.Index, op.Image, database.Millis(s.now()))
	return err
}

// UnfinishedDisks lists the disks of all machines that no deploy has made whole, by machine.
func (s *Service) UnfinishedDisks(ctx context.Context) (map[string][]UnfinishedDisk, error) {
	return s.unfinishedDisks(ctx, "1 = $1", 1)
}

// UnfinishedDisksOf lists those of a machine.
func (s *Service) UnfinishedDisksOf(ctx context.Context, machine string) ([]UnfinishedDisk, error) {
	all, err := s.unfinishedDisks(ctx, "machine_id = $1", machine)
	return all[machine], err
}

func (s *Service) unfinishedDisks(ctx context.Context, where string, arg any) (map[string][]UnfinishedDisk, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT machine_id, name, task_id, image, since FROM unfinished_disks WHERE "+
		where+" ORDER BY machine_id, name", arg)
	if err != nil {
		return nil, fmt.Errorf("disks that are not whole: %w", err)
	}
	defer rows.Close()
	all := map[string][]UnfinishedDisk{}
	for rows.Next() {
		var d UnfinishedDisk
		var since int64
		if err := rows.Scan(&d.Machine, &d.Name, &d.Task, &d.Image, &since); err != nil {
			return nil, fmt.Errorf("disks that are not whole: %w", err)
		}
		d.Since = database.Time(since)
		all[d.Machine] = append(all[d.Machine], d)
	}
	return all, rows.Err()
}

// addUnfinished tells of runs which disks they have left half written.
func (s *Service) addUnfinished(ctx context.Context, t *Task) error {
	all, err := s.unfinishedDisks(ctx, "task_id = $1", t.ID)
	if err != nil {
		return err
	}
	for i := range t.Runs {
		t.Runs[i].Unfinished = all[t.Runs[i].MachineID]
	}
	return nil
}
