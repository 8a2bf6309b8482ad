// Package console shows what the appliance does, on the screen and on serial lines at
// once.
//
// Every line goes to every terminal that the kernel uses as console, and to the
// screen in any case. A running operation has one progress line: rewritten in place on a
// screen, a line of its own every few seconds on a serial line, where somebody may be
// keeping a log.
//
// Texts may come from the network or a disk: everything outside printable ASCII is
// shown escaped, so that nothing can move the cursor or forge a line. Of terminals only
// carriage return and "erase to end of line" (ECMA-48 EL) are expected.
package console

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"clonecast/internal/text"
)

// Intervals between two progress lines.
const (
	screenInterval = 500 * time.Millisecond
	serialInterval = 3 * time.Second
)

// width is how much of a line a screen shows, less than the 80 columns of the smallest one.
const width = 79

// Console writes to all terminals. Its methods may be called concurrently.
type Console struct {
	now func() time.Time

	mu         sync.Mutex
	terminals  []terminal
	open       bool // the screens' last line is a progress line
	lastScreen time.Time
	lastSerial time.Time
}

type terminal struct {
	io.Writer
	screen bool
}

// New makes a console of screens, where a line can be rewritten, and of serial lines.
func New(now func() time.Time, screens, serials []io.Writer) *Console {
	c := &Console{now: now}
	for _, w := range screens {
		c.terminals = append(c.terminals, terminal{w, true})
	}
	for _, w := range serials {
		c.terminals = append(c.terminals, terminal{w, false})
	}
	return c
}

// Open makes a console of the machine's terminals: those that the kernel writes to, and
// the screen.
func Open() *Console {
	active, _ := os.ReadFile("/sys/class/tty/console/active")
	names := strings.Fields(string(active))
	if !strings.Contains(" "+strings.Join(names, " ")+" ", " tty0 ") {
		names = append(names, "tty0")
	}
	var screens, serials []io.Writer
	for _, name := range names {
		// O_NOCTTY: a hang-up of a line must not end PID 1.
		f, err := os.OpenFile("/dev/"+name, os.O_WRONLY|noctty, 0)
		switch {
		case err != nil:
		case isScreen(name):
			screens = append(screens, f)
		default:
			serials = append(serials, f)
		}
	}
	if len(screens)+len(serials) == 0 {
		serials = append(serials, os.Stderr)
	}
	return New(time.Now, screens, serials)
}

func isScreen(name string) bool {
	return strings.HasPrefix(name, "tty") && len(name) > 3 && name[3] >= '0' && name[3] <= '9'
}

// Say shows a line.
func (c *Console) Say(format string, args ...any) {
	line := text.EscapeASCII(fmt.Sprintf(format, args...), maxLine)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.terminals {
		if t.screen && c.open {
			io.WriteString(t, "\r\x1b[K")
		}
		io.WriteString(t, line+"\r\n")
	}
	c.open = false
}

// Fail shows what went wrong and what to do about it.
func (c *Console) Fail(cause, hint string) {
	c.Say("")
	c.Say("clonecast: error: %s", cause)
	if hint != "" {
		c.Say("clonecast: hint: %s", hint)
	}
}

// Progress is how far an operation is.
type Progress struct {
	Title       string // "task 12: deploy win11-lab"
	Phase       string
	Done, Total int64 // bytes; Total 0: nothing is counted
	Rate        int64 // bytes a second
	ETA         int64 // seconds, -1 unknown
	Writing     bool  // the disk is being changed
}

// Progress shows p unless it is too early for another line. It does not wait for a
// terminal that is busy.
func (c *Console) Progress(p Progress) {
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	now := c.now()
	if now.Sub(c.lastScreen) < screenInterval {
		return
	}
	c.lastScreen = now
	serial := now.Sub(c.lastSerial) >= serialInterval
	if serial {
		c.lastSerial = now
	}
	line := text.EscapeASCII(p.String(), maxLine)
	for _, t := range c.terminals {
		switch {
		case t.screen:
			io.WriteString(t, "\r"+line[:min(len(line), width)]+"\x1b[K")
			c.open = true
		case serial:
			io.WriteString(t, line+"\r\n")
		}
	}
}

func (p Progress) String() string {
	var b strings.Builder
	if p.Writing {
		b.WriteString("DO NOT SWITCH OFF  ")
	}
	fmt.Fprintf(&b, "%s  %s", p.Title, p.Phase)
	if p.Total > 0 {
		fmt.Fprintf(&b, " %3d %%", int64(float64(min(max(p.Done, 0), p.Total))/float64(p.Total)*100))
	}
	if p.Rate > 0 || p.ETA >= 0 { // else nothing is known yet
		fmt.Fprintf(&b, "  %d MB/s  %s", p.Rate/1e6, eta(p.ETA))
	}
	return b.String()
}

func eta(seconds int64) string {
	switch {
	case seconds < 0:
		return "time left unknown"
	case seconds >= 3600:
		return fmt.Sprintf("%d:%02d:%02d left", seconds/3600, seconds/60%60, seconds%60)
	}
	return fmt.Sprintf("%d:%02d left", seconds/60, seconds%60)
}

// maxLine bounds a line, escaped.
const maxLine = 1000
