package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"clonecast/initramfs/console"
	"clonecast/internal/protocol"
)

// Timing of calls.
const (
	firstPause  = 500 * time.Millisecond
	longPause   = 15 * time.Second
	jsonTimeout = time.Minute
	// internalTries is how often a call is repeated that the server fails inside.
	internalTries = 5
)

// client makes calls to the server.
type client struct {
	base    *url.URL
	http    *http.Client
	console *console.Console
	giveUp  time.Duration
	token   string // boot token
	machine string

	relog sync.Mutex // held while logging on again

	mu         sync.Mutex
	session    string // token of the session
	generation int    // counts sessions
	op         *protocol.Operation
}

// errSuperseded says that the server, asked again, has something else in mind.
var errSuperseded = errors.New("the server no longer wants this operation")

func newClient(config Config) (*client, error) {
	base, err := url.Parse(strings.TrimRight(config.Server, "/"))
	if err != nil || base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("server %q is not of the form https://host:port", config.Server)
	}
	if len(config.CAs) == 0 {
		return nil, errors.New("the appliance has no certificate authority built in")
	}
	roots := x509.NewCertPool()
	for _, ca := range config.CAs {
		roots.AddCert(ca)
	}
	clock := &certClock{}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13, Time: clock.now},
		TLSHandshakeTimeout: 20 * time.Second,
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}
	return &client{base: base, console: config.Console, giveUp: config.GiveUp, token: config.BootToken, http: &http.Client{
		Transport: &clockedTransport{transport, clock},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the server redirects, which it never does")
		},
	}}, nil
}

// call is one request to the server.
type call struct {
	method, path string
	query        url.Values
	body         [][]byte      // in pieces that follow one another
	kind         string        // content type
	limit        int64         // of the answer; more is an error
	timeout      time.Duration // of one try
	giveUp       time.Duration // of all tries together
	once         bool          // no second try

	// read takes the answer as it comes, instead of a body of at most limit bytes. An
	// error that wraps errStream is worth another try.
	read func(io.Reader) error
}

// errStream marks an answer that broke off.
var errStream = errors.New("the answer broke off")

// do makes a call and repeats it as long as that may help.
func (c *client) do(ctx context.Context, k call) ([]byte, error) {
	started, wait, internal, relogged := time.Now(), firstPause, 0, 0
	for {
		_, generation := c.credentials()
		body, err := c.try(ctx, k)
		if err == nil {
			return body, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var problem *protocol.Problem
		switch {
		case errors.As(err, &problem) && problem.Code == protocol.CodeUnauthorized &&
			mayRelogon(ctx) && generation > 0 && relogged < 3:
			relogged++
			if err := c.relogon(ctx, generation); err != nil {
				return nil, fmt.Errorf("log on again: %w", err)
			}
			continue
		case k.once:
			return nil, err
		case errors.As(err, &problem) && problem.Code == protocol.CodeInternal && internal < internalTries:
			internal++
		case !temporary(err):
			return nil, err
		}
		if time.Since(started)+wait > k.giveUp {
			return nil, &awayError{c.base.Host, time.Since(started), err}
		}
		if wait > 2*time.Second {
			c.console.Say("server %s does not answer (%v); next try in %v", c.base.Host, err, wait.Round(time.Second))
		}
		if err := pause(ctx, wait/2+rand.N(wait)); err != nil {
			return nil, err
		}
		wait = min(2*wait, longPause)
	}
}

// try makes a call once.
func (c *client) try(ctx context.Context, k call) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(k.timeout, func() { cancel(fmt.Errorf("%w: no answer within %v", errStream, k.timeout)) })
	defer idle.Stop()
	at := c.base.JoinPath(k.path)
	at.RawQuery = k.query.Encode()
	request, err := http.NewRequestWithContext(ctx, k.method, at.String(), nil)
	if err != nil {
		return nil, err
	}
	k.send(request)
	if k.kind != "" {
		request.Header.Set("Content-Type", k.kind)
	}
	if session, _ := c.credentials(); session != "" {
		request.Header.Set("Authorization", "Bearer "+session)
	}
	response, err := c.http.Do(request)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errStream) {
		return nil, cause
	}
	if err != nil {
		return nil, unwrapURL(err)
	}
	defer response.Body.Close()
	body := &steadyReader{response.Body, idle, k.timeout}
	if response.StatusCode/100 != 2 {
		return nil, problemOf(response.StatusCode, body)
	}
	if k.read != nil {
		return nil, k.read(body)
	}
	// What the answer says of its length saves growing a buffer for a manifest.
	b := bytes.NewBuffer(make([]byte, 0, max(0, min(response.ContentLength, k.limit))+bytes.MinRead))
	if _, err := b.ReadFrom(io.LimitReader(body, k.limit+1)); err != nil {
		return nil, fmt.Errorf("%w: %w", errStream, err)
	}
	if int64(b.Len()) > k.limit {
		return nil, fmt.Errorf("the server's answer to %s is longer than %d bytes", k.path, k.limit)
	}
	return b.Bytes(), nil
}

