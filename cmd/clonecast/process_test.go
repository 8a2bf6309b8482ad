package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"clonecast/internal/await"

	"golang.org/x/sys/unix"
)

// asProgram makes the test binary run as clonecast.
const asProgram = "CLONECAST_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// program is clonecast as a process of its own, in a directory.
func program(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), asProgram+"=1")
	return cmd
}

// hung bounds a process that should not wait for anything.
func hung(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), await.Limit)
	t.Cleanup(cancel)
	return ctx
}

// runProgram runs clonecast and gives both outputs.
func runProgram(t *testing.T, dir string, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := program(hung(t), dir, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("clonecast %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, out.String(),
			errs.String())
	}
	return out.String(), errs.String()
}

// noise writes a file of random bytes.
func noise(t *testing.T, path string, size int) {
	t.Helper()
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{9}).Read(b)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestSignals stops a capture by each signal as soon as it has stored something; the next one goes on.
func TestSignals(t *testing.T) {
	for signal, code := range map[syscall.Signal]int{syscall.SIGHUP: 129, syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		t.Run(signal.String(), func(t *testing.T) {
			dir := t.TempDir()
			got, stdout, stderr := interrupt(t, dir, signal)
			if got != code || !strings.HasSuffix(stderr, "\nclonecast: error: interrupted, run it again to go on\n") ||
				strings.Contains(stderr, "cancel") {
				t.Errorf("exit code %d, want %d; stderr %q", got, code, stderr)
			}
			var last failure
			if err := json.Unmarshal([]byte(lastLine(stdout)), &last); err != nil || last.Type != "error" ||
				last.Code != code {
				t.Errorf("the last line is %s", lastLine(stdout))
			}
			runProgram(t, dir, exitOK, "disk", "capture", "disk", "lab", "--store", "s")
			runProgram(t, dir, exitOK, "store", "check", "--read-data", "--store", "s")
		})
	}
}

// interrupt sends a capture of dir/disk into dir/s a signal, and gives how it ended. On a busy machine a capture can be
// done before the signal reaches it; then the next disk is larger.
func interrupt(t *testing.T, dir string, sent syscall.Signal) (code int, stdout, stderr string) {
	t.Helper()
	// A child inherits that a signal is ignored, as under nohup, but not that it is handled.
	handled := make(chan os.Signal, 1)
	signal.Notify(handled, sent)
	defer signal.Stop(handled)
	for size := 48 << 20; size <= 1<<30; size *= 2 {
		noise(t, filepath.Join(dir, "disk"), size)
		if err := os.RemoveAll(filepath.Join(dir, "s")); err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		cmd := program(hung(t), dir, "disk", "capture", "disk", "lab", "--store", "s", "--json")
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(&out, pipe, 1); err != nil { // of its first line of progress
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(sent); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		if _, err := io.Copy(&out, pipe); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if code = cmd.ProcessState.ExitCode(); code != exitOK {
			return code, out.String(), errs.String()
		}
	}
	t.Fatalf("no capture was long enough for %v", sent)
	return
}

// TestKilledAtAnyMoment kills each command that writes, at many moments; then the same command succeeds, and
// nothing is left of the killed one.
func TestKilledAtAnyMoment(t *testing.T) {
	dir := t.TempDir()
	noise(t, filepath.Join(dir, "disk"), 8<<20)
	runProgram(t, dir, exitOK, "disk", "capture", "disk", "lab", "--store", "s")
	runProgram(t, dir, exitOK, "image", "export", "lab", "lab.cc", "--store", "s")
	key, err := os.ReadFile(filepath.Join(dir, "s/keys/signing.pub"))
	if err != nil {
		t.Fatal(err)
	}
	trust := strings.TrimSpace(string(key))
	for _, c := range []struct {
		name string
		args []string
		made string // is removed before each run
	}{
		{"export", []string{"image", "export", "lab", "x.cc", "--store", "s"}, "x.cc"},
		{"capture", []string{"disk", "capture", "disk", "new", "--store", "t"}, ""},
		{"import", []string{"image", "import", "lab.cc", "--store", "u", "--trust-key", trust}, ""},
		{"deploy", []string{"disk", "deploy", "lab", "target", "--store", "s", "--yes"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			if c.name == "deploy" {
				noise(t, filepath.Join(dir, "target"), 8<<20)
			}
			runProgram(t, dir, exitOK, c.args...)
			whole := time.Since(began)
			const moments = 8
			for i := range moments {
				os.Remove(filepath.Join(dir, c.made))
				if c.name == "deploy" {
					if err := os.Truncate(filepath.Join(dir, "target"), 0); err != nil {
						t.Fatal(err)
					}
					if err := os.Truncate(filepath.Join(dir, "target"), 8<<20); err != nil {
						t.Fatal(err)
					}
				}
				cmd := program(hung(t), dir, c.args...)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(whole * time.Duration(i) / moments) // any moment is right
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				os.Remove(filepath.Join(dir, c.made)) // it may have been done
				runProgram(t, dir, exitOK, c.args...)
			}
			for _, pattern := range []string{".*", "*part*"} {
				if left, _ := filepath.Glob(filepath.Join(dir, pattern)); len(left) > 0 {
					t.Errorf("left behind: %q", left)
				}
			}
		})
	}
	for _, pair := range [][2]string{{"x.cc", "lab.cc"}, {"disk", "target"}} {
		a, errA := os.ReadFile(filepath.Join(dir, pair[0]))
		b, errB := os.ReadFile(filepath.Join(dir, pair[1]))
		if err := errors.Join(errA, errB); err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s and %s differ (%v)", pair[0], pair[1], err)
		}
	}
	for _, store := range []string{"s", "t", "u"} {
		runProgram(t, dir, exitOK, "store", "check", "--read-data", "--store", store)
	}
}

