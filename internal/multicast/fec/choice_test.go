package fec

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/reedsolomon"
)

// The benchmarks of this file chose the code; docs/multicast.md has their figures:
//
//	go test -run '^$' -bench 'Codes|Overhead' ./internal/multicast/fec

// BenchmarkCodes compares the library's codes over GF(2^8) and GF(2^16): encode 16 parity symbols,
// rebuild 8 lost ones. GF(2^16) takes symbols of whole 64 bytes only: 1408 of a packet's 1432.
func BenchmarkCodes(b *testing.B) {
	for _, c := range []struct {
		name         string
		k, m, symbol int
		option       reedsolomon.Option
	}{
		{"GF8", 64, 16, 1432, reedsolomon.WithCauchyMatrix()},
		{"GF8", 128, 16, 1432, reedsolomon.WithCauchyMatrix()},
		{"GF8", 200, 16, 1432, reedsolomon.WithCauchyMatrix()},
		{"GF16", 128, 16, 1408, reedsolomon.WithLeopardGF16(true)},
		{"GF16", 1024, 128, 1408, reedsolomon.WithLeopardGF16(true)},
		{"GF16", 4096, 512, 1408, reedsolomon.WithLeopardGF16(true)},
	} {
		e, err := reedsolomon.New(c.k, c.m, options(c.option)...)
		if err != nil {
			b.Fatal(err)
		}
		r := rand.New(rand.NewPCG(1, 1))
		shards := reedsolomon.AllocAligned(c.k+c.m, c.symbol)
		for i := range c.k {
			copy(shards[i], random(r, c.symbol))
		}
		lost := c.m / 2
		b.Run(fmt.Sprintf("%s/k=%d/encode %d", c.name, c.k, c.m), func(b *testing.B) {
			b.SetBytes(int64(c.k * c.symbol))
			for b.Loop() {
				if err := e.Encode(shards); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%s/k=%d/rebuild %d", c.name, c.k, lost), func(b *testing.B) {
			b.SetBytes(int64(c.k * c.symbol))
			for b.Loop() {
				x := append([][]byte(nil), shards[:c.k+lost]...)
				x = append(x, make([][]byte, c.m-lost)...)
				for _, i := range r.Perm(c.k)[:lost] {
					x[i] = nil
				}
				if err := e.ReconstructData(x); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// lossModel tells for one receiver whether the next packet is lost.
type lossModel func() bool

func independent(r *rand.Rand, p float64) lossModel {
	return func() bool { return r.Float64() < p }
}

// bursts loses runs of packets of the given mean length (Gilbert's model), p of all.
func bursts(r *rand.Rand, p, mean float64) lossModel {
	bad := false
	start := p / (1 - p) / mean
	return func() bool {
		if bad {
			bad = r.Float64() >= 1/mean
		} else {
			bad = r.Float64() < start
		}
		return bad
	}
}

// overhead sends blocks of k symbols, depth of them in turn, to receivers, repairs them in rounds
// of the maximum that anyone lacks, and returns packets sent per source symbol.
func overhead(k, depth, blocks int, losses []lossModel) float64 {
	sent := 0
	for done := 0; done < blocks; done += depth {
		lack := make([][]int, len(losses)) // by receiver and block
		for i, lost := range losses {
			lack[i] = make([]int, depth)
			for n := range k * depth {
				if lost() {
					lack[i][n%depth]++
				}
			}
		}
		sent += k * depth
		for {
			need, most := make([]int, depth), 0
			for _, l := range lack {
				for b, n := range l {
					need[b] = max(need[b], n)
					most = max(most, need[b])
				}
			}
			if most == 0 {
				break
			}
			for n := range most { // one symbol of each block in turn
				for b := range need {
					if n >= need[b] {
						continue
					}
					sent++
					for i, lost := range losses {
						if !lost() && lack[i][b] > 0 {
							lack[i][b]--
						}
					}
				}
			}
		}
	}
	return float64(sent) / float64(blocks*k)
}

// BenchmarkOverhead prints, as "wire", what repair costs: bytes on the wire with all headers over
// payload, by block size, interleave and kind of loss.
func BenchmarkOverhead(b *testing.B) {
	const frame = 42 // Ethernet, IP and UDP headers
	models := []struct {
		name string
		n    int
		make func(*rand.Rand) lossModel
	}{
		{"16 receivers, 1 %", 16, func(r *rand.Rand) lossModel { return independent(r, 0.01) }},
		{"16 receivers, 5 %", 16, func(r *rand.Rand) lossModel { return independent(r, 0.05) }},
		{"100 receivers, 1 %", 100, func(r *rand.Rand) lossModel { return independent(r, 0.01) }},
		{"16 receivers, 1 % in bursts of 8", 16, func(r *rand.Rand) lossModel { return bursts(r, 0.01, 8) }},
		{"16 receivers, 1 % in bursts of 64", 16, func(r *rand.Rand) lossModel { return bursts(r, 0.01, 64) }},
	}
	for _, c := range []struct{ k, depth, symbol int }{
		{64, 1, 1432}, {64, 8, 1432}, {128, 1, 1432}, {128, 4, 1432}, {128, 8, 1432}, {128, 16, 1432},
		{200, 1, 1432}, {200, 8, 1432}, {1024, 1, 1408}, {4096, 1, 1408},
	} {
		for _, m := range models {
			b.Run(fmt.Sprintf("k=%d/depth=%d/%s", c.k, c.depth, m.name), func(b *testing.B) {
				sum := 0.0
				for i := range b.N {
					losses := make([]lossModel, m.n)
					for j := range losses {
						losses[j] = m.make(rand.New(rand.NewPCG(uint64(i), uint64(j))))
					}
					sum += overhead(c.k, c.depth, max(c.depth, 65536/c.k/c.depth*c.depth), losses)
				}
				packet := float64(frame + 24 + 16 + c.symbol)
				b.ReportMetric(sum/float64(b.N)*packet/float64(c.symbol), "wire")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
