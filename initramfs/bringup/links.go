package bringup

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// sysNet is where the kernel describes interfaces.
const sysNet = "/sys/class/net"

// ethernet lists the wired interfaces that hardware stands behind.
func ethernet() ([]netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	return slices.DeleteFunc(links, func(l netlink.Link) bool {
		a := l.Attrs()
		if a.EncapType != "ether" || len(a.HardwareAddr) != 6 {
			return true
		}
		_, noDevice := os.Stat(filepath.Join(sysNet, a.Name, "device"))
		_, noRadio := os.Stat(filepath.Join(sysNet, a.Name, "phy80211"))
		return noDevice != nil || noRadio == nil
	}), nil
}

// hasLink tells whether a cable with something alive at its other end is plugged in.
func hasLink(name string) bool {
	b, err := os.ReadFile(filepath.Join(sysNet, name, "carrier"))
	return err == nil && bytes.HasPrefix(b, []byte("1"))
}

// driverOf names the driver of an interface.
func driverOf(name string) string {
	target, err := os.Readlink(filepath.Join(sysNet, name, "device/driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// slowLink is after how long a person should learn why nothing happens.
const slowLink = 4 * time.Second

// waitLink waits until the interface has a link.
func waitLink(ctx context.Context, name string, say func(string, ...any)) error {
	started, warned := time.Now(), false
	for !hasLink(name) {
		if !warned && time.Since(started) > slowLink {
			warned = true
			say("%s: no link yet; a switch port with spanning tree takes up to 50 s, otherwise look at the cable", name)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s has no link", name)
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// undrivenCards lists the PCI network cards that no driver took.
func undrivenCards() []string {
	var cards []string
	devices, _ := filepath.Glob("/sys/bus/pci/devices/*")
	for _, dir := range devices {
		class, _ := os.ReadFile(filepath.Join(dir, "class"))
		if !bytes.HasPrefix(class, []byte("0x02")) {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "driver")); err == nil {
			continue
		}
		vendor, _ := os.ReadFile(filepath.Join(dir, "vendor"))
		device, _ := os.ReadFile(filepath.Join(dir, "device"))
		cards = append(cards, fmt.Sprintf("%s:%s at %s", id(vendor), id(device), filepath.Base(dir)))
	}
	return cards
}

func id(b []byte) string { return strings.TrimPrefix(strings.TrimSpace(string(b)), "0x") }
