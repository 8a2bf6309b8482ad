package bringup

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"clonecast/internal/blockdev"
	"clonecast/internal/protocol"
	"clonecast/internal/text"

	"golang.org/x/sys/unix"
)

// maxText bounds every text of the inventory: SMBIOS and disks may say anything.
const maxText = 128

// Inventory reads what the machine is made of. What cannot be read stays empty.
func Inventory(bootMAC string) protocol.Facts {
	facts := protocol.Facts{
		UUID:         dmi("product_uuid"),
		Serial:       dmi("product_serial"),
		Manufacturer: dmi("sys_vendor"),
		Product:      dmi("product_name"),
		Firmware:     Firmware(),
		CPU:          cpuModel(),
		NICs:         nics(bootMAC),
		Disks:        disks(),
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		facts.Memory = int64(info.Totalram) * int64(info.Unit)
	}
	if b, err := os.ReadFile("/proc/uptime"); err == nil {
		first, _, _ := strings.Cut(string(b), " ")
		facts.Uptime, _ = strconv.ParseFloat(first, 64)
	}
	return facts
}

func dmi(name string) string {
	b, _ := os.ReadFile(filepath.Join("/sys/class/dmi/id", name))
	return text.Clean(string(b), maxText)
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range bytes.Lines(b) {
		if key, value, ok := bytes.Cut(line, []byte(":")); ok && strings.TrimSpace(string(key)) == "model name" {
			return text.Clean(string(value), maxText)
		}
	}
	return ""
}

func nics(bootMAC string) []protocol.NIC {
	links, err := ethernet()
	if err != nil {
		return nil
	}
	var list []protocol.NIC
	for _, l := range links {
		a := l.Attrs()
		mac := a.HardwareAddr.String()
		list = append(list, protocol.NIC{Name: a.Name, MAC: mac, Driver: driverOf(a.Name), Link: hasLink(a.Name),
			Booted: bootMAC != "" && strings.EqualFold(mac, bootMAC)})
	}
	return list
}

func disks() []protocol.Disk {
	found, err := blockdev.List()
	if err != nil {
		return nil
	}
	var list []protocol.Disk
	for _, d := range found {
		list = append(list, protocol.Disk{Name: d.Name, Bytes: int64(d.Size), LogicalSector: int64(d.LogicalSector),
			PhysicalSector: int64(d.PhysicalSector), Model: d.Model, Serial: d.Serial, WWN: d.WWN, Bus: d.Bus,
			Removable: d.Removable, ReadOnly: d.ReadOnly})
	}
	return list
}

// WaitDisks waits until a disk is there: USB takes seconds to find one. A machine without any
// costs the whole patience.
func WaitDisks(ctx context.Context, patience time.Duration) {
	deadline := time.Now().Add(patience)
	for len(disks()) == 0 && time.Now().Before(deadline) && ctx.Err() == nil {
		sleep(ctx, 100*time.Millisecond)
	}
}
