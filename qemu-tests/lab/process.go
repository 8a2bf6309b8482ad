package lab

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"clonecast/qemu-tests/vm"
)

// Process is a program in the background whose output is logged and kept.
type Process struct {
	label string
	t     vm.T
	cmd   *exec.Cmd
	done  chan struct{}

	mu    sync.Mutex
	lines []string
}

func startProcess(t vm.T, label string, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{label: label, t: t, cmd: cmd, done: make(chan struct{})}
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", label, err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			p.mu.Lock()
			p.lines = append(p.lines, lines.Text())
			p.mu.Unlock()
			t.Logf("%s | %s", label, lines.Text())
		}
		io.Copy(io.Discard, out)
	}()
	go func() {
		cmd.Wait()
		in.Close()
		<-read
		close(p.done)
	}()
	return p
}

// WaitLine waits for a line of output, past or future.
func (p *Process) WaitLine(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	var found []string
	wait(p.t, fmt.Sprintf("%s prints %q", p.label, pattern), func() bool {
		found = p.find(re)
		select {
		case <-p.done:
			if found = p.find(re); found == nil {
				p.t.Fatalf("%s ended before it printed %q", p.label, pattern)
			}
		default:
		}
		return found != nil
	})
	return found
}

func (p *Process) find(re *regexp.Regexp) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.lines {
		if m := re.FindStringSubmatch(line); m != nil {
			return m
		}
	}
	return nil
}

// Output is all that the program printed so far.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// Kill ends the program at once, as a crash would.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the program to end and waits for it.
func (p *Process) Stop() {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(vm.Patience):
		p.Kill()
		p.t.Errorf("%s did not end within %v of SIGTERM", p.label, vm.Patience)
	}
}

// wait polls until the condition holds; the test fails when it hangs.
func wait(t vm.T, what string, holds func() bool) {
	t.Helper()
	for limit := time.Now().Add(vm.Patience); !holds(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("not within %v: %s", vm.Patience, what)
		}
	}
}
