package local

import (
	"container/list"
	"sync"
)

// frameCache keeps the frames that were read last, so that a room of machines that ask
// for the same chunks costs one read and one verification.
type frameCache struct {
	mu    sync.Mutex
	limit int64
	bytes int64
	order list.List // of cachedFrame, newest first
	items map[location]*list.Element
}

type cachedFrame struct {
	at    location
	frame []byte
}

func newFrameCache(limit int64) *frameCache {
	return &frameCache{limit: limit, items: map[location]*list.Element{}}
}

func (c *frameCache) get(at location) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.items[at]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(cachedFrame).frame
}

func (c *frameCache) put(at location, frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.items[at] != nil || int64(len(frame)) > c.limit {
		return
	}
	c.items[at] = c.order.PushFront(cachedFrame{at, frame})
	c.bytes += int64(len(frame))
	for c.bytes > c.limit {
		last := c.order.Remove(c.order.Back()).(cachedFrame)
		delete(c.items, last.at)
		c.bytes -= int64(len(last.frame))
	}
}
