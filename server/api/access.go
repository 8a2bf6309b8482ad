package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"clonecast/internal/protocol"
	"clonecast/server/database"
)

// access says who may call a route.
type access int

const (
	forAdmin   access = iota // the zero value: what the table does not know is for admins
	forMachine               // a machine in a session
	public
)

// Lifetimes of tokens.
const (
	machineTokenLife = 12 * time.Hour
	adminTokenLife   = 12 * time.Hour
)

// caller is who made a request.
type caller struct {
	machine string // id
	boot    string // names the machine's session
	admin   string // name
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// handle adds a route.
func (a *API) handle(pattern string, who access, f func(http.ResponseWriter, *http.Request) error) {
	a.access[pattern] = who
	a.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := f(w, r); err != nil {
			a.problem(w, r, err)
		}
	})
}

// HandleFunc adds a route for admins; the JSON framework calls it.
func (a *API) HandleFunc(pattern string, f func(http.ResponseWriter, *http.Request)) {
	if _, known := a.access[pattern]; !known {
		a.access[pattern] = forAdmin
	}
	a.mux.HandleFunc(pattern, f)
}

// Patterns lists all routes, sorted.
func (a *API) Patterns() []string {
	var list []string
	for p := range a.access {
		list = append(list, p)
	}
	slices.Sort(list)
	return list
}

// ServeHTTP lets a request through to its route if its sender may call it.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	_, pattern := a.mux.Handler(r)
	c, err := a.authenticate(r, a.access[pattern])
	if err != nil {
		a.problem(w, r, err)
		return
	}
	// A body that stops coming does not hold a connection for ever.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(a.patience))
	ctx := context.WithValue(r.Context(), bodiesKey{}, a.bodies)
	a.mux.ServeHTTP(w, r.WithContext(context.WithValue(ctx, callerKey{}, c)))
}

// received tells that the body is there. The deadline for it must go: it would end a long
// answer too, because the server goes on reading to learn whether the caller hangs up.
func received(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
}

func (a *API) authenticate(r *http.Request, who access) (caller, error) {
	if who == public {
		return caller{}, nil
	}
	local, _ := r.Context().Value(localKey{}).(bool)
	if who == forAdmin && local {
		return caller{admin: "root"}, nil
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return caller{}, unauthorized("no token")
	}
	now := database.Millis(a.Now())
	var c caller
	var err error
	if who == forMachine {
		c.boot = hashToken(token)
		var boot string
		err = a.DB.QueryRowContext(r.Context(), `SELECT s.machine_id, s.boot
			FROM machine_sessions s JOIN machines m ON m.id = s.machine_id
			WHERE s.token_hash = $1 AND s.expires > $2 AND m.state = $3`,
			c.boot, now, protocol.MachineAdopted).Scan(&c.machine, &boot)
		if boot != "" {
			c.boot = boot // a second log-on of the same boot is the same boot
		}
	} else {
		err = a.DB.QueryRowContext(r.Context(), "SELECT name FROM admin_sessions WHERE token_hash = $1 AND expires > $2",
			hashToken(token), now).Scan(&c.admin)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return caller{}, unauthorized("the token is unknown or has expired")
	}
	if err != nil {
		return caller{}, fmt.Errorf("look up token: %w", err)
	}
	if c.machine != "" {
		a.recent.touch(c.machine, host(r), a.Now())
	}
	return c, nil
}

func unauthorized(why string) error {
	return &protocol.Problem{Code: protocol.CodeUnauthorized, Title: why, Hint: "log on again"}
}

// newToken makes a token and the hash under which the database knows it.
func newToken() (token, hash string) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails
	token = base64.RawURLEncoding.EncodeToString(b[:])
	return token, hashToken(token)
}

func hashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// host is the address that a request came from.
func host(r *http.Request) string {
	h, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return h
}
