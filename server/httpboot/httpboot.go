// Package httpboot is the plain HTTP side of network boot: the iPXE script of
// each machine, kernels and initramfs of the hardware classes, boot programs.
//
//	GET /boot/ipxe                        a script that asks again with what iPXE knows of the PC
//	GET /boot/ipxe?mac=…&uuid=…&…         the script that carries out the Decider's decision
//	GET /boot/files/<class>/vmlinuz       and /initramfs, with ranges; ?boot= names the boot that wants it
//	GET /boot/programs/<name>             for UEFI HTTP boot
//
// A machine with nothing to do goes to its local disk before anything big is
// loaded, and so does one whose decision went wrong: a server in trouble must not
// keep a room from working. Asking changes nothing and proves nothing; everything
// served here is public. iPXE that asks for a boot program is given the first script
// instead: it runs already, and would load itself for ever where a DHCP server names
// the program to everybody.
//
// The query is hostile text. What gets into a script is either checked to its
// last letter (MAC), escaped (kernel command line), or reduced to harmless
// letters (the reason shown on the PC's screen).
package httpboot

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"clonecast/internal/bootparam"
)

// Client is what a PC says about itself. Nothing of it is proven; texts are
// valid UTF-8 without control characters, at most 128 bytes each.
type Client struct {
	MAC          string // "52:54:00:12:34:56", of the interface that booted; always set
	UUID         string // SMBIOS UUID, lower case; empty when absent or malformed
	Serial       string
	Manufacturer string
	Product      string
	CPU          string // iPXE's ${buildarch}: "i386", "x86_64", "arm64"
	UEFI         bool
	Addr         netip.Addr // where the request came from
	Server       netip.Addr // where it came to
}

// Action is what a PC shall do.
type Action int

// The actions.
const (
	Local     Action = iota // start the system on the local disk, now
	Appliance               // load the boot image of a hardware class
)

// Decision is the server's answer to a PC.
type Decision struct {
	Action Action
	Class  string // hardware class: which kernel and initramfs
	Params bootparam.Params
	Args   string // further words of the kernel command line, from the class ("console=ttyS0")
	Reason string // one line for the PC's screen: "no task: starting from the local disk"
}

// Decider decides what a PC does.
type Decider interface {
	// Decide is asked once for each start of a PC. An error sends it to its local disk.
	Decide(ctx context.Context, c Client) (Decision, error)
	// Sent is told of every boot file that was sent as a whole, with the token of the decision that named it. Like
	// all of a request the token is anybody's text.
	Sent(token, name string, to netip.Addr)
}

// File is an open boot file.
type File struct {
	io.ReadSeekCloser
	ModTime time.Time
}

// Files opens the boot files of classes. The name is one of netboot's file
// names, the class any text; fs.ErrNotExist tells that there is no such file.
type Files interface {
	OpenBootFile(class, name string) (File, error)
}

// Config is what a Handler needs.
type Config struct {
	Decider  Decider
	Files    Files
	Programs map[string][]byte // boot programs by name, as TFTP serves them
	Log      *slog.Logger
}
