package local

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/vfs"
)

// base is what everything else in a store relies on: its format, its directories, its keys. It is
// read from the medium; of files that are kept twice the right one is taken.
type base struct {
	fs       vfs.FS
	readOnly bool

	signing ed25519.PrivateKey // nil: lost, or not readable for us
	trusted []ed25519.PublicKey
	flaws   []flaw
}

// flaw is what is wrong with a file or directory of the base.
type flaw struct {
	chunkstore.Problem
	fatal bool         // the store is not opened with it, but for a check or a repair
	auto  bool         // every Open for writing mends it: nothing is decided by that
	mend  func() error // nil: nothing in the store can bring it back
}

// inspect reads the base. An error is one of the medium, or says that this is no store.
func inspect(fsys vfs.FS, readOnly bool) (*base, error) {
	b := &base{fs: fsys, readOnly: readOnly}
	for _, step := range []func() error{b.directories, b.format, b.ownKeys, b.otherKeys} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// whatIsLost tells what a directory means that is not there.
var whatIsLost = map[string]string{
	packsDir:  "with it every chunk; what a second store has, clonecast store repair --from brings back",
	imagesDir: "clonecast store repair brings the versions back from their copies",
	keysDir:   "clonecast store repair brings the keys back from their copies",
	indexDir:  "indexes are made anew from the packs when the store is opened for writing",
	copiesDir: "nothing is lost, but manifests and keys are there only once; " +
		"it is made anew when the store is opened for writing",
}

func (b *base) directories() error {
	for _, dir := range dirs {
		_, err := b.fs.Stat(dir)
		if err == nil || b.hidden(dir, err) {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		meaning := whatIsLost[dir]
		if meaning == "" {
			meaning = "nothing is lost; it is made anew when the store is opened for writing"
		}
		fatal := dir == packsDir || dir == imagesDir || dir == keysDir
		b.flaws = append(b.flaws, flaw{Problem: chunkstore.Problem{Object: dir, Problem: "is missing: " + meaning},
			fatal: fatal, auto: !fatal, mend: func() error {
				if err := b.fs.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
					return full(err)
				}
				return full(b.fs.SyncDir(path.Dir(dir)))
			}})
	}
	return nil
}

// hidden tells whether a copy cannot be read for want of a right: whoever may only read images
// does without.
func (b *base) hidden(name string, err error) bool {
	return b.readOnly && strings.HasPrefix(name, copiesDir+"/") && errors.Is(err, fs.ErrPermission)
}

// twin is a file that is kept twice.
type twin struct {
	name    string
	meaning string // what a loss means
	perm    fs.FileMode
	data    [2][]byte // of file and copy: nil where it is lost
	problem [2]string // why it is lost
}

// read reads both files. What valid refuses counts as lost.
func (b *base) read(t *twin, valid func([]byte) error) error {
	for i, file := range both(t.name) {
		data, err := readFile(b.fs, file, maxKeyFile)
		if err == nil {
			if err = valid(data); err == nil {
				t.data[i] = data
				continue
			}
			err = &damage{err}
		}
		switch {
		case b.hidden(file, err):
			t.data[i] = t.data[0]
		case errors.Is(err, fs.ErrNotExist):
			t.problem[i] = isMissing
		case isDamage(err):
			t.problem[i] = "is damaged: " + err.Error()
		default:
			return err
		}
	}
	return nil
}

// judge compares both files with what they should hold; nil: nobody knows.
func (b *base) judge(t *twin, want []byte, fatal bool) {
	for i, file := range both(t.name) {
		if want != nil && bytes.Equal(t.data[i], want) {
			continue
		}
		problem := t.problem[i]
		if problem == "" {
			problem = "is damaged: it differs from " + both(t.name)[1-i]
		}
		f := flaw{Problem: chunkstore.Problem{Object: file, Problem: problem + "; " + t.meaning}}
		switch {
		case want == nil:
			f.fatal = fatal && i == 0
		case i == 1:
			f.Problem.Problem = problem + "; it is a copy, made anew when the store is opened for writing"
			f.auto, f.mend = true, func() error { return replaceFile(b.fs, publishFile, file, t.perm, want) }
		default:
			f.Problem.Problem += "; clonecast store repair brings it back"
			f.fatal, f.mend = fatal, func() error { return replaceFile(b.fs, publishFile, file, t.perm, want) }
		}
		b.flaws = append(b.flaws, f)
	}
}

func (b *base) format() error {
	t := &twin{name: formatFile, perm: 0o600, meaning: "without it no program takes the directory for a store"}
	newer := ""
	err := b.read(t, func(data []byte) error {
		if string(data) == formatText {
			return nil
		}
		text := strings.TrimSpace(string(data))
		if strings.HasPrefix(text, strings.TrimSuffix(formatText, "1\n")) {
			newer = text
		}
		return fmt.Errorf("it says %q, not %q", text, strings.TrimSpace(formatText))
	})
	if err != nil {
		return fmt.Errorf("read format of store: %w", err)
	}
	if t.data[0] == nil && t.data[1] == nil {
		switch {
		case newer != "":
			return fmt.Errorf("store has %q, this program knows %q: use a newer clonecast",
				newer, strings.TrimSpace(formatText))
		case t.problem[0] == isMissing:
			return fmt.Errorf("%w: it has no file %q", chunkstore.ErrNotStore, formatFile)
		}
		return fmt.Errorf("%w: its file %q %s", chunkstore.ErrNotStore, formatFile, t.problem[0])
	}
	b.judge(t, []byte(formatText), true)
	return nil
}

// identity is a key that a store may sign with, by the files that say so.
type identity struct {
	pub   ed25519.PublicKey
	key   ed25519.PrivateKey // nil: only its public half is known
	votes int
}

// ownKeys finds the signing key and its public half. When they belong together they are right,
// and their copies follow. Else what most of the four files say is right, and when that is not
// clear, what signed a version.
func (b *base) ownKeys() error {
	key := &twin{name: signingKey, perm: 0o600, meaning: "new versions are signed with it, and without it no capture ends"}
	pub := &twin{name: signingPub, perm: 0o644, meaning: "versions are proven with it"}
	err := b.read(key, isHex(ed25519.SeedSize))
	hidden := errors.Is(err, fs.ErrPermission) && b.readOnly // somebody who may read images but not sign
	if err != nil && !hidden {
		return fmt.Errorf("read key %s: %w", signingKey, err)
	}
	if err := b.read(pub, isHex(ed25519.PublicKeySize)); err != nil {
		return fmt.Errorf("read key %s: %w", signingPub, err)
	}
	var list []identity
	vote := func(p ed25519.PublicKey, k ed25519.PrivateKey) {
		i := slices.IndexFunc(list, func(i identity) bool { return i.pub.Equal(p) })
		if i < 0 {
			i, list = len(list), append(list, identity{pub: p})
		}
		list[i].votes++
		if k != nil {
			list[i].key = k
		}
	}
	for i := range 2 {
		if seed := key.data[i]; seed != nil && !hidden {
			k := ed25519.NewKeyFromSeed(unhex(seed))
			vote(k.Public().(ed25519.PublicKey), k)
		}
		if p := pub.data[i]; p != nil {
			vote(unhex(p), nil)
		}
		if i == 0 && len(list) == 1 && list[0].votes == 2 {
			break
		}
	}
	own, err := b.choose(list)
	if err != nil {
		return err
	}
	if own == nil {
		if len(list) > 0 {
			pub.meaning += "; it does not belong to " + signingKey + ", and no version tells which is right"
		}
		pub.meaning += "; take both files from a backup"
		b.judge(pub, nil, true)
		return nil
	}
	b.trusted, b.signing = []ed25519.PublicKey{own.pub}, own.key
	b.judge(pub, hexLine(own.pub), true)
	switch {
	case hidden:
	case own.key == nil:
		key.meaning += "; take it from a backup, or let clonecast store repair --new-key make another one, " +
			"which appliances learn when they are built again"
		b.judge(key, nil, !b.readOnly)
	default:
		b.judge(key, hexLine(own.key.Seed()), !b.readOnly)
	}
	return nil
}

// choose gives the identity that most files name, or else that signed a version; nil when that
// does not tell them apart.
func (b *base) choose(list []identity) (*identity, error) {
	slices.SortStableFunc(list, func(a, b identity) int { return b.votes - a.votes })
	switch {
	case len(list) == 0:
		return nil, nil
	case len(list) == 1 || list[0].votes > list[1].votes:
		return &list[0], nil
	}
	var found *identity
	for i := range list {
		signed, err := b.signedBy(list[i].pub)
		if err != nil {
			return nil, err
		}
		if signed && found != nil {
			return nil, nil
		}
		if signed {
			found = &list[i]
		}
	}
	return found, nil
}

// signedBy tells whether a key signed a version that is here.
func (b *base) signedBy(pub ed25519.PublicKey) (bool, error) {
	s := &Store{fs: b.fs, trusted: []ed25519.PublicKey{pub}}
	names, err := s.imageNames()
	if err != nil {
		return false, err
	}
	for _, name := range names {
		sequences, err := s.sequences(name)
		if err != nil {
			return false, err
		}
		for _, n := range sequences {
			for _, file := range both(manifestPath(name, n)) {
				envelope, err := readFile(b.fs, file, maxEnvelope)
				if err != nil && !isDamage(err) && !errors.Is(err, fs.ErrNotExist) {
					return false, err
				}
				if !pub.Equal(image.Signer(envelope)) {
					continue
				}
				if _, _, err := image.Open(envelope, s.trusted); err == nil {
					return true, nil
				}
			}
		}
	}
	return false, nil
}

// otherKeys reads the keys that are trusted beside the store's own. One whose file is not there is
// not trusted, whatever its copy says: somebody may have removed it on purpose.
func (b *base) otherKeys() error {
	names := map[string]bool{}
	for _, dir := range both(keysDir) {
		entries, err := b.fs.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) || b.readOnly && errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return fmt.Errorf("list keys: %w", err)
		}
		for _, e := range entries {
			name := keysDir + "/" + e.Name()
			if strings.HasSuffix(name, pubSuffix) && name != signingPub && len(names) < maxKeyFiles {
				names[name] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if err := b.otherKey(name); err != nil {
			return fmt.Errorf("read key %s: %w", name, err)
		}
	}
	return nil
}

func (b *base) otherKey(name string) error {
	t := &twin{name: name, perm: 0o644, meaning: "versions that it signed are not trusted without it"}
	if err := b.read(t, isHex(ed25519.PublicKeySize)); err != nil {
		return err
	}
	var list []identity
	for i, data := range t.data {
		if data != nil && (i == 0 || !bytes.Equal(data, t.data[0])) {
			list = append(list, identity{pub: unhex(data)})
		}
	}
	own, err := b.choose(list)
	if err != nil {
		return err
	}
	if own == nil {
		t.meaning += "; take it from " + signingPub + " of the store that it belongs to, or remove it and " + copyPath(name)
		b.judge(t, nil, t.data[0] == nil)
		return nil
	}
	if t.data[0] != nil && own.pub.Equal(ed25519.PublicKey(unhex(t.data[0]))) {
		b.trusted = append(b.trusted, own.pub)
	} else if t.problem[0] == isMissing {
		t.meaning += "; if it was removed on purpose, remove " + copyPath(name) + ", too"
	}
	b.judge(t, hexLine(own.pub), t.data[0] == nil && t.problem[0] != isMissing)
	return nil
}

// isHex accepts key files. Its error never shows the content.
func isHex(size int) func([]byte) error {
	return func(b []byte) error {
		if len(unhex(b)) != size {
			return fmt.Errorf("want %d hex digits", 2*size)
		}
		return nil
	}
}

func unhex(line []byte) []byte {
	b, err := hex.DecodeString(strings.TrimSpace(string(line)))
	if err != nil {
		return nil
	}
	return b
}
