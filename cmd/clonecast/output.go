package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"clonecast/internal/text"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// output is standard output. It remembers its first error, so that no command that prints to a full
// disk or a closed pipe ends as if it had reported its result. The command itself goes on: a deploy is not
// stopped because nobody looks.
type output struct {
	to io.Writer

	mu  sync.Mutex
	err error
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.to.Write(p)
	if err == nil {
		return n, nil
	}
	if o.err == nil {
		o.err = err
	}
	return n, &outputWriteError{err}
}

// outputWriteError is an error of standard output, as commands see it.
type outputWriteError struct{ error }

func (e *outputWriteError) Unwrap() error { return e.error }

func (o *output) error() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// outputError gives the error of a command that could not print its result. err is what the command says
// itself, which comes first unless it is about the output.
func outputError(err, output error) error {
	var of *outputWriteError
	switch {
	case output == nil:
		return err
	case err != nil && !errors.As(err, &of):
		return err
	case errors.Is(output, syscall.EPIPE):
		return &exitError{code: exitSignal + int(syscall.SIGPIPE), err: output, quiet: true}
	}
	var path *os.PathError
	if errors.As(output, &path) {
		output = path.Err
	}
	return fmt.Errorf("write standard output: %w", output)
}

// harmless lets what a command prints for people pass through text.Writer. NDJSON escapes by itself.
func harmless(cmd *cobra.Command, _ []string) error {
	if f := cmd.Flags().Lookup("json"); f != nil && f.Value.String() == "true" {
		return nil
	}
	cmd.Root().SetOut(text.Writer{W: cmd.OutOrStdout()})
	return nil
}

// fileOf gives the file behind a writer of a command, or nil.
func fileOf(w io.Writer) *os.File {
	switch w := w.(type) {
	case *os.File:
		return w
	case *output:
		return fileOf(w.to)
	case text.Writer:
		return fileOf(w.W)
	}
	return nil
}

// asBytes gives the writer below the one that is for people.
func asBytes(w io.Writer) io.Writer {
	if lines, ok := w.(text.Writer); ok {
		return lines.W
	}
	return w
}

func isTerminal(f *os.File) bool { return f != nil && term.IsTerminal(int(f.Fd())) }
