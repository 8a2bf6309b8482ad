// Package fec makes and undoes the parity of multicast blocks.
//
// A block has K source symbols of equal length. Its code is systematic Reed-Solomon over
// GF(2^8) with a Cauchy matrix: symbols 0..K-1 are the block's own bytes, symbols K..Total-1
// are parity, and any K different symbols give the block back. A short block is coded as if
// zero symbols followed it; those are never sent.
//
// Parity is made on demand: rows in batches, the first ones first, because most blocks need
// only a few. docs/multicast.md has the measurements that chose the code and its size.
package fec

import (
	"errors"
	"fmt"

	"github.com/klauspost/reedsolomon"
)

// K is the number of source symbols of a full block, Total that of all symbols.
const (
	K     = 128
	Total = 255
)

// Batch is how many parity symbols are made at once.
const Batch = 8

// ErrTooFew reports a block with fewer than K symbols.
var ErrTooFew = errors.New("too few symbols to rebuild the block")

// Code makes parity and rebuilds blocks. It is not safe for concurrent use.
type Code struct {
	size    int // bytes of a symbol
	rows    [][]byte
	batches [(Total - K + Batch - 1) / Batch]reedsolomon.Encoder
	decoder reedsolomon.Encoder
	zero    []byte
	shards  [][]byte
}

// New makes a code for symbols of size bytes.
func New(size int) (*Code, error) {
	if size < 1 {
		return nil, fmt.Errorf("symbols of %d bytes", size)
	}
	d, err := reedsolomon.New(K, Total-K, options(reedsolomon.WithCauchyMatrix())...)
	if err != nil {
		return nil, fmt.Errorf("make the code: %w", err)
	}
	rows, err := matrix(d)
	if err != nil {
		return nil, fmt.Errorf("make the code: %w", err)
	}
	return &Code{size: size, rows: rows, decoder: d, zero: make([]byte, size), shards: make([][]byte, Total)}, nil
}

// options keep the library within its caller's goroutine, and from keeping a matrix for
// every pattern of loss that ever was.
func options(more reedsolomon.Option) []reedsolomon.Option {
	return []reedsolomon.Option{reedsolomon.WithMaxGoroutines(1), reedsolomon.WithInversionCache(false), more}
}

// matrix reads the parity rows out of an encoder by encoding the unit vectors.
func matrix(e reedsolomon.Encoder) ([][]byte, error) {
	shards := make([][]byte, Total)
	for i := range shards {
		shards[i] = make([]byte, K)
		if i < K {
			shards[i][i] = 1
		}
	}
	if err := e.Encode(shards); err != nil {
		return nil, err
	}
	return shards[K:], nil
}

// Parity makes the parity symbols of batch i (symbols K+i*Batch and following, fewer in the
// last batch) of a block. source holds whole symbols, at most K.
func (c *Code) Parity(source []byte, i int) ([][]byte, error) {
	if i < 0 || i >= len(c.batches) {
		return nil, fmt.Errorf("no parity batch %d", i)
	}
	if err := c.check(source); err != nil {
		return nil, err
	}
	rows := c.rows[i*Batch : min((i+1)*Batch, len(c.rows))]
	if c.batches[i] == nil {
		e, err := reedsolomon.New(K, len(rows), options(reedsolomon.WithCustomMatrix(rows))...)
		if err != nil {
			return nil, fmt.Errorf("make parity batch %d: %w", i, err)
		}
		c.batches[i] = e
	}
	shards := c.shards[:K+len(rows)]
	c.sources(shards, source)
	parity := make([]byte, len(rows)*c.size)
	for r := range rows {
		shards[K+r] = parity[r*c.size : (r+1)*c.size : (r+1)*c.size]
	}
	if err := c.batches[i].Encode(shards); err != nil {
		return nil, fmt.Errorf("make parity batch %d: %w", i, err)
	}
	return append([][]byte(nil), shards[K:]...), nil
}

func (c *Code) check(source []byte) error {
	if len(source) == 0 || len(source)%c.size != 0 || len(source) > K*c.size {
		return fmt.Errorf("a block of %d bytes is not 1 to %d symbols of %d", len(source), K, c.size)
	}
	return nil
}

// sources points the first K shards to the block's symbols and the zeros behind them.
func (c *Code) sources(shards [][]byte, source []byte) {
	for s := range K {
		if at := s * c.size; at < len(source) {
			shards[s] = source[at : at+c.size : at+c.size]
		} else {
			shards[s] = c.zero
		}
	}
}

// Rebuild fills in the source symbols of a block that have is false for. parity maps
// symbol numbers (K and above) to what was received.
func (c *Code) Rebuild(source []byte, have []bool, parity map[int][]byte) error {
	if err := c.check(source); err != nil {
		return err
	}
	n := len(source) / c.size
	if len(have) < n {
		return fmt.Errorf("%d flags for %d symbols", len(have), n)
	}
	lacking := 0
	for _, h := range have[:n] {
		if !h {
			lacking++
		}
	}
	if lacking == 0 {
		return nil
	}
	if lacking > len(parity) {
		return ErrTooFew
	}
	clear(c.shards)
	c.sources(c.shards, source)
	for i, h := range have[:n] {
		if !h {
			c.shards[i] = c.shards[i][:0] // rebuilt in place: it has the room
		}
	}
	for i, b := range parity {
		if i < K || i >= Total || len(b) != c.size {
			return fmt.Errorf("parity symbol %d of %d bytes", i, len(b))
		}
		c.shards[i] = b
	}
	if err := c.decoder.ReconstructData(c.shards); err != nil {
		return fmt.Errorf("rebuild the block: %w", err)
	}
	return nil
}
