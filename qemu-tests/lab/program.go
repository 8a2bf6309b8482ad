package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"

	"clonecast/qemu-tests/testdisk"
	"clonecast/qemu-tests/vm"
)

// Program is the path of a built program.
func Program(t vm.T, name string) string {
	t.Helper()
	path := filepath.Join(testdisk.Root(t), "bin", name)
	if _, err := exec.LookPath(path); err != nil {
		t.Fatalf("%v (run make build)", err)
	}
	return path
}

// Result is how a command ended.
type Result struct {
	Exit           int
	Stdout, Stderr string
}

// Clonecast runs bin/clonecast to its end, outside any network.
func Clonecast(t vm.T, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), vm.Patience)
	defer cancel()
	return finish(t, exec.CommandContext(ctx, Program(t, "clonecast"), args...))
}

func finish(t vm.T, cmd *exec.Cmd) Result {
	t.Helper()
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s: %v", strings.Join(cmd.Args, " "), err)
	}
	return Result{cmd.ProcessState.ExitCode(), out.String(), problems.String()}
}

// OK fails the test unless the command succeeded.
func (r Result) OK(t vm.T) Result {
	t.Helper()
	if r.Exit != 0 {
		t.Fatalf("exit code %d\n%s%s", r.Exit, r.Stdout, r.Stderr)
	}
	return r
}

// Summary decodes the last line of NDJSON output.
func (r Result) Summary(t vm.T, into any) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	last := lines[len(lines)-1]
	var kind struct{ Type string }
	if err := json.Unmarshal([]byte(last), &kind); err != nil || kind.Type != "summary" {
		t.Fatalf("the last line of the output is no summary: %q", last)
	}
	if err := json.Unmarshal([]byte(last), into); err != nil {
		t.Fatalf("summary %q: %v", last, err)
	}
}
