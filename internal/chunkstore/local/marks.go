package local

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"clonecast/internal/chunk"
)

// The file condemned holds the first mark of a garbage collection, as lines of text: a
// heading, the epoch in which it was made, its time in seconds since 1970 UTC, the names of
// the packs, and the BLAKE3-256 of all lines before.
//
//	clonecast condemned 1
//	epoch 7
//	time 1795560000
//	pack 0123456789abcdef0123
//	sum 97c2...
const (
	marksHeading = "clonecast condemned 1\n"
	maxMarksSize = 64 << 20
)

// marks are packs that the next collection removes, unless something in them came to life.
type marks struct {
	epoch uint64
	time  time.Time
	packs map[string]bool // by name
	made  bool            // it is in the file, not only what a dry run would mark
}

var errMarks = errors.New("file is damaged")

func (m *marks) marshal() []byte {
	b := []byte(marksHeading)
	b = fmt.Appendf(b, "epoch %d\ntime %d\n", m.epoch, m.time.Unix())
	for _, name := range slices.Sorted(maps.Keys(m.packs)) {
		b = fmt.Appendf(b, "pack %s\n", name)
	}
	return fmt.Appendf(b, "sum %v\n", chunk.Sum(b))
}

// parseMarks accepts exactly what marshal writes.
func parseMarks(b []byte) (*marks, error) {
	at := bytes.LastIndex(b, []byte("\nsum ")) + 1
	if at == 0 || string(b[at:]) != fmt.Sprintf("sum %v\n", chunk.Sum(b[:at])) {
		return nil, errMarks
	}
	text, ok := strings.CutPrefix(string(b[:at]), marksHeading)
	if !ok {
		return nil, errMarks
	}
	m := &marks{packs: map[string]bool{}}
	for line := range strings.Lines(text) {
		kind, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		var err error
		switch kind {
		case "epoch":
			m.epoch, err = strconv.ParseUint(value, 10, 63)
		case "time":
			var seconds int64
			seconds, err = strconv.ParseInt(value, 10, 64)
			m.time = time.Unix(seconds, 0)
		case "pack":
			m.packs[value] = true
		default:
			err = errMarks
		}
		if err != nil {
			return nil, errMarks
		}
	}
	if !bytes.Equal(m.marshal(), b) {
		return nil, errMarks
	}
	return m, nil
}

// readMarks gives the first mark, nil when there is none. A damaged one counts as none, for
// those who capture and for the collection alike: nothing is removed by it.
func (s *Store) readMarks() (*marks, error) {
	b, err := readFile(s.fs, marksFile, maxMarksSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		var m *marks
		if m, err = parseMarks(b); err == nil {
			m.made = true
			return m, nil
		}
		err = &damage{err}
	}
	if !isDamage(err) {
		return nil, fmt.Errorf("read %s: %w", marksFile, err)
	}
	s.log.Warn("the mark of a collection is damaged and counts as none", "file", marksFile, "cause", err)
	return nil, nil
}

func (s *Store) writeMarks(m *marks) error {
	err := replaceFile(s.fs, stagingDir+"/"+marksFile, marksFile, 0o600, m.marshal())
	if err != nil {
		return fmt.Errorf("write %s: %w", marksFile, err)
	}
	return nil
}

func (s *Store) removeMarks() error {
	if err := s.fs.Remove(marksFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", marksFile, err)
	}
	if err := s.fs.SyncDir("."); err != nil {
		return fmt.Errorf("remove %s: %w", marksFile, err)
	}
	return nil
}
