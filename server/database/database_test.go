package database

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func open(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestOpenTwiceKeepsData(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b#c?.db") // every character that means something in a URL
	db := open(t, path)
	if _, err := db.Exec("INSERT INTO settings VALUES ($2, $1)", "value", "name"); err != nil {
		t.Fatal(err)
	}
	var mode, keys string
	err := db.QueryRow("SELECT journal_mode, foreign_keys FROM pragma_journal_mode, pragma_foreign_keys").
		Scan(&mode, &keys)
	if err != nil || mode != "wal" || keys != "1" {
		t.Errorf("journal mode %q, foreign keys %q, error %v", mode, keys, err)
	}
	db.Close()
	var got string
	row := open(t, path).QueryRow("SELECT value FROM settings WHERE name = $1", "name")
	if err := row.Scan(&got); err != nil || got != "value" {
		t.Errorf("after reopening: %q, %v", got, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the file: %v, %v; want 0600", info.Mode(), err)
	}
}

func TestOpenRefusesNewerAndForeignFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "newer.db")
	db := open(t, path)
	if _, err := db.Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	_, err := Open(context.Background(), path)
	if err == nil || !strings.Contains(err.Error(), "newer than this program") {
		t.Errorf("Open of a newer database = %v", err)
	}
	other := filepath.Join(t.TempDir(), "other.db")
	if err := os.WriteFile(other, []byte(strings.Repeat("not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), other); err == nil {
		t.Error("Open of a text file succeeds")
	}
}

// Writers wait for each other instead of failing.
func TestConcurrentWriters(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "x.db"))
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for j := range 10 {
				err := Tx(context.Background(), db, func(tx *sql.Tx) error {
					_, err := tx.Exec("INSERT INTO dhcp_leases VALUES ($1, '', '', $2)", string(rune('a'+i))+string(rune('a'+j)), i)
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	stop := errors.New("stop")
	if err := Tx(context.Background(), db, func(tx *sql.Tx) error {
		if _, err := tx.Exec("DELETE FROM dhcp_leases"); err != nil {
			return err
		}
		return stop
	}); err != stop {
		t.Errorf("Tx = %v, want the function's error", err)
	}
	var n int
	if err := db.QueryRow("SELECT count(*) FROM dhcp_leases").Scan(&n); err != nil || n != 80 {
		t.Errorf("%d rows, %v; want 80", n, err)
	}
}

func TestTimes(t *testing.T) {
	if !Time(0).IsZero() || Millis(time.Time{}) != 0 {
		t.Error("zero time does not map to 0")
	}
	if at := time.UnixMilli(1234567).UTC(); Time(Millis(at)) != at {
		t.Error("time changes on its way")
	}
}
