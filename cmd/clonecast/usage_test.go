package main

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// outcomeOf is a command line with its outputs and its exit code.
func outcomeOf(t *testing.T, line ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = execute(t.Context(), line, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// everyCommand calls f with each command of the program, the library's own as well.
func eachCommand(f func(cmd *cobra.Command, path []string)) {
	var walk func(cmd *cobra.Command, path []string)
	walk = func(cmd *cobra.Command, path []string) {
		f(cmd, path)
		for _, c := range cmd.Commands() {
			walk(c, append(slices.Clone(path), c.Name()))
		}
	}
	walk(newRootCmd(), nil)
}

// raw are the words that the library would say.
var raw = regexp.MustCompile(
	`accepts|required flag|unknown (short|flag|command)|invalid argument|arg\(s\)|strconv|flag needs`)

// wrongUsage wants a command line to be refused as wrong, in words of ours, and as a line of JSON.
func wrongUsage(t *testing.T, line []string, want string) {
	t.Helper()
	code, _, stderr := outcomeOf(t, line...)
	if code != exitUsage || !strings.Contains(stderr, want) || !strings.Contains(stderr, "clonecast: hint: ") ||
		raw.MatchString(stderr) {
		t.Errorf("clonecast %s: exit code %d, want 2 and %q:\n%s", strings.Join(line, " "), code, want, stderr)
	}
	at := len(line)
	if at > 0 && strings.HasPrefix(line[at-1], "--") { // which may want a value
		at--
	}
	_, stdout, _ := outcomeOf(t, slices.Insert(slices.Clone(line), at, "--json")...)
	if last := lastLine(stdout); !strings.HasPrefix(last, `{"type":"error","code":2,"message":"`) {
		t.Errorf("clonecast %s --json ends with %q", strings.Join(line, " "), last)
	}
}

// Every command refuses what it does not know or misses, in the same way.
func TestWrongUsageOfEveryCommand(t *testing.T) {
	leaves := 0
	eachCommand(func(cmd *cobra.Command, path []string) {
		wrongUsage(t, append(slices.Clone(path), "--nosuchflag"), "there is no flag --nosuchflag")
		wrongUsage(t, append(slices.Clone(path), "-Z"), "there is no flag -Z")
		if cmd.HasSubCommands() {
			wrongUsage(t, path, "a command is missing after '"+cmd.CommandPath()+"'")
			wrongUsage(t, append(slices.Clone(path), "nosuchcommand"),
				`"nosuchcommand" is no command of '`+cmd.CommandPath()+"'")
			return
		}
		if cmd.Name() == "help" {
			wrongUsage(t, []string{"help", "nosuch"}, "is no command")
			return
		}
		leaves++
		needed := needs(cmd)
		if needed != "" {
			wrongUsage(t, path, needed+" is missing")
		}
		if !strings.Contains(cmd.Use, "…") {
			words := append(slices.Clone(path), "w1", "w2", "w3", "w4")
			if code, _, stderr := outcomeOf(t, words...); code != exitUsage || !strings.Contains(stderr,
				"is one word too many") {
				t.Errorf("clonecast %s: exit code %d: %s", strings.Join(words, " "), code, stderr)
			}
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.NoOptDefVal == "" {
				wrongUsage(t, append(slices.Clone(path), "--"+f.Name), "--"+f.Name+" wants a value")
			}
			if kind := f.Value.Type(); kind == "int" || kind == "bool" || kind == "duration" {
				wrongUsage(t, append(slices.Clone(path), "--"+f.Name+"=x"), "--"+f.Name+" wants ")
			}
		})
	})
	if leaves < 30 {
		t.Errorf("%d commands: the test no longer sees the program", leaves)
	}
}

// needs gives the first word or flag that a command must have, or "".
func needs(cmd *cobra.Command) string {
	if words := strings.Fields(cmd.Use); len(words) > 1 && !strings.ContainsAny(words[1][:1], "-[(") {
		return regexp.MustCompile(`^[A-Z]+`).FindString(words[1])
	}
	needed := ""
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if _, ok := f.Annotations[requiredFlag]; ok && needed == "" {
			value, _ := pflag.UnquoteUsage(f)
			needed = "--" + f.Name + " " + value
		}
	})
	return needed
}

