package main

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// testReporter has a clock that the test turns.
func testReporter(jsonMode, tty bool) (r *reporter, stdout, stderr *strings.Builder, clock *time.Time) {
	stdout, stderr, clock = new(strings.Builder), new(strings.Builder), new(time.Time)
	*clock = time.Unix(1000, 0)
	r = &reporter{stdout: stdout, stderr: stderr, json: jsonMode, now: func() time.Time { return *clock }}
	if tty {
		r.width = func() int { return 40 }
	}
	return r, stdout, stderr, clock
}

// run reports a phase of 60 s at 1 MiB per 100 ms.
func run(r *reporter, clock *time.Time) {
	for i := range int64(601) {
		r.progress("read", i<<20, 600<<20)
		*clock = clock.Add(100 * time.Millisecond)
	}
}

func TestProgressOnATerminal(t *testing.T) {
	r, stdout, stderr, clock := testReporter(false, true)
	run(r, clock)
	if n := strings.Count(stderr.String(), "\r\x1b[K"); n < 100 || n > 121 {
		t.Errorf("60 s are drawn %d times, want at most twice a second", n)
	}
	if strings.Contains(stderr.String(), "\n") || stdout.Len() != 0 {
		t.Errorf("progress leaves its line: %q %q", stderr, stdout)
	}
	for _, line := range strings.Split(stderr.String(), "\r\x1b[K") {
		if len(line) >= 40 {
			t.Errorf("line %q is as wide as the terminal", line)
		}
	}
	if !strings.Contains(stderr.String(), "read  50 %  300.0 MiB of 600.0 MiB") {
		t.Errorf("half of the way is not shown: %q", stderr)
	}
	r.close()
	if !strings.HasSuffix(stderr.String(), "\r\x1b[K") {
		t.Error("close leaves the line")
	}
}

func TestProgressInALog(t *testing.T) {
	r, _, stderr, clock := testReporter(false, false)
	run(r, clock)
	lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
	if len(lines) != 7 || strings.Contains(stderr.String(), "\r") {
		t.Fatalf("60 s give %d lines, want one per 10 s: %q", len(lines), lines)
	}
	if want := "read  50 %  300.0 MiB of 600.0 MiB  10.0 MiB/s  30 s left"; lines[3] != want {
		t.Errorf("line after 30 s is %q, want %q", lines[3], want)
	}
}

func TestProgressJSON(t *testing.T) {
	r, stdout, stderr, clock := testReporter(true, true)
	run(r, clock)
	r.printf("for people")
	if err := r.event("problem", struct {
		Object string `json:"object"`
	}{"a"}); err != nil {
		t.Fatal(err)
	}
	if err := r.summary(struct{}{}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	for _, line := range lines {
		var e struct{ Type string }
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Type == "" {
			t.Fatalf("line %q: %v", line, err)
		}
	}
	n := len(lines)
	if n < 60 || n > 64 || lines[n-1] != `{"type":"summary"}` || lines[n-2] != `{"type":"problem","object":"a"}` {
		t.Errorf("%d lines ending in %q", n, lines[max(0, n-2):])
	}
	if want := `"bytes_done":629145600,"bytes_total":629145600`; !strings.Contains(lines[n-3], want) {
		t.Errorf("the last progress is %s, want %s", lines[n-3], want)
	}
	if stderr.Len() != 0 {
		t.Errorf("--json also draws: %q", stderr)
	}
	if err := r.event("list", []int{1}); err == nil {
		t.Error("an event that is no object is accepted")
	}
}

func TestProgressQuiet(t *testing.T) {
	cmd := &cobra.Command{}
	cmd.Flags().Bool("quiet", true, "")
	var stderr strings.Builder
	cmd.SetErr(&stderr)
	cmd.SetOut(io.Discard)
	r := newReporter(cmd, false)
	r.progress("read", 1, 2)
	if stderr.Len() != 0 {
		t.Errorf("--quiet prints %q", stderr.String())
	}
}

func TestTimeLeftIsCalm(t *testing.T) {
	// A disk that stutters (one second of work, one of silence) must not make the estimate jump.
	r, _, _, clock := testReporter(false, false)
	var lowest, highest time.Duration
	done := int64(0)
	for i := range 1200 {
		if i/10%2 == 0 {
			done += 2 << 20
		}
		r.progress("read", done, 10<<30)
		*clock = clock.Add(100 * time.Millisecond)
		if i < 600 {
			continue
		}
		left, ok := timeLeft(10<<30, r.speed.rate())
		if !ok {
			t.Fatal("no estimate")
		}
		if lowest == 0 || left < lowest {
			lowest = left
		}
		highest = max(highest, left)
	}
	if float64(highest) > 1.15*float64(lowest) {
		t.Errorf("the estimate swings from %v to %v", lowest, highest)
	}
}

func TestRoundTime(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Second:                 "5 s",
		42 * time.Second:            "45 s",
		90 * time.Second:            "2 min",
		3*time.Hour + 4*time.Minute: "3 h 05 min",
	} {
		if got := roundTime(d); got != want {
			t.Errorf("roundTime(%v) = %q, want %q", d, got, want)
		}
	}
}
