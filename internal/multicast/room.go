package multicast

import (
	"bytes"
	"math"
	"os"
	"runtime/debug"
	"strconv"

	"clonecast/internal/multicast/blocks"
)

// room is how much memory receiving may take.
type room struct {
	blocks  int // in work at once
	partial int // bytes of frames of which some blocks have come; beyond, blocks that begin another one must wait
	buffer  int // bytes of the group's socket
}

// The room of a receiver with much memory, and the least that a session can be received with.
var (
	fullRoom  = room{blocks: 384, partial: 256 << 20, buffer: 16 << 20} // 67 MiB of blocks
	leastRoom = room{blocks: 64, partial: 8 << 20, buffer: 1 << 20}
)

// roomIn shares out a quarter of the memory that is available. A block in work may cost twice its size, for its parity,
// and what waits at a socket twice its length.
func roomIn(available int64) room {
	share := available / 4
	fit := func(n int64, least, full int) int { return int(min(max(n, int64(least)), int64(full))) }
	return room{
		blocks:  fit(share/4/blocks.Size, leastRoom.blocks, fullRoom.blocks),
		partial: fit(share/2, leastRoom.partial, fullRoom.partial),
		buffer:  fit(share/8, leastRoom.buffer, fullRoom.buffer),
	}
}

// availableMemory is how many bytes this process can still have without doing harm.
func availableMemory() int64 {
	limit := debug.SetMemoryLimit(-1) // what the program has set, or the largest number
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return limit
	}
	return min(limit, parseAvailable(text))
}

// parseAvailable reads MemAvailable (proc_meminfo(5)); the largest number if it is not there.
func parseAvailable(meminfo []byte) int64 {
	for line := range bytes.Lines(meminfo) {
		fields := bytes.Fields(line)
		if len(fields) == 3 && string(fields[0]) == "MemAvailable:" {
			if kib, err := strconv.ParseInt(string(fields[1]), 10, 53); err == nil && kib >= 0 {
				return kib << 10
			}
		}
	}
	return math.MaxInt64
}