// brokenWriter is a standard output with no room, or with no reader.
type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

// A result that cannot be written is no success, whatever the command.
func TestBrokenOutput(t *testing.T) {
	eachCommand(func(_ *cobra.Command, path []string) {
		for err, want := range map[error]int{syscall.ENOSPC: exitFailed, syscall.EPIPE: 141} {
			var stderr bytes.Buffer
			code := execute(t.Context(), append(slices.Clone(path), "--help"), strings.NewReader(""),
				brokenWriter{err}, &stderr)
			if code != want || (stderr.Len() == 0) != (err == syscall.EPIPE) {
				t.Errorf("clonecast %s --help with %v: exit code %d, want %d: %s", strings.Join(path, " "), err, code,
					want, stderr.String())
			}
		}
	})
	for _, line := range []string{"--version", "completion bash", "disk list", "disk list --json"} {
		if code := execute(t.Context(), strings.Fields(line), nil, brokenWriter{syscall.ENOSPC},
			&bytes.Buffer{}); code != exitFailed {
			t.Errorf("clonecast %s with a full output: exit code %d", line, code)
		}
	}
}

func TestSuggestions(t *testing.T) {
	for line, want := range map[string]string{
		"disk captur":     "did you mean 'clonecast disk capture'?",
		"imgae list":      "did you mean 'clonecast image'?",
		"task run deplyo": "did you mean 'clonecast task run deploy'?",
		"disk capture a b --store c --comprssion x": "did you mean --compression?",
		"completion bsh": "did you mean 'clonecast completion bash'?",
	} {
		if code, _, stderr := outcomeOf(t, strings.Fields(line)...); code != exitUsage || !strings.Contains(stderr,
			want) {
			t.Errorf("clonecast %s: %d, %s", line, code, stderr)
		}
	}
}

func TestClosest(t *testing.T) {
	for _, c := range []struct{ word, want string }{{"lab", "lab"}, {"Lab", "lab"}, {"alb", "lab"}, {"lbaa", ""},
		{"win10", "win11"}, {"x", ""}, {"windows", ""}} {
		if got := closest(c.word, []string{"lab", "win11", "server"}); got != c.want {
			t.Errorf("closest(%q) = %q, want %q", c.word, got, c.want)
		}
	}
}

// A path may hold anything; no message of ours lets it act on a terminal or end a line.
func TestPathsAreEscaped(t *testing.T) {
	evil := "no\x1b[2J\nclonecast: all is well\u202e"
	for _, line := range [][]string{
		{"disk", "inspect", evil}, {"image", "import", evil, "--store", "s"}, {"store", "check",
			"--store=" + evil}, {"disk", "capture", evil, evil, "--store", evil},
		{"build", evil, "--output", "o"}, {"disk", evil}, {"disk", "list", "--" + evil}, {"multicast", "send",
			"--file", evil, "--interface", "lo"},
	} {
		code, stdout, stderr := outcomeOf(t, append(line, "--json")...)
		if code == exitOK || strings.ContainsAny(stderr, "\x1b\u202e") || strings.Contains(stderr,
			"\nclonecast: all") || strings.ContainsAny(stdout, "\x1b\u202e") || strings.Count(stdout, "\n") != 1 {
			t.Errorf("clonecast %q: %d\n%q\n%q", line, code, stdout, stderr)
		}
	}
}

// An interruption is reported as one, whatever error the parts of a command return for it.
func TestInterruption(t *testing.T) {
	for signal, want := range map[syscall.Signal]int{syscall.SIGHUP: 129, syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(&interruptedError{signal})
		err := interruption(ctx, errors.Join(ctx.Err(), errors.New("write x: context canceled")))
		if exitCode(err) != want || err.Error() != "interrupted, run it again to go on" {
			t.Errorf("%v: %d, %v", signal, exitCode(err), err)
		}
		if err := interruption(ctx, nil); err != nil {
			t.Errorf("a command that ended well: %v", err)
		}
	}
	if err := interruption(t.Context(), syscall.EIO); err != syscall.EIO {
		t.Error(err)
	}
}
