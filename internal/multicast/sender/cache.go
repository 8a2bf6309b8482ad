package sender

import (
	"clonecast/internal/multicast/blocks"
	"clonecast/internal/multicast/fec"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// cache keeps the blocks used last, with the parity made of them.
type cache struct {
	limit  int
	blocks *simplelru.LRU[int, *cached]
}

// cached is a block in memory.
type cached struct {
	data   []byte // whole symbols
	parity [][][]byte
}

func (c *cache) init(limit int) {
	c.limit = limit
	c.blocks, _ = simplelru.NewLRU[int, *cached](limit, nil) // the only error is a limit below 1
}

func (c *cache) get(b int) *cached {
	block, _ := c.blocks.Get(b)
	return block
}

// room gives memory for a block, that of the one used longest ago if need be.
func (c *cache) room() *cached {
	if c.blocks.Len() < c.limit {
		return &cached{data: make([]byte, blocks.Size)}
	}
	_, old, _ := c.blocks.RemoveOldest()
	return &cached{data: old.data[:blocks.Size]}
}

func (c *cache) put(b int, block *cached) { c.blocks.Add(b, block) }

// paritySymbol gives a parity symbol of the block and makes it if need be.
func (c *cached) paritySymbol(code *fec.Code, symbol int) ([]byte, error) {
	batch, at := (symbol-fec.K)/fec.Batch, (symbol-fec.K)%fec.Batch
	for len(c.parity) <= batch {
		c.parity = append(c.parity, nil)
	}
	if c.parity[batch] == nil {
		made, err := code.Parity(c.data, batch)
		if err != nil {
			return nil, err
		}
		c.parity[batch] = made
	}
	return c.parity[batch][at], nil
}

// logSize is how many repair symbols are remembered: all that can be on their way.
const logSize = 1 << 16

// repairLog remembers when repair symbols of blocks were sent.
type repairLog struct {
	byBlock map[int][]uint64 // counters in ascending order
	ring    []int            // the blocks of the last repair symbols
	at      int
}

func (l *repairLog) init() {
	l.byBlock = map[int][]uint64{}
	l.ring = make([]int, 0, logSize)
}

func (l *repairLog) add(b int, counter uint64) {
	if len(l.ring) < logSize {
		l.ring = append(l.ring, b)
	} else {
		l.forget(l.ring[l.at])
		l.ring[l.at] = b
	}
	l.at = (l.at + 1) % logSize
	l.byBlock[b] = append(l.byBlock[b], counter)
}

// forget drops the oldest entry of a block.
func (l *repairLog) forget(b int) {
	if rest := l.byBlock[b][1:]; len(rest) > 0 {
		l.byBlock[b] = rest
	} else {
		delete(l.byBlock, b)
	}
}

// after counts the repair symbols of b sent after a counter.
func (l *repairLog) after(b int, counter uint64) int {
	sent := l.byBlock[b]
	n := 0
	for n < len(sent) && sent[len(sent)-1-n] > counter {
		n++
	}
	return n
}
