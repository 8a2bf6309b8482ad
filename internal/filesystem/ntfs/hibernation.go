package ntfs

import (
	"errors"

	"clonecast/internal/filesystem"
)

// hibernationHeader is how much of hiberfil.sys a suspended Windows fills first.
const hibernationHeader = 4096

// examineHibernation looks at hiberfil.sys, in which Windows keeps the session
// of fast start-up, too.
func (v *volume) examineHibernation() (*filesystem.Doubt, error) {
	root, err := v.readRecord(recordRoot)
	if err != nil {
		return nil, err
	}
	file, ok, err := v.lookup(root, "hiberfil.sys")
	if err != nil || !ok {
		return nil, err
	}
	r, err := v.readRecord(file.number())
	if err != nil {
		return nil, err
	}
	if r.SequenceNumber != file.sequence() {
		return nil, r.corrupt("sequence number %d, the root directory says %d", r.SequenceNumber, file.sequence())
	}
	s, err := v.open(r, typeData, "")
	if errors.Is(err, errNoAttribute) {
		return judgeHibernation(nil), nil
	}
	if err != nil {
		return nil, err
	}
	head := make([]byte, min(s.size, hibernationHeader))
	if err := v.readStream(&s, head, 0); err != nil {
		return nil, err
	}
	return judgeHibernation(head), nil
}

// judgeHibernation examines the first bytes of hiberfil.sys.
func judgeHibernation(head []byte) *filesystem.Doubt {
	hibernated := &filesystem.Doubt{
		Reason: "Windows is hibernated or was shut down with fast start-up (hiberfil.sys holds a session)",
		Remedy: remedyShutdown,
		Refuse: true,
	}
	if len(head) < hibernationHeader {
		return hibernated // what Windows leaves on data volumes of a suspended system
	}
	switch string(head[:4]) {
	case "hibr", "HIBR", "rstr", "RSTR": // suspended; cut off while resuming
		return hibernated
	case "wake", "WAKE", "\x00\x00\x00\x00":
		return nil
	}
	return &filesystem.Doubt{Reason: "hiberfil.sys begins with unknown bytes", Remedy: remedyShutdown}
}
