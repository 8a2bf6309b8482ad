// Command demo shows clonecast at work on virtual PCs (make demo): it tells the story of package story on the terminal
// and keeps everything that PCs and server said in build/demo.log.
package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"sync"
	"time"

	"clonecast/qemu-tests/lab"
	"clonecast/qemu-tests/story"
	"clonecast/qemu-tests/testdisk"
)

func main() {
	if err := lab.EnterUserNamespace(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(run())
}

func run() (code int) {
	path := filepath.Join("build", "demo.log")
	os.MkdirAll("build", 0o755)
	file, err := os.Create(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer file.Close()
	t := &teller{log: log.New(file, "", log.Ltime), start: time.Now()}
	defer func() {
		t.cleanup()
		if t.failed() {
			fmt.Printf("The demo failed; %s holds all output.\n", path)
			code = 1
		}
	}()
	defer func() {
		if p := recover(); p != nil && p != any(errStop) {
			panic(p)
		}
	}()
	room := story.Open(t, testdisk.DualBootOriginal(t, 2048), lab.FullDHCP, t.Say)
	room.Capture(t, t.Say)
	room.Deploy(t, t.Say)
	for _, pc := range []*lab.PC{room.B, room.C} {
		testdisk.Equal(t, room.Original, pc.Disk)
	}
	story.BootBoth(t, t.Say, room.B, room.C)
	if !t.failed() {
		t.Say("PCs B and C are PC A: boot areas, UUIDs and files are equal, the file systems are clean")
	}
	return 0
}

// errStop unwinds the story after Fatalf, so that everything it started is ended.
var errStop = fmt.Errorf("the story ends here")

// teller stands in for a *testing.T.
type teller struct {
	log      *log.Logger
	start    time.Time
	mu       sync.Mutex
	bad      bool
	cleanups []func()
}

// Say prints one step with the time since the start.
func (t *teller) Say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	fmt.Printf("[%5.1f s] %s\n", time.Since(t.start).Seconds(), line)
	t.log.Print("*** " + line)
}

func (t *teller) Helper()      {}
func (t *teller) Name() string { return "demo" }

func (t *teller) Logf(format string, args ...any) { t.log.Printf(format, args...) }

func (t *teller) Errorf(format string, args ...any) {
	t.mu.Lock()
	t.bad = true
	t.mu.Unlock()
	t.Say("FAILED: "+format, args...)
}

func (t *teller) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	panic(errStop)
}

func (t *teller) failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bad
}

func (t *teller) Cleanup(f func()) { t.cleanups = append(t.cleanups, f) }

func (t *teller) cleanup() {
	for len(t.cleanups) > 0 {
		last := t.cleanups[len(t.cleanups)-1]
		t.cleanups = t.cleanups[:len(t.cleanups)-1]
		last()
	}
}

func (t *teller) TempDir() string {
	dir, err := os.MkdirTemp("", "clonecast-demo")
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
