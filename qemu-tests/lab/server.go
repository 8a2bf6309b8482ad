package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"

	"clonecast/qemu-tests/testdisk"
	"clonecast/qemu-tests/vm"
)

// DHCP modes of the server.
const (
	FullDHCP  = "full"
	ProxyDHCP = "proxy"
)

// Server is a clonecast server on a Network. It can be started, killed and started again on the same data.
type Server struct {
	Data    string     // its data directory
	Watch   func(Task) // is shown every task that WaitTask looks at; may be nil
	net     *Network
	t       vm.T
	args    []string
	process *Process
	client  *http.Client
}

// NewServer prepares a server with empty data and further arguments.
func (n *Network) NewServer(dhcp string, args ...string) *Server {
	n.t.Helper()
	return n.NewServerAt(filepath.Join(n.t.TempDir(), "data"), dhcp, args...)
}

// NewServerAt prepares a server with a data directory and further arguments.
func (n *Network) NewServerAt(data, dhcp string, args ...string) *Server {
	n.t.Helper()
	s := &Server{Data: data, net: n, t: n.t}
	s.args = []string{"serve", "--interface", Bridge, "--data", s.Data, "--dhcp", dhcp, "--class", "qemu",
		"--kernel-package", testdisk.KernelPackage(n.t)}
	if dhcp == FullDHCP {
		s.args = append(s.args, "--dhcp-range", "10.99.0.100-10.99.0.200")
	}
	s.args = append(s.args, args...)
	s.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(s.Data, "admin.sock"))
		}}}
	return s
}

// Start runs the server and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	s.process = startProcess(s.t, "server", s.net.Command(context.Background(), Program(s.t, "clonecast"), s.args...))
	s.t.Cleanup(s.process.Kill)
	wait(s.t, "the server answers", func() bool {
		select {
		case <-s.process.done:
			s.t.Fatalf("the server ended")
		default:
		}
		var status struct{ Listening []string }
		return s.ask("GET", "/api/v1/status", nil, &status) == nil
	})
}

// Kill ends the server as a crash would.
func (s *Server) Kill() { s.process.Kill() }

// Stop ends the server in order.
func (s *Server) Stop() { s.t.Helper(); s.process.Stop() }

// Output is what the server printed since its start.
func (s *Server) Output() string { return s.process.Output() }

// CLI runs an operator's command on the server's computer.
func (s *Server) CLI(args ...string) Result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), vm.Patience)
	defer cancel()
	cmd := s.net.Command(ctx, Program(s.t, "clonecast"), append(args, "--data", s.Data)...)
	r := finish(s.t, cmd)
	s.t.Logf("$ clonecast %s\n%s%s", strings.Join(args, " "), r.Stdout, r.Stderr)
	return r
}

// ask calls the admin API over the socket in the data directory.
func (s *Server) ask(method, path string, body, into any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(method, "http://server"+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := s.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, answer)
	}
	return json.Unmarshal(answer, into)
}

func (s *Server) mustAsk(path string, into any) {
	s.t.Helper()
	if err := s.ask("GET", path, nil, into); err != nil {
		s.t.Fatalf("%v", err)
	}
}

// Machine is what the server says of a machine.
type Machine struct {
	ID, Name, State string
	Facts           struct {
		Serial string
		Disks  []struct{ Name, Serial string }
	}
}

// Machine finds a PC among the server's machines by the serial number that it reported.
func (s *Server) Machine(pc *PC) (Machine, bool) {
	s.t.Helper()
	var all []Machine
	s.mustAsk("/api/v1/machines", &all)
	for _, m := range all {
		if m.Facts.Serial == pc.Serial {
			return m, true
		}
	}
	return Machine{}, false
}

// WaitRegistered waits until the server knows the PC.
func (s *Server) WaitRegistered(pc *PC) (m Machine) {
	s.t.Helper()
	wait(s.t, pc.Name+" registers", func() (found bool) { m, found = s.Machine(pc); return found })
	return m
}

// Adopt lets the server manage the PC, under its name.
func (s *Server) Adopt(pc *PC) {
	s.t.Helper()
	s.CLI("machine", "adopt", pc.MAC, "--name", pc.Name).OK(s.t)
}

// Task is what the server says of a task.
type Task struct {
	ID, State string
	Runs      []struct {
		Machine    string
		State      string
		Operations []struct {
			Kind     string
			State    string
			Attempts int
			Error    string
			Hint     string
			Notes    []string
			Result   json.RawMessage
			Progress *struct {
				Phase string
				Done  int64 `json:"done_bytes"`
				Total int64 `json:"total_bytes"`
			}
		}
	}
}

// over are the states in which a task does nothing any more.
func (t Task) over() bool { return t.State == "done" || t.State == "failed" || t.State == "cancelled" }

