package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"clonecast/internal/await"
)

// command runs clonecast with arguments.
func command(ctx context.Context, stdout io.Writer, args ...string) error {
	cmd := newRootCmd()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(io.Discard)
	return cmd.ExecuteContext(ctx)
}

// TestMulticastFile sends a file over the loopback interface: the receiver needs the code that the
// sender shows, and both end with a summary.
func TestMulticastFile(t *testing.T) {
	ctx := await.Context(t)
	dir := t.TempDir()
	payload := make([]byte, 1_000_003)
	rand.NewChaCha8([32]byte{4}).Read(payload)
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := os.WriteFile(from, payload, 0o600); err != nil {
		t.Fatal(err)
	}
	output, stdout := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := command(ctx, stdout, "multicast", "send", "--file", from, "--interface", "lo", "--max-rate", "200M", "--json")
		stdout.CloseWithError(err)
		sent <- err
	}()
	lines := bufio.NewScanner(output)
	var pairing struct{ Type, Code string }
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &pairing) != nil || pairing.Type != "pairing" {
		t.Fatalf("the sender begins with %q (%v), want its code", lines.Text(), lines.Err())
	}
	var received bytes.Buffer
	got := make(chan error, 1)
	go func() {
		got <- command(ctx, &received, "multicast", "receive", "--file", to, "--interface", "lo",
			"--code", pairing.Code, "--json")
	}()
	var last []byte
	for lines.Scan() {
		last = bytes.Clone(lines.Bytes())
	}
	if err := errors.Join(<-got, <-sent, lines.Err()); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(to); err != nil || !bytes.Equal(b, payload) {
		t.Errorf("%d bytes arrive that are not the file's (%v)", len(b), err)
	}
	var s sendSummary
	if err := json.Unmarshal(last, &s); err != nil || s.Payload != 1_000_003 || s.Blocks != 6 || s.Wire < 1_050_000 ||
		len(s.Receivers) != 1 || s.Receivers[0].State != "done" {
		t.Errorf("the sender ends with %s (%v)", last, err)
	}
	var r receiveSummary
	all := bytes.Split(bytes.TrimSpace(received.Bytes()), []byte("\n"))
	if err := json.Unmarshal(all[len(all)-1], &r); err != nil || r.State != "done" || r.Payload != 1_000_003 {
		t.Errorf("the receiver ends with %s (%v)", all[len(all)-1], err)
	}
	err := command(ctx, io.Discard, "multicast", "receive", "--file", to, "--interface", "lo", "--code", pairing.Code)
	if report(io.Discard, err) != exitRefused {
		t.Errorf("a file is overwritten without --yes: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) > 0 {
		t.Errorf("%v are left over (%v)", left, err)
	}
}

func TestMulticastUsage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"send", "--interface", "lo"},
		{"send", "lab", "--interface", "lo"},
		{"send", "lab", "--file", file, "--interface", "lo"},
		{"send", "--file", file, "--store", ".", "--interface", "lo"},
		{"send", "--file", file, "--interface", "lo", "--max-rate", "fast"},
		{"send", "--file", file, "--interface", "lo", "--max-rate", "10"},
		{"send", "--file", file, "--interface", "lo", "--receivers", "0"},
		{"send", "--file", file, "--interface", "lo", "--key-file", file},
		{"receive", "--interface", "lo", "--code", "abcde-fghij-klmno-pqrst"},
		{"receive", "/dev/null", "--file", file, "--interface", "lo"},
		{"receive", "--file", file + "2", "--interface", "lo"},
		{"receive", "--file", file + "2", "--interface", "lo", "--code", "abcde"},
		{"receive", "--file", file + "2", "--interface", "lo", "--code", "abcde-fghij-klmno-pqrst", "--key-file", file},
	} {
		err := command(t.Context(), io.Discard, append([]string{"multicast"}, args...)...)
		if report(io.Discard, err) != exitUsage {
			t.Errorf("%q: %v, want a usage error", args, err)
		}
	}
	for text, want := range map[string]float64{"": 0, "8M": 1e6, "900M": 112.5e6, "2.5G": 312.5e6, "16000k": 2e6} {
		if got, err := parseRate(text); err != nil || got != want {
			t.Errorf("parseRate(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
}
