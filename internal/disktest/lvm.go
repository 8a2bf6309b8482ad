package disktest

import (
	"fmt"
	"testing"
)

// LVM runs commands of LVM on a device, and on no other, without the kernel's device mapper: they
// write the metadata only. Each command is a line of words, DEV stands for the device.
func LVM(t testing.TB, dev string, commands ...string) string {
	t.Helper()
	t.Setenv("LVM_SUPPRESS_FD_WARNINGS", "1")
	config := fmt.Sprintf(`devices { filter=["a|^%s$|","r|.*|"] use_devicesfile=0 } `+
		`global { use_lvmpolld=0 event_activation=0 } activation { udev_sync=0 udev_rules=0 }`, dev)
	var out string
	for _, c := range commands {
		out = Command(t, "lvm "+c+" --driverloaded n --config CONFIG", "DEV", dev, "CONFIG", config)
	}
	return out
}