// Capture orders a capture of the PC and returns the task.
func (s *Server) Capture(pc *PC, image string) string {
	s.t.Helper()
	return s.order("capture", image, []string{"--then", "poweroff"}, pc)
}

// CaptureWith orders a capture with flags of its own and returns the task.
func (s *Server) CaptureWith(image string, pc *PC, flags ...string) string {
	s.t.Helper()
	return s.order("capture", image, flags, pc)
}

// Deploy orders the newest version of an image for PCs and returns the task.
func (s *Server) Deploy(image string, pcs ...*PC) string {
	s.t.Helper()
	return s.order("deploy", image, []string{"--then", "poweroff"}, pcs...)
}

// Cast orders a capture of a PC that others follow by multicast and returns the task.
func (s *Server) Cast(from *PC, image string, pcs ...*PC) string {
	s.t.Helper()
	return s.order("cast", image, []string{"--from", from.Name, "--multicast", "--then", "poweroff"}, pcs...)
}

// DeployWith orders a deploy with flags of its own, which also say what the PC does afterwards, and returns the task.
func (s *Server) DeployWith(image string, pc *PC, flags ...string) string {
	s.t.Helper()
	return s.order("deploy", image, flags, pc)
}

// Multicast orders a deploy in one session, which begins when all the PCs are there, and returns the task.
func (s *Server) Multicast(image string, pcs ...*PC) string {
	s.t.Helper()
	return s.order("deploy", image, []string{"--multicast", "--then", "poweroff"}, pcs...)
}

func (s *Server) order(kind, image string, flags []string, pcs ...*PC) string {
	s.t.Helper()
	args := append([]string{"task", "run", kind, "--image", image}, flags...)
	if kind != "capture" {
		args = append(args, "--yes")
	}
	for _, pc := range pcs {
		args = append(args, "--machine", pc.Name)
	}
	before := s.tasks()
	s.CLI(args...).OK(s.t)
	for id := range s.tasks() {
		if _, old := before[id]; !old {
			return id
		}
	}
	s.t.Fatalf("clonecast task run made no task")
	return ""
}

func (s *Server) tasks() map[string]Task {
	s.t.Helper()
	var list []Task
	s.mustAsk("/api/v1/tasks", &list)
	byID := map[string]Task{}
	for _, t := range list {
		byID[t.ID] = t
	}
	return byID
}

// Task tells how a task stands.
func (s *Server) Task(id string) (t Task) {
	s.t.Helper()
	s.mustAsk("/api/v1/tasks/"+id, &t)
	return t
}

// WaitTask waits until the condition holds for a task. Without one, it waits until the task is done, and fails the test
// when it ends otherwise.
func (s *Server) WaitTask(id string, holds func(Task) bool) (t Task) {
	s.t.Helper()
	wait(s.t, "task "+id, func() bool {
		t = s.Task(id)
		if s.Watch != nil {
			s.Watch(t)
		}
		if holds != nil {
			return holds(t)
		}
		if t.over() && t.State != "done" {
			report, _ := json.MarshalIndent(t, "", "  ")
			s.t.Fatalf("task %s is %s: %s", id, t.State, report)
		}
		return t.over()
	})
	return t
}

// Session is what the server says of a multicast session.
type Session struct {
	ID, State string
	Payload   int64 `json:"bytes_payload"`
	Sent      int64 `json:"bytes_sent"`
	Machines  []struct {
		Name, State, Reason string
		Loss                float64
		Finished            int64 `json:"bytes_finished"`
	}
}

// WaitSession waits until the condition holds for the session of a task, which has its number.
func (s *Server) WaitSession(task string, what string, holds func(Session) bool) (c Session) {
	s.t.Helper()
	wait(s.t, fmt.Sprintf("session %s: %s", task, what), func() bool {
		return s.ask("GET", "/api/v1/sessions/"+task, nil, &c) == nil && holds(c)
	})
	return c
}

// Done gives how many bytes the first operation of a task's first run has reported; 0 if it is not in the phase.
func (t Task) Done(phase string) int64 {
	if len(t.Runs) == 0 || len(t.Runs[0].Operations) == 0 {
		return 0
	}
	p := t.Runs[0].Operations[0].Progress
	if p == nil || p.Phase != phase {
		return 0
	}
	return p.Done
}

// Result decodes the engine's summary of a PC's first operation.
func (t Task) Result(T vm.T, pc *PC, into any) {
	T.Helper()
	for _, run := range t.Runs {
		if run.Machine == pc.Name && len(run.Operations) > 0 {
			if err := json.Unmarshal(run.Operations[0].Result, into); err != nil {
				T.Fatalf("result of task %s on %s: %q: %v", t.ID, pc.Name, run.Operations[0].Result, err)
			}
			return
		}
	}
	T.Fatalf("task %s has no run on %s", t.ID, pc.Name)
}
