package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"clonecast/internal/chunkstore/local"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"
	"clonecast/server"
	"clonecast/server/api"
	"clonecast/server/database"
	"clonecast/server/machines"
	"clonecast/server/sessions"
	"clonecast/server/tasks"
)

// room is a server's API on the socket of a data directory, with one PC and one image.
type room struct {
	t    *testing.T
	data string
	api  *api.API
	pc   machines.Machine
}

func newRoom(t *testing.T) *room {
	t.Helper()
	ctx, dir := context.Background(), t.TempDir()
	db, err := database.Open(ctx, filepath.Join(dir, "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := local.Create(filepath.Join(dir, "store"), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	session, err := store.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	m := &image.Manifest{Image: "win", Created: 1, Comment: "first", Disks: []image.Disk{{
		Size: 2 << 30, LogicalSector: 512, PhysicalSector: 512, TableKind: "mbr",
		Partitions: []image.Partition{{
			Number: 1, Mode: image.ModeSwap,
			Filesystem: image.Filesystem{Type: "swap", Label: "SWAP"},
			Content:    image.Content{Start: 1 << 20, Length: 1 * quantity.GiB},
		}},
	}}}
	if _, _, err := session.Publish(ctx, m); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	orders := tasks.NewService(db, time.Now, log)
	manager := sessions.New(sessions.Config{
		Orders: orders, Store: store, Interface: "lo", MaxRate: 20e6, Log: log, Now: time.Now,
	})
	a := api.New(api.Config{
		DB: db, Store: store, Log: log, Now: time.Now,
		Machines: machines.New(db, time.Now, log, func() {}), Tasks: orders, Sessions: manager,
		Status:   func() api.Status { return api.Status{} },
		Seen:     func(_, _ string) {},
		DiskRule: func(machines.Machine) string { return "" },
	})
	l, err := net.Listen("unix", filepath.Join(dir, server.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	s := a.NewServer(nil, true)
	go s.Serve(l)
	t.Cleanup(func() {
		for _, f := range []func() error{s.Close, manager.Close, session.Close, a.Close, db.Close, store.Close} {
			if err := f(); err != nil {
				t.Error(err)
			}
		}
	})
	pc, err := a.Machines.Register(ctx, protocol.Facts{
		UUID: "u-1", Product: "Box", NICs: []protocol.NIC{{MAC: "02:00:00:00:00:01"}},
		Disks: []protocol.Disk{{Name: "sda", Model: "ACME", Serial: "D1", Bytes: 1 << 30}},
	}, "10.0.0.9")
	if err != nil {
		t.Fatal(err)
	}
	return &room{t, dir, a, pc}
}

// run is a command line with what a person types, its output and its exit code.
func (r *room) run(stdin string, code int, line string, wants ...string) string {
	r.t.Helper()
	var out, stderr bytes.Buffer
	cmd := newRootCmd()
	cmd.SetArgs(append(strings.Fields(line), "--data", r.data))
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&stderr)
	got := report(&stderr, cmd.ExecuteContext(context.Background()))
	text := out.String() + stderr.String()
	if got != code {
		r.t.Errorf("clonecast %s: exit code %d, want %d\n%s", line, got, code, text)
	}
	for _, want := range wants {
		if !strings.Contains(text, want) {
			r.t.Errorf("clonecast %s: no %q in\n%s", line, want, text)
		}
	}
	return out.String()
}

func TestServerCommands(t *testing.T) {
	r := newRoom(t)
	r.run("", exitOK, "machine list", r.pc.ID, "pending", "02:00:00:00:00:01", "Box")
	r.run("", exitNotFound, "machine show pc7", "no machine", "hint: 'clonecast machine list'")
	r.run("", exitRefused, "task run deploy --machine "+r.pc.ID+" --image win --yes",
		"not adopted", "hint: 'clonecast machine adopt")
	r.run("", exitUsage, "machine adopt "+r.pc.ID+" --name a_b", "host name")
	r.run("", exitOK, "machine adopt "+r.pc.ID[:6]+" --name pc1 --ip 10.0.0.50", "adopted pc1")
	r.run("", exitOK, "machine show pc1", "1.1 GB, ACME, D1, sda", "10.0.0.50")
	r.run("", exitOK, "image list", "win@1", "first")
	r.run("", exitOK, "image show win@1", "mbr", "SWAP")
	r.run("", exitNotFound, "image show win@2")
	r.run("", exitUsage, "task run deploy --image win", "--machine MACHINE is missing")
	r.run("", exitUsage, "task run deploy --machine pc1 --image win --then sleep", "neither poweroff nor reboot")
	r.run("", exitUsage, "task run capture --machine pc1 --image a/b", "not allowed")

	deploy := "task run deploy --machine pc1 --image win"
	r.run("yes\n", exitRefused, deploy, "ACME, D1, sda (smaller than the captured disk", "nothing was ordered")
	r.run("", exitRefused, deploy, "nothing was ordered")
	r.run("1\n", exitRefused, deploy+" --disk serial=D2", "serial D1", "its serial is D1",
		"the rule does not name one disk of pc1: nothing was ordered", "hint: ")
	r.run("", exitRefused, "task run capture --machine pc1 --image new --disk bus=usb",
		`no disk fits the rule "bus=usb"`, "hint: ")
	r.run("", exitUsage, deploy+" --disk sda", "is no condition")
	if list := r.tasks(); len(list) != 0 {
		t.Fatalf("%d tasks without confirmation", len(list))
	}
	r.run("1\n", exitOK, deploy+" --disk serial=D2 --unseen", "task 1")
	r.run("", exitOK, "task show 1", "pc1: deploy win: queued")
	r.run("", exitOK, "task cancel 1")
	r.run("", exitRefused, "task show 1 --follow", "was cancelled")
	r.run("", exitRefused, "task cancel 1", "is over")
	r.run("", exitNotFound, "task show 99", "no task")

	r.run("", exitOK, "task run capture --machine pc1 --image new --comment why --then poweroff", "task 2: capture new")
	op, err := r.api.Tasks.Next(context.Background(), r.pc.ID, "b")
	if err != nil || op.Comment != "why" {
		t.Fatalf("operation %+v, %v", op, err)
	}
	failed := protocol.Status{TaskID: op.TaskID, State: "failed", Error: "hibernated", Hint: "shut down"}
	if _, err := r.api.Tasks.Report(context.Background(), r.pc.ID, failed); err != nil {
		t.Fatal(err)
	}
	r.run("", exitFailed, "task show 2 --follow", "failed on pc1: hibernated", "hint: shut down")
	if list := r.tasks(); len(list) != 2 || list[0].State != tasks.Failed {
		t.Errorf("tasks: %+v", list)
	}
	r.run("", exitOK, "task tables 2", "overwrote no partition table")
	dir := t.TempDir()
	table := []byte(`{"format":"clonecast saved table 1","model":"ACME",
		"serial":"D1","size":1073741824,"logical_sector":512,"table":"mbr","areas":[{"start":0,"length":512,"data":"AAAA"}]}`)
	err = r.api.Tasks.SaveTable(context.Background(), r.pc.ID, tasks.Operation{Operation: op}, 0, table)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "task2-pc1-disk1.old-table.json")
	r.run("", exitOK, "task tables 2 --output "+dir, "pc1, disk 1: mbr table of ACME D1, 1.0 GiB", "written to "+file)
	r.run("", exitNotFound, "task tables 99", "no task")
	r.run("", exitOK, "machine remove pc1", "removed pc1")
	r.run("", exitOK, "machine list", "no machines yet")
	r.data = t.TempDir()
	r.run("", exitFailed, "machine list", "no server answers", "hint: is 'clonecast serve' running")
}

