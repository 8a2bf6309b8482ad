package local_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/local"
)

// storeOfChild names, in the child's environment, the store that it captures into;
// collectorOfChild the one that it thins out.
const (
	storeOfChild     = "CLONECAST_TEST_STORE"
	collectorOfChild = "CLONECAST_TEST_COLLECT"
)

// TestMain lets the test binary be a process that a test kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(storeOfChild); dir != "" {
		fmt.Fprintln(os.Stderr, captureForEver(dir))
		os.Exit(1)
	}
	if dir := os.Getenv(collectorOfChild); dir != "" {
		fmt.Fprintln(os.Stderr, collectForEver(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// collectForEver deletes all versions but the newest two and collects.
func collectForEver(dir string) error {
	s, err := local.Open(dir, small)
	if err != nil {
		return err
	}
	for {
		list, err := s.Versions(context.Background(), "lab")
		if err != nil && !errors.Is(err, chunkstore.ErrNotFound) {
			return err
		}
		for _, v := range list[:max(0, len(list)-2)] {
			if err := s.Delete(context.Background(), "lab", v.Sequence); err != nil {
				return err
			}
		}
		if _, err := s.Collect(context.Background(), chunkstore.CollectOptions{}); err != nil {
			return err
		}
	}
}

// startChild runs this program as another process.
func startChild(t *testing.T, work, dir string) *exec.Cmd {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), work+"="+dir)
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	return child
}

// Two processes capture and one deletes and collects, and all are killed at once, again and
// again: no version that is listed ever lacks a chunk, and the store does not grow for ever.
func TestKilledCollection(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := local.Create(dir, small)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	published, deleted := uint64(0), 0
	for round := range 10 {
		var children []*exec.Cmd
		for _, work := range []string{storeOfChild, storeOfChild, collectorOfChild} {
			children = append(children, startChild(t, work, dir))
		}
		waitForVersion(t, s, published+uint64(1+round/2))
		time.Sleep(time.Duration(round) * 3 * time.Millisecond)
		for _, child := range children {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		for _, child := range children {
			_ = child.Wait() // says "killed"
		}
		again, err := local.Open(dir, small)
		if err != nil {
			t.Fatalf("round %d: Open = %v", round, err)
		}
		if p := check(t, again, true); len(p) > 0 {
			t.Fatalf("round %d: Check = %v", round, p)
		}
		list, err := again.Versions(t.Context(), "lab")
		if err != nil {
			t.Fatal(err)
		}
		published = list[len(list)-1].Sequence
		deleted = int(published) - len(list)
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if published < 10 || deleted < 5 {
		t.Errorf("%d versions were published and %d deleted: the test has lost its bite", published, deleted)
	}
	before := packBytes(t, dir)
	for range 3 {
		collect(t, s, 0)
	}
	r, err := s.Stats(t.Context())
	if err != nil || r.Bytes > before || r.Bytes > 3*r.Stored {
		t.Errorf("after collections the packs have %d bytes of %d, %d are needed, %v", r.Bytes, before, r.Stored, err)
	}
}

// waitForVersion waits until children have published a version.
func waitForVersion(t *testing.T, s *local.Store, sequence uint64) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		list, err := s.Versions(t.Context(), "lab")
		if err == nil && len(list) > 0 && list[len(list)-1].Sequence >= sequence {
			return
		}
	}
	t.Fatalf("the children do not publish version %d", sequence)
}

// packBytes is the length of all packs in a directory.
func packBytes(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	packs, err := filepath.Glob(filepath.Join(dir, "packs", "*.pack"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packs {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		bytes += info.Size()
	}
	return bytes
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
	versions := uint64(0)
	for round := range 12 {
		child := startChild(t, storeOfChild, dir)
		if round%4 == 3 { // the other rounds may all be killed before they publish
			waitForVersion(t, s, versions+1)
		} else {
			waitForWork(t, dir)
		}
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
			versions = uint64(len(list))
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		if left, err := filepath.Glob(filepath.Join(dir, "staging", "*.*ck")); err != nil || len(left) > 0 {
			t.Fatalf("round %d: staging still holds %v, %v", round, left, err)
		}
	}
	if versions < 3 { // rounds 3, 7 and 11 wait for one each
		t.Errorf("the children published %d versions: the test has lost its bite", versions)
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
