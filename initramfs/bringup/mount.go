package bringup

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

type mountPoint struct {
	source, target, kind, data string
	flags                      uintptr
}

var mountPoints = []mountPoint{
	{"proc", "/proc", "proc", "", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV},
	{"sysfs", "/sys", "sysfs", "", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV},
	{"devtmpfs", "/dev", "devtmpfs", "mode=0755", unix.MS_NOSUID},
	{"tmpfs", "/run", "tmpfs", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV},
	{"tmpfs", "/tmp", "tmpfs", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
}

// Mount mounts the kernel's file systems. What is mounted already stays.
func Mount() error {
	var errs []error
	for _, m := range mountPoints {
		errs = append(errs, m.mount())
	}
	return errors.Join(errs...)
}

// MountEFIVars mounts efivarfs on a machine that UEFI started. Its driver may be a
// module, so this comes after ColdPlug.
func MountEFIVars() error {
	if Firmware() != "uefi" {
		return nil
	}
	const flags = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV
	return mountPoint{"efivarfs", "/sys/firmware/efi/efivars", "efivarfs", "", flags}.mount()
}

func (m mountPoint) mount() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data)
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
	}
	return nil
}

// Firmware tells how the machine was started: "uefi" or "bios".
func Firmware() string {
	if _, err := os.Stat("/sys/firmware/efi"); err == nil {
		return "uefi"
	}
	return "bios"
}

// Quiet keeps all but warnings of the kernel off the screen, and makes a kernel
// panic end in a reboot. Both are conveniences: errors do not matter.
func Quiet(debug bool) {
	if !debug {
		_ = os.WriteFile("/proc/sys/kernel/printk", []byte("4"), 0)
	}
	_ = os.WriteFile("/proc/sys/kernel/panic", []byte("30"), 0)
}
