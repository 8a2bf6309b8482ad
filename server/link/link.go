// Package link follows a network interface: its index, which is another one when the interface was deleted and made
// anew under the same name, whether it is up, and its addresses.
//
//	Read     how it is now
//	Follow   calls back whenever that has changed, until its context ends
//
// The kernel tells of changes (rtnetlink(7)); because it drops messages when too many come at once, the interface is
// read as a whole after each, and now and then without one.
package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// State is how an interface is.
type State struct {
	Index     int    // 0: there is no such interface
	MAC       string // as the kernel writes it
	Up        bool
	Addresses []netip.Prefix // IPv4, in the kernel's order: the first is the one that PCs are told
}

// Address is the interface's first address; the invalid one if it has none.
func (s State) Address() netip.Prefix {
	if len(s.Addresses) == 0 {
		return netip.Prefix{}
	}
	return s.Addresses[0]
}

// IPs lists the addresses without their networks.
func (s State) IPs() []netip.Addr {
	var list []netip.Addr
	for _, p := range s.Addresses {
		list = append(list, p.Addr())
	}
	return list
}

// Equal tells whether nothing has changed.
func (s State) Equal(o State) bool {
	return s.Index == o.Index && s.MAC == o.MAC && s.Up == o.Up && slices.Equal(s.Addresses, o.Addresses)
}

// Same tells whether it is the same interface to the kernel, with the same hardware address.
func (s State) Same(o State) bool { return s.Index == o.Index && s.MAC == o.MAC }

// Read reads an interface. One that does not exist has index 0, and no error.
func Read(name string) (State, error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return State{}, nil // package net has no error of its own for that
	}
	list, err := iface.Addrs()
	if err != nil {
		return State{}, fmt.Errorf("addresses of %s: %w", name, err)
	}
	s := State{Index: iface.Index, MAC: iface.HardwareAddr.String(), Up: iface.Flags&net.FlagUp != 0}
	for _, a := range list {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().Is4() && !p.Addr().IsLinkLocalUnicast() {
			s.Addresses = append(s.Addresses, p)
		}
	}
	return s, nil
}

// Times of Follow.
const (
	settle = 100 * time.Millisecond // changes come in groups: deleted, made, given an address, set up
	look   = 5 * time.Second        // without being told
)

// Follow calls f with the state of an interface whenever it differs from the last one, beginning with last. Without the
// kernel's messages it looks every few seconds.
func Follow(ctx context.Context, name string, last State, log *slog.Logger, f func(State)) {
	told, err := subscribe(ctx)
	if err != nil {
		log.Warn("changes of the interface are noticed late", "interface", name, "error", err)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-told:
			select {
			case <-ctx.Done():
				return
			case <-time.After(settle):
			}
		case <-time.After(look):
		}
		now, err := Read(name)
		if err == nil && !now.Equal(last) {
			last = now
			f(now)
		}
	}
}

// subscribe gives a channel that tells of changes of any interface or address.
func subscribe(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "rtnetlink")
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to changes of interfaces: %w", err), socket.Close())
	}
	context.AfterFunc(ctx, func() { _ = socket.Close() })
	told := make(chan struct{}, 1)
	go func() {
		buf := make([]byte, 64<<10)
		for ctx.Err() == nil {
			// What the message says does not matter, nor that some were lost: something has changed.
			_, err := socket.Read(buf)
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			select {
			case told <- struct{}{}:
			default:
			}
		}
	}()
	return told, nil
}
