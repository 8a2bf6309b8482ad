package vm

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
)

// console cuts the byte stream of a serial port into lines, keeps them and tells those who wait.
type console struct {
	start time.Time
	log   func(line string, at time.Duration)

	mu      sync.Mutex
	lines   []string
	ended   bool
	changed chan struct{} // closed and replaced at each change
}

func newConsole(log func(string, time.Duration)) *console {
	return &console{start: time.Now(), log: log, changed: make(chan struct{})}
}

// maxLine bounds a line, for a guest that prints no line feeds.
const maxLine = 4096

func (c *console) read(r io.Reader) {
	in := bufio.NewReader(r)
	var line strings.Builder
	for {
		b, err := in.ReadByte()
		if err != nil {
			c.add(line.String())
			return
		}
		if b == '\n' || b == '\r' || line.Len() >= maxLine {
			c.add(line.String())
			line.Reset()
			continue
		}
		line.WriteByte(b)
	}
}

// escapes are the terminal's control sequences that firmware and boot loaders print.
var escapes = regexp.MustCompile("\x1b(\\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|c)|[\x00-\x08\x0e-\x1f]")

func (c *console) add(line string) {
	line = strings.TrimRight(escapes.ReplaceAllString(line, ""), " \t")
	if line == "" {
		return
	}
	c.mu.Lock()
	c.lines = append(c.lines, line)
	c.wake()
	c.mu.Unlock()
	c.log(line, time.Since(c.start))
}

func (c *console) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.wake()
}

func (c *console) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *console) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.lines...)
}

func (c *console) wait(pattern *regexp.Regexp) ([]string, error) {
	limit := time.After(Patience)
	for seen := 0; ; {
		c.mu.Lock()
		lines, ended, changed := c.lines[seen:], c.ended, c.changed
		c.mu.Unlock()
		seen += len(lines)
		for _, line := range lines {
			if m := pattern.FindStringSubmatch(line); m != nil {
				return m, nil
			}
		}
		if ended {
			return nil, errOff
		}
		select {
		case <-changed:
		case <-limit:
			return nil, fmt.Errorf("no such line within %v", Patience)
		}
	}
}
