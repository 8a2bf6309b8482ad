package ntfs

import (
	"encoding/binary"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// restartPage is ntfs-3g's RESTART_PAGE_HEADER.
type restartPage struct {
	Magic             [4]byte `offset:"0x00"` // "RSTR", or "CHKD" after chkdsk
	FixupOffset       uint16  `offset:"0x04"`
	FixupCount        uint16  `offset:"0x06"`
	ChkdskLSN         uint64  `offset:"0x08"`
	SystemPageSize    uint32  `offset:"0x10"`
	LogPageSize       uint32  `offset:"0x14"`
	RestartAreaOffset uint16  `offset:"0x18"`
	MinorVersion      uint16  `offset:"0x1a"`
	MajorVersion      uint16  `offset:"0x1c"`
}

// restartArea is ntfs-3g's RESTART_AREA.
type restartArea struct {
	CurrentLSN      uint64 `offset:"0x00"`
	LogClients      uint16 `offset:"0x08"`
	ClientFreeList  uint16 `offset:"0x0a"`
	ClientInUseList uint16 `offset:"0x0c"`
	Flags           uint16 `offset:"0x0e"`
}

const (
	noClient             = 0xFFFF // restartArea.ClientInUseList
	restartVolumeIsClean = 0x0002 // restartArea.Flags

	minSystemPage = 4 * quantity.KiB
	maxSystemPage = 64 * quantity.KiB
)

// restart is what matters of one restart page.
type restart struct {
	lsn   uint64
	clean bool
	major uint16
}

// examineLog tells from the two restart pages whether $LogFile holds changes
// that are not in place yet. A log of 0xFF bytes was emptied: ntfs-3g, Linux and
// mkntfs leave it so.
func (v *volume) examineLog() (*filesystem.Doubt, error) {
	_, s, err := v.openLog()
	if err != nil {
		return nil, err
	}
	head := make([]byte, min(s.size, 2*maxSystemPage))
	if err := v.readStream(&s, head, 0); err != nil {
		return nil, err
	}
	return judgeLog(head), nil
}

// openLog gives $LogFile's record and its data: at least two pages of the smallest size.
func (v *volume) openLog() (record, stream, error) {
	r, err := v.readRecord(recordLogFile)
	if err != nil {
		return record{}, stream{}, err
	}
	s, err := v.open(r, typeData, "")
	if err != nil {
		return record{}, stream{}, required(r, "$DATA", err)
	}
	if s.size < 2*minSystemPage {
		return record{}, stream{}, r.corrupt("$LogFile of %d bytes", int64(s.size))
	}
	return r, s, nil
}

// judgeLog examines the beginning of $LogFile, at least two pages of the
// smallest size.
func judgeLog(head []byte) *filesystem.Doubt {
	if emptied(head) {
		return nil
	}
	unclean := &filesystem.Doubt{
		Reason: "the journal ($LogFile) holds changes that are not in place",
		Remedy: remedyChkdsk,
	}
	first, pageSize, ok := parseRestart(head)
	if !ok || 2*pageSize > len(head) {
		return unclean
	}
	latest := first
	if second := head[pageSize : 2*pageSize]; !emptied(second) {
		s, _, ok := parseRestart(second)
		if !ok {
			return unclean // cut off while the page was written
		}
		if s.lsn > latest.lsn {
			latest = s
		}
	}
	switch {
	case latest.major >= 2:
		return &filesystem.Doubt{
			Reason: "Windows kept changes in its cache (fast start-up, or it was cut off)",
			Remedy: remedyShutdown,
			Refuse: true, Hibernated: true,
		}
	case !latest.clean:
		return unclean
	}
	return nil
}

// parseRestart decodes the restart page at the beginning of b, whose content it
// leaves alone.
func parseRestart(b []byte) (r restart, pageSize int, ok bool) {
	var p restartPage
	if _, err := binary.Decode(b, binary.LittleEndian, &p); err != nil {
		return restart{}, 0, false
	}
	magic, size := string(p.Magic[:]), quantity.Bytes(p.SystemPageSize)
	if magic != "RSTR" && magic != "CHKD" || size < minSystemPage || size > maxSystemPage ||
		size&(size-1) != 0 || int(size) > len(b) {
		return restart{}, 0, false
	}
	page := append([]byte(nil), b[:size]...)
	if undoFixups(page, int(p.FixupOffset), int(p.FixupCount)) != "" || int(p.RestartAreaOffset) > len(page) {
		return restart{}, 0, false
	}
	var area restartArea
	if _, err := binary.Decode(page[p.RestartAreaOffset:], binary.LittleEndian, &area); err != nil {
		return restart{}, 0, false
	}
	r = restart{
		lsn:   area.CurrentLSN,
		clean: area.ClientInUseList == noClient || area.Flags&restartVolumeIsClean != 0,
		major: p.MajorVersion,
	}
	if magic == "CHKD" {
		r.lsn = p.ChkdskLSN
	}
	return r, int(size), true
}

func emptied(b []byte) bool {
	for _, c := range b {
		if c != logFill {
			return false
		}
	}
	return true
}
