package multicast

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"clonecast/internal/multicast/packet"
	"clonecast/internal/multicast/querier"
	"clonecast/internal/multicast/sender"

	"golang.org/x/sync/errgroup"
)

// How often a session is announced.
const (
	announceWaiting = 100 * time.Millisecond
	announceRunning = time.Second
)

// SendOptions describe a session to send without a server.
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
	o, err := newOffer(opts)
	if err != nil {
		return SendSummary{}, err
	}
	defer o.close()
	interrupted := ctx.Done()
	g, ctx := errgroup.WithContext(ctx)
	ctx, finished := context.WithCancel(ctx)
	defer finished()
	g.Go(func() error { return o.serve(ctx) })
	g.Go(func() error { return o.announce(ctx) })
	g.Go(func() error {
		defer finished()
		return o.session.Run(ctx)
	})
	if o.querier != nil {
		g.Go(func() error {
			if err := o.querier.Serve(ctx); err != nil {
				opts.Log.Warn("this computer no longer stands in for an IGMP querier", "cause", err)
			}
			return nil
		})
	}
	err = g.Wait()
	select {
	case <-interrupted:
		if err := o.session.Goodbye(); err != nil {
			opts.Log.Warn("the receivers could not be told that the session is over", "cause", err)
		}
	default:
	}
	return o.session.Summary(), err
}

// offer is a session that announces itself and serves its receivers.
type offer struct {
	opts      SendOptions
	session   *Session
	token     string
	announcer *packet.Key
	socket    *groupSender // for announcements
	listener  net.Listener
	querier   *querier.Server // or nil
}

func newOffer(opts SendOptions) (o *offer, err error) {
	ifi, addr, err := localAddress(opts.Interface)
	if err != nil {
		return nil, err
	}
	o = &offer{opts: opts, querier: openQuerier(context.Background(), ifi, addr, opts.Log)}
	defer func() {
		if err != nil {
			o.close()
			o = nil
		}
	}()
	session := SessionOptions{
		Interface: opts.Interface, Signer: opts.Signer, MaxRate: opts.MaxRate,
		Payload: opts.Payload, Source: opts.Source, Log: opts.Log, Progress: opts.Progress,
	}
	if o.querier != nil {
		session.Querier = o.querier
	}
	if o.session, err = NewSession(session); err != nil {
		return o, err
	}
	if o.announcer, err = opts.Pairing.announceKey(o.session.ID()); err != nil {
		return o, err
	}
	if o.token, err = opts.Pairing.token(o.session.ID()); err != nil {
		return o, err
	}
	if o.socket, err = newGroupSender(ifi, addr, 0); err != nil {
		return o, fmt.Errorf("open the announcements' socket: %w", err)
	}
	if o.listener, err = net.Listen("tcp4", netip.AddrPortFrom(addr, 0).String()); err != nil {
		return o, fmt.Errorf("open the session's HTTPS port: %w", err)
	}
	return o, nil
}

// close frees what was opened.
func (o *offer) close() {
	if o.querier != nil {
		o.querier.Close() // may be closed already
	}
	if o.session != nil {
		o.session.Close() // a socket: nothing can be lost
	}
	if o.socket != nil {
		o.socket.conn.Close()
	}
	if o.listener != nil {
		o.listener.Close() // may be closed already by its server
	}
}

// begin starts the session once enough receivers are there.
func (o *offer) begin() {
	if o.session.Present() >= max(o.opts.Receivers, 1) {
		o.session.Start()
	}
}

// announce tells the network of the session until the context ends.
func (o *offer) announce(ctx context.Context) error {
	for {
		o.begin() // one that had vanished may be back
		p, every, err := o.announcement()
		if err != nil {
			return err
		}
		for _, group := range announceGroups {
			if err := o.socket.send(net.UDPAddrFromAddrPort(group), p, len(p)); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
	}
}

// announcement seals where the session is to be had.
func (o *offer) announcement() (p []byte, every time.Duration, err error) {
	every = announceRunning
	if o.session.State() == packet.StateWaiting {
		every = announceWaiting
	}
	at := o.listener.Addr().(*net.TCPAddr).AddrPort()
	body := packet.Announce{Sender: [32]byte(o.session.Sender()), Addr: at.Addr().As16(), Port: at.Port()}.Append(nil)
	p, err = o.announcer.SealSigned(nil, packet.Header{Kind: packet.KindAnnounce}, body, o.opts.Signer)
	return p, every, err
}

func (o *offer) description() Description {
	return Description{
		Session: o.session.ID(), Group: o.session.Group(), Control: o.session.Control(),
		Payload: o.opts.Payload, Details: o.opts.Details,
	}
}
