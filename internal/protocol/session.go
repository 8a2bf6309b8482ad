package protocol

// Limits of the calls of a session.
const (
	MaxSessionJoin = 16 << 20 // bytes of a SessionJoin
	MaxBlocks      = 64       // of one PathSessionBlocks
	NonceSize      = 16
)

// StartRule says when the session of a deploy begins. Unless Manual is set it also begins WaitSeconds after the first
// machine has joined, so that a PC that does not come does not hold up a room.
type StartRule struct {
	Machines    int   `json:"machines,omitempty"`     // when so many have joined; 0: all of the task's that are not over
	At          int64 `json:"at,omitempty"`           // at this time instead, seconds since 1970
	Manual      bool  `json:"manual,omitempty"`       // when an admin says so instead
	WaitSeconds int   `json:"wait_seconds,omitempty"` // 0: DefaultWait
}

// DefaultWait is how many seconds a session waits for machines after the first one has joined.
const DefaultWait = 300
