package multicast

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"clonecast/internal/multicast/blocks"
	"clonecast/internal/multicast/fec"
	"clonecast/internal/multicast/packet"
	"clonecast/internal/multicast/receiver"
	"clonecast/internal/protocol"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"
)

// Timing and limits of receivers.
const (
	maxDescription = 128 << 20
	joinPatience   = 10 * time.Second
	fetchPatience  = 30 * time.Second // for a sender that does not answer
	fetchPause     = 300 * time.Millisecond
	longestWait    = 10 * time.Millisecond // at the socket, so that finished work is noticed

	// gather is how long to wait for packets to come, when few were there: to wake up for each costs more than to read it.
	gather = time.Millisecond
)

// Found is a session that was found and may be joined.
type Found struct {
	Description Description
	ifi         *net.Interface
	addr        netip.Addr
	host        Host
	sender      ed25519.PublicKey
	log         *slog.Logger
	room        room
	close       func()
}

// Close lets go of a session.
func (f *Found) Close() { f.close() }

// Offered is a session that a server describes, received by the interface that leads to its sender.
func Offered(s protocol.Session, host Host, log *slog.Logger) (*Found, error) {
	f := &Found{
		Description: Description{Session: s.Session, Group: s.Group, Control: s.Control, Payload: s.Payload},
		host:        host, sender: s.Sender, log: log, room: roomIn(availableMemory()), close: func() {},
	}
	if err := f.check(); err != nil || len(s.Sender) != ed25519.PublicKeySize {
		return nil, errDescription
	}
	var err error
	f.ifi, f.addr, err = routeTo(s.Control)
	return f, err
}

var errDescription = errors.New("the description of the session makes no sense")

// check refuses a description that nobody can follow.
func (f *Found) check() error {
	d := f.Description
	if d.Payload < 1 || d.Payload > blocks.MaxPayload ||
		!d.Group.Addr().Is4() || !d.Group.Addr().IsMulticast() || !d.Control.Addr().Is4() ||
		d.Group.Port() == 0 || d.Control.Port() == 0 {
		return errDescription
	}
	return nil
}

// announced is an announcement that a pairing opens.
type announced struct {
	packet.Announce
	session uint64
}

// Find waits for the announcement of a session that the pairing opens, and asks its sender for the description.
func Find(ctx context.Context, name string, pairing Pairing, log *slog.Logger) (*Found, error) {
	ifi, addr, err := localAddress(name)
	if err != nil {
		return nil, err
	}
	heard := make(chan announced)
	for _, group := range announceGroups {
		conn, err := listenGroup(ifi, group)
		if err != nil {
			return nil, fmt.Errorf("listen for announcements: %w", err)
		}
		defer conn.Close()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go hear(ctx, conn, pairing, heard)
	}
	f := &Found{ifi: ifi, addr: addr, log: log, room: roomIn(availableMemory())}
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a session: %w", context.Cause(ctx))
		case a := <-heard:
			if err = f.ask(ctx, a.Announce, a.session, pairing); err == nil {
				return f, nil
			}
			log.Warn("a session is announced but its sender cannot be asked", "cause", err)
		}
	}
}

// hear gives the announcements that a socket gets, until it is closed.
func hear(ctx context.Context, conn net.PacketConn, pairing Pairing, heard chan<- announced) {
	buf := make([]byte, packet.MaxSize+1)
	for {
		n, _, err := conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // the interface went down: it may come back
			time.Sleep(longestWait)
			continue
		}
		if a, session, ok := openAnnounce(buf[:n], pairing); ok {
			select {
			case heard <- announced{a, session}:
			case <-ctx.Done():
				return
			}
		}
	}
}

// openAnnounce opens an announcement that this pairing's sender made.
func openAnnounce(p []byte, pairing Pairing) (packet.Announce, uint64, bool) {
	h, err := packet.ParseHeader(p)
	if err != nil || h.Kind != packet.KindAnnounce {
		return packet.Announce{}, 0, false
	}
	key, err := pairing.announceKey(h.Session)
	if err != nil {
		return packet.Announce{}, 0, false
	}
	body, err := key.Open(nil, h, p)
	if err != nil {
		return packet.Announce{}, 0, false
	}
	a, err := packet.ParseAnnounce(body)
	if err != nil || !pairing.trusts(a.Sender[:]) {
		return packet.Announce{}, 0, false
	}
	if _, err := packet.Verify(h, body, a.Sender[:]); err != nil {
		return packet.Announce{}, 0, false
	}
	return a, h.Session, true
}

