package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/chunkstore/local"
	"clonecast/internal/chunkstore/storetest"
)

// checkStore runs the command as a user does.
func checkStore(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	root := newRootCmd()
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(append([]string{"store", "check"}, args...))
	code = report(&errs, root.ExecuteContext(t.Context()))
	return code, out.String(), errs.String()
}

func newTestStore(t *testing.T) (dir, pack string) {
	t.Helper()
	dir = t.TempDir()
	store, err := local.Create(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	disk, err := storetest.NewSample("lab", 1, 9, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := disk.Capture(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	packs, err := filepath.Glob(filepath.Join(dir, "packs", "*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatalf("packs %v, %v", packs, err)
	}
	return dir, packs[0]
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

func TestStoreCheckSound(t *testing.T) {
	dir, _ := newTestStore(t)
	code, out, errs := checkStore(t, "--store", dir)
	if code != exitOK || !strings.HasPrefix(lastLine(out), "1 version, 1 pack, 9 chunks, ") {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}
	code, out, _ = checkStore(t, "--store", dir, "--read-data", "--json")
	var summary struct {
		Type string
		storeSummary
	}
	if err := json.Unmarshal([]byte(lastLine(out)), &summary); err != nil || code != exitOK ||
		summary.Type != "summary" || !summary.Sound {
		t.Errorf("exit %d, last line %s, %v", code, lastLine(out), err)
	}
	if !strings.Contains(out, `"bytes_read":`) || strings.Contains(out, `"bytes_read":0`) {
		t.Errorf("--read-data read nothing: %s", out)
	}
}

func TestStoreCheckDamaged(t *testing.T) {
	dir, pack := newTestStore(t)
	b, err := os.ReadFile(pack)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-10] ^= 1
	if err := os.WriteFile(pack, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := checkStore(t, "--store", dir); code != exitOK {
		t.Errorf("the structure is sound: exit %d, %q, %q", code, out, errs)
	}
	code, out, errs := checkStore(t, "--store", dir, "--read-data")
	if code != exitFailed || !strings.Contains(out, "affects lab@1") ||
		!strings.Contains(errs, "clonecast: error: "+dir+": 1 problem\nclonecast: hint: clonecast store repair") {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}
	code, out, _ = checkStore(t, "--store", dir, "--read-data", "--json")
	if code != exitFailed || !strings.Contains(out, `{"type":"problem","object":"packs/`) ||
		!strings.Contains(out, `"affects":["lab@1"]`) ||
		!strings.HasPrefix(lastLine(out), `{"type":"summary","sound":false,`) {
		t.Errorf("exit %d, %q", code, out)
	}
}

func TestStoreCheckErrors(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"empty directory": {[]string{"--store", t.TempDir()}, exitNotFound},
		"no directory":    {[]string{"--store", filepath.Join(t.TempDir(), "none")}, exitNotFound},
		"no flag":         {nil, exitUsage},
		"an argument":     {[]string{"--store", t.TempDir(), "x"}, exitUsage},
	} {
		code, out, errs := checkStore(t, c.args...)
		if code != c.code || out != "" || !strings.HasPrefix(errs, "clonecast: error: ") {
			t.Errorf("%s: exit %d, want %d; %q %q", name, code, c.code, out, errs)
		}
	}
}
