// Package database opens the server's database and brings its tables up to date.
//
// It is an SQLite file in WAL mode. All SQL of the server is text that PostgreSQL
// takes as well ($1 placeholders, ON CONFLICT, no dialect functions); times are
// milliseconds since 1970 as BIGINT, documents are JSON as TEXT.
//
// Every committed change survives a power cut (synchronous=FULL): the database holds
// state changes only, a few per operation; progress lives in memory. Before the
// tables are changed by a newer program, the whole file is copied beside itself.
package database

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Open opens or creates the database file at path.
func Open(ctx context.Context, path string) (*sql.DB, error) {
	_, err := os.Stat(path)
	existed := err == nil
	// The file holds token hashes and inventory: nobody else on this computer reads it.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	f.Close()
	query := url.Values{"_txlock": {"immediate"}, "_pragma": {
		"busy_timeout(10000)", "journal_mode(WAL)", "foreign_keys(1)", "synchronous(FULL)",
	}}
	file := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: query.Encode()}
	db, err := sql.Open("sqlite", file.String())
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	db.SetMaxOpenConns(8)
	if err := migrate(ctx, db, path, existed); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), db.Close())
	}
	return db, nil
}

func migrate(ctx context.Context, db *sql.DB, path string, existed bool) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	current, target, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read version: %w", err)
	}
	if current > target {
		return fmt.Errorf("its version %d is newer than this program's %d", current, target)
	}
	if existed && current > 0 && current < target {
		backup := fmt.Sprintf("%s.version-%d-%s", path, current, time.Now().UTC().Format("20060102T150405"))
		if _, err := db.ExecContext(ctx, "VACUUM INTO $1", backup); err != nil {
			return fmt.Errorf("copy to %s before changing tables: %w", backup, err)
		}
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("bring tables up to date: %w", err)
	}
	return nil
}

// Tx runs f in a transaction that is committed when f returns nil.
func Tx(ctx context.Context, db *sql.DB, f func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	defer tx.Rollback() // does nothing after a commit
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// Millis is how the database writes a time; the zero time is 0.
func Millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Time is the inverse of Millis.
func Time(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
