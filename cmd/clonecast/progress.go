package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"time"

	"clonecast/internal/quantity"
	"clonecast/internal/text"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// The rules of progress on the screen:
//   - a terminal gets one line on standard error, redrawn at most twice a second;
//   - anything else (log, pipe, a terminal that is dumb) gets a line when a phase begins, then one per 10 s;
//   - there are no colours, so that NO_COLOR finds nothing to do;
//   - with --json, standard output is NDJSON: every line has a "type", the last one is
//     the summary; nothing else is printed there;
//   - a flag --quiet, where a command has one, silences progress in every mode.
const (
	redrawEvery = 500 * time.Millisecond
	logEvery    = 10 * time.Second
	jsonEvery   = time.Second
	// rateMemory is how far back the speed is averaged, so that the time left is calm.
	rateMemory = 15 * time.Second
)

// reporter tells the user how far a command is and what came of it. Its methods may be
// called concurrently.
type reporter struct {
	stdout, stderr io.Writer
	json, quiet    bool
	width          func() int // columns of the terminal; nil when there is none
	now            func() time.Time

	mu    sync.Mutex
	phase string
	shown time.Time
	drawn bool // a progress line stands on the terminal
	speed meter
}

// newReporter makes the reporter of a command. The caller ends it with close.
func newReporter(cmd *cobra.Command, jsonMode bool) *reporter {
	r := &reporter{stdout: cmd.OutOrStdout(), stderr: cmd.ErrOrStderr(), json: jsonMode, now: time.Now}
	if f := cmd.Flags().Lookup("quiet"); f != nil {
		r.quiet = f.Value.String() == "true"
	}
	if f := fileOf(r.stderr); isTerminal(f) && os.Getenv("TERM") != "dumb" {
		r.width = func() int {
			columns, _, err := term.GetSize(int(f.Fd()))
			if err != nil || columns < 20 {
				return 80
			}
			return columns
		}
	}
	return r
}

// progress says that done of total bytes of a phase are through; total 0 is unknown.
// It may be called as often as the caller likes.
func (r *reporter) progress(phase string, done, total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.quiet {
		return
	}
	now := r.now()
	if phase != r.phase {
		r.phase, r.speed, r.shown = phase, meter{}, time.Time{}
	}
	r.speed.update(now, done)
	last := total > 0 && done >= total
	every := logEvery
	switch {
	case r.json:
		every = jsonEvery
	case r.width != nil:
		every = redrawEvery
	}
	if now.Sub(r.shown) < every && !(last && r.json) {
		return
	}
	r.shown = now
	r.show(phase, done, total)
}

func (r *reporter) show(phase string, done, total int64) {
	rate := r.speed.rate()
	left, known := timeLeft(total-done, rate)
	if r.json {
		e := progressEvent{Phase: phase, Done: done, Total: total, Rate: int64(rate)}
		if known {
			seconds := int64(left / time.Second)
			e.Left = &seconds
		}
		_ = writeEvent(r.stdout, "progress", e) // standard output remembers
		return
	}
	line := phase + "  "
	if total > 0 {
		line += fmt.Sprintf("%d %%  %v of %v", min(100, int64(100*float64(done)/float64(total))),
			quantity.Bytes(done), quantity.Bytes(total))
	} else {
		line += quantity.Bytes(done).String()
	}
	if rate > 0 {
		line += fmt.Sprintf("  %v/s", quantity.Bytes(rate))
	}
	if known && total > done {
		line += "  " + roundTime(left) + " left"
	}
	if r.width == nil {
		fmt.Fprintln(r.stderr, line)
		return
	}
	if runes := []rune(line); len(runes) >= r.width() {
		line = string(runes[:r.width()-1])
	}
	fmt.Fprintf(r.stderr, "\r\x1b[K%s", line)
	r.drawn = true
}

type progressEvent struct {
	Phase string `json:"phase"`
	Done  int64  `json:"bytes_done"`
	Total int64  `json:"bytes_total,omitempty"`
	Rate  int64  `json:"bytes_per_second"`
	Left  *int64 `json:"seconds_left,omitempty"`
}

// event writes one NDJSON line: {"type": kind, the fields of v}. Without --json it does nothing.
func (r *reporter) event(kind string, v any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.json {
		return nil
	}
	return writeEvent(r.stdout, kind, v)
}

// printf writes text for people to standard output, above the progress line. With
// --json it does nothing.
func (r *reporter) printf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.json {
		return
	}
	r.clear()
	fmt.Fprintf(r.stdout, format, args...)
}

// warn writes a line for people to standard error in every mode.
func (r *reporter) warn(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
	fmt.Fprintf(text.Writer{W: r.stderr}, "clonecast: warning: "+format+"\n", args...)
}

// summary ends the report: with --json the last line, {"type":"summary", the fields of v}.
func (r *reporter) summary(v any) error {
	r.close()
	return r.event("summary", v)
}

// close takes the progress line off the terminal. It may be called twice.
func (r *reporter) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
}

func (r *reporter) clear() {
	if r.drawn {
		fmt.Fprint(r.stderr, "\r\x1b[K")
		r.drawn = false
	}
}

// writeEvent writes one NDJSON line: the type joined with the fields of v, which must encode to an object.
func writeEvent(w io.Writer, kind string, v any) error {
	fields, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s event: %w", kind, err)
	}
	if !bytes.HasPrefix(fields, []byte("{")) {
		return fmt.Errorf("encode %s event: %T is not an object", kind, v)
	}
	head, err := json.Marshal(kind)
	if err != nil {
		return fmt.Errorf("encode %s event: %w", kind, err)
	}
	line := append([]byte(`{"type":`), head...)
	if len(fields) > len("{}") {
		line = append(line, ',')
	}
	line = append(append(line, fields[1:]...), '\n')
	if _, err := w.Write(line); err != nil {
		return fmt.Errorf("write %s event: %w", kind, err)
	}
	return nil
}

// meter averages a speed: each update weighs as much as the time it covers.
type meter struct {
	started, at time.Time
	done        int64
	value       float64 // bytes per second
	weight      float64 // 0..1: how much of value is measured; the rest is its zero start
}

func (m *meter) update(now time.Time, done int64) {
	if m.started.IsZero() {
		m.started, m.at, m.done = now, now, done
		return
	}
	passed := now.Sub(m.at)
	if passed < 100*time.Millisecond { // too short to measure
		return
	}
	keep := math.Exp(-float64(passed) / float64(rateMemory))
	m.value = keep*m.value + (1-keep)*float64(max(0, done-m.done))/passed.Seconds()
	m.weight = keep*m.weight + (1 - keep)
	m.at, m.done = now, done
}

func (m *meter) rate() float64 {
	if m.weight == 0 {
		return 0
	}
	return m.value / m.weight
}

func timeLeft(bytes int64, rate float64) (time.Duration, bool) {
	if bytes < 0 || rate < 1 {
		return 0, false
	}
	seconds := float64(bytes) / rate
	if seconds > 1e7 {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}

// roundTime gives a time left as people say it: finer the closer the end is.
func roundTime(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int64(d.Seconds()/5+1)*5)
	case d < time.Hour:
		return fmt.Sprintf("%d min", int64(math.Ceil(d.Minutes())))
	}
	d = d.Round(5 * time.Minute)
	return fmt.Sprintf("%d h %02d min", int64(d.Hours()), int64(d.Minutes())%60)
}
