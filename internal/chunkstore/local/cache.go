package local

import (
	"math"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// frameCache keeps the frames that were read last, so that a room of machines that ask
// for the same chunks costs one read and one verification.
type frameCache struct {
	mu           sync.Mutex
	limit, bytes int64
	frames       *simplelru.LRU[location, []byte]
}

func newFrameCache(limit int64) *frameCache {
	c := &frameCache{limit: limit}
	c.frames, _ = simplelru.NewLRU(math.MaxInt, func(_ location, frame []byte) { c.bytes -= int64(len(frame)) })
	return c // the only error is a size below 1
}

func (c *frameCache) get(at location) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	frame, _ := c.frames.Get(at)
	return frame
}

func (c *frameCache) put(at location, frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frames.Contains(at) || int64(len(frame)) > c.limit {
		return
	}
	c.frames.Add(at, frame)
	for c.bytes += int64(len(frame)); c.bytes > c.limit; {
		c.frames.RemoveOldest()
	}
}
