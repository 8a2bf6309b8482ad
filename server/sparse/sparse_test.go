package sparse

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLog(t *testing.T) {
	var out bytes.Buffer
	now := time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC)
	l := New(slog.New(slog.NewTextHandler(&out, nil)), func() time.Time { return now })
	lines := func() int {
		defer out.Reset()
		return strings.Count(out.String(), "\n")
	}
	for range 3 {
		l.Warn("a", "text", "n", 1)
		l.Info("b", "text", "n", 2)
	}
	if text := out.String(); !strings.Contains(text, "WARN msg=text n=1") || !strings.Contains(text, "INFO msg=text n=2") {
		t.Errorf("log:\n%s", text)
	}
	if n := lines(); n != 2 {
		t.Errorf("%d lines for two things", n)
	}
	for n := range 10_000 {
		l.Warn(fmt.Sprint(n), "text")
	}
	if n := lines(); n != perMinute-2+1 {
		t.Errorf("%d lines of a flood", n)
	}
	now = now.Add(time.Minute)
	l.Warn("5000", "text") // it was left out
	l.Warn("a", "text")
	if n := lines(); n != 1 {
		t.Errorf("%d lines in the next minute", n)
	}
	for n := range 10 * remembered {
		now = now.Add(time.Minute)
		l.Warn(fmt.Sprint("more", n), "text")
	}
	if n := l.said.Len(); n > remembered {
		t.Errorf("%d are remembered", n)
	}
	out.Reset()
	now = now.Add(again)
	if l.Warn("a", "text"); lines() != 1 {
		t.Error("after an hour it is not said again")
	}
}
