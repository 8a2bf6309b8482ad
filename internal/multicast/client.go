package multicast

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"clonecast/internal/multicast/packet"
	"clonecast/internal/protocol"
)

// Host gives places in a session, and blocks by unicast: the sender of a session without a server, or the
// server that runs the session.
type Host interface {
	// Join asks for a place, and again as long as that may help.
	Join(ctx context.Context, r protocol.SessionJoin) (protocol.SessionPlace, error)
	// Blocks asks once for neighbouring blocks; read gets their bytes, one block after the other.
	Blocks(ctx context.Context, first, count int, read func(io.Reader) error) error
	// Report brings a report to the sender that by UDP would not get there or not be answered, and
	// gives the answer; empty for none.
	Report(ctx context.Context, report []byte) (answer []byte, err error)
}

// ErrGone is wrapped by a Host's errors when the session is over or nobody knows it any more.
var ErrGone = errors.New("there is no such session any more")

// client is the Host of a session without a server. It talks to the sender's HTTPS server and to no other.
type client struct {
	http  *http.Client
	base  string
	token string
}

func newClient(at netip.AddrPort, key ed25519.PublicKey, token string) *client {
	config := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // no authority, no name, no clock: the sender's key is the proof
		VerifyConnection: func(s tls.ConnectionState) error {
			if public, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey); !ok || !public.Equal(key) {
				return errors.New("the HTTPS server is not the session's sender")
			}
			return nil
		},
	}
	transport := &http.Transport{TLSClientConfig: config, MaxIdleConnsPerHost: 2,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: time.Minute}
	return &client{http: &http.Client{Transport: transport}, base: "https://" + at.String(), token: token}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// describe gives the session's description.
func (c *client) describe(ctx context.Context) (d Description, err error) {
	err = retry(ctx, joinPatience, func(ctx context.Context) error {
		return c.call(ctx, http.MethodGet, pathSession, nil, maxDescription, &d)
	})
	return d, err
}

// Join implements Host.
func (c *client) Join(ctx context.Context, r protocol.SessionJoin) (place protocol.SessionPlace, err error) {
	body, err := json.Marshal(r)
	if err != nil {
		return place, err
	}
	err = retry(ctx, joinPatience, func(ctx context.Context) error {
		return c.call(ctx, http.MethodPost, pathJoin, bytes.NewReader(body), 1<<16, &place)
	})
	var status *statusError
	if errors.As(err, &status) && status.code == http.StatusGone {
		err = fmt.Errorf("%w: %w", ErrGone, err)
	}
	return place, err
}

// Blocks implements Host.
func (c *client) Blocks(ctx context.Context, first, count int, read func(io.Reader) error) error {
	body, err := c.do(ctx, http.MethodGet, fmt.Sprintf("%s?first=%d&count=%d", pathBlocks, first, count), nil)
	if errors.Is(err, syscall.ECONNREFUSED) { // the port is open as long as the sender lives
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	if err != nil {
		return err
	}
	defer body.Close()
	return read(body)
}

// Report implements Host.
func (c *client) Report(ctx context.Context, report []byte) ([]byte, error) {
	body, err := c.do(ctx, http.MethodPost, pathReport, bytes.NewReader(report))
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(io.LimitReader(body, packet.MaxSize))
}

// statusError is an answer other than 200.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return e.text }

func (c *client) do(ctx context.Context, method, path string, body io.Reader) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 200))
		response.Body.Close()
		return nil, &statusError{response.StatusCode, fmt.Sprintf("the sender answers %d: %s", response.StatusCode, text)}
	}
	return response.Body, nil
}

// call asks for a JSON answer of at most limit bytes.
func (c *client) call(ctx context.Context, method, path string, body io.Reader, limit int64, v any) error {
	answer, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer answer.Close()
	if err := json.NewDecoder(io.LimitReader(answer, limit)).Decode(v); err != nil {
		return fmt.Errorf("the sender's answer: %w", err)
	}
	return nil
}

// retry does something until it works, its answer is final or patience ends. A try that hangs on a lost
// packet is given up before TCP would.
func retry(ctx context.Context, patience time.Duration, do func(context.Context) error) error {
	end := time.Now().Add(patience)
	for one := 400 * time.Millisecond; ; one *= 2 {
		try, cancel := context.WithTimeout(ctx, one)
		err := do(try)
		cancel()
		var final *statusError
		if err == nil || errors.As(err, &final) || ctx.Err() != nil || time.Now().After(end) {
			return err
		}
	}
}
