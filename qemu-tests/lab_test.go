package qemutests

import (
	"testing"

	"clonecast/qemu-tests/lab"
)

// TestNetwork shows that a PC on the lab's network gets an address of the site's DHCP server by its own ROM.
func TestNetwork(t *testing.T) {
	net := lab.NewNetwork(t)
	net.SiteDHCP()
	pc := net.PC(9, lab.BlankDisk(t, 1<<20)).Boot()
	pc.WaitLine(`iPXE .* -- Open Source Network Boot Firmware`)
	pc.WaitLine(`10\.99\.0\.1\d\d/255\.255\.255\.0`)
	pc.Kill()
}
