package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"clonecast/internal/protocol"
	"clonecast/server"
	"clonecast/server/api"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// connection says how to reach the server: by the socket in its data directory, or from
// another computer over HTTPS with the admin's password.
type connection struct {
	data   string
	server string
	ca     string
	json   bool
}

// flags adds what every command that speaks to the server has.
func (c *connection) flags(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&c.data, "data", server.DefaultDirectory, "data `DIR` of the server on this computer")
	f.StringVar(&c.server, "server", "",
		"`URL` of a server elsewhere, https://HOST:8443; the password comes from CLONECAST_PASSWORD or the terminal")
	f.StringVar(&c.ca, "ca", "", "that server's ca.crt, `FILE`")
	f.BoolVar(&c.json, "json", false, jsonUsage)
}

// client calls the server.
type client struct {
	http  *http.Client
	base  string
	token string
}

func (c *connection) open(ctx context.Context) (*client, error) {
	if c.server != "" {
		return c.remote(ctx)
	}
	socket := filepath.Join(c.data, server.SocketName)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &client{http: &http.Client{Transport: &http.Transport{DialContext: dial}}, base: "http://clonecast"}, nil
}

func (c *connection) remote(ctx context.Context) (*client, error) {
	u, err := url.Parse(c.server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, withCode(exitUsage, fmt.Errorf("%q is not of the form https://HOST:8443", c.server), "")
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	if c.ca != "" {
		pem, err := readInput(c.ca, 16<<20)
		if err != nil {
			return nil, fmt.Errorf("read CA: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read CA: %s holds no certificate", c.ca)
		}
	}
	password, err := readPassword(ctx)
	if err != nil {
		return nil, err
	}
	cl := &client{http: &http.Client{Transport: &http.Transport{TLSClientConfig: config}}, base: "https://" + u.Host}
	var answer api.LoginAnswer
	if err := cl.call(ctx, "POST", "/api/v1/login", api.Login{User: "admin", Password: password}, &answer); err != nil {
		return nil, fmt.Errorf("log in: %w", err)
	}
	cl.token = answer.Token
	return cl, nil
}

func readPassword(ctx context.Context) (string, error) {
	if p := os.Getenv("CLONECAST_PASSWORD"); p != "" {
		return p, nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return "", withCode(exitUsage, errors.New("no password"), "set CLONECAST_PASSWORD")
	}
	stdin := int(os.Stdin.Fd())
	state, err := term.GetState(stdin)
	if err != nil {
		return "", err
	}
	fmt.Fprint(os.Stderr, "password of admin: ")
	defer fmt.Fprintln(os.Stderr)
	type answer struct {
		password []byte
		err      error
	}
	typed := make(chan answer, 1)
	go func() { // ends with the program when nobody types
		p, err := term.ReadPassword(stdin)
		typed <- answer{p, err}
	}()
	select {
	case a := <-typed:
		return string(a.password), a.err
	case <-ctx.Done():
		return "", errors.Join(ctx.Err(), term.Restore(stdin, state))
	}
}

// call sends body as JSON, if there is one, and reads the answer into result.
func (c *client) call(ctx context.Context, method, path string, body, result any) error {
	response, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(result); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}

// do gives the answer to a call that succeeded.
func (c *client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, content)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	response, err := c.http.Do(r)
	if err != nil {
		return nil, connectError(err)
	}
	if response.StatusCode < 300 {
		return response, nil
	}
	defer response.Body.Close()
	return nil, answerError(response)
}

func connectError(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return withCode(exitFailed, fmt.Errorf("no server answers: %w", err),
			"is 'clonecast serve' running, and with the same --data?")
	case errors.Is(err, fs.ErrPermission):
		return withCode(exitFailed, err, "the server's socket is root's: run it with sudo")
	}
	return err
}

// answerError is what the server says is wrong, with the exit code that it means.
func answerError(response *http.Response) error {
	var p struct {
		protocol.Problem
		Errors []struct{ Message, Location string }
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&p); err != nil || p.Title == "" {
		return fmt.Errorf("the server answers %s", response.Status)
	}
	title := p.Title
	for _, e := range p.Errors { // of the framework's validation
		title += ": " + e.Location + ": " + e.Message
	}
	code := exitFailed
	switch {
	case p.Code == protocol.CodeNotFound:
		code = exitNotFound
	case p.Code == protocol.CodeInvalid, response.StatusCode == http.StatusUnprocessableEntity:
		code = exitUsage
	case p.Code == protocol.CodePending, p.Code == protocol.CodeConflict, p.Code == protocol.CodeForbidden:
		code = exitRefused
	}
	return withCode(code, errors.New(title), p.Hint)
}

// printJSON prints the answer of a command for programs: one line, the summary.
func printJSON(w io.Writer, v any) error { return writeEvent(w, "summary", v) }

// printList prints a list for programs: a line for each of its members, then the summary with their number.
func printList[T any](w io.Writer, kind string, list []T) error {
	for _, v := range list {
		if err := writeEvent(w, kind, v); err != nil {
			return err
		}
	}
	return writeEvent(w, "summary", map[string]int{kind + "s": len(list)})
}
