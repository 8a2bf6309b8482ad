package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// module makes a Go module and gives its folder. A name that is no file's is that of a package of tests.
func module(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module m\n\ngo 1.26\n")
	for name, text := range files {
		if filepath.Ext(name) == "" {
			name, text = name+"/x_test.go", "package "+name+"\n\n"+text
		}
		write(name, text)
	}
	return dir
}

// Packages of tests. A flaky one fails until its mark is there.
const (
	good = `import "testing"

func TestGood(t *testing.T) { t.Log("quiet"); t.Run("part", func(*testing.T) {}) }
func TestLeftOut(t *testing.T) { t.Skip() }
`
	flaky = `import ("os"; "testing")

func TestFine(t *testing.T) { t.Log("quiet") }
func TestShaky(t *testing.T) {
	t.Run("good", func(*testing.T) {})
	t.Run("bad", func(t *testing.T) {
		if _, err := os.Stat("mark"); err == nil {
			return
		}
		if err := os.WriteFile("mark", nil, 0o644); err != nil {
			t.Fatal(err)
		}
		t.Error("first try")
	})
}
`
	bad = `import "testing"

func TestFine(t *testing.T) {}
func TestBad(t *testing.T) { t.Error("always") }
`
	uncompiled = `import "testing"

func TestNothing(t *testing.T) { undefined() }
`
	panics = `import "testing"

func TestBefore(t *testing.T) {}
func TestPanic(t *testing.T) { go panic("a bug"); select {} }
func TestAfter(t *testing.T) {}
`
	hangs = `import "testing"

func TestHang(t *testing.T) { select {} }
`
	hangsOnce = `import ("os"; "testing")

func TestSlow(t *testing.T) {
	if _, err := os.Stat("mark"); err == nil {
		return
	}
	if err := os.WriteFile("mark", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	select {}
}
`
	exits = `import ("os"; "testing")

func TestMain(*testing.M) { os.Exit(3) }
`
)

func TestRun(t *testing.T) {
	tests := map[string]struct {
		packages map[string]string
		limit    time.Duration
		passed   bool
		out      []string // what is printed meanwhile
		report   []string // and at the end
	}{
		"all pass": {map[string]string{"good": good, "fine/x.go": "package fine"}, time.Minute, true,
			[]string{"ok  \tm/good\t", "?   \tm/fine\t"},
			[]string{" m/good\n", " m/good TestGood\n", "\n1 passed, 0 failed\n"}},
		"flaky": {map[string]string{"good": good, "flaky": flaky}, time.Minute, true,
			[]string{"--- FAIL: TestShaky/bad", "first try", "FAIL\tm/flaky\t",
				"m/flaky failed: it is run again, alone", "ok  \tm/flaky\t"},
			[]string{"\nFLAKY: m/flaky TestShaky/bad: failed, then passed when it was run again alone\n3 passed, 0 failed\n"}},
		"bad": {map[string]string{"good": good, "bad": bad}, time.Minute, false,
			[]string{"ok  \tm/good\t", "always", "m/bad failed: it is run again, alone", "FAIL\tm/bad\t"},
			[]string{"\nFAILED: m/bad TestBad\n2 passed, 1 failed\n"}},
		"bad and flaky": {map[string]string{"flaky": flaky, "bad": bad}, time.Minute, false, nil,
			[]string{"\nFLAKY: m/flaky TestShaky/bad: ", "\nFAILED: m/bad TestBad\n", "\n3 passed, 1 failed\n"}},
		"does not compile": {map[string]string{"good": good, "uncompiled": uncompiled}, time.Minute, false,
			[]string{"undefined: undefined", "FAIL\tm/uncompiled [build failed]"},
			[]string{"\nFAILED: m/uncompiled\n1 passed, 1 failed\n"}},
		"panics": {map[string]string{"panics": panics}, time.Minute, false,
			[]string{"panic: a bug", "FAIL\tm/panics\t"},
			[]string{"\nFAILED: m/panics TestPanic\n1 passed, 1 failed\n"}},
		"hangs": {map[string]string{"hangs": hangs}, 5 * time.Second, false,
			[]string{"panic: test timed out after 5s", "FAIL\tm/hangs\t"},
			[]string{"\nFAILED: m/hangs TestHang\n0 passed, 1 failed\n"}},
		"hangs once": {map[string]string{"slow": hangsOnce}, 5 * time.Second, true,
			[]string{"panic: test timed out after 5s", "ok  \tm/slow\t"},
			[]string{"\nFLAKY: m/slow TestSlow: ", "\n1 passed, 0 failed\n"}},
		"exits": {map[string]string{"exits": exits}, time.Minute, false,
			[]string{"exit status 3", "FAIL\tm/exits\t"},
			[]string{"\nFAILED: m/exits\n0 passed, 1 failed\n"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			o := options{dir: module(t, test.packages), limit: test.limit, packages: []string{"./..."}}
			passed, report := run(t.Context(), o, &out)
			if passed != test.passed {
				t.Errorf("passed is %v, want %v", passed, test.passed)
			}
			wantIn(t, out.String(), test.out)
			wantIn(t, report, test.report)
			if strings.Contains(out.String(), "quiet") || strings.Contains(out.String(), "=== RUN") {
				t.Errorf("tests that pass are printed:\n%s", &out)
			}
		})
	}
}

