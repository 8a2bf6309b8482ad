package ntfs

import (
	"encoding/binary"
	"errors"
	"fmt"

	"clonecast/internal/filesystem"
)

// volumeInfo is what $Volume says.
type volumeInfo struct {
	label string
	flags uint16
}

// Flags of $VOLUME_INFORMATION after which the map is not to be trusted.
const (
	volumeDirty           = 0x0001
	volumeChkdskUnderWay  = 0x4000
	volumeInfoFlagsOffset = 10
)

const (
	remedyChkdsk   = "run chkdsk /f on it in Windows, then shut down with: shutdown /s /f /t 0"
	remedyShutdown = "start Windows and shut it down fully with: shutdown /s /f /t 0 " +
		"(to turn fast start-up and hibernation off for good: powercfg /h off)"
)

func (v *volume) readVolumeInfo() (volumeInfo, error) {
	r, err := v.readRecord(recordVolume)
	if err != nil {
		return volumeInfo{}, err
	}
	var out volumeInfo
	name, err := r.find(typeVolumeName, "")
	if err != nil && !errors.Is(err, errNoAttribute) {
		return volumeInfo{}, err
	}
	out.label = decodeName(name.value)
	info, err := r.find(typeVolumeInfo, "")
	if err != nil {
		return volumeInfo{}, required(r, "$VOLUME_INFORMATION", err)
	}
	if len(info.value) < volumeInfoFlagsOffset+2 {
		return volumeInfo{}, r.corrupt("$VOLUME_INFORMATION of %d bytes", len(info.value))
	}
	out.flags = binary.LittleEndian.Uint16(info.value[volumeInfoFlagsOffset:])
	return out, nil
}

// examine tells why the allocation map must not be used, or nil. The gravest
// reason wins: a hibernated Windows must not be captured at all.
func (v *volume) examine(info volumeInfo) (*filesystem.Doubt, error) {
	log, err := v.examineLog()
	if err != nil {
		return nil, fmt.Errorf("read $LogFile: %w", err)
	}
	hibernated, err := v.examineHibernation()
	if err != nil {
		return nil, fmt.Errorf("look for hiberfil.sys: %w", err)
	}
	var dirty *filesystem.Doubt
	switch {
	case info.flags&volumeDirty != 0:
		dirty = &filesystem.Doubt{Reason: "the volume is marked dirty", Remedy: remedyChkdsk}
	case info.flags&volumeChkdskUnderWay != 0:
		dirty = &filesystem.Doubt{Reason: "chkdsk has not finished", Remedy: remedyChkdsk}
	}
	var out *filesystem.Doubt
	for _, d := range []*filesystem.Doubt{hibernated, log, dirty} {
		if d != nil && (out == nil || d.Refuse && !out.Refuse) {
			out = d
		}
	}
	return out, nil
}
