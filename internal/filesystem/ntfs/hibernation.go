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
	r, ok, err := v.fileInRoot("hiberfil.sys")
	if err != nil || !ok {
		return nil, err
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

// fileInRoot gives the record of the file of that name in the root directory; ok is
// false without one.
func (v *volume) fileInRoot(name string) (r record, ok bool, err error) {
	root, err := v.readRecord(recordRoot)
	if err != nil {
		return record{}, false, err
	}
	file, ok, err := v.lookup(root, name)
	if err != nil || !ok {
		return record{}, false, err
	}
	if r, err = v.readRecord(file.number()); err != nil {
		return record{}, false, err
	}
	if r.SequenceNumber != file.sequence() {
		return record{}, false, r.corrupt("sequence number %d, the root directory says %d", r.SequenceNumber, file.sequence())
	}
	return r, true, nil
}

// judgeHibernation examines the first bytes of hiberfil.sys.
func judgeHibernation(head []byte) *filesystem.Doubt {
	hibernated := &filesystem.Doubt{
		Reason: "Windows is hibernated or was shut down with fast start-up (hiberfil.sys holds a session)",
		Remedy: remedyShutdown,
		Refuse: true, Hibernated: true,
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
