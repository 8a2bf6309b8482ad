package multicast

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"clonecast/internal/multicast/blocks"
	"clonecast/internal/multicast/packet"
	"clonecast/internal/multicast/sender"
	"clonecast/internal/protocol"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/cpu"
)

// Sizes and rates of a session.
const (
	repairMemory = 350 // blocks: half a second at 1 Gbit/s
	sealedAhead  = 16  // batches: a group of blocks is read and hashed meanwhile
	defaultRate  = 1e9 / 8
	floorShare   = 100   // the floor is this part of the ceiling, and at least
	minFloor     = 125e3 // 1 Mbit/s
)

// ErrEnded reports that a session takes no more receivers.
var ErrEnded = sender.ErrEnded

// ErrRequest reports a receiver's request that makes no sense.
var ErrRequest = errors.New("the request is not understood")

// SessionOptions describe a session to send.
type SessionOptions struct {
	Interface string
	Signer    ed25519.PrivateKey // of this session alone
	MaxRate   float64            // bytes per second on the wire; 0: as fast as the interface
	Payload   int64
	Source    sender.Source
	Log       *slog.Logger
	Progress  Progress // of the first pass; may be nil
	Querier   Querier  // of the interface; may be nil
}

// Session is the sending end of a session. It neither announces itself nor listens for receivers' requests: whoever
// runs it tells receivers of it, and brings them their places (Join) and what they want by unicast (Blocks).
type Session struct {
	opts        SessionOptions
	geo         blocks.Geometry
	clock       clock
	id          uint64
	groupSecret []byte
	socket      *groupSender
	source      *readAhead

	mu        sync.Mutex // guards what is below
	sender    *sender.Sender
	group     *packet.Key
	addresses map[uint32]netip.AddrPort
	places    map[string]protocol.SessionPlace // by the nonce of the request
	lastID    uint32
	slowAES   bool          // a receiver has no AES instructions
	wakeup    chan struct{} // a report or a receiver came
	ceiling   float64       // bytes per second
	unicastAt time.Duration // when the next block may go by unicast
	done      bool
}

// NewSession opens a session that waits for receivers. It must be closed.
func NewSession(opts SessionOptions) (*Session, error) {
	ifi, addr, err := localAddress(opts.Interface)
	if err != nil {
		return nil, err
	}
	if opts.MaxRate == 0 {
		opts.MaxRate = LinkRate(ifi.Name)
	}
	s := &Session{
		opts: opts, geo: blocks.Geometry{Payload: opts.Payload}, clock: clock{time.Now()}, groupSecret: make([]byte, 32),
		addresses: map[uint32]netip.AddrPort{}, places: map[string]protocol.SessionPlace{},
		wakeup: make(chan struct{}, 1), ceiling: opts.MaxRate,
	}
	var random [8]byte
	rand.Read(random[:])
	rand.Read(s.groupSecret)
	s.id = binary.LittleEndian.Uint64(random[:])
	if s.group, err = packet.NewKey(s.groupSecret, s.id, packet.PurposeGroup, false); err != nil {
		return nil, err
	}
	probe, err := packet.NewKey(s.groupSecret, s.id, packet.PurposeProbe, false)
	if err != nil {
		return nil, err
	}
	s.source = newReadAhead(opts.Source, s.geo)
	s.sender, err = sender.New(sender.Config{
		Geometry: s.geo, Group: s.group, Probe: probe, Signer: opts.Signer, Source: s.source,
		Floor: floorOf(opts.MaxRate), Ceiling: opts.MaxRate, Memory: repairMemory, Left: s.left,
	})
	if err != nil {
		return nil, err
	}
	if s.socket, err = newGroupSender(ifi, addr, opts.MaxRate); err != nil {
		return nil, fmt.Errorf("open the session's socket: %w", err)
	}
	return s, nil
}

func floorOf(ceiling float64) float64 { return max(minFloor, ceiling/floorShare) }

// Close frees the sockets, and waits until nothing is read from the source any more. Run must have returned.
func (s *Session) Close() error {
	defer s.source.close()
	return s.socket.conn.Close()
}

// ID names the session in its packets.
func (s *Session) ID() uint64 { return s.id }

// Group is where data goes.
func (s *Session) Group() netip.AddrPort { return groupOf(s.id) }

// Control is where reports are expected.
func (s *Session) Control() netip.AddrPort {
	return s.socket.conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Payload is how many bytes are sent.
func (s *Session) Payload() int64 { return s.opts.Payload }

// Sender is the key that signs digests and status.
func (s *Session) Sender() ed25519.PublicKey { return s.opts.Signer.Public().(ed25519.PublicKey) }

// Run sends, once Start was called, and returns when all receivers have come to their end. Cancelling the context
// ends it at once.
func (s *Session) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	ctx, finished := context.WithCancel(ctx)
	defer finished()
	g.Go(func() error { return s.reports(ctx) })
	g.Go(func() error {
		defer finished()
		return s.transmit(ctx)
	})
	err := g.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && !s.done {
		err = context.Cause(ctx)
	}
	return err
}

