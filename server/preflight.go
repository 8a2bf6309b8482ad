package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"clonecast/internal/quantity"
	"clonecast/internal/sockopt"
	"clonecast/server/dhcp"
)

// What building an appliance needs: room for the result, for the packages that it is made of where they must be
// fetched, and the compressor's memory.
const (
	buildRoom   = 40 * quantity.MiB
	fetchRoom   = 512 * quantity.MiB
	buildMemory = 512 * quantity.MiB
)

// Preflight finds what would stop a server of these options later: its address, the range of addresses that it
// is to hand out, its ports. Everything stays as it was.
func Preflight(ctx context.Context, o Options) error {
	at, err := addressesOf(o.Interface)
	if err != nil {
		return err
	}
	address := at.Address()
	if _, err := dhcpConfig(o, address); err != nil {
		return err
	}
	for _, port := range []int{o.HTTPSPort, o.HTTPPort} {
		if err := probe(ctx, "tcp", netip.AddrPortFrom(address.Addr(), uint16(port)), ""); err != nil {
			return err
		}
	}
	if o.HTTPSPort == o.HTTPPort && o.HTTPPort != 0 {
		return &Problem{fmt.Errorf("machines and network boot are both to use port %d", o.HTTPPort),
			"give --http-port or --https-port another one"}
	}
	if err := probe(ctx, "udp", netip.AddrPortFrom(address.Addr(), 69), ""); err != nil {
		return err
	}
	if o.DHCP == dhcp.Off {
		return nil
	}
	for _, port := range []uint16{dhcp.ServerPort, dhcp.PXEPort} {
		if err := probe(ctx, "udp", netip.AddrPortFrom(netip.IPv4Unspecified(), port), o.Interface); err != nil {
			return err
		}
	}
	return nil
}

// exampleRange names a range that a network has room for.
func exampleRange(p netip.Prefix) string {
	if !p.Addr().Is4() || p.Bits() > 24 {
		return ": " + p.Masked().String()
	}
	b := p.Masked().Addr().As4()
	first, last := b, b
	first[3], last[3] = 100, 200
	return fmt.Sprintf(": for example %s-%s", netip.AddrFrom4(first), netip.AddrFrom4(last))
}

// probe binds a port and lets it go.
func probe(ctx context.Context, network string, at netip.AddrPort, iface string) error {
	if at.Port() == 0 { // any
		return nil
	}
	var config net.ListenConfig
	var l io.Closer
	var err error
	if network == "tcp" {
		l, err = config.Listen(ctx, network, at.String())
	} else {
		if iface != "" {
			config.Control = sockopt.With(sockopt.Interface(iface), sockopt.Broadcast)
		}
		l, err = config.ListenPacket(ctx, "udp4", at.String())
	}
	if err != nil {
		return explainPort(network, int(at.Port()), fmt.Errorf("listen at %s port %d: %w", network, at.Port(), err))
	}
	return l.Close()
}

// PreflightBuild finds out whether there is room and memory to build an appliance in a data directory, and
// whether the network has another DHCP server, which Open would find when all is built. With fetch, packages are to
// be kept there too.
func PreflightBuild(ctx context.Context, dir string, fetch bool, o Options) error {
	if o.DHCP == dhcp.Full {
		if err := otherServer(ctx, o.Interface); err != nil {
			return err
		}
	}
	var disk syscall.Statfs_t
	at := existing(dir)
	if err := syscall.Statfs(at, &disk); err != nil {
		return fmt.Errorf("free space of %s: %w", at, err)
	}
	room := buildRoom
	if fetch {
		room = fetchRoom
	}
	if free := quantity.Bytes(disk.Bavail) * quantity.Bytes(disk.Bsize); free < room {
		return &Problem{fmt.Errorf("%v are free for %s, building an appliance needs %v", free, dir, room),
			"free space there, or choose another directory with --data; captures need room there as well"}
	}
	if free, known := memoryAvailable(); known && free < buildMemory {
		return &Problem{fmt.Errorf("%v of memory are available, building an appliance needs %v", free, buildMemory),
			"end other programs, or build elsewhere ('clonecast build') and name the result with --appliance"}
	}
	return nil
}

// existing gives the nearest directory above a path that is there.
func existing(path string) string {
	path, _ = filepath.Abs(path)
	for {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) || path == "/" {
			return path
		}
		path = filepath.Dir(path)
	}
}

// memoryAvailable is what programs can still have without swapping.
func memoryAvailable() (quantity.Bytes, bool) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return quantity.Bytes(n) * quantity.KiB, err == nil
		}
	}
	return 0, false
}
