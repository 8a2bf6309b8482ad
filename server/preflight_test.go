package server

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"clonecast/server/dhcp"
)

// A disk without room for an appliance is found before one is built.
func TestRoomForABuild(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer exec.Command("umount", "-l", dir).Run()
	o := options(t, dhcp.Off)
	var p *Problem
	err := PreflightBuild(t.Context(), dir+"/data", true, o)
	if !errors.As(err, &p) || !strings.Contains(err.Error(), "60.0 MiB are free") ||
		!strings.Contains(p.Hint(), "--data") {
		t.Errorf("60 MiB, and packages to be fetched: %v", err)
	}
	if err := PreflightBuild(t.Context(), dir+"/data", false, o); err != nil {
		t.Errorf("60 MiB, and nothing to be fetched: %v", err)
	}
}