// Goodbye tells the group that the sender goes away for good, after Run was cut: receivers need not wait for it.
func (s *Session) Goodbye() error {
	group, buf := net.UDPAddrFromAddrPort(s.Group()), make([]byte, 0, sender.Batch*packet.MaxSize)
	s.mu.Lock()
	s.sender.End(s.clock.now())
	s.mu.Unlock()
	for {
		packets, size, wait, _, err := s.next(buf)
		if err == nil && len(packets) > 0 {
			err = s.socket.send(group, packets, size)
		}
		if err != nil || s.endAnnounced() {
			return err
		}
		if len(packets) == 0 {
			time.Sleep(wait)
		}
	}
}

func (s *Session) endAnnounced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sender.EndAnnounced()
}

// batch is packets to send, all of one size, one after the other.
type batch struct {
	to      *net.UDPAddr
	packets []byte
	size    int
}

// transmit sends until the session is over. While the kernel sends one batch the next ones are sealed.
func (s *Session) transmit(ctx context.Context) error {
	free, sealed := make(chan []byte, sealedAhead), make(chan batch, sealedAhead)
	for range sealedAhead {
		free <- make([]byte, 0, sender.Batch*packet.MaxSize)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(sealed)
		return s.seal(ctx, free, sealed)
	})
	g.Go(func() error {
		for b := range sealed {
			if err := s.socket.send(b.to, b.packets, b.size); err != nil {
				return err
			}
			free <- b.packets
		}
		return nil
	})
	return g.Wait()
}

// seal fills free buffers with what is to be sent until the session is over.
func (s *Session) seal(ctx context.Context, free <-chan []byte, sealed chan<- batch) error {
	group := net.UDPAddrFromAddrPort(s.Group())
	var buf []byte
	for {
		if buf == nil {
			select {
			case buf = <-free:
			case <-ctx.Done():
				return nil
			}
		}
		b, err := s.linkProbe(buf)
		wait, done := time.Duration(0), false
		if err == nil && len(b.packets) == 0 {
			b.to = group
			b.packets, b.size, wait, done, err = s.next(buf)
		}
		switch {
		case err != nil || done || ctx.Err() != nil:
			return err
		case len(b.packets) > 0:
			sealed <- b // it has room for all buffers
			buf = nil
		default:
			s.sleep(ctx, wait)
		}
	}
}

// next takes the next batch from the state machine.
func (s *Session) next(buf []byte) (packets []byte, size int, wait time.Duration, done bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	packets, size, wait, err = s.sender.Next(s.clock.now(), buf)
	s.done = s.sender.Finished()
	if s.opts.Progress != nil && len(packets) > 0 {
		s.opts.Progress(s.firstPass(), s.opts.Payload)
	}
	return packets, size, wait, s.done, err
}

// firstPass is how many bytes of the payload were sent as a whole.
func (s *Session) firstPass() int64 {
	return min(int64(s.sender.Counters().Source)*packet.SymbolSize, s.opts.Payload)
}

// sleep waits until something may be to do.
func (s *Session) sleep(ctx context.Context, wait time.Duration) {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.wakeup:
	case <-ctx.Done():
	}
}

func (s *Session) wake() {
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

// reports reads what receivers say and answers.
func (s *Session) reports(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.socket.conn.SetReadDeadline(time.Now()) })
	defer stop()
	buf := make([]byte, packet.MaxSize+1)
	for {
		n, from, err := s.socket.conn.ReadFromUDPAddrPort(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("read reports: %w", err)
		}
		s.mu.Lock()
		reply := s.sender.Handle(s.clock.now(), buf[:n])
		s.mu.Unlock()
		if reply != nil {
			_, _ = s.socket.conn.WriteToUDPAddrPort(reply, from) // lost like any packet; the next report is answered again
		}
		s.wake()
	}
}