// ask gets the description of an announced session.
func (f *Found) ask(ctx context.Context, a packet.Announce, session uint64, pairing Pairing) error {
	token, err := pairing.token(session)
	if err != nil {
		return err
	}
	f.sender = bytes.Clone(a.Sender[:])
	c := newClient(netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), a.Port), f.sender, token)
	f.host, f.close = c, c.close
	if f.Description, err = c.describe(ctx); err == nil {
		err = f.check()
	}
	if err == nil && f.Description.Session != session {
		err = errDescription
	}
	if err != nil {
		c.close()
	}
	return err
}

// Geometry is how the payload is cut into blocks.
func (f *Found) Geometry() blocks.Geometry { return blocks.Geometry{Payload: f.Description.Payload} }

// Write takes a verified block. It is called by several workers at once, each block once, unless it
// answers ErrLater.
type Write func(b int, plain []byte) error

// ErrLater says that there is no room for a block now; it is fetched again.
var ErrLater = errors.New("no room for the block now")

// Receive joins the session, and returns when every block in need was written, or an error when that cannot be.
func (f *Found) Receive(ctx context.Context, need *blocks.Set, write Write, progress Progress) (ReceiveSummary, error) {
	r, err := f.Start(ctx, need, write, progress)
	if err != nil {
		return ReceiveSummary{}, err
	}
	err = r.Wait()
	return r.Summary(), err
}

// Start joins the session and receives in the background.
func (f *Found) Start(ctx context.Context, need *blocks.Set, write Write, progress Progress) (*Reception, error) {
	r, err := f.join(ctx, need, write, progress)
	if err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.NumCPU(), 4) {
		g.Go(r.work)
	}
	g.Go(func() error { return r.fetch(ctx) })
	g.Go(r.readOrders)
	g.Go(r.readLink)
	g.Go(func() error { return r.detour(ctx) })
	g.Go(func() error { return r.receive(ctx) })
	go func() {
		r.err = g.Wait()
		r.close()
		close(r.done)
	}()
	return r, nil
}

