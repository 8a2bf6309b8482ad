package qemutests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/qemu-tests/lab"
	"clonecast/qemu-tests/testdisk"
)

// buildAppliance builds a class from the Debian kernel of the tests and returns the folder.
func buildAppliance(t *testing.T, class string) string {
	t.Helper()
	dir := t.TempDir()
	lab.Clonecast(t, "build", class, "--kernel-package", testdisk.KernelPackage(t), "--output", dir).OK(t)
	return dir
}

// TestBuildTwice builds the same appliance twice: every file is the same, byte for byte.
func TestBuildTwice(t *testing.T) {
	first, second := buildAppliance(t, "qemu"), buildAppliance(t, "qemu")
	mustRun(t, "diff", "-r", first, second)
}

// TestBuildModules lets depmod and modprobe judge the modules of a class:
// each one finds all that it needs in the appliance.
func TestBuildModules(t *testing.T) {
	appliance, root, kernel := buildAppliance(t, "generic-pc"), t.TempDir(), t.TempDir()
	mustRun(t, "sh", "-c", `cd "$0" && xz -dc "$1" | cpio -id --quiet`, root, filepath.Join(appliance, "initramfs"))
	mustRun(t, "dpkg-deb", "-x", testdisk.KernelPackage(t), kernel)
	folders, err := filepath.Glob(filepath.Join(root, "lib", "modules", "*"))
	if err != nil || len(folders) != 1 {
		t.Fatalf("module folders of the appliance: %v, %v", folders, err)
	}
	release := filepath.Base(folders[0])
	mustRun(t, "depmod", "-b", kernel, release)

	entries, err := os.ReadDir(folders[0])
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{}
	modprobe := []string{"-d", kernel, "-S", release, "--all", "--show-depends"}
	for _, e := range entries {
		if name, found := strings.CutSuffix(e.Name(), ".ko"); found {
			has[strings.ReplaceAll(name, "-", "_")] = true
			modprobe = append(modprobe, name)
		}
	}
	if len(has) < 100 {
		t.Fatalf("the appliance has only %d modules", len(has))
	}
	needed := map[string]bool{}
	for line := range strings.Lines(mustRun(t, "modprobe", modprobe...)) {
		verb, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		if verb == "builtin" {
			continue
		}
		file, _, _ := strings.Cut(filepath.Base(path), ".")
		name := strings.ReplaceAll(file, "-", "_")
		if needed[name] = true; !has[name] {
			t.Errorf("modprobe would load %s, which the appliance lacks", name)
		}
	}
	if len(needed) != len(has) {
		t.Errorf("modprobe would load %d modules, the appliance has %d", len(needed), len(has))
	}
}
