package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// event is a line of go test -json (go doc test2json, go help buildjson).
type event struct {
	Action     string
	Package    string
	ImportPath string // of what is built
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

// tested is what a go test said of its packages.
type tested struct {
	packages []*testedPackage // in the order of their ends
	err      error            // of go test, when it is not that packages failed
}

// testedPackage is what go test said of a package.
type testedPackage struct {
	name    string
	state   string // pass, fail, skip; empty while it runs
	seconds float64
	tests   map[string]*testedTest
	lines   []line
}

type testedTest struct {
	name    string
	state   string
	seconds float64
}

// line is a piece of output of a test, or of the package itself.
type line struct{ test, text string }

// failed are the packages that failed, by name.
func (t *tested) failed() (failed []*testedPackage) {
	for _, p := range t.packages {
		if p.state == "fail" {
			failed = append(failed, p)
		}
	}
	slices.SortFunc(failed, func(p, q *testedPackage) int { return strings.Compare(p.name, q.name) })
	return failed
}

// goTest runs go test and prints what it says.
func goTest(ctx context.Context, o options, out io.Writer, packages, flags []string) *tested {
	t := &tested{}
	cmd := exec.CommandContext(ctx, "go", o.arguments(packages, flags)...)
	cmd.Dir = o.dir
	cmd.Stderr = out
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // which go test hands on
	cmd.WaitDelay = time.Minute
	events, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.err = err
		return t
	}
	if err := t.read(events, out, o.verbose); err != nil {
		t.err = err
		_, _ = io.Copy(io.Discard, events) // or go test would hang
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || len(t.failed()) == 0) {
		t.err = fmt.Errorf("go test: %w", err)
	}
	return t
}

// read takes the events of go test in, and prints the output that goes to people.
func (t *tested) read(events io.Reader, out io.Writer, verbose bool) error {
	running := map[string]*testedPackage{}
	lines := bufio.NewReader(events)
	for {
		text, err := lines.ReadBytes('\n')
		if len(text) > 0 {
			var e event
			if json.Unmarshal(text, &e) != nil {
				_, _ = out.Write(text) // go itself has something to say
			} else {
				t.take(e, running, out, verbose)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the output of go test: %w", err)
		}
	}
}

func (t *tested) take(e event, running map[string]*testedPackage, out io.Writer, verbose bool) {
	if e.Package == "" { // of the build
		fmt.Fprint(out, e.Output)
		return
	}
	p := running[e.Package]
	if p == nil {
		p = &testedPackage{name: e.Package, tests: map[string]*testedTest{}}
		running[e.Package] = p
	}
	switch e.Action {
	case "output":
		if verbose {
			fmt.Fprint(out, e.Output)
		} else {
			p.lines = append(p.lines, line{e.Test, e.Output})
		}
	case "run":
		p.tests[e.Test] = &testedTest{name: e.Test}
	case "pass", "fail", "skip":
		if e.Test != "" {
			p.tests[e.Test] = &testedTest{e.Test, e.Action, e.Elapsed}
			return
		}
		p.state, p.seconds = e.Action, e.Elapsed
		t.packages = append(t.packages, p)
		delete(running, e.Package)
		p.print(out)
	}
}

// print shows what go test without -v would: of a package that failed, the output of the tests that did not pass.
func (p *testedPackage) print(out io.Writer) {
	for _, l := range p.lines {
		test, known := p.tests[l.test]
		switch {
		case strings.HasPrefix(l.text, "=== "): // RUN, PAUSE, CONT, NAME
		case p.state == "fail" && (!known || test.state != "pass" && test.state != "skip"):
			fmt.Fprint(out, l.text)
		case strings.HasPrefix(l.text, "ok  ") || strings.HasPrefix(l.text, "?   "):
			fmt.Fprint(out, l.text)
		}
	}
	p.lines = nil
}
