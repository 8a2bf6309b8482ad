package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"clonecast/initramfs/console"

	"golang.org/x/sys/unix"
)

// Exit codes of the child.
const (
	exitLocalBoot = 10
	exitReboot    = 11
	exitPoweroff  = 12
	exitFailed    = 13 // and it said why
)

// failureDelay is how long a failure stays on the screen.
const failureDelay = 30 * time.Second

// supervise runs the child and ends the machine's boot as it says. It returns only when
// the machine must be restarted.
func supervise(screen *console.Console, mountErr error) {
	delay := failureDelay
	defer func() {
		if p := recover(); p != nil {
			screen.Fail(fmt.Sprintf("panic: %v", p), "report this as a bug")
		}
		wait(screen, delay)
		unix.Sync()
	}()
	if mountErr != nil {
		screen.Fail(mountErr.Error(),
			"the kernel lacks a file system that the appliance needs: build it from a Debian kernel")
		return
	}
	switch code, err := runChild(""); {
	case err != nil:
		screen.Fail(err.Error(), crashHint)
		// A second child tells the server what became of the first.
		if _, err := runChild(err.Error()); err != nil {
			screen.Say("%v", err)
		}
	case code == exitPoweroff:
		screen.Say("powering off")
		unix.Sync()
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case code == exitLocalBoot, code == exitReboot:
		delay = 0
	}
}

const crashHint = "give the machine more RAM; if it has enough, report this as a bug"

// crashVariable hands the cause of a crash to the child that reports it.
const crashVariable = "CLONECAST_CRASH"

// runChild starts this program once more. Only an end that the child did not choose is
// an error. With a crash the child only reports that.
func runChild(crash string) (code int, err error) {
	child := exec.Command("/proc/self/exe")
	child.Args = []string{"clonecast-init"}
	// A crash writes its trace to the console that the kernel gave us.
	trace := &firstLine{}
	child.Stdout, child.Stderr = os.Stdout, io.MultiWriter(os.Stderr, trace)
	child.Env = []string{"PATH=/", "HOME=/", "GOTRACEBACK=single", crashVariable + "=" + crash}
	err = child.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, errors.New("the appliance's program ended without a reason")
	case !errors.As(err, &exit):
		return 0, fmt.Errorf("start the appliance's program: %w", err)
	case exit.ExitCode() < exitLocalBoot || exit.ExitCode() > exitFailed:
		return 0, fmt.Errorf("the appliance's program crashed: %v: %q", exit, trace.text)
	}
	return exit.ExitCode(), nil
}

// firstLine keeps the first line of what is written to it: a Go program's last words.
type firstLine struct {
	text string
	full bool
}

func (l *firstLine) Write(b []byte) (int, error) {
	for _, c := range b {
		if c == '\n' || len(l.text) >= 200 {
			l.full = true
		}
		if !l.full {
			l.text += string(rune(c))
		}
	}
	return len(b), nil
}

func wait(screen *console.Console, delay time.Duration) {
	for left := delay; left > 0; left -= 10 * time.Second {
		screen.Say("restart in %v", left)
		time.Sleep(min(left, 10*time.Second))
	}
	screen.Say("restart")
}
