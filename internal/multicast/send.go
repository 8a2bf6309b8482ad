package multicast

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
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

// Timing and sizes of Send.
const (
	announceWaiting = 100 * time.Millisecond
	announceRunning = time.Second
	repairMemory    = 350 // blocks: half a second at 1 Gbit/s
	defaultRate     = 1e9 / 8
	floorShare      = 100   // the floor is this part of the ceiling, and at least
	minFloor        = 125e3 // 1 Mbit/s
)

// SendOptions describe a session to send.
type SendOptions struct {
	Interface string
	Pairing   Pairing
	Signer    ed25519.PrivateKey
	Receivers int     // begin when this many wait
	MaxRate   float64 // bytes per second on the wire; 0: as fast as the interface
	Payload   int64
	Source    sender.Source
	Details   json.RawMessage
	Log       *slog.Logger
	Progress  Progress // of the first pass; may be nil
}

// Send offers a payload on an interface, begins when enough receivers wait, and returns when all of them have
// come to their end. Cancelling the context ends it at once.
func Send(ctx context.Context, opts SendOptions) (SendSummary, error) {
	c, err := newCast(opts)
	if err != nil {
		return SendSummary{}, err
	}
	defer c.close()
	g, ctx := errgroup.WithContext(ctx)
	ctx, finished := context.WithCancel(ctx)
	defer finished()
	g.Go(func() error { return c.serve(ctx) })
	g.Go(func() error { return c.reports(ctx) })
	g.Go(func() error {
		defer finished()
		return c.drive(ctx)
	})
	err = g.Wait()
	if !c.done {
		err = errors.Join(err, context.Cause(ctx))
	}
	return c.summary(), err
}

// cast is one session being sent.
type cast struct {
	opts        SendOptions
	clock       clock
	description Description
	token       string
	groupSecret []byte
	announcer   *packet.Key
	socket      *groupSender
	listener    net.Listener
	source      *readAhead

	mu        sync.Mutex // guards what is below
	sender    *sender.Sender
	group     *packet.Key
	addresses map[uint32]netip.AddrPort
	places    map[string]protocol.SessionPlace // by the nonce of the request
	lastID    uint32
	slowAES   bool          // a receiver has no AES instructions
	stir      chan struct{} // a report or a receiver came
	unicastAt time.Duration // when the next block may go by unicast
	done      bool
}

func newCast(opts SendOptions) (c *cast, err error) {
	ifi, addr, err := localAddress(opts.Interface)
	if err != nil {
		return nil, err
	}
	if opts.MaxRate == 0 {
		opts.MaxRate = linkRate(ifi.Name)
	}
	c = &cast{opts: opts, clock: clock{time.Now()}, addresses: map[uint32]netip.AddrPort{}, places: map[string]protocol.SessionPlace{}, stir: make(chan struct{}, 1), groupSecret: make([]byte, 32)}
	var random [8]byte
	rand.Read(random[:])
	rand.Read(c.groupSecret)
	id := binary.LittleEndian.Uint64(random[:])
	if c.group, err = packet.NewKey(c.groupSecret, id, packet.PurposeGroup, false); err != nil {
		return nil, err
	}
	if c.announcer, err = opts.Pairing.announceKey(id); err != nil {
		return nil, err
	}
	if c.token, err = opts.Pairing.token(id); err != nil {
		return nil, err
	}
	geo := blocks.Geometry{Payload: opts.Payload}
	c.source = newReadAhead(opts.Source, geo)
	c.sender, err = sender.New(sender.Config{
		Geometry: geo, Group: c.group, Signer: opts.Signer, Source: c.source,
		Floor: max(minFloor, opts.MaxRate/floorShare), Ceiling: opts.MaxRate, Memory: repairMemory,
	})
	if err != nil {
		return nil, err
	}
	if c.socket, err = newGroupSender(ifi, addr, opts.MaxRate); err != nil {
		return nil, fmt.Errorf("open the session's socket: %w", err)
	}
	if c.listener, err = net.Listen("tcp4", netip.AddrPortFrom(addr, 0).String()); err != nil {
		return nil, errors.Join(fmt.Errorf("open the session's HTTPS port: %w", err), c.socket.conn.Close())
	}
	c.description = Description{
		Session: id, Group: groupOf(id), Control: c.socket.conn.LocalAddr().(*net.UDPAddr).AddrPort(), Payload: opts.Payload, Details: opts.Details,
	}
	return c, nil
}

func (c *cast) close() {
	c.socket.conn.Close()
	c.listener.Close() // may be closed already by its server
	c.source.close()
}

