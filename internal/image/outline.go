package image

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"clonecast/internal/chunk"
)

// CastID names a cast: the SHA-256 of its outline's binary form under the domain
// "clonecast-outline-v1".
type CastID [32]byte

func (c CastID) String() string { return hex.EncodeToString(c[:]) }

// ParseCastID reads the 64 hex digits that String writes.
func ParseCastID(s string) (CastID, error) {
	var c CastID
	if len(s) != 2*len(c) {
		return CastID{}, fmt.Errorf("cast %q: want %d hex digits", s, 2*len(c))
	}
	if _, err := hex.Decode(c[:], []byte(s)); err != nil {
		return CastID{}, fmt.Errorf("cast %q: %w", s, err)
	}
	return c, nil
}

// PartID names a part of a cast: the SHA-256 of its binary form under the domain
// "clonecast-part-v1".
type PartID [32]byte

// Outline is what is known of a version before the first byte of its content is read, for
// machines that follow the capture: a manifest without chunk ids.
type Outline struct {
	Nonce    [32]byte // random, so that no part of another cast fits
	Task     string   // whose machines this is for
	Manifest Manifest // no Chunks; Sequence, Parent and Created are not set yet
}

// Part is a run of the chunks of a version that is being captured: their ids in the order of
// the outline. The store has them.
type Part struct {
	Cast   CastID
	Number uint64     // from 0
	First  uint64     // place of the first chunk, over all regions of all disks
	Before PartID     // of the part before, zero for the first one
	Chunks []chunk.ID // at most MaxPart
}

// MaxPart bounds the chunks of a part.
const MaxPart = 4096

const (
	outlineMagic  = "CCOUT1\n\x00"
	partMagic     = "CCPART\n\x00"
	outlineDomain = "clonecast-outline-v1\x00"
	partDomain    = "clonecast-part-v1\x00"
)

// MarshalBinary gives o's canonical binary form, or why o is not a valid outline.
func (o *Outline) MarshalBinary() ([]byte, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	var w writer
	w.raw([]byte(outlineMagic))
	w.raw(o.Nonce[:])
	w.string(o.Task)
	w.manifest(&o.Manifest)
	return w.b, nil
}

func (o *Outline) validate() error {
	if err := checkString("the task", o.Task); err != nil {
		return err
	}
	for c := range o.Manifest.Regions() {
		if len(c.Chunks) > 0 {
			return errors.New("outline: it names chunks")
		}
	}
	return o.Manifest.check(false)
}

