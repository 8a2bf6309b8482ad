package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"time"

	"clonecast/internal/vfs"
)

// Time in a store is counted in epochs: the highest number among the files in pins. A
// capture or reader takes a shared lock on the present epoch's file for as long as it relies
// on chunks that it saw. A collection condemns packs, then begins a new epoch, and removes
// them only when nobody is left in an older one. Locks end with their process, so neither a
// crash nor a wrong clock can keep or free a pack wrongly.
func pinPath(epoch uint64) string { return pinsDir + "/" + strconv.FormatUint(epoch, 10) }

// epochs lists the files in pins in order.
func (s *Store) epochs() ([]uint64, error) {
	entries, err := s.fs.ReadDir(pinsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	var list []uint64
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 10, 64); err == nil && n > 0 && pinPath(n) == pinsDir+"/"+e.Name() {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list, nil
}

// epoch gives the present epoch, 0 when there never was one.
func (s *Store) epoch() (uint64, error) {
	list, err := s.epochs()
	if err != nil || len(list) == 0 {
		return 0, err
	}
	return list[len(list)-1], nil
}

// beginEpoch makes sure that the present epoch is at least n.
func (s *Store) beginEpoch(n uint64) error {
	present, err := s.epoch()
	if err != nil || present >= n {
		return err
	}
	if err := s.fs.Mkdir(pinsDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return full(err)
	}
	f, err := s.fs.Create(pinPath(n), 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("begin epoch: %w", full(err))
	}
	return f.Close()
}

// Pin implements chunkstore.Reader. A store that was never opened for writing by a program
// that knows pins has no epochs; it is never collected either.
func (s *Store) Pin(ctx context.Context) (io.Closer, error) {
	for {
		epoch, err := s.epoch()
		if err != nil {
			return nil, err
		}
		if epoch == 0 {
			return noPin{}, nil
		}
		lock, err := s.fs.LockShared(pinPath(epoch))
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, vfs.ErrLocked) {
			return nil, fmt.Errorf("pin the store: %w", err)
		}
		select { // a collection is closing this epoch: there is a newer one
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

type noPin struct{}

func (noPin) Close() error { return nil }

// drain closes all epochs up to last. It tells whether nobody was left in them: then
// nobody can come into them any more.
func (s *Store) drain(last uint64) (bool, error) {
	if err := s.beginEpoch(last + 1); err != nil {
		return false, err
	}
	list, err := s.epochs()
	if err != nil {
		return false, err
	}
	for _, n := range list {
		if n > last {
			break
		}
		lock, err := s.fs.Lock(pinPath(n))
		if errors.Is(err, vfs.ErrLocked) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("close epoch %d: %w", n, err)
		}
		if err := errors.Join(s.fs.Remove(pinPath(n)), lock.Close()); err != nil {
			return false, fmt.Errorf("close epoch %d: %w", n, err)
		}
	}
	return true, nil
}
