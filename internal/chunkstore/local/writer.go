package local

import (
	"errors"
	"fmt"
	"io"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/quantity"
	"clonecast/internal/vfs"
)

// packWriter writes frames into packs. The pack at hand lies in staging, under a lock, and
// only its writer sees it; a full one is sealed and then everybody's.
type packWriter struct {
	store *Store

	name   string
	file   vfs.File // nil: no staged pack
	lock   io.Closer
	length int64
	frames []packFrame
	failed bool // the last write may have left a part of a frame
}

// add appends a frame, which was verified. It tells whether that sealed a pack first.
func (w *packWriter) add(frame []byte, chunks []chunk.Entry) (sealed bool, err error) {
	if w.file != nil && w.length+int64(len(frame)) > int64(w.store.opts.PackSize) {
		if err := w.seal(); err != nil {
			return false, err
		}
		sealed = true
	}
	if w.file == nil {
		if err := w.stage(); err != nil {
			return sealed, err
		}
	}
	if _, err := w.file.Write(frame); err != nil {
		w.failed = true
		return sealed, full(err)
	}
	w.frames = append(w.frames, packFrame{uint32(w.length), uint32(len(frame)), chunks})
	w.length += int64(len(frame))
	return sealed, nil
}

// stage begins a new pack. The lock comes first, so that nobody salvages a pack that lives.
func (w *packWriter) stage() error {
	s := w.store
	if reserve := s.opts.Reserve; reserve > 0 {
		free, err := s.fs.Free()
		if err != nil {
			return err
		}
		if free < int64(reserve)+int64(s.opts.PackSize) {
			return fmt.Errorf("%w: %v are free, %v of them are kept in reserve", chunkstore.ErrFull, quantity.Bytes(free), reserve)
		}
	}
	name := newPackName()
	lock, err := s.fs.Lock(stagedLock(name))
	if err != nil {
		return full(err)
	}
	f, err := s.fs.Create(stagedPack(name), 0o600)
	if err != nil {
		return errors.Join(full(err), s.unlock(name, lock))
	}
	w.name, w.file, w.lock = name, f, lock
	w.length, w.frames = int64(len(packMagic)), nil
	if _, err := io.WriteString(f, packMagic); err != nil {
		w.failed = true
		return full(err)
	}
	return nil
}

// seal ends the staged pack, if there is one. On an error it leaves to the next Open
// what can still be salvaged.
func (w *packWriter) seal() error {
	if w.file == nil {
		return nil
	}
	s, f, lock := w.store, w.file, w.lock
	w.file, w.lock = nil, nil
	if len(w.frames) == 0 {
		return errors.Join(f.Close(), s.fs.Remove(stagedPack(w.name)), s.unlock(w.name, lock))
	}
	if w.failed {
		if err := f.Truncate(w.length); err != nil {
			return errors.Join(err, f.Close(), lock.Close())
		}
	}
	return errors.Join(s.seal(f, w.name, w.length, w.frames), s.unlock(w.name, lock))
}