// Begin waits until blocks can come: the session runs, or this receiver has left the group, or all is over. If it is
// over because ctx has ended, that is the error.
func (s *Reception) Begin(ctx context.Context) error {
	select {
	case <-s.begun:
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Wait waits until every block was written, or for the error when that cannot be.
func (s *Reception) Wait() error {
	<-s.done
	return s.err
}

// Reception is one session being received.
type Reception struct {
	*Found
	geo      blocks.Geometry
	clock    clock
	need     *blocks.Set
	write    Write
	progress Progress
	group    *batchReader
	reports  *net.UDPConn
	begun    chan struct{}
	done     chan struct{}
	err      error // once done is closed
	link     net.PacketConn
	detours  chan []byte // reports that go by HTTPS
	logged   bool        // why the group was left

	mu       sync.Mutex // guards what is below
	changed  *sync.Cond // there may be work, or all is over
	receiver *receiver.Receiver
	over     bool
	began    time.Duration
	ended    time.Duration
	rebuilt  int
	wire     uint64
}

func (f *Found) join(ctx context.Context, need *blocks.Set, write Write, progress Progress) (*Reception, error) {
	s := &Reception{
		Found: f, geo: f.Geometry(), clock: clock{time.Now()}, need: need, write: write, progress: progress,
		begun: make(chan struct{}), done: make(chan struct{}), began: -1,
	}
	s.changed = sync.NewCond(&s.mu)
	var err error
	if s.group, err = joinGroup(f.ifi, f.Description.Group, f.room.buffer); err != nil {
		return nil, err
	}
	own, control := &net.UDPAddr{IP: f.addr.AsSlice()}, net.UDPAddrFromAddrPort(f.Description.Control)
	if s.reports, err = net.DialUDP("udp4", own, control); err != nil {
		return nil, errors.Join(err, s.group.conn.Close())
	}
	if s.link, err = listenGroup(f.ifi, linkGroup); err != nil {
		return nil, errors.Join(err, s.group.conn.Close(), s.reports.Close())
	}
	s.detours = make(chan []byte, 1)
	if err := s.takePlace(ctx); err != nil {
		s.close()
		return nil, fmt.Errorf("join the session: %w", err)
	}
	return s, nil
}

// takePlace asks for a place in the session.
func (s *Reception) takePlace(ctx context.Context) error {
	nonce := make([]byte, protocol.NonceSize)
	rand.Read(nonce)
	id := s.Description.Session
	place, err := s.host.Join(ctx, protocol.SessionJoin{
		Session: id, Nonce: nonce, AES: hasAES(), Need: s.need.AppendBinary(nil),
	})
	if err != nil {
		return err
	}
	group, err := packet.NewKey(place.Group, id, packet.PurposeGroup, false)
	if err != nil {
		return err
	}
	probe, err := packet.NewKey(place.Group, id, packet.PurposeProbe, false)
	if err != nil {
		return err
	}
	up, down, err := receiverKeys(place.Own, id, !hasAES())
	if err != nil {
		return err
	}
	s.receiver = receiver.New(s.clock.now(), receiver.Config{
		ID: place.Receiver, Session: id, Geometry: s.geo, Need: s.need,
		Group: group, Probe: probe, Sender: s.sender, Up: up, Down: down,
		Memory: s.room.blocks, Seed: id, OtherSubnet: otherSubnet(s.ifi, s.Description.Control.Addr()),
	})
	if wireless("/sys", s.ifi.Name) {
		s.receiver.Leave(s.clock.now(), packet.ReasonWireless)
	}
	return nil
}

func (s *Reception) close() {
	s.group.conn.Close()
	s.reports.Close()
	s.link.Close()
}

// receive reads the group and reports until the receiver is done or has failed.
func (s *Reception) receive(ctx context.Context) error {
	defer s.finish()
	begin := sync.OnceFunc(func() { close(s.begun) })
	defer begin()
	defer close(s.detours)
	for {
		s.mu.Lock()
		now := s.clock.now()
		cancelled := ctx.Err() != nil // asked once: who ends because of it has said so to the sender
		if cancelled {
			s.receiver.Fail(now)
		}
		report, wait, err := s.receiver.Next(now)
		detour := report != nil && s.receiver.Detour(now)
		over := s.receiver.Over()
		state, reason := s.receiver.State()
		started := s.receiver.Started()
		s.wakeWorkers() // the receiver may have left the group
		s.mu.Unlock()
		if started || state != packet.StateReceiving {
			begin()
		}
		if err != nil {
			return err
		}
		if report != nil {
			s.report(report, detour)
		}
		s.logLeave(state, reason)
		switch {
		case cancelled:
			return context.Cause(ctx)
		case over && state == packet.StateFailed:
			return fmt.Errorf("the session cannot be received: %v", reason)
		case over:
			return nil
		}
		if err := s.read(min(wait, longestWait)); err != nil {
			return fmt.Errorf("read from the group: %w", err)
		}
	}
}

// read takes what the group's socket has, or waits for it.
func (s *Reception) read(wait time.Duration) error {
	if err := s.group.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	locked, few := false, readMessages/2
	err := s.group.read(func(p []byte) {
		few--
		if !locked {
			s.mu.Lock()
			locked = true
		}
		s.wire += uint64(len(p)) + 42
		s.receiver.Handle(s.clock.now(), p)
	})
	if locked {
		if s.began < 0 && s.receiver.Started() {
			s.began = s.clock.now()
		}
		s.wakeWorkers()
		s.mu.Unlock()
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	case err == nil && few > 0:
		time.Sleep(gather)
	}
	return err
}

// wakeWorkers wakes the workers if there is something to do. It is called with the lock held.
func (s *Reception) wakeWorkers() {
	if s.receiver.Work() {
		s.changed.Broadcast()
	}
}

// finish sends the workers home.
func (s *Reception) finish() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.changed.Broadcast()
	s.reports.SetReadDeadline(time.Now())
	s.link.SetReadDeadline(time.Now())
}

// readOrders reads what the sender says to this receiver alone.
func (s *Reception) readOrders() error {
	buf := make([]byte, packet.MaxSize+1)
	for {
		n, err := s.reports.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil { // the sender's port is closed: the session's end is noticed elsewhere
			time.Sleep(longestWait)
			s.mu.Lock()
			over := s.over
			s.mu.Unlock()
			if over {
				return nil
			}
			continue
		}
		s.mu.Lock()
		s.receiver.Handle(s.clock.now(), buf[:n])
		s.wakeWorkers()
		s.mu.Unlock()
	}
}

// next waits for a block to rebuild; nil means that all is over.
func (s *Reception) next() *receiver.Block {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.over {
			return nil
		}
		if b := s.receiver.Take(); b != nil {
			return b
		}
		s.changed.Wait()
	}
}

