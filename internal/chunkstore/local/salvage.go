package local

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"clonecast/internal/vfs"
)

// salvage seals what dead processes left in staging, so that a capture that was cut off
// continues where it was. Every frame is decoded: after a power cut a file may have its
// length and not its bytes.
func (s *Store) salvage() error {
	entries, err := s.fs.ReadDir(stagingDir)
	if err != nil {
		return fmt.Errorf("list staging: %w", err)
	}
	names := map[string]bool{}
	for _, e := range entries {
		for _, suffix := range []string{packSuffix, idxSuffix, lockSuffix} {
			if name, ok := strings.CutSuffix(e.Name(), suffix); ok {
				names[name] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		lock, err := s.fs.Lock(stagedLock(name))
		if errors.Is(err, vfs.ErrLocked) {
			continue // its writer lives
		}
		if err != nil {
			return fmt.Errorf("salvage pack: %w", err)
		}
		if err := errors.Join(s.salvagePack(name), s.unlock(name, lock)); err != nil {
			return fmt.Errorf("salvage pack: %w", err)
		}
	}
	return nil
}

func (s *Store) salvagePack(name string) error {
	if err := s.fs.Remove(stagedIdx(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := s.fs.OpenAppend(stagedPack(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := s.fs.Stat(packPath(name)); !errors.Is(err, fs.ErrNotExist) {
		// Sealed: the crash kept the new name and brought the old one back.
		if err == nil {
			err = s.fs.Remove(stagedPack(name))
		}
		return errors.Join(err, f.Close())
	}
	frames, end, err := s.scanStaged(f)
	if err != nil || len(frames) == 0 {
		if err == nil {
			err = s.fs.Remove(stagedPack(name))
		}
		return errors.Join(err, f.Close())
	}
	if err := f.Truncate(end); err != nil {
		return errors.Join(err, f.Close())
	}
	s.log.Info("salvaged the pack of a capture that was cut off", "pack", packPath(name), "bytes", end)
	return s.seal(f, name, end, frames)
}

func (s *Store) scanStaged(f vfs.File) ([]packFrame, int64, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	d, err := newDecoder()
	if err != nil {
		return nil, 0, err
	}
	defer decoders.Put(d)
	f.DropCache() // what a failed fsync forgot would read as if it were there
	return scanPack(f, info.Size(), func(frame []byte) bool { _, err := d.verify(frame); return err == nil })
}
