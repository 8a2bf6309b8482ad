package packet

import (
	"encoding/binary"
	"fmt"
	"math"
)

// reportHead is the fixed part of a report.
type reportHead struct {
	Highest  uint64 `offset:"0x0"`
	Received uint64 `offset:"0x8"`
	Poll     uint32 `offset:"0x10"`
	Finished uint32 `offset:"0x14"`
	Fetched  uint32 `offset:"0x18"`
	Backlog  uint8  `offset:"0x1c"`
	State    State  `offset:"0x1d"`
	Reason   Reason `offset:"0x1e"`
	Suspect  uint8  `offset:"0x1f"`
	Runs     uint16 `offset:"0x20"`
	Paths    Paths  `offset:"0x22"`
	_        uint8  `offset:"0x23"`
}

const (
	reportHeadSize = 36
	runsOffset     = 0x20
)

// Report is what a receiver tells the sender. Behind its fixed part stand runs, each three
// varints: blocks skipped since the last run, blocks in the run, symbols that each of
// them lacks (0: all are there, but the digest is not).
type Report struct {
	Highest  uint64 // highest group counter seen: what the report knows of
	Received uint64 // group packets received since the receiver joined
	Poll     uint32 // the last poll seen
	Finished uint32 // blocks verified and written
	Fetched  uint32 // of these, blocks fetched by unicast
	Backlog  uint8  // percent of the receiver's memory that is in use
	State    State  // receiving, unicast, done or failed
	Reason   Reason // why it is not receiving
	Suspect  uint8  // blocks whose bytes did not have the signed digest
	Paths    Paths  // by which ways packets arrive
	Runs     []Run
}

// Run is a run of blocks that lack the same number of symbols.
type Run struct {
	Start, Count uint32
	Lack         uint16
}

// Append appends the body; runs that do not fit into a packet are left for the next report.
// Runs must be in ascending order and must not overlap.
func (r Report) Append(b []byte) []byte {
	start := len(b)
	head := reportHead{
		Highest: r.Highest, Received: r.Received, Poll: r.Poll, Finished: r.Finished, Fetched: r.Fetched,
		Backlog: r.Backlog, State: r.State, Reason: r.Reason, Suspect: r.Suspect, Paths: r.Paths,
	}
	b, _ = binary.Append(b, binary.LittleEndian, head)
	end, n := uint32(0), 0
	for _, run := range r.Runs {
		next := binary.AppendUvarint(b, uint64(run.Start-end))
		next = binary.AppendUvarint(next, uint64(run.Count))
		next = binary.AppendUvarint(next, uint64(run.Lack))
		if len(next)-start > MaxBody {
			break
		}
		b, end, n = next, run.Start+run.Count, n+1
	}
	binary.LittleEndian.PutUint16(b[start+runsOffset:], uint16(n))
	return b
}

// ParseReport reads a report. runs is reused for the result's Runs.
func ParseReport(b []byte, runs []Run) (Report, error) {
	var head reportHead
	if len(b) < reportHeadSize {
		return Report{}, fmt.Errorf("%w: report of %d bytes", ErrMalformed, len(b))
	}
	if _, err := binary.Decode(b, binary.LittleEndian, &head); err != nil {
		return Report{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if head.State < StateReceiving || head.State > StateFailed || head.Backlog > 100 {
		return Report{}, fmt.Errorf("%w: report of a receiver in %v, backlog %d %%", ErrMalformed, head.State, head.Backlog)
	}
	runs, err := parseRuns(b[reportHeadSize:], int(head.Runs), runs[:0])
	if err != nil {
		return Report{}, err
	}
	return Report{
		Highest: head.Highest, Received: head.Received, Poll: head.Poll, Finished: head.Finished, Fetched: head.Fetched,
		Backlog: head.Backlog, State: head.State, Reason: head.Reason, Suspect: head.Suspect, Paths: head.Paths, Runs: runs,
	}, nil
}

func parseRuns(b []byte, n int, runs []Run) ([]Run, error) {
	end := uint64(0)
	for i := range n {
		var v [3]uint64
		for j := range v {
			size := 0
			if v[j], size = binary.Uvarint(b); size <= 0 {
				return nil, fmt.Errorf("%w: run %d of %d is cut", ErrMalformed, i, n)
			}
			b = b[size:]
		}
		skip, count, lack := v[0], v[1], v[2]
		if skip > math.MaxUint32 || count < 1 || count > math.MaxUint32 || end+skip+count > math.MaxUint32 ||
			lack > math.MaxUint16 {
			return nil, fmt.Errorf("%w: run %d skips %d, holds %d blocks that lack %d", ErrMalformed, i, skip, count, lack)
		}
		runs = append(runs, Run{uint32(end + skip), uint32(count), uint16(lack)})
		end += skip + count
	}
	return runs, nil
}
