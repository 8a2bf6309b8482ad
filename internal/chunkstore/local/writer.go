package local

import (
	"context"
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
//
// A writer that failed once stays failed: what its pack has behind the last whole frame, and
// whether the medium has the rest, nobody knows without reading it.
type packWriter struct {
	store *Store

	name   string
	file   vfs.File // nil: no staged pack
	lock   io.Closer
	length int64
	frames []packFrame
	sealed []string // packs that it made
	err    error    // the first failure; final
}

// add appends a frame, which was verified. It tells whether that sealed a pack first.
func (w *packWriter) add(frame []byte, chunks []chunk.Entry) (sealed bool, err error) {
	if w.err != nil {
		return false, fmt.Errorf("a write failed before: %w", w.err)
	}
	sealed, w.err = w.append(frame, chunks)
	return sealed, w.err
}

func (w *packWriter) append(frame []byte, chunks []chunk.Entry) (sealed bool, err error) {
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
	if err := vfs.WriteAll(w.file, frame); err != nil {
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
			return &chunkstore.ReserveError{Free: quantity.Bytes(free), Reserve: reserve, Pack: s.opts.PackSize}
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
	return full(vfs.WriteAll(f, []byte(packMagic)))
}

// seal ends the staged pack, if there is one. Of one whose writer failed it reads what is on
// the medium and seals the whole frames before the first that is not. What an error leaves
// in staging, the next Open salvages.
func (w *packWriter) seal() error {
	if w.file == nil {
		return nil
	}
	s, f, lock := w.store, w.file, w.lock
	w.file, w.lock = nil, nil
	var err error
	switch {
	case w.err != nil:
		err = errors.Join(f.Close(), s.salvagePack(w.name))
	case len(w.frames) == 0:
		err = errors.Join(f.Close(), s.fs.Remove(stagedPack(w.name)))
	default:
		if err = s.seal(f, w.name, w.length, w.frames); err == nil {
			w.sealed = append(w.sealed, w.name)
		}
	}
	if w.err == nil {
		w.err = err
	}
	return errors.Join(err, s.unlock(w.name, lock))
}

// discard throws the staged pack away: it holds copies only.
func (w *packWriter) discard() error {
	if w.file == nil {
		return nil
	}
	f, lock := w.file, w.lock
	w.file, w.lock = nil, nil
	return errors.Join(f.Close(), w.store.fs.Remove(stagedPack(w.name)), w.store.unlock(w.name, lock))
}

// readBack proves the packs that the writer made: every frame of them is read from the medium
// and verified.
func (w *packWriter) readBack(ctx context.Context) error {
	for _, name := range w.sealed {
		if err := w.store.provePack(ctx, name); err != nil {
			return fmt.Errorf("read back what was written to %s: %w", packPath(name), err)
		}
	}
	return nil
}
