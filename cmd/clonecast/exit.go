package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"clonecast/internal/text"
)

// The rules of errors on the screen:
//   - everything goes to standard error; standard output carries data only;
//   - first "clonecast: error: " and what went wrong, then, if there is one,
//     "clonecast: hint: " and what to do about it;
//   - lower case, no full stop, no stack traces;
//   - scripts read the exit code, never the text; with --json the last line of standard output is
//     {"type":"error","code":…,"message":…,"hint":…}, code being the exit code.

// The exit codes. exitHelp lists them for people.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2
	exitRefused  = 3
	exitNotFound = 6
	exitSignal   = 128 // and the signal's number
)

const exitHelp = `Exit codes of every command:
    0    ok
    1    failed
    2    wrong usage: a word, flag or value is missing, unknown or impossible
    3    refused or declined: nothing was changed
    6    not found: a file, disk, store, image, version, machine or task
    129  interrupted by a hang-up, 130 by Ctrl-C, 143 by a termination: run it again to go on
    141  nobody reads standard output any more`

// exitError is an error with the exit code that scripts see and, when we know
// one, the next thing to try.
type exitError struct {
	code  int
	err   error
	hint  string
	quiet bool // people know already
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

// exitCode gives the exit code of an error.
func exitCode(err error) int {
	var coded *exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &coded):
		return coded.code
	}
	return exitFailed
}

// hintOf gives what to do about an error. Any error in the chain may bring a hint by a method
// Hint() string.
func hintOf(err error) string {
	for err != nil {
		var hinted interface {
			error
			Hint() string
		}
		if !errors.As(err, &hinted) {
			return ""
		}
		if hint := hinted.Hint(); hint != "" {
			return hint
		}
		err = errors.Unwrap(hinted)
	}
	return ""
}

// report prints err by the rules above and returns the exit code.
func report(w io.Writer, err error) int {
	var coded *exitError
	if err == nil || errors.As(err, &coded) && coded.quiet {
		return exitCode(err)
	}
	w = text.Writer{W: w}
	fmt.Fprintf(w, "clonecast: error: %s\n", strings.TrimRight(err.Error(), "\n"))
	if hint := hintOf(err); hint != "" {
		fmt.Fprintf(w, "clonecast: hint: %s\n", hint)
	}
	return exitCode(err)
}

// oneLine lets the words of a command line stand in the message of an error without ending its lines: a path
// may hold a newline.
func oneLine(words []string, err error) error {
	message := err.Error()
	for _, w := range words {
		if _, value, ok := strings.Cut(w, "="); ok && strings.Contains(value, "\n") {
			message = strings.ReplaceAll(message, value, text.Escape(value))
		}
		if strings.Contains(w, "\n") {
			message = strings.ReplaceAll(message, w, text.Escape(w))
		}
	}
	if message == err.Error() {
		return err
	}
	return &rewordedError{err, message}
}

// rewordedError is an error with another message.
type rewordedError struct {
	error
	message string
}

func (e *rewordedError) Error() string { return e.message }
func (e *rewordedError) Unwrap() error { return e.error }

// failure is the last line of --json when a command fails.
type failure struct {
	Type    string `json:"type"`
	Code    int    `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// reportJSON prints err for programs. An error of the output itself reaches them by the exit code only.
func reportJSON(w io.Writer, err error) {
	_ = json.NewEncoder(w).Encode(failure{"error", exitCode(err), text.Escape(err.Error()), text.Escape(hintOf(err))})
}

// wantsJSON tells whether a command line asks for JSON, also one that is wrong otherwise.
func wantsJSON(words []string) bool {
	for _, w := range words {
		switch w {
		case "--json", "--json=true":
			return true
		case "--":
			return false
		}
	}
	return false
}
