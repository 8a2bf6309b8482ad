package protocol

// DiskState is what an operation has made of a disk that it may write.
type DiskState struct {
	Disk  int    `json:"disk"` // of the operation, from 0
	Name  string `json:"name"` // as people know it: size, model, serial number
	State string `json:"state"`
}

// States of a disk that an operation writes. A machine tells the server of DiskIncomplete before it writes the
// first byte, so that also a power cut leaves a note.
const (
	DiskUntouched  = "untouched"  // nothing was written
	DiskIncomplete = "incomplete" // something was, and not all: it does not start
	DiskWhole      = "whole"
)
