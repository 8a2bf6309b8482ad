// Command clonecast-init is the appliance's only program: PID 1, and the child that
// does the work.
//
// PID 1 mounts what it needs, starts itself once more as a child and waits. Whatever
// happens to the child (a bug, no memory left), PID 1 is there to say so and to
// restart the machine; a screen is never left dead. There is no shell.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"clonecast/initramfs/bringup"
	"clonecast/initramfs/console"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 {
		os.Exit(work(context.Background(), console.Open()))
	}
	debug.SetGCPercent(20) // PID 1 waits; memory is for the child
	err := bringup.Mount()
	supervise(console.Open(), err)
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}
