package vm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// AccelVariable names the environment variable that chooses the accelerator: "kvm" or "tcg". Unset, the first VM
// of a run probes and sets it, so that the programs a test starts need not probe again.
const AccelVariable = "CLONECAST_TEST_ACCEL"

var probe sync.Once

// Accelerator returns QEMU's arguments for the fastest way of running a guest that works here.
// Without erms and fsrm the guest's kernel copies memory by words, which TCG does several times faster than rep movsb.
func Accelerator() []string {
	probe.Do(func() {
		if os.Getenv(AccelVariable) != "" {
			return
		}
		accel := "tcg"
		if kvmWorks() {
			accel = "kvm"
		}
		os.Setenv(AccelVariable, accel)
	})
	if os.Getenv(AccelVariable) == "kvm" {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", "tcg", "-cpu", "max,-erms,-fsrm"}
}

// kvmWorks boots a guest of six instructions under KVM. That /dev/kvm can be opened says little: on some hosts
// every guest hangs.
func kvmWorks() bool {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return false
	}
	dir, err := os.MkdirTemp("", "clonecast-kvm")
	if err != nil {
		return false
	}
	defer os.RemoveAll(dir)
	disk := filepath.Join(dir, "probe")
	sector := make([]byte, 512)
	copy(sector, []byte{
		0xba, 0xf8, 0x03, //  mov $0x3f8, %dx
		0xb0, 'K', //         mov $'K', %al
		0xee,             //  out %al, %dx
		0xba, 0x01, 0x05, //  mov $0x501, %dx   (isa-debug-exit)
		0xb0, 0x00, //        mov $0, %al
		0xee,       //        out %al, %dx
		0xeb, 0xfe, //        jmp .
	})
	sector[510], sector[511] = 0x55, 0xaa
	if err := os.WriteFile(disk, sector, 0o600); err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // a busy host is slow, too
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-accel", "kvm", "-cpu", "host", "-nodefaults", "-display", "none",
		"-no-reboot", "-serial", "stdio", "-m", "16", "-device", "isa-debug-exit,iobase=0x501",
		"-drive", "file="+disk+",format=raw")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	var exit *exec.ExitError
	// The device makes QEMU exit with 2*value+1.
	return errors.As(err, &exit) && exit.ExitCode() == 1 && bytes.Contains(out, []byte("K"))
}
