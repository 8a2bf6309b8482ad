package vm

import "fmt"

// Memory in MiB.
func Memory(mib int) Option { return func(c *config) { c.memory = mib } }

// Reboots lets the VM start again when its guest restarts it, as a PC does. Without it, a restart ends the VM.
func Reboots() Option { return func(c *config) { c.reboots = true } }

// Args adds arguments of QEMU as they are.
func Args(args ...string) Option {
	return func(c *config) { c.args = append(c.args, args...) }
}

// UEFI gives the PC UEFI firmware instead of a BIOS. Its variables are those of a new board each time, so that it knows
// no boot entry but what it finds by itself.
func UEFI() Option {
	return Args(
		"-machine", "q35",
		"-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
		"-drive", "if=pflash,format=raw,snapshot=on,file=/usr/share/OVMF/OVMF_VARS_4M.fd",
		"-global", "virtio-net-pci.romfile=", // the firmware's own driver, not the one of iPXE's ROM
		"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no",
	)
}

// Disk attaches a raw image file as virtio disk with a serial number. The guest's writes go to the file; there is no
// cache that a killed VM would lose, as far as the host lives on.
func Disk(path, serial string) Option { return disk(path, serial, "off") }

// Snapshot attaches a disk whose changes are forgotten, so that booting it leaves the file as it was.
func Snapshot(path, serial string) Option { return disk(path, serial, "on") }

func disk(path, serial, snapshot string) Option {
	return drive(fmt.Sprintf("file=%s,format=raw,snapshot=%s", path, snapshot), serial)
}

// Fault is what a faulty disk does at a sector, each time.
type Fault string

const (
	ReadFault  Fault = "read_aio"
	WriteFault Fault = "write_aio"
)

// FaultyDisk is Disk, but every request of the kind that touches the sector (of 512 bytes) fails with an I/O error.
func FaultyDisk(path, serial string, fault Fault, sector int64) Option {
	return drive(fmt.Sprintf("driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename=%s,"+
		"file.inject-error.0.event=%s,file.inject-error.0.errno=5,file.inject-error.0.sector=%d,file.inject-error.0.once=off",
		path, fault, sector), serial)
}

// drive attaches a disk. Errors of the image file reach the guest instead of halting it.
func drive(spec, serial string) Option {
	return func(c *config) {
		id := fmt.Sprintf("disk%d", c.drives)
		c.drives++
		c.args = append(c.args,
			"-drive", fmt.Sprintf("if=none,id=%s,cache=unsafe,discard=unmap,%s", id, spec),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s,bootindex=%d,rerror=report,werror=report",
				id, serial, 10+c.drives))
	}
}

// NIC attaches a network card to a tap device of a network namespace; the PC boots from it first, by QEMU's iPXE ROM.
func NIC(netns, tap, mac string) Option { return nic(netns, tap, mac, true) }

// NICWithoutBoot is a card that the firmware does not boot from.
func NICWithoutBoot(netns, tap, mac string) Option { return nic(netns, tap, mac, false) }

func nic(netns, tap, mac string, boot bool) Option {
	return func(c *config) {
		c.netns = netns
		id := fmt.Sprintf("net%d", c.nics)
		c.nics++
		device := fmt.Sprintf("virtio-net-pci,netdev=%s,mac=%s", id, mac)
		if boot {
			device += fmt.Sprintf(",bootindex=%d", c.nics)
		} else {
			device += ",romfile="
		}
		c.args = append(c.args,
			"-netdev", fmt.Sprintf("tap,id=%s,ifname=%s,script=no,downscript=no", id, tap),
			"-device", device)
	}
}

// Identity sets what SMBIOS says about the PC.
func Identity(uuid, serial string) Option {
	return Args("-smbios", fmt.Sprintf("type=1,manufacturer=Clonecast,product=Virtual PC,uuid=%s,serial=%s", uuid, serial))
}

// AssetTag sets the chassis asset tag, by which the boot menu of the test disks chooses a system.
func AssetTag(tag string) Option { return Args("-smbios", "type=3,asset="+tag) }

// Kernel boots a Linux kernel directly.
func Kernel(kernel, initrd, commandLine string) Option {
	return Args("-kernel", kernel, "-initrd", initrd, "-append", commandLine)
}
