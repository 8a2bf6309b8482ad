package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// The rules of errors on the screen:
//   - everything goes to standard error; standard output carries data only;
//   - first "clonecast: error: " and what went wrong, then, if there is one,
//     "clonecast: hint: " and what to do about it;
//   - lower case, no full stop, no stack traces;
//   - scripts read the exit code, never the text.

// The exit codes. exitHelp lists them for people.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2
	exitRefused  = 3
	exitNotFound = 6
)

const exitHelp = "Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 refused or declined, 6 not found."

// exitError is an error with the exit code that scripts see and, when we know
// one, the next thing to try.
type exitError struct {
	code int
	err  error
	hint string
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }
func (e *exitError) Hint() string  { return e.hint }

// withCode gives err an exit code and a hint ("" for none); nil stays nil.
func withCode(code int, err error, hint string) error {
	if err == nil {
		return nil
	}
	return &exitError{code: code, err: err, hint: hint}
}

// usage marks err as a mistake on the command line of cmd.
func usage(cmd *cobra.Command, err error) error {
	return withCode(exitUsage, err, fmt.Sprintf("run '%s --help' for how it is used", cmd.CommandPath()))
}

// args wraps a check of the positional arguments so that its errors are usage errors.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, a []string) error {
		if err := check(cmd, a); err != nil {
			return usage(cmd, err)
		}
		return nil
	}
}

// report prints err by the rules above and returns the exit code.
// Any error in the chain may bring a hint by a method Hint() string.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(w, "clonecast: error: %s\n", strings.TrimRight(err.Error(), "\n"))
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) && hinted.Hint() != "" {
		fmt.Fprintf(w, "clonecast: hint: %s\n", hinted.Hint())
	}
	var coded *exitError
	switch {
	case errors.As(err, &coded):
		return coded.code
	case strings.HasPrefix(err.Error(), "unknown command "): // cobra has no type for it
		return exitUsage
	}
	return exitFailed
}
