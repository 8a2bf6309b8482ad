package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"clonecast/qemu-tests/vm"
)

// PC is a virtual computer of the room: switched off until Boot.
type PC struct {
	Name   string
	UUID   string
	Serial string
	MAC    string
	Disk   string // path of the disk image
	UEFI   bool   // its firmware; else a BIOS
	net    *Network
	tap    string
	t      vm.T
	number int
}

// PC puts the room's computer with this number in its place.
func (n *Network) PC(number int, disk string) *PC {
	n.t.Helper()
	return &PC{
		Name:   fmt.Sprintf("pc-%d", number),
		UUID:   fmt.Sprintf("c10eca57-0000-4000-8000-%012d", number),
		Serial: fmt.Sprintf("SN-%04d", number),
		MAC:    fmt.Sprintf("52:54:00:c1:0e:%02x", number),
		Disk:   disk,
		net:    n,
		tap:    n.Tap(),
		t:      n.t,
		number: number,
	}
}

// BlankDisk makes an empty disk of the size in bytes.
func BlankDisk(t vm.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "blank.img")
	f, err := os.Create(path)
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatalf("make a blank disk: %v", err)
	}
	return path
}

// Boot switches the PC on: it boots from the network first, then from its disk, and its disk keeps what is written.
func (p *PC) Boot(options ...vm.Option) *vm.VM {
	p.t.Helper()
	return p.boot(vm.Disk(p.Disk, p.diskSerial()), options...)
}

// BootFaulty is Boot with a disk on which every request of the kind that touches the sector fails.
func (p *PC) BootFaulty(fault vm.Fault, sector int64) *vm.VM {
	p.t.Helper()
	return p.boot(vm.FaultyDisk(p.Disk, p.diskSerial(), fault, sector))
}

func (p *PC) boot(disk vm.Option, options ...vm.Option) *vm.VM {
	p.t.Helper()
	return vm.Start(p.t, p.Name, slices.Concat(p.firmware(), []vm.Option{
		vm.NIC(p.net.Namespace, p.tap, p.MAC),
		disk,
		vm.Identity(p.UUID, p.Serial),
		vm.Args("-device", "virtio-rng-pci"),
		vm.Reboots(),
	}, options)...)
}

// BootDisk switches the PC on without network, to see what its disk does; the disk stays as it is.
func (p *PC) BootDisk(tag string) *vm.VM {
	p.t.Helper()
	return vm.Start(p.t, p.Name+"-"+tag, append(p.firmware(),
		vm.Snapshot(p.Disk, p.diskSerial()), vm.Identity(p.UUID, p.Serial), vm.AssetTag(tag))...)
}

// firmware gives the options of the board.
func (p *PC) firmware() []vm.Option {
	if p.UEFI {
		return []vm.Option{vm.UEFI(), vm.Memory(768)}
	}
	return []vm.Option{vm.Memory(512)}
}

func (p *PC) diskSerial() string { return fmt.Sprintf("DISK-%04d", p.number) }
