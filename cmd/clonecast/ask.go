package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// askable refuses where nobody can answer.
func askable(in io.Reader, what, hint string) error {
	if f, ok := in.(*os.File); ok && !term.IsTerminal(int(f.Fd())) {
		return withCode(exitRefused, fmt.Errorf("%s, and there is no terminal to ask", what), hint)
	}
	return nil
}

// askYes lets a person on a terminal type the word yes. Everything else is a refusal, which
// says what did not happen.
func askYes(ctx context.Context, w io.Writer, in io.Reader, nothing, hint string) error {
	if err := askable(in, nothing, hint); err != nil {
		return err
	}
	return askFor(ctx, w, in, "Type yes to go on: ", "yes", nothing)
}

// askFor lets a person type a word and refuses every other answer.
func askFor(ctx context.Context, w io.Writer, in io.Reader, question, want, nothing string) error {
	fmt.Fprint(w, question)
	answer := make(chan string, 1)
	go func() { // ends with the program when nobody answers
		line, err := bufio.NewReader(in).ReadString('\n')
		if err != nil {
			line = ""
		}
		answer <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(w)
		return ctx.Err()
	case line := <-answer:
		if line != want {
			return withCode(exitRefused, errors.New("declined; "+nothing), "")
		}
		return nil
	}
}