// drive sends until the session is over.
func (c *cast) drive(ctx context.Context) error {
	group, announce := net.UDPAddrFromAddrPort(c.description.Group), net.UDPAddrFromAddrPort(announceGroup)
	buf := make([]byte, 0, 44*packet.MaxSize)
	announceAt := time.Duration(0)
	for ctx.Err() == nil {
		now := c.clock.now()
		if now >= announceAt {
			p, every, err := c.announcement()
			if err != nil {
				return err
			}
			if err := c.socket.send(announce, p, len(p)); err != nil {
				return err
			}
			announceAt = now + every
		}
		batch, size, wait, err := c.next(now, buf)
		if err != nil || c.done {
			return err
		}
		if len(batch) > 0 {
			if err := c.socket.send(group, batch, size); err != nil {
				return err
			}
			continue
		}
		c.sleep(ctx, min(wait, announceAt-now))
	}
	return nil
}

// next takes the next batch from the state machine, and begins when it is time to.
func (c *cast) next(now time.Duration, buf []byte) (batch []byte, size int, wait time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sender.State() == packet.StateWaiting && c.sender.Present() >= max(c.opts.Receivers, 1) {
		if c.slowAES || !hasAES() {
			c.group.UseChaCha()
		}
		c.sender.Start(now)
	}
	batch, size, wait, err = c.sender.Next(now, buf)
	c.done = c.sender.Finished()
	if c.opts.Progress != nil && len(batch) > 0 {
		c.opts.Progress(min(int64(c.sender.Counters().Source)*packet.SymbolSize, c.opts.Payload), c.opts.Payload)
	}
	return batch, size, wait, err
}

// sleep waits until something may be to do.
func (c *cast) sleep(ctx context.Context, wait time.Duration) {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.stir:
	case <-ctx.Done():
	}
}

func (c *cast) wake() {
	select {
	case c.stir <- struct{}{}:
	default:
	}
}

// announcement seals where the session is to be had.
func (c *cast) announcement() (p []byte, every time.Duration, err error) {
	c.mu.Lock()
	state := c.sender.State()
	c.mu.Unlock()
	every = announceRunning
	if state == packet.StateWaiting {
		every = announceWaiting
	}
	at := c.listener.Addr().(*net.TCPAddr).AddrPort()
	body := packet.Announce{Sender: [32]byte(c.opts.Signer.Public().(ed25519.PublicKey)), Addr: at.Addr().As16(), Port: at.Port()}.Append(nil)
	p, err = c.announcer.SealSigned(nil, packet.Header{Kind: packet.KindAnnounce}, body, c.opts.Signer)
	return p, every, err
}

// reports reads what receivers say and answers.
func (c *cast) reports(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { c.socket.conn.SetReadDeadline(time.Now()) })
	defer stop()
	buf := make([]byte, packet.MaxSize+1)
	for {
		n, from, err := c.socket.conn.ReadFromUDPAddrPort(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("read reports: %w", err)
		}
		c.mu.Lock()
		reply := c.sender.Handle(c.clock.now(), buf[:n])
		c.mu.Unlock()
		if reply != nil {
			_, _ = c.socket.conn.WriteToUDPAddrPort(reply, from) // lost like any packet; the next report is answered again
		}
		c.wake()
	}
}

// add gives a receiver its place.
func (c *cast) add(from netip.AddrPort, nonce string, need *blocks.Set, aes bool) (protocol.SessionPlace, error) {
	own := make([]byte, 32)
	rand.Read(own)
	up, down, err := receiverKeys(own, c.description.Session, !aes)
	if err != nil {
		return protocol.SessionPlace{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if place, ok := c.places[nonce]; ok {
		return place, nil
	}
	if err := c.sender.Add(c.clock.now(), c.lastID+1, up, down, need); err != nil {
		return protocol.SessionPlace{}, err
	}
	c.lastID++
	c.slowAES = c.slowAES || !aes
	c.addresses[c.lastID] = from
	c.opts.Log.Info("a receiver has joined", "receiver", c.lastID, "address", from, "blocks", need.Len())
	c.wake()
	c.places[nonce] = protocol.SessionPlace{Receiver: c.lastID, Group: c.groupSecret, Own: own}
	return c.places[nonce], nil
}

func (c *cast) summary() SendSummary {
	c.mu.Lock()
	defer c.mu.Unlock()
	counters := c.sender.Counters()
	began, ended := c.sender.DataPhase()
	out := SendSummary{Payload: c.opts.Payload, Wire: counters.Wire, Seconds: (ended - began).Seconds(), Blocks: blocks.Geometry{Payload: c.opts.Payload}.Count(), Repair: counters.Repair}
	for _, r := range c.sender.Receivers() {
		s := ReceiverSummary{Receiver: r.ID, Address: c.addresses[r.ID].Addr().String(), State: r.State, Loss: r.Loss, Fetched: int64(r.Fetched) * blocks.Size}
		if r.Reason != packet.ReasonNone {
			s.Reason = r.Reason.String()
		}
		out.Receivers = append(out.Receivers, s)
	}
	return out
}

// hasAES tells whether this machine's AES needs no tables.
func hasAES() bool {
	return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL
}
