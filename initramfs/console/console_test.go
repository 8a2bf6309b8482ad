package console

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
)

// bench is a console with one screen and one serial line, and a clock to set.
type bench struct {
	*Console
	now            time.Time
	screen, serial bytes.Buffer
}

func newBench() *bench {
	b := &bench{now: time.Unix(1000, 0)}
	b.Console = New(func() time.Time { return b.now }, []io.Writer{&b.screen}, []io.Writer{&b.serial})
	return b
}

func TestSayEscapes(t *testing.T) {
	tests := map[string]string{
		"plain":                  "plain",
		"\x1b[2Jclonecast: done": `\x1b[2Jclonecast: done`,
		"two\nlines\r":           `two\x0alines\x0d`,
		"Lehrerzimmer Süd":       `Lehrerzimmer S\xc3\xbcd`,
	}
	for in, want := range tests {
		b := newBench()
		b.Say("%s", in)
		if got := b.serial.String(); got != want+"\r\n" {
			t.Errorf("Say(%q) on serial = %q, want %q", in, got, want)
		}
		if b.screen.String() != b.serial.String() {
			t.Errorf("Say(%q) on screen = %q", in, &b.screen)
		}
	}
	b := newBench()
	b.Say("%s", strings.Repeat("\n", 1<<20))
	if n := b.serial.Len(); n > maxLine+10 {
		t.Errorf("a long line takes %d bytes", n)
	}
}

func TestProgress(t *testing.T) {
	b := newBench()
	p := Progress{
		Title: "task 12: deploy lab\x1b", Phase: "write", Done: 45, Total: 100, Rate: 85e6, ETA: 3725, Writing: true,
	}
	want := `DO NOT SWITCH OFF  task 12: deploy lab\x1b  write  45 %  85 MB/s  1:02:05 left`
	for range 20 { // two seconds
		b.Progress(p)
		b.now = b.now.Add(100 * time.Millisecond)
	}
	b.Say("done")
	if got := strings.Count(b.screen.String(), "\r"+want+"\x1b[K"); got != 4 {
		t.Errorf("%d progress lines on the screen in 2 s, want 4: %q", got, &b.screen)
	}
	if !strings.HasSuffix(b.screen.String(), "\x1b[K\r\x1b[Kdone\r\n") {
		t.Errorf("the progress line is not cleared: %q", &b.screen)
	}
	if got := b.serial.String(); got != want+"\r\ndone\r\n" {
		t.Errorf("serial = %q", got)
	}
}

func TestProgressText(t *testing.T) {
	tests := []struct {
		p    Progress
		want string
	}{
		{Progress{Title: "t", Phase: "waiting for 2 of 3 machines", ETA: -1}, "t  waiting for 2 of 3 machines"},
		{Progress{Title: "t", Phase: "read", Total: 9, Rate: 5e6, ETA: -1}, "t  read   0 %  5 MB/s  time left unknown"},
		{Progress{Title: "t", Phase: "read", Done: 1 << 62, Total: 1 << 62, ETA: 0}, "t  read 100 %  0 MB/s  0:00 left"},
		{Progress{Title: "t", Phase: "read", Done: 9, Total: 3, Rate: 1999999, ETA: 65}, "t  read 100 %  1 MB/s  1:05 left"},
		{Progress{Title: "t", Phase: "read", Done: -9, Total: 3, ETA: 65}, "t  read   0 %  0 MB/s  1:05 left"},
	}
	for _, test := range tests {
		if got := test.p.String(); got != test.want {
			t.Errorf("%+v = %q, want %q", test.p, got, test.want)
		}
	}
}

// A long line would make the screen scroll instead of being rewritten.
func TestProgressFitsTheScreen(t *testing.T) {
	b := newBench()
	b.Progress(Progress{Title: strings.Repeat("x", 300), ETA: -1})
	if got := len(strings.Trim(b.screen.String(), "\r\x1b[K")); got != width {
		t.Errorf("%d columns, want %d", got, width)
	}
}

func TestFail(t *testing.T) {
	b := newBench()
	b.Fail("no disk", "plug one in")
	if want := "\r\nclonecast: error: no disk\r\nclonecast: hint: plug one in\r\n"; b.serial.String() != want {
		t.Errorf("Fail = %q", &b.serial)
	}
}
