package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// interruptedError is why a context ends when somebody stops the program.
type interruptedError struct{ signal syscall.Signal }

func (e *interruptedError) Error() string { return "interrupted, run it again to go on" }

// patience is how long a command may take to clean up when it was interrupted: a disk may be slow to
// write what it has.
const patience = 20 * time.Second

// interruptible gives a context that the first interruption, termination or hang-up ends: the command
// then cleans up and says goodbye to its peers. The second one, or the end of the patience, ends the program
// at once, which no command minds more than a power cut. Under nohup a hang-up is nothing.
//
// A write to a pipe that nobody reads is an error like others, not the end of the program in the middle
// of a disk.
func interruptible(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	go func() {
		s := <-signals
		signal.Stop(signals)
		cancel(&interruptedError{s.(syscall.Signal)})
		time.Sleep(patience)
		os.Exit(exitSignal + int(s.(syscall.Signal)))
	}()
	return ctx, func() { cancel(nil) }
}

// interruption gives the error of a command that was interrupted, whatever its parts call it, and other
// errors as they are.
func interruption(ctx context.Context, err error) error {
	var by *interruptedError
	if err == nil || !errors.As(context.Cause(ctx), &by) {
		return err
	}
	return withCode(exitSignal+int(by.signal), by, "")
}
