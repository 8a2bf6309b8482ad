package netboot

import (
	"fmt"
	"slices"
	"strings"
)

// Paths of the boot server's HTTP side. The first is the URL that DHCP gives to
// iPXE; a site whose own DHCP server should point at clonecast enters it there.
const (
	ScriptPath   = "/boot/ipxe"      // the script, by machine
	FilesPath    = "/boot/files/"    // <class>/vmlinuz and <class>/initramfs
	ProgramsPath = "/boot/programs/" // boot programs for UEFI HTTP boot
)

// Names of an appliance's files below FilesPath/<class>/.
const (
	KernelFile    = "vmlinuz"
	InitramfsFile = "initramfs"
)

// Programs names the boot program of each architecture. The same name is used
// in TFTP and below ProgramsPath.
type Programs map[Arch]string

// DefaultPrograms are iPXE's builds as distributions ship them. The "only"
// builds drive the network card through the firmware that just used it, so they
// work with every card that can netboot at all.
func DefaultPrograms() Programs {
	return Programs{
		BIOS:   "undionly.kpxe",
		UEFI64: "snponly.efi",
	}
}

// For finds the boot program for an architecture. An architecture type that is
// another name for the same platform (EBC, HTTP) shares its program.
func (p Programs) For(a Arch) (name string, ok bool) {
	if name, ok = p[a]; ok {
		return name, true
	}
	switch a {
	case UEFI64HTTP, UEFIEBC, UEFIEBCHTTP:
		name, ok = p[UEFI64]
	case UEFI32HTTP:
		name, ok = p[UEFI32]
	case ARM32HTTP:
		name, ok = p[UEFIARM32]
	case ARM64HTTP:
		name, ok = p[UEFIARM64]
	case BIOSHTTP:
		name, ok = p[BIOS]
	}
	return name, ok
}

// Names lists the boot programs, each once, sorted.
func (p Programs) Names() []string {
	var names []string
	for _, name := range p {
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// maxBootFile is what a BOOTP header's file field holds, with its closing NUL.
const maxBootFile = 127

// BootFile gives what DHCP should offer to c: the script's URL to iPXE, a
// program's URL to UEFI HTTP boot, a program's TFTP name to PXE. http is the
// server's plain HTTP address, "http://10.99.0.1".
func (p Programs) BootFile(c Client, http string) (string, error) {
	http = strings.TrimSuffix(http, "/")
	file := ""
	if c.IPXE {
		file = http + ScriptPath
	} else {
		name, ok := p.For(c.Arch)
		if !ok {
			return "", fmt.Errorf("no boot program for %s", c.Arch)
		}
		switch c.Kind {
		case HTTPClient:
			file = http + ProgramsPath + name
		case PXEClient:
			file = name
		default:
			return "", fmt.Errorf("%s wants no boot file", c.Kind)
		}
	}
	if len(file) > maxBootFile {
		return "", fmt.Errorf("boot file %.40q… has %d bytes, DHCP carries %d", file, len(file), maxBootFile)
	}
	return file, nil
}
