package bootparam

// WholeFile is the last file of the archive that is the appliance's root. The kernel goes on when an archive does
// not fit into memory, with what came before: where this file is missing, so is a part of the appliance.
const WholeFile = "whole.json"

// SizeFile is one of the first: how large the archive is. It is there also when WholeFile is not.
const SizeFile = "a-size.json"

// Archive says how large the appliance is.
type Archive struct {
	Unpacked int64 `json:"unpacked_bytes"`
}

// MemoryNeeded is how much memory a PC needs for an archive of this many bytes, as the kernel counts it: the
// kernel lets it have half of the memory, and a little is for names and directories.
func (a Archive) MemoryNeeded() int64 { return 2*a.Unpacked + a.Unpacked/8 }