// ParseOutline reads the binary form of an outline. It accepts exactly what MarshalBinary
// writes.
func ParseOutline(b []byte) (*Outline, error) {
	r := reader{b: b, outline: true}
	if string(r.raw(len(outlineMagic))) != outlineMagic {
		return nil, errors.New("not an outline: magic is absent")
	}
	o := &Outline{}
	copy(o.Nonce[:], r.raw(len(o.Nonce)))
	o.Task = r.string()
	o.Manifest = r.manifest()
	if err := r.end("outline"); err != nil {
		return nil, err
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	return o, nil
}

// Count is the number of chunks that the version will have.
func (o *Outline) Count() uint64 {
	n := uint64(0)
	for c := range o.Manifest.Regions() {
		n += uint64(ChunkCount(c.Extents))
	}
	return n
}

// Slice gives what is known of the version by a run of its chunks, the first of which has this
// place: a manifest with nothing but the parts of regions that they cover.
func (o *Outline) Slice(first uint64, ids []chunk.ID) (*Manifest, error) {
	m := &Manifest{Image: o.Manifest.Image}
	for i := range o.Manifest.Disks {
		whole := &o.Manifest.Disks[i]
		d := Disk{Size: whole.Size, LogicalSector: whole.LogicalSector}
		for _, c := range whole.Contents() {
			if n := uint64(ChunkCount(c.Extents)); first >= n {
				first -= n
				continue
			}
			var part Content
			if part, ids = c.slice(int(first), ids); len(part.Chunks) > 0 {
				d.Boot = append(d.Boot, part)
			}
			first = 0
		}
		m.Disks = append(m.Disks, d)
	}
	if len(ids) > 0 {
		return nil, fmt.Errorf("%d chunks have no place in the outline", len(ids))
	}
	return m, m.Validate()
}

// slice gives the part of a region whose chunks have these ids, the first of them being one of the
// region's, and the ids that are left.
func (c *Content) slice(first int, ids []chunk.ID) (part Content, rest []chunk.ID) {
	for p := range c.Places() {
		place := p.Extent
		if first--; first >= 0 {
			continue
		}
		if len(ids) == 0 {
			break
		}
		if len(part.Chunks) == 0 {
			part.Start = c.Start + place.Start
		}
		place.Start -= part.Start - c.Start
		if n := len(part.Extents); n > 0 && part.Extents[n-1].End() == place.Start {
			part.Extents[n-1].Length += place.Length
		} else {
			part.Extents = append(part.Extents, place)
		}
		part.Length, part.Chunks, ids = place.End(), append(part.Chunks, ids[0]), ids[1:]
	}
	return part, ids
}

// MarshalBinary gives p's canonical binary form, or why p is not a valid part.
func (p *Part) MarshalBinary() ([]byte, error) {
	if len(p.Chunks) == 0 || len(p.Chunks) > MaxPart {
		return nil, fmt.Errorf("part of %d chunks, want 1 to %d", len(p.Chunks), MaxPart)
	}
	var w writer
	w.raw([]byte(partMagic))
	w.raw(p.Cast[:])
	w.uint(p.Number)
	w.uint(p.First)
	w.raw(p.Before[:])
	for _, id := range p.Chunks {
		w.raw(id[:])
	}
	return w.b, nil
}

// ParsePart reads the binary form of a part. It accepts exactly what MarshalBinary writes.
func ParsePart(b []byte) (*Part, error) {
	r := reader{b: b}
	if string(r.raw(len(partMagic))) != partMagic {
		return nil, errors.New("not a part: magic is absent")
	}
	p := &Part{}
	copy(p.Cast[:], r.raw(len(p.Cast)))
	p.Number, p.First = r.uint(), r.uint()
	copy(p.Before[:], r.raw(len(p.Before)))
	n := (len(b) - r.at) / len(chunk.ID{})
	if n == 0 || n > MaxPart {
		r.fail("%d chunks, want 1 to %d", n, MaxPart)
	}
	for range n {
		p.Chunks = append(p.Chunks, r.id())
	}
	if err := r.end("part"); err != nil {
		return nil, err
	}
	return p, nil
}

// ID names the part.
func (p *Part) ID() (PartID, error) {
	raw, err := p.MarshalBinary()
	if err != nil {
		return PartID{}, err
	}
	return PartID(sha256.Sum256(append([]byte(partDomain), raw...))), nil
}

// SealOutline encodes and signs o.
func SealOutline(o *Outline, key ed25519.PrivateKey) (envelope []byte, id CastID, err error) {
	raw, err := o.MarshalBinary()
	if err != nil {
		return nil, CastID{}, err
	}
	envelope, err = outlineSeal.seal(raw, key)
	return envelope, identifyCast(raw), err
}

func identifyCast(raw []byte) CastID {
	return CastID(sha256.Sum256(append([]byte(outlineDomain), raw...)))
}

// OpenOutline verifies an outline's envelope against the trusted keys and parses it.
func OpenOutline(envelope []byte, trusted []ed25519.PublicKey) (*Outline, CastID, error) {
	raw, err := outlineSeal.open(envelope, trusted)
	if err != nil {
		return nil, CastID{}, err
	}
	o, err := ParseOutline(raw)
	if err != nil {
		return nil, CastID{}, err
	}
	return o, identifyCast(raw), nil
}

// SealPart encodes and signs p.
func SealPart(p *Part, key ed25519.PrivateKey) ([]byte, error) {
	raw, err := p.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return partSeal.seal(raw, key)
}

// OpenPart verifies a part's envelope against the trusted keys and parses it.
func OpenPart(envelope []byte, trusted []ed25519.PublicKey) (*Part, error) {
	raw, err := partSeal.open(envelope, trusted)
	if err != nil {
		return nil, err
	}
	return ParsePart(raw)
}

// Chain is how far a cast has come: the parts that are known form an unbroken chain.
type Chain struct {
	Cast  CastID
	Parts uint64 // how many there are
	Next  uint64 // place of the chunk after them
	Count uint64 // chunks of the outline

	last PartID
}

// NewChain begins the chain of an outline.
func NewChain(o *Outline, id CastID) Chain { return Chain{Cast: id, Count: o.Count()} }

// Part makes the part that continues the chain with these chunks.
func (c *Chain) Part(ids []chunk.ID) *Part {
	return &Part{Cast: c.Cast, Number: c.Parts, First: c.Next, Before: c.last, Chunks: ids}
}

// Add continues the chain with p, or says why p is not its next part.
func (c *Chain) Add(p *Part) error {
	switch {
	case p.Cast != c.Cast:
		return errors.New("the part is of another cast")
	case p.Number != c.Parts || p.First != c.Next || p.Before != c.last:
		return fmt.Errorf("part %d does not follow the %d parts that are known", p.Number, c.Parts)
	case uint64(len(p.Chunks)) > c.Count-c.Next:
		return fmt.Errorf("part %d has %d chunks, the outline has room for %d", p.Number, len(p.Chunks), c.Count-c.Next)
	}
	id, err := p.ID()
	if err != nil {
		return err
	}
	c.Parts, c.Next, c.last = c.Parts+1, c.Next+uint64(len(p.Chunks)), id
	return nil
}

// Whole tells whether every chunk is known.
func (c *Chain) Whole() bool { return c.Next == c.Count }
