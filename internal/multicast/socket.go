package multicast

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"clonecast/internal/sockopt"
)

// Sizes of batches and buffers.
const (
	readMessages  = 32
	messageSize   = 1 << 16 // what UDP_GRO may join
	reportBuffer  = 4 << 20
	minSendBuffer = 128 << 10
	maxSendBuffer = 1 << 20
)

// groupSender sends packets to multicast groups.
type groupSender struct {
	conn    *net.UDPConn
	packets *ipv4.PacketConn
	cuts    bool // the kernel cuts a batch into packets
	oob     []byte
	batch   []ipv4.Message
}

// newGroupSender opens the sender's socket: packets for groups leave by the interface and
// stay in its network; reports come in on it. The send buffer holds 10 ms at the given rate, so that
// what waits in it is not much older than the reports.
func newGroupSender(ifi *net.Interface, addr netip.Addr, rate float64) (*groupSender, error) {
	size := int(min(max(rate/100, minSendBuffer), maxSendBuffer))
	lc := net.ListenConfig{Control: sockopt.With(sockopt.WriteBuffer(size), sockopt.ReadBuffer(reportBuffer))}
	c, err := lc.ListenPacket(context.Background(), "udp4", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		return nil, err
	}
	s := &groupSender{conn: c.(*net.UDPConn), packets: ipv4.NewPacketConn(c), cuts: true}
	err = errors.Join(s.packets.SetMulticastInterface(ifi), s.packets.SetMulticastTTL(1),
		s.packets.SetMulticastLoopback(true))
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	s.oob = make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&s.oob[0]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	return s, nil
}

// send sends a batch of packets of equal size. It blocks while the network card is busy.
func (s *groupSender) send(to *net.UDPAddr, batch []byte, size int) error {
	if s.cuts && len(batch) > size {
		binary.NativeEndian.PutUint16(s.oob[unix.CmsgLen(0):], uint16(size))
		_, _, err := s.conn.WriteMsgUDP(batch, s.oob, to)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EIO) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOPROTOOPT) {
			return sendError(err)
		}
		s.cuts = false // the kernel or the card cannot
	}
	n := 0
	for at := 0; at < len(batch); at += size {
		if n == len(s.batch) {
			s.batch = append(s.batch, ipv4.Message{Buffers: make([][]byte, 1)})
		}
		s.batch[n].Buffers[0], s.batch[n].Addr = batch[at:min(at+size, len(batch))], to
		n++
	}
	for sent := 0; sent < n; {
		m, err := s.packets.WriteBatch(s.batch[sent:n], 0)
		if err != nil {
			return sendError(err)
		}
		sent += m
	}
	return nil
}

// sendError drops errors that are just lost packets: a full queue, a cable that is out for a moment.
func sendError(err error) error {
	if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.ENETDOWN) ||
		errors.Is(err, unix.EPERM) {
		return nil
	}
	return fmt.Errorf("send to the group: %w", err)
}

// batchReader reads packets in batches.
type batchReader struct {
	conn     net.PacketConn
	packets  *ipv4.PacketConn
	messages []ipv4.Message
}

// joinGroup opens a socket that gets the packets of a group, with a buffer of so many bytes.
func joinGroup(ifi *net.Interface, group netip.AddrPort, buffer int) (*batchReader, error) {
	lc := net.ListenConfig{Control: sockopt.With(sockopt.ReadBuffer(buffer), sockopt.JoinPackets, sockopt.SharedGroup)}
	c, err := lc.ListenPacket(context.Background(), "udp4", group.String())
	if err != nil {
		return nil, err
	}
	r := newBatchReader(c)
	if err := r.packets.JoinGroup(ifi, net.UDPAddrFromAddrPort(group)); err != nil {
		return nil, errors.Join(fmt.Errorf("join group %v on %s: %w", group.Addr(), ifi.Name, err), c.Close())
	}
	return r, nil
}

func newBatchReader(c net.PacketConn) *batchReader {
	r := &batchReader{conn: c, packets: ipv4.NewPacketConn(c)}
	for range readMessages {
		r.messages = append(r.messages, ipv4.Message{
			Buffers: [][]byte{make([]byte, messageSize)}, OOB: make([]byte, unix.CmsgSpace(4)),
		})
	}
	return r
}

// read waits for packets until the deadline of the connection and gives each to handle. It
// tells whether there may be more at once.
func (r *batchReader) read(handle func(packet []byte)) error {
	n, err := r.packets.ReadBatch(r.messages, 0)
	if err != nil {
		return err
	}
	for _, m := range r.messages[:n] {
		b := m.Buffers[0][:m.N]
		size := joined(m.OOB[:m.NN])
		if size <= 0 {
			size = max(len(b), 1)
		}
		for len(b) > 0 {
			one := b[:min(size, len(b))]
			handle(one)
			b = b[len(one):]
		}
	}
	return nil
}

// joined reads from the control data how long the packets are that the kernel joined; 0 if it joined none.
func joined(oob []byte) int {
	if len(oob) < unix.CmsgLen(4) {
		return 0
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	if h.Level != unix.SOL_UDP || h.Type != unix.UDP_GRO {
		return 0
	}
	return int(int32(binary.NativeEndian.Uint32(oob[unix.CmsgLen(0):])))
}
