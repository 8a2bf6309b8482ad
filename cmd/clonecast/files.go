package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// openInput opens a file that a command line names, to be read from its start. It never waits for a
// writer: a named pipe that has none reads as empty.
func openInput(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, withCode(exitNotFound, err, "")
	}
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || info.IsDir() {
		return nil, errors.Join(withCode(exitUsage, fmt.Errorf("%s is a directory, not a file", path), ""), err,
			f.Close())
	}
	return f, nil
}

// notPipe refuses a name that leads to something that is read by others and is no file: a pipe would wait for a
// writer.
func notPipe(path string) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		return withCode(exitUsage, fmt.Errorf("%s is no file", path), "")
	}
	return nil
}

// readInput reads a small file that a command line names: limit bytes at most.
func readInput(path string, limit int64) ([]byte, error) {
	f, err := openInput(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read %s: it is longer than %d bytes", path, limit)
	}
	return b, nil
}
