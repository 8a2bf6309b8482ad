package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/initramfs/agent"
	"clonecast/internal/bootparam"
)

// An appliance of which a part is missing says memory, with the figures that are known.
func TestAppliancePartlyUnpacked(t *testing.T) {
	root := t.TempDir() + "/"
	put := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, name), []byte(`{"unpacked_bytes":104857600}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := checkMemory(root)
	if err == nil || !strings.Contains(err.Error(), "too little memory") || strings.Contains(err.Error(), "needs") {
		t.Errorf("nothing is there: %v", err)
	}
	put(bootparam.SizeFile)
	err = checkMemory(root)
	if err == nil || !strings.Contains(err.Error(), "the appliance needs at least 212.5 MiB") ||
		!strings.Contains(agent.Hint(err), "more memory") {
		t.Errorf("the first half is there: %v", err)
	}
	put(bootparam.WholeFile)
	if err := checkMemory(root); err != nil {
		t.Errorf("all is there: %v", err)
	}
}