// work rebuilds, verifies and writes blocks.
func (s *Reception) work() error {
	code, err := fec.New(packet.SymbolSize)
	if err != nil {
		return err
	}
	for b := s.next(); b != nil; b = s.next() {
		lacked := 0
		for _, have := range b.Have {
			if !have {
				lacked++
			}
		}
		plain := b.Data[:s.geo.Length(b.Number)]
		ok := code.Rebuild(b.Data, b.Have, b.Parity) == nil && blake3.Sum256(plain) == b.Digest
		outcome := receiver.Written
		if !ok {
			s.log.Warn("a block does not have the bytes that the sender signed; it is fetched again", "block", b.Number)
			outcome = receiver.Forged
		} else if err := s.write(b.Number, plain); errors.Is(err, ErrLater) {
			outcome = receiver.Postponed
		} else if err != nil {
			return err
		}
		s.mu.Lock()
		s.receiver.Finish(s.clock.now(), b, outcome)
		s.rebuilt += lacked
		s.noteProgress()
		s.mu.Unlock()
	}
	return nil
}

// noteProgress is called with the lock held.
func (s *Reception) noteProgress() {
	finished, _ := s.receiver.Finished()
	s.ended = s.clock.now()
	if s.progress != nil {
		s.progress(min(int64(finished)*blocks.Size, blocksBytes(s.geo, s.need)), blocksBytes(s.geo, s.need))
	}
}

// toFetch waits for blocks that must come by unicast, a run of neighbours; count 0 means that all is over.
func (s *Reception) toFetch() (first, count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.over {
		if first, ok := s.receiver.Fetch(); ok {
			for count = 1; count < protocol.MaxBlocks && s.receiver.FetchNext(first+count); count++ {
			}
			return first, count
		}
		s.changed.Wait()
	}
	return 0, 0
}

// fetch gets by unicast what cannot be had by multicast.
func (s *Reception) fetch(ctx context.Context) error {
	var lastGood time.Time
	for {
		first, count := s.toFetch()
		if count == 0 {
			return nil
		}
		if lastGood.IsZero() {
			lastGood = time.Now()
		}
		got, err := s.fetchRun(ctx, first, count)
		if got > 0 {
			lastGood = time.Now()
		}
		s.mu.Lock()
		for b := first + got; b < first+count; b++ {
			s.receiver.Fetched(s.clock.now(), b, false)
		}
		s.mu.Unlock()
		var local *writeError
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &local) && errors.Is(local.err, ErrLater):
			lastGood = time.Now()
			time.Sleep(fetchPause)
		case errors.As(err, &local):
			return local.err
		case errors.Is(err, ErrGone) || err != nil && time.Since(lastGood) > fetchPatience:
			return fmt.Errorf("fetch blocks from the sender: %w", err)
		case err != nil:
			s.log.Warn("blocks cannot be fetched from the sender, trying again", "cause", err)
			time.Sleep(fetchPause)
		}
	}
}

// writeError is an error of our side, which another try does not heal.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }

// fetchRun fetches neighbouring blocks and tells how many of them were written.
func (s *Reception) fetchRun(ctx context.Context, first, count int) (got int, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchPatience)
	defer cancel()
	err = s.host.Blocks(ctx, first, count, func(body io.Reader) error {
		buf := make([]byte, blocks.Size)
		for ; got < count; got++ {
			b := first + got
			plain := buf[:s.geo.Length(b)]
			if _, err := io.ReadFull(body, plain); err != nil {
				return err
			}
			if err := s.write(b, plain); err != nil {
				return &writeError{err}
			}
			s.mu.Lock()
			s.receiver.Fetched(s.clock.now(), b, true)
			s.noteProgress()
			s.mu.Unlock()
		}
		return nil
	})
	return got, err
}

// Summary is what was received so far.
func (s *Reception) Summary() ReceiveSummary {
	s.mu.Lock()
	defer s.mu.Unlock()
	finished, fetched := s.receiver.Finished()
	out := ReceiveSummary{
		Payload: blocksBytes(s.geo, s.need), Wire: s.wire, Blocks: s.need.Len(),
		Rebuilt: s.rebuilt, Loss: s.receiver.Loss(),
	}
	out.Written = min(int64(finished)*blocks.Size, out.Payload)
	out.Fetched = min(int64(fetched)*blocks.Size, out.Written)
	if s.began >= 0 && s.ended > s.began {
		out.Seconds = (s.ended - s.began).Seconds()
	}
	out.State, out.Reason = s.receiver.State()
	out.Paths = s.receiver.Paths()
	return out
}
