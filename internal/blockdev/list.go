package blockdev

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"clonecast/internal/diskrule"
	"clonecast/internal/quantity"
	"clonecast/internal/text"
)

const sysBlock = "/sys/block"

// maxText bounds what a disk says of itself, in bytes.
const maxText = 256

// Facts are what the kernel says of a disk without opening it.
type Facts struct {
	Name           string // kernel name: sda
	Path           string // /dev/sda
	Size           quantity.Bytes
	LogicalSector  quantity.SectorSize
	PhysicalSector quantity.SectorSize
	Model          string
	Serial         string
	WWN            string
	Bus            string // as in disk rules: "usb", "nvme", "sata", "virtio", "scsi", "mmc" or empty
	Removable      bool
	ReadOnly       bool
}

// Rule gives the facts that a disk rule looks at.
func (f Facts) Rule() diskrule.Disk {
	return diskrule.Disk{
		Name: f.Name, Model: f.Model, Serial: f.Serial, WWN: f.WWN, Bus: f.Bus, Size: f.Size,
		Removable: f.Removable, ReadOnly: f.ReadOnly,
	}
}

// Rules gives what a disk rule looks at of each disk.
func Rules(disks []Facts) []diskrule.Disk {
	var out []diskrule.Disk
	for _, f := range disks {
		out = append(out, f.Rule())
	}
	return out
}

// List gives the machine's disks by name: whole disks that can hold an image, no
// optical drives, loop, RAM or device-mapper devices.
func List() ([]Facts, error) {
	entries, err := os.ReadDir(sysBlock)
	if err != nil {
		return nil, err
	}
	var disks []Facts
	for _, e := range entries {
		if notADisk(e.Name()) {
			continue
		}
		if f := readFacts(filepath.Join(sysBlock, e.Name())); f.Size > 0 {
			disks = append(disks, f)
		}
	}
	return disks, nil
}

func notADisk(name string) bool {
	return slices.ContainsFunc([]string{"loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"},
		func(prefix string) bool { return strings.HasPrefix(name, prefix) }) ||
		strings.HasPrefix(name, "mmcblk") && strings.Contains(name, "boot")
}

// readFacts reads a disk's directory of /sys/block. What is absent stays empty.
func readFacts(dir string) Facts {
	read := func(names ...string) string {
		for _, name := range names {
			if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
				if s := text.Clean(string(b), maxText); s != "" {
					return s
				}
			}
		}
		return ""
	}
	number := func(name string) int64 { n, _ := strconv.ParseInt(read(name), 10, 64); return n }
	name := filepath.Base(dir)
	f := Facts{
		Name:           name,
		Path:           filepath.Join("/dev", name),
		Size:           quantity.Bytes(number("size") * 512), // the kernel counts in 512 bytes whatever the sector
		LogicalSector:  quantity.SectorSize(number("queue/logical_block_size")),
		PhysicalSector: quantity.SectorSize(number("queue/physical_block_size")),
		Model:          read("device/model", "device/name"),
		Serial:         read("serial", "device/serial"),
		WWN:            read("wwid", "device/wwid"),
		Removable:      read("removable") == "1",
		ReadOnly:       read("ro") == "1",
	}
	if f.Serial == "" {
		f.Serial = unitSerial(filepath.Join(dir, "device/vpd_pg80"))
	}
	if target, err := filepath.EvalSymlinks(dir); err == nil {
		f.Bus = busOf(target)
	}
	return f
}

// unitSerial reads SCSI's unit serial number page: 4 bytes of header, then the text
// (SPC-4, 7.8.15).
func unitSerial(path string) string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) < 4 {
		return ""
	}
	return text.Clean(string(b[4:]), maxText)
}

func busOf(target string) string {
	for _, bus := range []struct{ folder, name string }{
		{"usb", "usb"}, {"nvme", "nvme"}, {"ata", "sata"}, {"virtio", "virtio"}, {"mmc", "mmc"},
	} {
		if strings.Contains(target, "/"+bus.folder) {
			return bus.name
		}
	}
	if strings.Contains(target, "/host") {
		return "scsi"
	}
	return ""
}