// send gives a request the call's body, as often as the request is made.
func (k *call) send(r *http.Request) {
	if len(k.body) == 0 {
		return
	}
	for _, b := range k.body {
		r.ContentLength += int64(len(b))
	}
	r.GetBody = func() (io.ReadCloser, error) {
		var pieces []io.Reader
		for _, b := range k.body {
			pieces = append(pieces, bytes.NewReader(b))
		}
		return io.NopCloser(io.MultiReader(pieces...)), nil
	}
	r.Body, _ = r.GetBody()
}

// steadyReader gives a call more time whenever bytes arrive.
type steadyReader struct {
	io.Reader
	idle    *time.Timer
	timeout time.Duration
}

func (r *steadyReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if n > 0 {
		r.idle.Reset(r.timeout)
	}
	return n, err
}

// json makes a call with JSON in both directions; out may be nil.
func (c *client) json(ctx context.Context, path string, in, out any, giveUp time.Duration) error {
	return c.exchange(ctx, call{path: path, giveUp: giveUp}, in, out)
}

func (c *client) exchange(ctx context.Context, k call, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	k.method, k.body, k.kind = http.MethodPost, [][]byte{body}, "application/json"
	k.limit, k.timeout = protocol.MaxBody, jsonTimeout
	answer, err := c.do(ctx, k)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("the server's answer to %s: %w", k.path, err)
	}
	return nil
}

// problemOf makes the error of an answer that is not 2xx.
func problemOf(status int, body io.Reader) error {
	b, _ := io.ReadAll(io.LimitReader(body, protocol.MaxBody))
	p := &protocol.Problem{}
	if json.Unmarshal(b, p) != nil || p.Code == "" {
		p = &protocol.Problem{Title: fmt.Sprintf("the server answered with status %d", status)}
		switch {
		case status == http.StatusUnauthorized:
			p.Code = protocol.CodeUnauthorized
		case status >= 500:
			p.Code = protocol.CodeInternal
		}
	}
	if p.Title == "" {
		p.Title = "the server refused: " + p.Code
	}
	if status == http.StatusServiceUnavailable || status == http.StatusBadGateway || status == http.StatusTooManyRequests {
		return fmt.Errorf("%w: %w", errBusy, p)
	}
	return p
}

// errBusy marks an answer of a server that will be ready later.
var errBusy = errors.New("the server is not ready")

// temporary tells whether the same call may succeed later.
func temporary(err error) bool {
	var problem *protocol.Problem
	var cert *tls.CertificateVerificationError
	switch {
	case errors.Is(err, errBusy), errors.Is(err, errStream):
		return true
	case errors.As(err, &problem), errors.As(err, &cert):
		return false
	}
	var op *net.OpError
	var dns *net.DNSError
	var timeout interface{ Timeout() bool }
	return errors.As(err, &op) && !isAlert(op) || errors.As(err, &dns) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || // the server hung up while a body was on its way
		errors.As(err, &timeout) && timeout.Timeout() || strings.Contains(err.Error(), "server closed idle connection") ||
		strings.Contains(err.Error(), "connection broken")
}

// isAlert tells whether the other side said in TLS that it will not talk to us.
func isAlert(op *net.OpError) bool {
	var alert tls.AlertError
	return errors.As(op.Err, &alert) || op.Op == "remote error"
}

func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// awayError says that the server did not come back.
type awayError struct {
	host string
	time time.Duration
	err  error
}

func (e *awayError) Error() string {
	return fmt.Sprintf("server %s did not answer for %v: %v", e.host, e.time.Round(time.Second), e.err)
}
func (e *awayError) Unwrap() error { return e.err }

// Hint says what to do.
func (e *awayError) Hint() string {
	return "check that clonecast serve runs, that its port is open, and the network in between; " +
		"then start this machine again"
}
