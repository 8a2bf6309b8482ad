package api

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/argon2"

	"clonecast/internal/protocol"
	"clonecast/server/database"
)

// argon2id as RFC 9106 §4 recommends where memory is scarce: 64 MiB, 3 passes.
const (
	argonTime    = 3
	argonMemory  = 64 << 10
	argonThreads = 4
	argonKey     = 32
)

const passwordSetting = "admin-password"

// logins slows down guessing: two computations at a time, and after some failures
// nobody is heard for a while, from wherever he comes.
type logins struct {
	slots    chan struct{}
	mu       sync.Mutex
	failures int
	until    time.Time
}

const freeFailures = 5

// blocked tells how long log-ins are refused.
func (l *logins) blocked(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.until.Sub(now)
}

func (l *logins) record(ok bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ok {
		l.failures = 0
		return
	}
	l.failures++
	if over := l.failures - freeFailures; over >= 0 {
		l.until = now.Add(time.Second << min(over, 6)) // at most about a minute
	}
}

// SetPassword stores the admin's password and ends his sessions.
func SetPassword(ctx context.Context, db *sql.DB, password string) error {
	var salt [16]byte
	_, _ = rand.Read(salt[:]) // crypto/rand never fails
	key := argon2.IDKey([]byte(password), salt[:], argonTime, argonMemory, argonThreads, argonKey)
	b64 := base64.RawStdEncoding.EncodeToString
	phc := fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		argon2.Version, argonMemory, argonTime, argonThreads, b64(salt[:]), b64(key))
	return database.Tx(ctx, db, func(tx *sql.Tx) error {
		_, err := tx.Exec("INSERT INTO settings (name, value) VALUES ($1, $2) "+
			"ON CONFLICT (name) DO UPDATE SET value = excluded.value", passwordSetting, phc)
		if err != nil {
			return fmt.Errorf("store password: %w", err)
		}
		_, err = tx.Exec("DELETE FROM admin_sessions")
		return err
	})
}

// HasPassword tells whether an admin password was ever set.
func HasPassword(ctx context.Context, db *sql.DB) (bool, error) {
	var n int
	err := db.QueryRowContext(ctx, "SELECT count(*) FROM settings WHERE name = $1", passwordSetting).Scan(&n)
	return n > 0, err
}

// verify checks a password against its PHC string.
func verify(phc, password string) (bool, error) {
	parts := strings.Split(phc, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false, errors.New("stored password is not an argon2id string")
	}
	var version, memory, passes, threads uint32
	_, err := fmt.Sscanf(parts[2]+" "+parts[3], "v=%d m=%d,t=%d,p=%d", &version, &memory, &passes, &threads)
	if err != nil {
		return false, fmt.Errorf("stored password: %w", err)
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil {
		return false, fmt.Errorf("stored password: %w", err)
	}
	want, err := base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil || version != argon2.Version || len(want) != argonKey || memory > 1<<20 ||
		passes < 1 || passes > 100 || threads < 1 || threads > 64 {
		return false, errors.New("stored password has parameters out of range")
	}
	got := argon2.IDKey([]byte(password), salt, passes, memory, uint8(threads), argonKey)
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}

// Login is the body of a log-in.
type Login struct {
	User     string `json:"user"`
	Password string `json:"password"`
}

// LoginAnswer carries the token for "Authorization: Bearer".
type LoginAnswer struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

func (a *API) login(w http.ResponseWriter, r *http.Request) error {
	var q Login
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	tooMany := &protocol.Problem{Code: protocol.CodeBusy, Title: "too many failed log-ins",
		Hint: "wait a minute, or use the command line on the server itself"}
	if a.logins.blocked(a.Now()) > 0 || len(q.Password) > 1024 {
		return tooMany
	}
	select {
	case a.logins.slots <- struct{}{}:
		defer func() { <-a.logins.slots }()
	default:
		return tooMany
	}
	var phc string
	row := a.DB.QueryRowContext(r.Context(), "SELECT value FROM settings WHERE name = $1", passwordSetting)
	if err := row.Scan(&phc); err != nil {
		return fmt.Errorf("read password: %w", err)
	}
	ok, err := verify(phc, q.Password) // computed for wrong user names as well: both take as long
	if err != nil {
		return err
	}
	ok = ok && q.User == "admin"
	a.logins.record(ok, a.Now())
	if !ok {
		a.Log.Warn("log-in refused", "from", host(r))
		return &protocol.Problem{Code: protocol.CodeUnauthorized, Title: "wrong user or password"}
	}
	token, hash := newToken()
	expires := a.Now().Add(adminTokenLife)
	err = database.Tx(r.Context(), a.DB, func(tx *sql.Tx) error {
		if _, err := tx.Exec("DELETE FROM admin_sessions WHERE expires < $1", database.Millis(a.Now())); err != nil {
			return err
		}
		_, err := tx.Exec("INSERT INTO admin_sessions (token_hash, name, expires) VALUES ($1, $2, $3)",
			hash, q.User, database.Millis(expires))
		return err
	})
	if err != nil {
		return fmt.Errorf("store session: %w", err)
	}
	a.Log.Info("admin logged in", "from", host(r))
	return writeJSON(w, LoginAnswer{token, expires})
}

func (a *API) logout(w http.ResponseWriter, r *http.Request) error {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	_, err := a.DB.ExecContext(r.Context(), "DELETE FROM admin_sessions WHERE token_hash = $1", hashToken(token))
	if err != nil {
		return fmt.Errorf("end session: %w", err)
	}
	return writeJSON(w, struct{}{})
}
