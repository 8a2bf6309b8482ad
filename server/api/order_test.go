package api

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"clonecast/internal/protocol"
	"clonecast/server/database"
	"clonecast/server/tasks"
)

// crowd adopts many machines at once.
func (s *site) crowd(n int) (names []string) {
	s.t.Helper()
	tx, err := s.api.DB.Begin()
	if err != nil {
		s.t.Fatal(err)
	}
	defer tx.Rollback()
	for i := range n {
		facts := protocol.Facts{
			UUID:  fmt.Sprint("u", i),
			NICs:  []protocol.NIC{{Name: "eth0", MAC: fmt.Sprintf("02:00:00:00:%02x:%02x", i/256, i%256)}},
			Disks: []protocol.Disk{{Name: "sda", Bytes: 64 << 30, LogicalSector: 512, Serial: fmt.Sprint("s", i), Bus: "sata"}},
		}
		b, _ := json.Marshal(facts) // plain strings and numbers
		id, name := fmt.Sprintf("%016x", i), fmt.Sprintf("room-%d", i)
		_, err := tx.Exec("INSERT INTO machines (id, name, state, facts, registered, last_seen) "+
			"VALUES ($1, $2, $3, $4, $5, $5)",
			id, name, protocol.MachineAdopted, string(b), database.Millis(time.Now()))
		if err == nil {
			_, err = tx.Exec("INSERT INTO machine_evidence (machine_id, kind, value, last_seen) VALUES ($1, 'mac', $2, 1)",
				id, facts.NICs[0].MAC)
		}
		if err != nil {
			s.t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := tx.Commit(); err != nil {
		s.t.Fatal(err)
	}
	return names
}

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// An order costs as much for each machine, however many there are: it does not look at all machines for each. How
// much is allocated tells, on machines of any speed.
func TestOrderIsLinear(t *testing.T) {
	s := newSite(t)
	a := s.pc("a", 200)
	s.image(a)
	names := s.crowd(1000)
	order := func(machines []string) (took time.Duration, bytes uint64) {
		start := time.Now()
		bytes = allocated(func() {
			s.order(Order{Kind: "deploy", Machines: machines, Image: "img"})
		})
		return time.Since(start), bytes
	}
	order(names[:10])
	_, few := order(names[:200])
	took, many := order(names)
	t.Logf("an order for 1000 machines: %v, %d MB allocated; for 200: %d MB", took, many>>20, few>>20)
	if many > 7*few {
		t.Errorf("5 times as many machines need %.1f times as much", float64(many)/float64(few))
	}
	// What one machine asks for does not grow with those that have the same task.
	op := s.api.Tasks
	var one uint64
	for _, id := range []string{fmt.Sprintf("%016x", 3), fmt.Sprintf("%016x", 900)} {
		one = allocated(func() {
			if wants, err := op.Wants(t.Context(), id); err != nil || !wants {
				t.Errorf("Wants = %v, %v", wants, err)
			}
		})
	}
	if one > 256<<10 {
		t.Errorf("a boot decision allocates %d bytes", one)
	}
	for _, ref := range []string{"room-77", fmt.Sprintf("%016x", 77), "02:00:00:00:00:4d"} {
		bytes := allocated(func() {
			if m, err := s.api.Machines.Find(t.Context(), ref); err != nil || m.Name != "room-77" {
				t.Errorf("Find(%q) = %s, %v", ref, m.Name, err)
			}
		})
		if bytes > 256<<10 {
			t.Errorf("Find(%q) among %d machines allocates %d bytes", ref, len(names), bytes)
		}
	}
}

// What an admin sees of machines at work, and of a task that was cancelled.
func TestMachineLines(t *testing.T) {
	s := newSite(t)
	a := s.pc("a", 1)
	s.image(a)
	task := s.order(Order{Kind: "deploy", Machines: []string{"a"}, Image: "img", Unseen: true})
	op := s.next(a, protocol.OpDeploy)
	var answer protocol.StatusResponse
	s.must(s.tls, a, "POST", protocol.PathStatus, protocol.Status{TaskID: op.TaskID, State: protocol.StateRunning,
		Disks:    []protocol.DiskState{{Name: "64 GB, serial X", State: protocol.DiskIncomplete}},
		Progress: &protocol.Progress{Phase: "write", Done: 1, Total: 4}}, &answer)
	var lines []MachineLine
	s.must(s.local, "", "GET", "/api/v1/machines", nil, &lines)
	if len(lines) != 1 || lines[0].Doing == nil || lines[0].Doing.Progress.Done != 1 ||
		len(lines[0].Unfinished) != 1 || time.Since(lines[0].LastSeen) > time.Minute {
		t.Errorf("machines: %+v", lines)
	}
	var detail MachineDetail
	s.must(s.local, "", "GET", "/api/v1/machines/a", nil, &detail)
	if detail.Doing == nil || len(detail.Unfinished) != 1 || detail.Name != "a" {
		t.Errorf("machine: %+v", detail)
	}
	var cancelled tasks.Task
	s.must(s.local, "", "POST", "/api/v1/tasks/"+task.ID+"/cancel", struct{}{}, &cancelled)
	if r := cancelled.Runs[0]; r.State != tasks.Cancelled || len(r.Unfinished) != 1 ||
		!strings.Contains(r.Unfinished[0].Name, "serial X") {
		t.Errorf("cancelled: %+v", r)
	}
	// A failure that nothing was ordered for is a note on the machine.
	failed := protocol.LogoffRequest{Error: "no memory", Hint: "more RAM"}
	s.must(s.tls, a, "POST", protocol.PathLogoff, failed, &struct{}{})
	s.must(s.local, "", "GET", "/api/v1/machines/a", nil, &detail)
	if !strings.Contains(detail.Note, "no memory") || !strings.Contains(detail.Note, "more RAM") {
		t.Errorf("note: %q", detail.Note)
	}
}