func TestTaskCast(t *testing.T) {
	r := newRoom(t)
	other, err := r.api.Machines.Register(context.Background(), protocol.Facts{
		UUID: "u-2", NICs: []protocol.NIC{{MAC: "02:00:00:00:00:02"}},
		Disks: []protocol.Disk{{Name: "sda", Model: "ACME", Serial: "D2", Bytes: 1 << 29}},
	}, "10.0.0.10")
	if err != nil {
		t.Fatal(err)
	}
	r.run("", exitOK, "machine adopt "+r.pc.ID+" --name pc1")
	r.run("", exitOK, "machine adopt "+other.ID+" --name pc2")
	cast := "task run cast --from pc1 --machine pc2 --image lab"
	r.run("", exitUsage, "task run cast --machine pc2 --image lab", "--from MACHINE is missing")
	r.run("", exitUsage, cast+" --machine pc1", "cannot be captured and overwritten at once")
	r.run("", exitUsage, "task run cast --from pc1 --machine pc2 --image lab@1", "not allowed")
	r.run("", exitNotFound, "task run cast --from pc9 --machine pc2 --image lab", "no machine")
	r.run("1\n", exitRefused, cast+" --from-disk serial=D9", "refused: ", "one disk of pc1")
	r.run("yes\n", exitRefused, cast, "pc1 (1.1 GB, ACME, D1, sda) is captured as lab, and will overwrite:",
		"ACME, D2, sda (smaller than the captured disk", "nothing was ordered")
	r.run("1\n", exitOK, cast+" --comment why --grow last", "task 1: cast lab from pc1")
	r.run("", exitOK, "task show 1", "pc1: capture lab: queued", "pc2: follow lab: queued")
	op, err := r.api.Tasks.Next(context.Background(), other.ID, "b")
	if err != nil || op.Kind != protocol.OpFollow || op.From != r.pc.ID || op.Grow != "last" || op.Comment != "" {
		t.Errorf("operation %+v, %v", op, err)
	}
}

func (r *room) tasks() []tasks.Task {
	r.t.Helper()
	return listOf[tasks.Task](r.t, r.run("", exitOK, "task list --json"), "task")
}

// listOf reads the lines of a list in NDJSON, which ends with the summary.
func listOf[T any](t *testing.T, out, kind string) (list []T) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for i, line := range lines {
		var event struct{ Type string }
		var v T
		if err := errors.Join(json.Unmarshal([]byte(line), &event), json.Unmarshal([]byte(line), &v)); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if want := map[bool]string{true: "summary", false: kind}[i == len(lines)-1]; event.Type != want {
			t.Errorf("type %q, want %q: %s", event.Type, want, line)
		}
		if event.Type == kind {
			list = append(list, v)
		}
	}
	return list
}

func TestServeCommandLine(t *testing.T) {
	r := &room{t: t, data: t.TempDir()}
	r.run("", exitUsage, "serve", "--interface IF is missing")
	r.run("", exitUsage, "serve --interface lo --dhcp full", "--dhcp-range")
	r.run("", exitUsage, "serve --interface lo --dhcp maybe", "none of off, proxy, full")
	r.run("", exitUsage, "serve --interface lo --dhcp full --dhcp-range 1-2", "not of the form")
	r.run("", exitUsage, "serve --interface lo --multicast-rate fast", `--multicast-rate "fast" is no rate`)
	r.run("", exitNotFound, "serve --interface nope0", "no network interface", "hint: there are")
}