// wantIn expects parts of a text.
func wantIn(t *testing.T, text string, parts []string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in:\n%s", part, text)
		}
	}
}

// With -v all is printed.
func TestVerbose(t *testing.T) {
	var out strings.Builder
	o := options{dir: module(t, map[string]string{"good": good}), verbose: true, limit: time.Minute,
		packages: []string{"./..."}, flags: []string{"-run", "Good"}}
	passed, report := run(t.Context(), o, &out)
	if !passed || !strings.Contains(report, "1 passed, 0 failed") {
		t.Errorf("passed is %v:\n%s", passed, report)
	}
	wantIn(t, out.String(), []string{"=== RUN   TestGood", "quiet", "--- PASS: TestGood", "ok  \tm/good\t"})
}

// What go test itself refuses is a failure, though no package has failed.
func TestNoSuchPackage(t *testing.T) {
	for _, flags := range [][]string{nil, {"-no-such-flag"}} {
		var out strings.Builder
		o := options{dir: module(t, nil), limit: time.Minute, packages: []string{"./missing"}, flags: flags}
		passed, report := run(t.Context(), o, &out)
		if passed || !strings.Contains(report, "\nFAILED: ") || strings.Contains(report, " 0 failed") {
			t.Errorf("with %q passed is %v:\n%s%s", flags, passed, &out, report)
		}
	}
}

// When the time for all is over, a package is ended, and not run again.
func TestEnd(t *testing.T) {
	var out strings.Builder
	o := options{dir: module(t, map[string]string{"hangs": hangs}), limit: time.Minute,
		end: time.Now().Add(time.Second), packages: []string{"./..."}}
	passed, report := run(t.Context(), o, &out)
	wantIn(t, out.String(), []string{"panic: test timed out after 1s",
		"m/hangs failed, and there is no time to run it again"})
	if passed || !strings.Contains(report, "\nFAILED: m/hangs") {
		t.Errorf("passed is %v:\n%s", passed, report)
	}
}

// Who interrupts the run sees no package pass that did not.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := options{dir: module(t, map[string]string{"good": good}), limit: time.Minute, packages: []string{"./..."}}
	if passed, report := run(ctx, o, new(strings.Builder)); passed {
		t.Errorf("an interrupted run has passed:\n%s", report)
	}
}

// The exit code tells how the run ended, and the file of the summary is what was printed last.
func TestExitCodes(t *testing.T) {
	program := filepath.Join(t.TempDir(), "testrun")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for name, test := range map[string]struct {
		packages map[string]string
		args     []string
		code     int
		end      string
	}{
		"passed": {map[string]string{"good": good}, []string{"./..."}, 0, "\n1 passed, 0 failed\n"},
		"flaky":  {map[string]string{"flaky": flaky}, []string{"./..."}, 0, "alone\n2 passed, 0 failed\n"},
		"failed": {map[string]string{"bad": bad}, []string{"./..."}, 1, "\nFAILED: m/bad TestBad\n1 passed, 1 failed\n"},
		"usage":  {nil, nil, 2, "no packages are named\n"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(program, append([]string{"-summary", "summary"}, test.args...)...)
			cmd.Dir = module(t, test.packages)
			out, err := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != test.code || !strings.HasSuffix(string(out), test.end) {
				t.Errorf("exit code %d (%v), want %d, and %q at the end of:\n%s", code, err, test.code, test.end, out)
			}
			summary, err := os.ReadFile(filepath.Join(cmd.Dir, "summary"))
			if test.code != 2 && (err != nil || !strings.HasSuffix(string(out), "\n"+string(summary))) {
				t.Errorf("the summary is %q, %v", summary, err)
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	line := "-v -limit 5m -end 1700000000 -summary s ./a ./b -- -p 1"
	o, summary, err := parse(strings.Fields(line))
	if err != nil || !o.verbose || o.limit != 5*time.Minute || o.end.Unix() != 1700000000 || summary != "s" ||
		strings.Join(o.packages, " ") != "./a ./b" || strings.Join(o.flags, " ") != "-p 1" {
		t.Errorf("parse = %+v, %q, %v", o, summary, err)
	}
	if _, _, err := parse([]string{"-v"}); err == nil {
		t.Error("no packages are no error")
	}
	path := filepath.Join(t.TempDir(), "new", "summary")
	if err := keep(path, "text"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "text" {
		t.Errorf("kept %q, %v", b, err)
	}
}
