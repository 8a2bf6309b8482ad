// Package netboot holds the facts of booting a PC over the network: which client
// architectures exist, how a client introduces itself, which boot program its
// firmware can run, and under which paths the server offers things.
//
// A PC boots in two stages. Its firmware (PXE ROM, UEFI PXE or UEFI HTTP boot)
// loads a boot program, which is iPXE for the firmware at hand. iPXE asks DHCP
// again, is recognised by its user class, and is given the URL of a script that
// the server writes for this machine.
//
// Sources: RFC 4578 (PXE options 93, 94, 97), the IANA registry "Processor
// Architecture Types", UEFI specification 2.10 §24 (network and HTTP boot), and
// the PXE specification 2.1.
package netboot

import (
	"fmt"
	"strconv"
	"strings"
)

// Arch is a client architecture type: DHCP option 93.
type Arch uint16

// Architecture types that PCs send. RFC 4578 has 7 and 9 the other way round
// (its erratum 4625); firmware uses either for x64.
const (
	BIOS        Arch = 0
	UEFI32      Arch = 6
	UEFI64      Arch = 7
	UEFIEBC     Arch = 9
	UEFIARM32   Arch = 10
	UEFIARM64   Arch = 11
	UEFI32HTTP  Arch = 15
	UEFI64HTTP  Arch = 16
	UEFIEBCHTTP Arch = 17
	ARM32HTTP   Arch = 18
	ARM64HTTP   Arch = 19
	BIOSHTTP    Arch = 20
)

// platform is what an architecture type says about a PC.
type platform struct {
	name string // as people write it
	cpu  string // iPXE's ${buildarch}
	uefi bool
	http bool
}

func (a Arch) platform() (platform, bool) {
	switch a {
	case BIOS:
		return platform{"BIOS", "i386", false, false}, true
	case UEFI32:
		return platform{"UEFI x86", "i386", true, false}, true
	case UEFI64, UEFIEBC:
		return platform{"UEFI x64", "x86_64", true, false}, true
	case UEFIARM32:
		return platform{"UEFI ARM", "arm32", true, false}, true
	case UEFIARM64:
		return platform{"UEFI ARM64", "arm64", true, false}, true
	case UEFI32HTTP:
		return platform{"UEFI x86 HTTP", "i386", true, true}, true
	case UEFI64HTTP, UEFIEBCHTTP:
		return platform{"UEFI x64 HTTP", "x86_64", true, true}, true
	case ARM32HTTP:
		return platform{"UEFI ARM HTTP", "arm32", true, true}, true
	case ARM64HTTP:
		return platform{"UEFI ARM64 HTTP", "arm64", true, true}, true
	case BIOSHTTP:
		return platform{"BIOS HTTP", "i386", false, true}, true
	}
	return platform{}, false
}

// Known tells whether a is a PC that a boot program could exist for.
func (a Arch) Known() bool { _, ok := a.platform(); return ok }

// UEFI tells whether the firmware is UEFI, of any width.
func (a Arch) UEFI() bool { p, _ := a.platform(); return p.uefi }

// HTTP tells whether the firmware loads its boot program by HTTP.
func (a Arch) HTTP() bool { p, _ := a.platform(); return p.http }

// CPU gives the processor as iPXE names it ("x86_64"), empty when unknown.
func (a Arch) CPU() string { p, _ := a.platform(); return p.cpu }

func (a Arch) String() string {
	if p, ok := a.platform(); ok {
		return p.name
	}
	return fmt.Sprintf("architecture %d", uint16(a))
}

// Kind is how a client wants to boot: the first word of its vendor class.
type Kind int

const (
	NoBoot     Kind = iota // an ordinary DHCP client
	PXEClient              // loads its boot program by TFTP
	HTTPClient             // loads its boot program by HTTP (UEFI)
)

// String gives the word that stands in option 60, in both directions.
func (k Kind) String() string {
	switch k {
	case PXEClient:
		return "PXEClient"
	case HTTPClient:
		return "HTTPClient"
	}
	return "no boot client"
}

// Client is what a packet says about the program that sent it.
type Client struct {
	Kind Kind
	Arch Arch
	IPXE bool // iPXE that can load by HTTP asks: it wants the script
}

// ParseVendorClass reads option 60, "PXEClient:Arch:00007:UNDI:003016". A class
// without a readable Arch is a BIOS client, as ROMs from before RFC 4578 are.
// Any other class gives Kind NoBoot.
func ParseVendorClass(class string) (Kind, Arch) {
	words := strings.Split(strings.TrimRight(class, "\x00"), ":") // some ROMs send a C string
	var kind Kind
	switch words[0] {
	case "PXEClient":
		kind = PXEClient
	case "HTTPClient":
		kind = HTTPClient
	default:
		return NoBoot, 0
	}
	if len(words) >= 3 && words[1] == "Arch" {
		if n, err := strconv.ParseUint(words[2], 10, 16); err == nil {
			return kind, Arch(n)
		}
	}
	return kind, BIOS
}

// ipxeUserClass is what iPXE sends as option 77.
const ipxeUserClass = "iPXE"

// Codes within option 175, iPXE's own (its source, features.h).
const (
	ipxeHTTP = 19 // it can load by HTTP
	padCode  = 0
	endCode  = 255
)

// IsIPXE tells from options 77 and 175 whether the client is an iPXE that can carry out the server's script. Builds in
// the ROMs of network cards and virtual PCs leave out what their makers had no room for, HTTP among it: such a one is
// firmware like any other. What iPXE can do stands in option 175; one that was cut away on the way says nothing.
func IsIPXE(userClass, features []byte) bool {
	if !hasUserClass(userClass) {
		return false
	}
	http, readable := feature(features, ipxeHTTP)
	return http || !readable
}

// hasUserClass looks for iPXE's word: bare, as it sends it, or as RFC 3004 has it, a list of words with their lengths.
func hasUserClass(b []byte) bool {
	if string(b) == ipxeUserClass || string(b) == ipxeUserClass+"\x00" {
		return true
	}
	for len(b) > 0 && int(b[0]) < len(b) {
		if string(b[1:1+b[0]]) == ipxeUserClass {
			return true
		}
		b = b[1+b[0]:]
	}
	return false
}

// feature reads a flag of option 175; readable is false for an option that is empty or damaged.
func feature(b []byte, code byte) (set, readable bool) {
	readable = len(b) > 0
	for len(b) > 0 && b[0] != endCode {
		if b[0] == padCode {
			b = b[1:]
			continue
		}
		if len(b) < 2 || int(b[1]) > len(b)-2 {
			return set, false
		}
		value := b[2 : 2+b[1]]
		if b[0] == code {
			set = len(value) > 0 && value[len(value)-1] != 0
		}
		b = b[2+len(value):]
	}
	return set, readable
}

// BootItem gives the choice of a PXE menu that stands in option 43, sub-option 71 (PXE specification 2.1 §2.4.5): four
// bytes, which server and layer. The boot server's answer has to name it again.
func BootItem(vendor []byte) []byte {
	for len(vendor) > 0 && vendor[0] != endCode {
		if vendor[0] == padCode {
			vendor = vendor[1:]
			continue
		}
		if len(vendor) < 2 || int(vendor[1]) > len(vendor)-2 {
			return nil
		}
		value := vendor[2 : 2+vendor[1]]
		if vendor[0] == bootItemCode && len(value) == 4 {
			return value
		}
		vendor = vendor[2+len(value):]
	}
	return nil
}

const bootItemCode = 71
