package export_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/export"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/chunkstore/mem"
	"clonecast/internal/chunkstore/storetest"
	"clonecast/internal/image"
	"clonecast/internal/vfs/memfs"
)

func newStore(t testing.TB) chunkstore.Store {
	t.Helper()
	s, err := local.CreateFS(memfs.New(), local.Options{PackSize: 4000})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newSample(t testing.TB, seed uint64) *storetest.Sample {
	t.Helper()
	s, err := storetest.NewSample("lab", seed, 12, 4)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// twoVersions is a store with two versions, of which the second one's shared chunks lie in
// frames of the first one.
func twoVersions(t testing.TB) (chunkstore.Store, *storetest.Sample) {
	t.Helper()
	s := newStore(t)
	first := newSample(t, 1)
	if _, _, err := first.Capture(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	second := *first
	m := *first.Manifest
	m.Disks = slices.Clone(m.Disks)
	m.Comment = "a part"
	even := func(p image.Partition) bool { return p.Number%2 == 0 }
	m.Disks[0].Partitions = slices.DeleteFunc(slices.Clone(m.Disks[0].Partitions), even)
	second.Manifest, second.Chunks = &m, nil
	for id := range m.Chunks() {
		second.Chunks = append(second.Chunks, id)
	}
	if _, _, err := second.Capture(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return s, &second
}

func write(t testing.TB, s chunkstore.Store, sequence uint64) ([]byte, image.Version) {
	t.Helper()
	var file bytes.Buffer
	last := int64(-1)
	v, err := export.Write(t.Context(), s, "lab", sequence, &file, func(done, total int64) {
		if done <= last || done > total {
			t.Errorf("progress from %d to %d of %d", last, done, total)
		}
		last = done
	})
	if err != nil {
		t.Fatalf("Write = %v", err)
	}
	return file.Bytes(), v
}

func TestRoundTrip(t *testing.T) {
	from, sample := twoVersions(t)
	file, v := write(t, from, 0)
	if v.Sequence != 2 || v.Comment != "a part" {
		t.Errorf("Write = %+v, want the newest version", v)
	}
	for name, to := range map[string]chunkstore.Store{
		"another store":  newStore(t),
		"memory":         newMem(t),
		"the same store": from,
	} {
		before := sequences(t, to)
		var untrusted *export.UntrustedError
		_, err := export.Read(t.Context(), to, bytes.NewReader(file), export.Options{})
		if to == from {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		} else if !errors.As(err, &untrusted) || !untrusted.Key.Equal(from.TrustedKeys()[0]) ||
			len(sequences(t, to)) != len(before) {
			t.Fatalf("%s: Read of an unknown key's file = %v, want an UntrustedError with the key", name, err)
		}
		r, err := export.Read(t.Context(), to, bytes.NewReader(file), export.Options{Trust: from.TrustedKeys()[0]})
		if err != nil || r.From != v.ID || r.Version.Sequence == 0 || r.Version.Comment != v.Comment ||
			(r.Stored == 0) != (to == from) {
			t.Fatalf("%s: Read = %+v, %v", name, r, err)
		}
		if err := sample.Verify(t.Context(), to, r.Version.Sequence); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		opts := export.Options{Trust: from.TrustedKeys()[0], Name: "other"}
		again, err := export.Read(t.Context(), to, bytes.NewReader(file), opts)
		if err != nil || again.Stored != 0 || again.Version.Image != "other" || again.Version.Sequence != 1 {
			t.Errorf("%s: Read under another name = %+v, %v", name, again, err)
		}
		if rep, err := to.Check(t.Context(), chunkstore.CheckOptions{ReadData: true}); err != nil || len(rep.Problems) > 0 {
			t.Errorf("%s: Check = %v, %v", name, rep.Problems, err)
		}
	}
}

func newMem(t testing.TB) chunkstore.Store {
	t.Helper()
	s, err := mem.New()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sequences(t testing.TB, s chunkstore.Store) []image.Version {
	t.Helper()
	list, err := s.Versions(t.Context(), "lab")
	if err != nil && !errors.Is(err, chunkstore.ErrNotFound) {
		t.Fatal(err)
	}
	return list
}

// The file of one version says nothing of another one, and no chunk twice.
func TestFileHoldsOneVersion(t *testing.T) {
	s, sample := twoVersions(t)
	file, _ := write(t, s, 2)
	envelope, err := s.Manifest(t.Context(), "lab", 2)
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(bytes.NewReader(file[12+len(envelope):]))
	var ids []chunk.ID
	for {
		h, _, err := chunk.ReadFrame(r, nil)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range h.Entries {
			ids = append(ids, e.ID)
		}
	}
	if len(ids) != len(sample.Chunks) {
		t.Errorf("the file has %d chunks, the version %d", len(ids), len(sample.Chunks))
	}
	for _, id := range ids {
		if !slices.Contains(sample.Chunks, id) {
			t.Errorf("chunk %v is of another version", id)
		}
	}
}

// A file that is cut, longer, or altered anywhere gives an error and no version, or it is
// proven to hold the same.
func TestDamagedFile(t *testing.T) {
	from, sample := twoVersions(t)
	file, _ := write(t, from, 2)
	trust := export.Options{Trust: from.TrustedKeys()[0]}
	to := newStore(t)
	refused := func(what string, b []byte) {
		t.Helper()
		if r, err := export.Read(t.Context(), to, bytes.NewReader(b), trust); err == nil {
			if err := sample.Verify(t.Context(), to, r.Version.Sequence); err != nil {
				t.Fatalf("%s: accepted, and then: %v", what, err)
			}
			if len(b) != len(file) {
				t.Fatalf("%s: accepted", what)
			}
		}
	}
	for n := 0; n < len(file); n += 13 {
		refused("cut", file[:n])
	}
	refused("cut by one byte", file[:len(file)-1])
	refused("longer", append(bytes.Clone(file), 0))
	refused("twice", append(bytes.Clone(file), file...))
	refused("last frame again", append(bytes.Clone(file), file[len(file)-200:]...))
	accepted := len(sequences(t, to))
	for i := 0; i < len(file); i += 7 {
		bad := bytes.Clone(file)
		bad[i] ^= 0x10
		refused("one byte", bad)
	}
	if n := len(sequences(t, to)) - accepted; n > 10 || accepted > 0 {
		t.Errorf("%d cut files and %d altered ones are accepted: the test has lost its bite", accepted, n)
	}
	if rep, err := to.Check(t.Context(), chunkstore.CheckOptions{ReadData: true}); err != nil || len(rep.Problems) > 0 {
		t.Errorf("Check = %v, %v", rep.Problems, err)
	}
}

// FuzzRead: whatever a file holds, nothing is published that its signature does not prove.
func FuzzRead(f *testing.F) {
	from, sample := twoVersions(f)
	file, _ := write(f, from, 2)
	f.Add(file)
	f.Add(file[:len(file)/2])
	f.Add([]byte("CCFILE1\n\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		to := newMem(t)
		defer to.Close()
		r, err := export.Read(t.Context(), to, bytes.NewReader(b), export.Options{Trust: from.TrustedKeys()[0]})
		if err != nil {
			if list := sequences(t, to); len(list) > 0 {
				t.Errorf("Read fails and publishes %v", list)
			}
			return
		}
		if err := sample.Verify(t.Context(), to, r.Version.Sequence); err != nil {
			t.Error(err)
		}
	})
}
