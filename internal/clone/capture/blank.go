package capture

import (
	"io"

	"clonecast/internal/clone"
	"clonecast/internal/clone/layout"
	"clonecast/internal/filesystem"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// blankReader reads a disk with those partitions empty that are to be made anew.
type blankReader struct {
	disk   io.ReaderAt
	starts []quantity.Bytes
	blanks []filesystem.Blank
}

func newBlankReader(disk io.ReaderAt, l *layout.Layout) io.ReaderAt {
	b := blankReader{disk: disk}
	for _, p := range l.Partitions {
		if p.Mode == image.ModeFormat {
			b.starts, b.blanks = append(b.starts, p.Start), append(b.blanks, p.Blank)
		}
	}
	if len(b.blanks) == 0 {
		return disk
	}
	return b
}

func (r blankReader) ReadAt(b []byte, off int64) (int, error) {
	n, err := r.disk.ReadAt(b, off)
	if err != nil && err != io.EOF {
		if err = r.readRest(b, off); err != nil {
			return 0, err
		}
		n = len(b)
	}
	for i, start := range r.starts {
		from := quantity.Bytes(off) - start // in the partition
		for _, z := range r.blanks[i].Zero {
			clear(b[clamp(z.Start-from, n):clamp(z.End()-from, n)])
		}
		for _, p := range r.blanks[i].Writes {
			if skip := from - p.Offset; skip < quantity.Bytes(len(p.Data)) {
				copy(b[clamp(-skip, n):n], p.Data[max(skip, 0):])
			}
		}
	}
	return n, err
}

// readRest reads only what is not replaced anyway: the rest need not be readable.
func (r blankReader) readRest(b []byte, off int64) error {
	var replaced []quantity.Extent // of b
	add := func(start, length quantity.Bytes) {
		from, to := clamp(start, len(b)), clamp(start+length, len(b))
		replaced = append(replaced, quantity.Extent{Start: quantity.Bytes(from), Length: quantity.Bytes(to - from)})
	}
	for i, start := range r.starts {
		shift := start - quantity.Bytes(off)
		for _, z := range r.blanks[i].Zero {
			add(shift+z.Start, z.Length)
		}
		for _, p := range r.blanks[i].Writes {
			add(shift+p.Offset, quantity.Bytes(len(p.Data)))
		}
	}
	at := quantity.Bytes(0)
	for _, e := range append(quantity.Normalize(replaced), quantity.Extent{Start: quantity.Bytes(len(b))}) {
		if e.Start > at {
			if err := clone.ReadFull(r.disk, b[at:e.Start], quantity.Bytes(off)+at); err != nil {
				return err
			}
		}
		at = e.End()
	}
	return nil
}

func clamp(at quantity.Bytes, n int) int { return int(min(max(at, 0), quantity.Bytes(n))) }