// Join gives a receiver its place; from is only shown. The same request gives the same place. The error is ErrEnded
// when it comes too late, ErrRequest when it makes no sense.
func (s *Session) Join(from netip.AddrPort, q protocol.SessionJoin) (protocol.SessionPlace, error) {
	if len(q.Nonce) != protocol.NonceSize {
		return protocol.SessionPlace{}, fmt.Errorf("%w: a nonce of %d bytes", ErrRequest, len(q.Nonce))
	}
	need, err := blocks.ParseSet(q.Need, s.geo.Count())
	if err != nil {
		return protocol.SessionPlace{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	own := make([]byte, 32)
	rand.Read(own)
	up, down, err := receiverKeys(own, s.id, !q.AES)
	if err != nil {
		return protocol.SessionPlace{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if place, ok := s.places[string(q.Nonce)]; ok {
		return place, nil
	}
	if err := s.sender.Add(s.clock.now(), s.lastID+1, up, down, need); err != nil {
		return protocol.SessionPlace{}, err
	}
	s.lastID++
	s.slowAES = s.slowAES || !q.AES
	s.addresses[s.lastID] = from
	s.opts.Log.Info("a receiver has joined", "receiver", s.lastID, "address", from, "blocks", need.Len())
	s.wake()
	place := protocol.SessionPlace{Receiver: s.lastID, Group: s.groupSecret, Own: own}
	s.places[string(q.Nonce)] = place
	return place, nil
}

// State is where the session stands: waiting, running or ended.
func (s *Session) State() packet.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sender.State()
}

// Present counts the receivers that have joined and are not gone.
func (s *Session) Present() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sender.Present()
}

// Start begins to send. Started again it does nothing.
func (s *Session) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sender.State() == packet.StateWaiting && (s.slowAES || !hasAES()) {
		s.group.UseChaCha()
	}
	s.sender.Start(s.clock.now())
	s.wake()
}

// Drop lets a receiver go: nothing more is sent for it, and it is told to leave.
func (s *Session) Drop(receiver uint32, reason packet.Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sender.Drop(s.clock.now(), receiver, reason)
	s.wake()
}

// SetMaxRate changes how fast the session may be, in bytes per second on the wire.
func (s *Session) SetMaxRate(rate float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ceiling = rate
	s.sender.SetLimits(floorOf(rate), rate)
	s.wake()
}

// Blocks gives blocks to write, for a receiver by unicast. write may be called, and its bytes are valid until it
// returns. While others receive by multicast it takes its time. The error is ErrRequest, before anything is written,
// when there are no such blocks.
func (s *Session) Blocks(ctx context.Context, first, count int, write func(plain []byte) error) error {
	if first < 0 || count < 1 || count > protocol.MaxBlocks || first >= s.geo.Count() || count > s.geo.Count()-first {
		return fmt.Errorf("%w: no %d blocks from %d on", ErrRequest, count, first)
	}
	buf := make([]byte, blocks.Size)
	for b := first; b < first+count; b++ {
		if err := s.yield(ctx); err != nil {
			return err
		}
		plain := buf[:s.geo.Length(b)]
		if err := s.opts.Source.Block(b, plain); err != nil {
			return fmt.Errorf("read block %d: %w", b, err)
		}
		if err := write(plain); err != nil {
			return err
		}
	}
	return nil
}

// unicastShare is the part of the rate that receivers by unicast have together while others
// still receive by multicast: those must not lose by who could not keep up.
const unicastShare = 0.02

// yield waits until the next block may be sent by unicast.
func (s *Session) yield(ctx context.Context) error {
	s.mu.Lock()
	perBlock := time.Duration(blocks.Size / (unicastShare * s.ceiling) * float64(time.Second))
	s.unicastAt = max(s.unicastAt, s.clock.now()) + perBlock
	turn := s.unicastAt
	s.mu.Unlock()
	for ctx.Err() == nil {
		s.mu.Lock()
		wait := turn - s.clock.now()
		if s.sender.State() != packet.StateRunning {
			wait, s.unicastAt = 0, 0
		}
		s.mu.Unlock()
		if wait <= 0 {
			return nil
		}
		select {
		case <-time.After(min(wait, 50*time.Millisecond)):
		case <-ctx.Done():
		}
	}
	return context.Cause(ctx)
}

// Summary is what the session has done so far.
func (s *Session) Summary() SendSummary {
	s.mu.Lock()
	defer s.mu.Unlock()
	counters := s.sender.Counters()
	began, ended := s.sender.DataPhase()
	out := SendSummary{
		State: s.sender.State(), Payload: s.opts.Payload, FirstPass: s.firstPass(),
		Wire: counters.Wire, Rate: s.sender.Rate(), MaxRate: s.ceiling,
		Seconds: (ended - began).Seconds(), Blocks: s.geo.Count(), Repair: counters.Repair,
	}
	for _, r := range s.sender.Receivers() {
		one := ReceiverSummary{
			Receiver: r.ID, Address: s.addresses[r.ID].Addr().String(), State: r.State, Loss: r.Loss,
			Needed: blocksBytes(s.geo, r.Need), Finished: int64(r.Finished) * blocks.Size,
			Fetched: int64(r.Fetched) * blocks.Size, Paths: r.Paths.Names(),
		}
		one.Finished = min(one.Finished, one.Needed)
		if r.Reason != packet.ReasonNone {
			one.Reason, one.Cause, one.Hint = r.Reason.String(), r.Reason.Cause(), r.Reason.Hint()
		}
		out.Receivers = append(out.Receivers, one)
	}
	return out
}

// hasAES tells whether this machine's AES needs no tables.
func hasAES() bool {
	return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL
}
