// Package api is the server's HTTPS side: the calls of machines (internal/protocol) and
// the calls of admins (/api/v1).
//
// One middleware stands before every route (access.go). It asks the route table who may
// call; a route that is not in the table as public or for machines is for admins. So a
// forgotten entry locks people out instead of letting them in.
//
//	public    register, logon, login, healthz: they must work for strangers, and give
//	          nothing away but what the stranger said himself
//	machine   bearer token of a boot; what it may read and write follows from the
//	          operation that the machine is doing now, and from nothing else
//	admin     bearer token of a log-in, or the Unix socket in the data directory, whose
//	          file mode is its lock
//
// Tokens are 256 random bits of which the database keeps the SHA-256 only. No cookie
// exists, so no other site can make a browser act for an admin.
package api

import (
	"context"
	"crypto/tls"
	"database/sql"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/server/machines"
	"clonecast/server/sessions"
	"clonecast/server/tasks"
)

// Config is what an API works on.
type Config struct {
	DB       *sql.DB
	Machines *machines.Registry
	Tasks    *tasks.Service
	Sessions *sessions.Manager
	Store    chunkstore.Store
	Log      *slog.Logger
	Now      func() time.Time
	Status   func() Status // what the server is and where it listens
	Build    string        // of this program
	// DiskRule gives the rule of the appliance that a machine will boot.
	DiskRule func(machines.Machine) string
	// Seen is told of every register call: which boot became which machine. The token is anybody's text.
	Seen func(bootToken, machineID string)
}

// API answers requests. Close it after the HTTP server ended.
type API struct {
	Config
	captures captures
	versions versions
	differ   func() (*chunkstore.Differ, error) // made when it is needed
	logins   logins
	recent   recent
	bodies   *bodies
	access   map[string]access // by pattern
	// patience is how long the body of a request may take.
	patience time.Duration
	mux      *http.ServeMux
}

// New makes the handlers.
func New(c Config) *API {
	a := &API{Config: c, access: map[string]access{}, mux: http.NewServeMux(), bodies: newBodies(),
		patience: 2 * time.Minute}
	a.captures.log, a.captures.silence = c.Log, captureSilence
	a.captures.gone = func(machine, task string, index int, silent time.Duration) {
		if err := c.Tasks.Abandon(context.Background(), machine, task, index, silent); err != nil {
			c.Log.Error("a capture that others follow was silent for too long", "machine", machine, "task", task, "error", err)
		}
	}
	a.versions.store = c.Store
	a.differ = sync.OnceValues(func() (*chunkstore.Differ, error) { return chunkstore.NewDiffer(c.Store) })
	a.logins.slots = make(chan struct{}, 2)
	a.machineRoutes()
	a.adminRoutes()
	return a
}

// Close ends the captures that run. Their chunks stay in the store.
func (a *API) Close() error { return a.captures.closeAll() }

type localKey struct{}

// NewServer wraps the API into an HTTP server. Over HTTPS it needs TLS 1.3; local is for
// the Unix socket.
func (a *API) NewServer(config *tls.Config, local bool) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true) // one stream per connection: the kernel's windows, not HTTP/2's
	return &http.Server{
		Handler:           a,
		TLSConfig:         config,
		Protocols:         &protocols,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(a.Log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(context.Background(), localKey{}, local)
		},
	}
}
