package fec

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// allParity makes every parity symbol of a block.
func allParity(t testing.TB, c *Code, source []byte) map[int][]byte {
	t.Helper()
	out := map[int][]byte{}
	for i := range c.batches {
		batch, err := c.Parity(source, i)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range batch {
			out[K+len(out)] = b
		}
	}
	if len(out) != Total-K {
		t.Fatalf("%d parity symbols, want %d", len(out), Total-K)
	}
	return out
}

// TestAnySymbolsRebuild loses random symbols of full and short blocks; as long as as many parity
// symbols are left the block comes back.
func TestAnySymbolsRebuild(t *testing.T) {
	const size = 24
	c, err := New(size)
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		n := 1 + r.IntN(K)
		if seed%3 == 0 {
			n = K
		}
		want := random(r, n*size)
		parity := allParity(t, c, want)
		lost := r.IntN(min(n, Total-K) + 1)
		got, have := bytes.Clone(want), make([]bool, n)
		for i := range have {
			have[i] = true
		}
		for _, i := range r.Perm(n)[:lost] {
			have[i] = false
			copy(got[i*size:(i+1)*size], random(r, size))
		}
		some := map[int][]byte{}
		for _, i := range r.Perm(Total - K)[:lost] {
			some[K+i] = parity[K+i]
		}
		if err := c.Rebuild(got, have, some); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("seed %d: %d of %d symbols lost: Rebuild = %v, equal %v", seed, lost, n, err, bytes.Equal(got, want))
		}
		if lost > 0 {
			for i := range some {
				delete(some, i)
				break
			}
			if err := c.Rebuild(got, have, some); !errors.Is(err, ErrTooFew) {
				t.Fatalf("seed %d: one symbol short: Rebuild = %v, want ErrTooFew", seed, err)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	c, err := New(8)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(0); err == nil {
		t.Error("symbols of 0 bytes are taken")
	}
	for _, n := range []int{0, 7, 8*K + 8} {
		if _, err := c.Parity(make([]byte, n), 0); err == nil {
			t.Errorf("a block of %d bytes is taken", n)
		}
	}
	if _, err := c.Parity(make([]byte, 8), len(c.batches)); err == nil {
		t.Error("a batch past the last one is made")
	}
	for _, parity := range []map[int][]byte{{K - 1: make([]byte, 8)}, {Total: make([]byte, 8)}, {K: make([]byte, 7)}} {
		if err := c.Rebuild(make([]byte, 8), []bool{false}, parity); err == nil {
			t.Errorf("parity %v is taken", parity)
		}
	}
}

func BenchmarkParity(b *testing.B) {
	const size = 1432
	c, err := New(size)
	if err != nil {
		b.Fatal(err)
	}
	source := random(rand.New(rand.NewPCG(1, 1)), K*size)
	b.SetBytes(int64(len(source)))
	for b.Loop() {
		if _, err := c.Parity(source, 0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRebuild(b *testing.B) {
	const size = 1432
	c, err := New(size)
	if err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	source := random(r, K*size)
	parity := allParity(b, c, source)
	for _, lost := range []int{1, 4, 8, 16} {
		b.Run(fmt.Sprint(lost, " lost"), func(b *testing.B) {
			some := map[int][]byte{}
			for i := range lost {
				some[K+i] = parity[K+i]
			}
			have := make([]bool, K)
			b.SetBytes(int64(len(source)))
			for b.Loop() {
				for i := range have {
					have[i] = true
				}
				for _, i := range r.Perm(K)[:lost] {
					have[i] = false
				}
				if err := c.Rebuild(source, have, some); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
