package local_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"clonecast/internal/chunkstore/local"
)

// storeOfChild names, in the child's environment, the store that it captures into.
const storeOfChild = "CLONECAST_TEST_STORE"

// TestMain lets the test binary be the process that TestKilledProcess kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(storeOfChild); dir != "" {
		fmt.Fprintln(os.Stderr, captureForEver(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func captureForEver(dir string) error {
	s, err := local.Open(dir, small)
	if err != nil {
		return err
	}
	for seed := uint64(os.Getpid()) << 20; ; seed++ {
		sample, err := sampleOf(seed)
		if err != nil {
			return err
		}
		if _, _, err := sample.Capture(context.Background(), s); err != nil {
			return err
		}
	}
}

// A server that is killed while it captures, again and again: the store opens, every
// version that is listed is whole, and the locks of the dead hinder nobody.
func TestKilledProcess(t *testing.T) {
	dir := t.TempDir()
	s, err := local.Create(dir, small)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	versions := 0
	for round := range 12 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), storeOfChild+"="+dir)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		waitForWork(t, dir)
		time.Sleep(time.Duration(round) * 3 * time.Millisecond)
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait() // says "killed"
		again, err := local.Open(dir, small)
		if err != nil {
			t.Fatalf("round %d: Open = %v", round, err)
		}
		if p := check(t, again, true); len(p) > 0 {
			t.Fatalf("round %d: Check = %v", round, p)
		}
		if list, err := again.Versions(t.Context(), "lab"); err == nil {
			versions = len(list)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		if left, err := filepath.Glob(filepath.Join(dir, "staging", "*.*ck")); err != nil || len(left) > 0 {
			t.Fatalf("round %d: staging still holds %v, %v", round, left, err)
		}
	}
	if versions == 0 {
		t.Error("no child lived to publish a version: the test has lost its bite")
	}
}

// waitForWork waits until a child has a pack in staging.
func waitForWork(t *testing.T, dir string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if staged, err := filepath.Glob(filepath.Join(dir, "staging", "*.pack")); err != nil || len(staged) > 0 {
			return
		}
	}
	t.Fatal("the child does not capture")
}
