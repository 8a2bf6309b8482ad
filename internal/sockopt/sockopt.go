// Package sockopt sets options of sockets that the standard library has no names for, before they are bound.
package sockopt

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// Option sets something on a socket that is being opened.
type Option func(fd int) error

// With gives the Control of a net.ListenConfig or net.Dialer that sets options.
func With(options ...Option) func(network, address string, raw syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var err error
		control := raw.Control(func(fd uintptr) {
			for _, set := range options {
				if err = set(int(fd)); err != nil {
					return
				}
			}
		})
		return errors.Join(control, err)
	}
}

// Interface ties a socket to a network interface: packets from other networks never reach it, and what it sends leaves
// there, whatever the routes say (socket(7), SO_BINDTODEVICE).
func Interface(name string) Option {
	return func(fd int) error { return unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, name) }
}

// Broadcast lets a socket send to broadcast addresses.
func Broadcast(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1) }

// SharedGroup lets a socket share its port with others, and not get the packets of the groups that they joined:
// package net binds it to all addresses, whatever group it is asked for (ip(7), IP_MULTICAST_ALL).
func SharedGroup(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
}

// ReadBuffer asks for a buffer of so many bytes, beyond the system's limit where we may. A smaller one works too.
func ReadBuffer(size int) Option { return buffer(unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, size) }

// WriteBuffer is ReadBuffer for what is sent.
func WriteBuffer(size int) Option { return buffer(unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, size) }

func buffer(force, plain, size int) Option {
	return func(fd int) error {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, size)
		}
		return nil
	}
}

// JoinPackets has the kernel join packets that arrive where it can (udp(7), UDP_GRO). Without it they come one by one.
func JoinPackets(fd int) error {
	_ = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1)
	return nil
}
