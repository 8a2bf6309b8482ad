package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/server/database"
	"clonecast/server/machines"
	"clonecast/server/sessions"
	"clonecast/server/tasks"
)

// newAPI makes an API over the given database file and store.
func newAPI(t testing.TB, path string, store chunkstore.Store) *API {
	t.Helper()
	db, err := database.Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	log := slog.New(slog.DiscardHandler)
	orders := tasks.NewService(db, time.Now, log)
	frames, _ := store.(sessions.Store)
	manager := sessions.New(sessions.Config{
		Orders: orders, Store: frames, Interface: "lo", MaxRate: 20e6, Log: log, Now: time.Now,
	})
	t.Cleanup(func() { manager.Close() })
	return New(Config{
		DB: db, Machines: machines.New(db, time.Now, log, func() {}), Tasks: orders, Sessions: manager, Store: store,
		Log: log, Now: time.Now, Status: func() Status { return Status{Build: "test"} }, Seen: func(_, _ string) {},
		DiskRule: func(machines.Machine) string { return "" },
	})
}

// openRoutes are all that strangers may call. A new line here is a decision about
// security: write it into docs/security.md.
var openRoutes = map[string]bool{
	"GET /healthz": true, "POST /api/v1/login": true,
	"POST /machine/v1/register": true, "POST /machine/v1/logon": true,
}

// Every route is called without a token and with tokens that are none.
func TestEveryRouteIsClosed(t *testing.T) {
	a := newAPI(t, filepath.Join(t.TempDir(), "x.db"), nil)
	server := httptest.NewServer(a)
	defer server.Close()
	patterns := a.Patterns()
	if len(patterns) < 20 {
		t.Fatalf("the table has %d routes only: %v", len(patterns), patterns)
	}
	var guess [32]byte
	_, _ = rand.Read(guess[:])
	open := 0
	for _, pattern := range append(patterns,
		"GET /", "GET /api/v1/nothing", "DELETE /machine/v1/next", "GET /api/v1/../api/v1/machines") {
		if openRoutes[pattern] {
			open++
			continue
		}
		method, path, ok := strings.Cut(pattern, " ")
		if !ok {
			t.Errorf("route %q has no method", pattern)
			continue
		}
		path = strings.NewReplacer("{id}", "1", "{ref}", "x", "{schema}", "x", "{machine}", "x").Replace(path)
		for _, header := range []string{
			"", "Bearer ", "Bearer " + hex.EncodeToString(guess[:]), "Basic cm9vdDpyb290", "bearer x",
		} {
			r, err := http.NewRequest(method, server.URL+path, strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			if header != "" {
				r.Header.Set("Authorization", header)
			}
			response, err := http.DefaultTransport.RoundTrip(r) // follows no redirect
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != http.StatusUnauthorized ||
				response.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s with %q: %s, want 401", pattern, header, response.Status)
			}
		}
	}
	if open != len(openRoutes) {
		t.Errorf("%d of the open routes exist, want %d", open, len(openRoutes))
	}
}
