package server

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"clonecast/internal/chunkstore/local"
	"clonecast/server/api"
	"clonecast/server/database"
)

// Data is an open data directory:
//
//	clonecast.db          machines, tasks, log-ins
//	store/                chunks, manifests, the key that signs them
//	ca.crt, ca.key        the authority that appliances trust; ca-2.crt, ca-2.key its successor, and so on
//	server.crt/.key       renewed by itself
//	appliances/<class>/   boot images
//	admin.sock            the command line on this computer speaks here
//	lock                  held while a server runs
type Data struct {
	Directory   string
	DB          *sql.DB
	Store       *local.Store
	authorities authorities
	lock        *os.File
}

// DefaultDirectory is where a server keeps its data unless its options name another directory.
const DefaultDirectory = "/var/lib/clonecast"

// SocketName is the Unix socket in the data directory.
const SocketName = "admin.sock"

// OpenData opens the data directory, and makes everything in it at the first start.
func OpenData(ctx context.Context, dir string, log *slog.Logger) (d *Data, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, explainDirectory(dir, err)
	}
	// It holds keys: also a directory that somebody else made is for us alone.
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, explainDirectory(dir, err)
	}
	d = &Data{Directory: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
			d = nil
		}
	}()
	if d.lock, err = lock(filepath.Join(dir, "lock")); err != nil {
		return d, err
	}
	if d.authorities, err = openAuthorities(dir, time.Now(), log); err != nil {
		return d, err
	}
	if d.Store, err = openStore(filepath.Join(dir, "store"), log); err != nil {
		return d, err
	}
	if d.DB, err = database.Open(ctx, filepath.Join(dir, "clonecast.db")); err != nil {
		return d, err
	}
	return d, nil
}

// FirstPassword makes the admin's password if there is none yet; else it is "". It is made when it can be
// shown, and not before all that may still fail: a password that nobody saw locks everybody out.
func (d *Data) FirstPassword(ctx context.Context) (string, error) {
	known, err := api.HasPassword(ctx, d.DB)
	if err != nil || known {
		return "", err
	}
	password := rand.Text()[:20]
	return password, api.SetPassword(ctx, d.DB, password)
}

func openStore(dir string, log *slog.Logger) (*local.Store, error) {
	opts := local.Options{Logger: log}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return local.Create(dir, opts)
	}
	s, err := local.Open(dir, opts)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func explainDirectory(dir string, err error) error {
	err = fmt.Errorf("open data directory %s: %w", dir, err)
	if errors.Is(err, fs.ErrPermission) {
		return &Problem{err, "run it with sudo, or choose another directory with --data"}
	}
	return err
}

// lock makes sure that one server at a time uses the directory.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, explainDirectory(filepath.Dir(path), err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		inUse := &Problem{fmt.Errorf("lock %s: %w", path, err), "another 'clonecast serve' uses this data directory"}
		return nil, errors.Join(inUse, f.Close())
	}
	return f, nil
}

// Socket is where the command line on this computer speaks to the server.
func (d *Data) Socket() string { return filepath.Join(d.Directory, SocketName) }

// CA is the certificates that appliances pin, as PEM.
func (d *Data) CA() []byte { return d.authorities.pem() }

// Close ends the use of the directory.
func (d *Data) Close() error {
	var errs []error
	if d.DB != nil {
		errs = append(errs, d.DB.Close())
	}
	if d.Store != nil {
		errs = append(errs, d.Store.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}
