// Command testrun runs go test, and the packages that failed once more, alone.
//
//	testrun [-v] [-limit 20m] [-end SECONDS] [-summary FILE] PACKAGES [-- FLAGS OF GO TEST]
//
// It prints what go test prints. At the end stand the time of each package, the ten slowest tests, and what did not
// pass at once: "FLAKY: …" passed the second time, and the run counts as passed; "FAILED: …" did not, and the exit
// code is 1. A second try never hides the first: the output of both is printed as it comes.
//
// The limits are against a hang. A package may take -limit; at -end, in seconds since 1970, all is over: what runs
// then is ended, and nothing is begun again.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// options are what the command line says.
type options struct {
	dir      string // where go test runs; empty: here
	verbose  bool
	limit    time.Duration
	end      time.Time // zero: never
	packages []string
	flags    []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, summary, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
		os.Exit(2)
	}
	passed, report := run(ctx, o, os.Stdout)
	fmt.Print("\n", report)
	if err := keep(summary, report); err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
		passed = false
	}
	if !passed {
		stop()
		os.Exit(1)
	}
}

func parse(args []string) (o options, summary string, err error) {
	if i := slices.Index(args, "--"); i >= 0 {
		args, o.flags = args[:i], args[i+1:]
	}
	var end int64
	f := flag.NewFlagSet("testrun", flag.ContinueOnError)
	f.BoolVar(&o.verbose, "v", false, "print the output of tests that pass, too, at once")
	f.DurationVar(&o.limit, "limit", 20*time.Minute, "how long a package may take")
	f.Int64Var(&end, "end", 0, "when all is over, in seconds since 1970; 0 is never")
	f.StringVar(&summary, "summary", "", "file that keeps what is printed at the end")
	if err := f.Parse(args); err != nil {
		return o, "", err
	}
	if o.packages = f.Args(); len(o.packages) == 0 {
		return o, "", fmt.Errorf("no packages are named")
	}
	if end != 0 {
		o.end = time.Unix(end, 0)
	}
	return o, summary, nil
}

// keep writes the summary to a file, if there is to be one.
func keep(path, report string) error {
	if path == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(report), 0o644)
}

// run tests the packages, those that failed twice, and tells what came of it.
func run(ctx context.Context, o options, out io.Writer) (passed bool, report string) {
	r := result{first: goTest(ctx, o, out, o.packages, o.flags), again: map[string]*testedPackage{}}
	for _, p := range r.first.failed() {
		if ctx.Err() != nil || o.left() <= 0 {
			fmt.Fprintf(out, "\n%s failed, and there is no time to run it again\n", p.name)
			continue
		}
		fmt.Fprintf(out, "\n%s failed: it is run again, alone\n", p.name)
		again := goTest(ctx, o, out, []string{p.name}, append(slices.Clone(o.flags), "-count=1"))
		if len(again.packages) == 1 && again.err == nil {
			r.again[p.name] = again.packages[0]
		}
	}
	return r.passed(), r.String()
}

// left is how long a package may take now.
func (o options) left() time.Duration {
	if o.end.IsZero() {
		return o.limit
	}
	return min(o.limit, time.Until(o.end).Truncate(time.Second))
}

// arguments are those of go test.
func (o options) arguments(packages, flags []string) []string {
	// A limit of 0 would be none.
	args := append([]string{"test", "-json", fmt.Sprintf("-timeout=%v", max(o.left(), time.Second))}, flags...)
	return append(args, packages...)
}