// TestFullOutput runs the program with a standard output that takes nothing.
func TestFullOutput(t *testing.T) {
	dir := t.TempDir()
	noise(t, filepath.Join(dir, "disk"), 1<<20)
	runProgram(t, dir, exitOK, "disk", "capture", "disk", "lab", "--store", "s")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, line := range []string{
		"store check --store s", "store check --store s --json", "image list --store s", "image show lab --store s",
		"disk inspect disk", "image export lab - --store s", "disk capture disk lab --store s",
		"disk deploy lab disk --store s --yes", "--help", "image diff lab lab --store s", "store stats --store s",
	} {
		var errs bytes.Buffer
		cmd := program(hung(t), dir, strings.Fields(line)...)
		cmd.Stdout, cmd.Stderr = full, &errs
		_ = cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != exitFailed || !strings.Contains(errs.String(),
			"write standard output: no space left on device") {
			t.Errorf("clonecast %s: exit code %d, %s", line, got, errs.String())
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		errs.Reset()
		cmd = program(hung(t), dir, strings.Fields(line)...)
		cmd.Stdout, cmd.Stderr = w, &errs
		_ = cmd.Run()
		w.Close()
		if got := cmd.ProcessState.ExitCode(); got != 141 || strings.Contains(errs.String(), "error") {
			t.Errorf("clonecast %s to nobody: exit code %d, %s", line, got, errs.String())
		}
	}
}

// TestStreams carries a version through pipes.
func TestStreams(t *testing.T) {
	dir := t.TempDir()
	noise(t, filepath.Join(dir, "disk"), 3<<20)
	runProgram(t, dir, exitOK, "disk", "capture", "disk", "lab", "--store", "s")
	version, said := runProgram(t, dir, exitOK, "image", "export", "lab", "-", "--store", "s")
	if !strings.Contains(said, "exported lab@1") {
		t.Errorf("export - says %q", said)
	}
	runProgram(t, dir, exitOK, "image", "export", "lab", "file", "--store", "s")
	if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != version {
		t.Errorf("export - gives %d bytes, a file has %d: %v", len(version), len(b), err)
	}
	in := program(hung(t), dir, "image", "import", "-", "--store", "s", "--name", "copy")
	in.Stdin = strings.NewReader(version)
	if out, err := in.CombinedOutput(); err != nil || !strings.Contains(string(out), "as copy@1") {
		t.Errorf("import -: %v, %s", err, out)
	}
	runProgram(t, dir, exitUsage, "image", "export", "lab", "-", "--store", "s", "--json")
	// A stream that nobody writes to is given up when the command is interrupted.
	idle := program(hung(t), dir, "image", "import", "-", "--store", "s")
	stdin, err := idle.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stderr, err := idle.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := idle.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write([]byte(version[:100])); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stderr, make([]byte, len("read"))); err != nil { // it has read these
		t.Fatal(err)
	}
	if err := idle.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _ = idle.Wait(); idle.ProcessState.ExitCode() != 143 {
		t.Errorf("import - without input, terminated: exit code %d", idle.ProcessState.ExitCode())
	}
}

// TestPartFile lets two exports of one name meet, and does not trust what is there.
func TestPartFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "x.cc")
	first, err := createPart(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := createPart(name); exitCode(err) != exitRefused {
		t.Errorf("a second one at the same time: %v", err)
	}
	if _, err := first.WriteString("first"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(first.finish(false), first.discard()); err != nil {
		t.Fatal(err)
	}
	second, err := createPart(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.finish(false); !errors.Is(err, os.ErrExist) {
		t.Errorf("finish over a file that has come there: %v", err)
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "first" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if err := os.WriteFile(first.part, []byte("left by a killed one, and longer"), 0o600); err != nil {
		t.Fatal(err)
	}
	third, err := createPart(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := third.WriteString("third"); err != nil {
		t.Fatal(err)
	}
	if err := third.finish(true); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "third" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if err := unix.Mkfifo(first.part, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := createPart(name); err == nil {
		t.Error("a pipe in the place of the part is written to")
	}
	if left, err := filepath.Glob(filepath.Join(dir, "x*")); err != nil || len(left) != 1 {
		t.Errorf("left are %q, %v", left, err)
	}
}
