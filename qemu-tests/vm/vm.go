// Package vm runs virtual PCs under QEMU for tests and the demo.
//
// A VM is started with composable options; every line of its serial port goes to the log with the VM's name and the
// time since its start, and can be waited for. A kernel panic ends a VM, Kill is a power cut, and the end of the test
// ends it too. KVM is used where it really works (see Accelerator), TCG elsewhere.
//
// Not guaranteed: that two runs take the same time. The one limit of all waits, Patience, is against hanging; it is
// never part of a judgement.
package vm

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// T is what this package needs of a *testing.T; the demo brings its own.
type T interface {
	Helper()
	Name() string
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
	TempDir() string
}

// Patience is how long a test waits for one thing before that counts as hanging. What takes seconds on a quiet computer
// with KVM may take minutes on a busy one without.
const Patience = 15 * time.Minute

const program = "qemu-system-x86_64"

// VM is a running virtual PC.
type VM struct {
	name    string
	t       T
	cmd     *exec.Cmd
	cancel  context.CancelFunc
	console *console
	done    chan struct{}
	err     error // of the process; valid after done
}

// config is what options add to.
type config struct {
	args    []string
	memory  int
	netns   string
	reboots bool
	drives  int
	nics    int
}

// Option adds a device or a property to a VM.
type Option func(*config)

// Start boots a virtual PC. It ends with the test at the latest.
func Start(t T, name string, options ...Option) *VM {
	t.Helper()
	c := config{memory: 256}
	for _, o := range options {
		o(&c)
	}
	argv := append([]string{program, "-name", name, "-nodefaults", "-display", "none", "-machine", "graphics=off",
		"-serial", "stdio", "-m", fmt.Sprint(c.memory)}, Accelerator()...)
	argv = append(argv, c.args...)
	if !c.reboots {
		argv = append(argv, "-no-reboot")
	}
	if c.netns != "" {
		argv = append([]string{"ip", "netns", "exec", c.netns}, argv...)
	}
	t.Logf("%s: QEMU command line to reproduce: %s", name, shellQuote(argv))

	ctx, cancel := context.WithCancel(context.Background())
	v := &VM{name: name, t: t, cancel: cancel, done: make(chan struct{})}
	v.cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	v.cmd.Cancel = func() error { return syscall.Kill(-v.cmd.Process.Pid, syscall.SIGKILL) }
	var problems strings.Builder
	v.cmd.Stderr = &problems
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	if err := v.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v (make deps installs QEMU)", name, err)
	}
	v.console = newConsole(func(line string, at time.Duration) {
		t.Logf("%s %6.1fs | %s", name, at.Seconds(), line)
		if kernelPanic.MatchString(line) {
			cancel()
		}
	})
	go func() {
		defer close(v.done)
		v.console.read(out)
		v.err = v.cmd.Wait()
		if problems.Len() > 0 && v.err != nil {
			v.err = fmt.Errorf("%w: %s", v.err, strings.TrimSpace(problems.String()))
		}
		v.console.end()
	}()
	t.Cleanup(v.Kill)
	return v
}

var kernelPanic = regexp.MustCompile(`Kernel panic - not syncing`)

// Name of the VM as it stands in the log.
func (v *VM) Name() string { return v.name }

// WaitLine waits until a line of the serial port, past or future, matches and returns the match and its groups.
// The test fails when the VM ends first, or hangs.
func (v *VM) WaitLine(pattern string) []string {
	v.t.Helper()
	match, err := v.console.wait(regexp.MustCompile(pattern))
	if err != nil {
		v.t.Fatalf("%s: wait for %q: %v", v.name, pattern, err)
	}
	return match
}

// Lines returns what the serial port said so far.
func (v *VM) Lines() []string { return v.console.all() }

// Kill cuts the power and waits until the process is gone.
func (v *VM) Kill() {
	v.cancel()
	<-v.done
}

// Pause stops the PC where it is, until Resume.
func (v *VM) Pause() { v.signal(syscall.SIGSTOP) }

// Resume lets a paused PC go on.
func (v *VM) Resume() { v.signal(syscall.SIGCONT) }

func (v *VM) signal(s syscall.Signal) {
	v.t.Helper()
	if err := syscall.Kill(-v.cmd.Process.Pid, s); err != nil {
		v.t.Fatalf("%s: %v: %v", v.name, s, err)
	}
}

// Done is closed when the VM is off.
func (v *VM) Done() <-chan struct{} { return v.done }

// Wait waits until the VM powers itself off.
func (v *VM) Wait() {
	v.t.Helper()
	select {
	case <-v.done:
		if v.err != nil {
			v.t.Fatalf("%s: %v", v.name, v.err)
		}
	case <-time.After(Patience):
		v.t.Fatalf("%s: still on after %v", v.name, Patience)
	}
}

var errOff = errors.New("the VM ended first")

func shellQuote(argv []string) string {
	quoted := make([]string, len(argv))
	for i, a := range argv {
		if strings.ContainsAny(a, " ;*?()[]<>|&$\"'") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		quoted[i] = a
	}
	return strings.Join(quoted, " ")
}
