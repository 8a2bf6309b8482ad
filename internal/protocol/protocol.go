// Package protocol holds what the appliance and the server say to each other.
//
// A boot is five calls over HTTPS (TLS 1.3, server CA pinned in the appliance), all
// POST with a JSON body of at most MaxBody bytes unless said otherwise:
//
//	register   who I am and what I have; asked again while the machine waits for adoption
//	logon      begins the boot's session; gives the token that all later calls carry
//	next       the next operation, or none (then the machine goes to its local disk)
//	status     progress and result of the operation, at most once a second
//	logoff     ends the session
//
// While an operation runs, the data calls move chunks (binary bodies). Unknown JSON
// fields are ignored so that old appliances work with new servers; Version changes
// only when old ones cannot.
package protocol

import (
	"encoding/json"
	"net/netip"

	"clonecast/internal/diskrule"
	"clonecast/internal/quantity"
)

// Version is the protocol's version, sent in every register call.
const Version = 1

// MaxBody bounds every JSON body.
const MaxBody = 4 << 20

// Paths of the calls. {version} is 64 hex digits.
const (
	PathRegister = "/machine/v1/register"
	PathLogon    = "/machine/v1/logon"
	PathNext     = "/machine/v1/next"
	PathStatus   = "/machine/v1/status"
	PathLogoff   = "/machine/v1/logoff"

	// PathMissing takes chunk ids (32 bytes each, at most MaxIDs) and answers one byte
	// each: 1 missing, 0 present and pinned.
	PathMissing = "/machine/v1/capture/missing"
	// PathFrame takes one chunk frame and answers {"stored": bytes}.
	PathFrame = "/machine/v1/capture/frame"
	// PathPublish takes a manifest's binary form and answers PublishResponse; missing
	// chunks are a Problem with code CodeIncomplete.
	PathPublish = "/machine/v1/capture/publish"
	// PathManifest (GET) gives the signed envelope of the version that the machine's
	// operation names.
	PathManifest = "/machine/v1/deploy/manifest"
	// PathChunks takes chunk ids (at most MaxIDs) and answers frames one after the other.
	PathChunks = "/machine/v1/deploy/chunks"
	// PathParent (GET) gives the signed envelope of the version before that one, not_found
	// when there is none.
	PathParent = "/machine/v1/deploy/parent"
	// PathDeltas takes pairs of chunk ids (at most MaxIDs/2): a chunk, and one of the parent
	// version that the machine has, or zero. It answers differences one after the other.
	PathDeltas = "/machine/v1/deploy/deltas"
	// PathTable takes the old partition table of a disk (saved.Copy, at most MaxTable bytes)
	// before a deploy overwrites it. The number of the disk in the operation follows, from 0.
	// What came first for a disk stays: a second try may see the table half overwritten.
	PathTable = "/machine/v1/deploy/table/"

	// PathSession (GET) gives the Session of the machine's operation; not_found: there is none (any
	// more), the frames come by PathChunks. With ?known=SESSION the table of a session that the machine knows is left out.
	PathSession = "/machine/v1/deploy/session"
	// PathSessionJoin takes a SessionJoin (at most MaxSessionJoin bytes) and answers a SessionPlace; not_found: as above.
	PathSessionJoin = "/machine/v1/deploy/session/join"
	// PathSessionBlocks (GET, ?first=N&count=N, at most MaxBlocks) gives blocks of the session's payload, plain, one after
	// the other. While others receive by multicast it is slow, so that they are not.
	PathSessionBlocks = "/machine/v1/deploy/session/blocks"
	// PathSessionReport takes a receiver's report as it would be sent by UDP, and answers what the sender answers, for
	// networks where UDP does not get through.
	PathSessionReport = "/machine/v1/deploy/session/report"
)

// MaxTable bounds a saved partition table.
const MaxTable = 16 << 20

// MaxIDs bounds the chunk ids of one call.
const MaxIDs = 4096

// Facts are what a machine tells of itself. All of it is a claim.
type Facts struct {
	UUID         string  `json:"uuid,omitempty"` // SMBIOS system UUID
	Serial       string  `json:"serial,omitempty"`
	Manufacturer string  `json:"manufacturer,omitempty"`
	Product      string  `json:"product,omitempty"`
	Firmware     string  `json:"firmware,omitempty"` // "bios" or "uefi"
	CPU          string  `json:"cpu,omitempty"`
	Memory       int64   `json:"memory_bytes,omitempty"`
	NICs         []NIC   `json:"nics,omitempty"`
	Disks        []Disk  `json:"disks,omitempty"`
	Appliance    string  `json:"appliance,omitempty"` // build id
	Class        string  `json:"class,omitempty"`
	Uptime       float64 `json:"uptime_seconds,omitempty"`
}

// NIC is one network interface.
type NIC struct {
	Name   string `json:"name"`
	MAC    string `json:"mac"`
	Driver string `json:"driver,omitempty"`
	Link   bool   `json:"link"`
	Booted bool   `json:"booted,omitempty"` // the interface that the firmware booted from
}

// Disk is one block device as the appliance sees it.
type Disk struct {
	Name           string `json:"name"` // kernel name, small print only
	Bytes          int64  `json:"bytes"`
	LogicalSector  int64  `json:"logical_sector_bytes"`
	PhysicalSector int64  `json:"physical_sector_bytes"`
	Model          string `json:"model,omitempty"`
	Serial         string `json:"serial,omitempty"`
	WWN            string `json:"wwn,omitempty"`
	Bus            string `json:"bus,omitempty"`
	Removable      bool   `json:"removable,omitempty"`
	ReadOnly       bool   `json:"read_only,omitempty"`
}

// Rule gives the facts that a disk rule looks at.
func (d Disk) Rule() diskrule.Disk {
	return diskrule.Disk{
		Name: d.Name, Model: d.Model, Serial: d.Serial, WWN: d.WWN, Bus: d.Bus, Size: quantity.Bytes(d.Bytes),
		Removable: d.Removable, ReadOnly: d.ReadOnly,
	}
}

// RegisterRequest says who boots.
type RegisterRequest struct {
	Version   int    `json:"version"`
	BootToken string `json:"boot_token,omitempty"` // from the kernel command line
	Facts     Facts  `json:"facts"`
}

// States of a machine.
const (
	MachinePending = "pending" // waits for an admin
	MachineAdopted = "adopted"
)

// RegisterResponse tells the machine what the server knows it as.
type RegisterResponse struct {
	MachineID   string `json:"machine_id"`
	State       string `json:"state"`
	Name        string `json:"name,omitempty"`
	PollSeconds int    `json:"poll_seconds,omitempty"` // ask again after this while pending
	WaitSeconds int    `json:"wait_seconds,omitempty"` // go to the local disk when still pending after this
	Message     string `json:"message,omitempty"`      // for the screen
}

// LogonRequest begins the session of this boot.
type LogonRequest struct {
	MachineID string `json:"machine_id"`
	BootToken string `json:"boot_token,omitempty"`
}

// LogonResponse carries the token for the header "Authorization: Bearer <token>".
type LogonResponse struct {
	Token      string `json:"token"`
	ServerTime int64  `json:"server_time"` // seconds since 1970
}

// Kinds of operations.
const (
	OpNone     = "none"
	OpCapture  = "capture"
	OpDeploy   = "deploy"
	OpFollow   = "follow" // become a machine that is being captured, then deploy the version
	OpReboot   = "reboot"
	OpPoweroff = "poweroff"
)

// Operation is one thing to do. A session that asks again before it reported the end
// of an operation gets the same one again.
type Operation struct {
	Kind    string `json:"kind"`
	TaskID  string `json:"task_id,omitempty"`
	Index   int    `json:"index"`
	Image   string `json:"image,omitempty"`
	Version string `json:"version,omitempty"` // deploy: version id
	Comment string `json:"comment,omitempty"` // capture
	Cast    bool   `json:"cast,omitempty"`    // capture: tell outline and parts, others follow
	From    string `json:"from,omitempty"`    // follow: id of the machine that the same task captures
	Force   bool   `json:"force,omitempty"`   // capture: also a hibernated system
	Fill    bool   `json:"fill,omitempty"`    // capture: zeroes in the place of sectors that cannot be read
	Replay  bool   `json:"replay,omitempty"`  // capture: let the kernel replay journals; changes the disk
	NoTrim  bool   `json:"no_trim,omitempty"` // deploy: do not tell the disk which blocks are free
	Grow    string `json:"grow,omitempty"`    // deploy: partitions that take free room (image.ParseGrow)

	// Disks are the rules (package diskrule) that name the disks to work on, one each; empty:
	// the rule of the hardware class.
	Disks []string `json:"disks,omitempty"`
	// AllDisks makes a capture take every disk that fits the rule.
	AllDisks bool `json:"all_disks,omitempty"`
	// Policies say what to do with partitions ("3=skip", "2:3=raw"; image.ParsePolicies). A
	// deploy can only skip.
	Policies []string `json:"policies,omitempty"`
	// Multicast makes a deploy get its frames in the task's session (PathSession).
	Multicast bool `json:"multicast,omitempty"`
	// Start says when that session begins; the server looks at it.
	Start *StartRule `json:"start,omitempty"`
}

// States of an operation in Status.
const (
	StateRunning = "running"
	StateDone    = "done"
	StateFailed  = "failed"
)

// Status reports how an operation goes.
type Status struct {
	TaskID   string          `json:"task_id"`
	Index    int             `json:"index"`
	State    string          `json:"state"`
	Progress *Progress       `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"` // the engine's summary when done
	Error    string          `json:"error,omitempty"`  // cause when failed
	Hint     string          `json:"hint,omitempty"`   // what to do
	Notes    []string        `json:"notes,omitempty"`  // what a person should know: raw copies with reason
	Disks    []DiskState     `json:"disks,omitempty"`  // those that are, or are about to be, written
}

// StatusResponse may order the machine to stop.
type StatusResponse struct {
	Cancel bool `json:"cancel,omitempty"`
}

// Progress is how far an operation is.
type Progress struct {
	Phase string `json:"phase"` // "read", "compare", "write", "verify"
	Done  int64  `json:"done_bytes"`
	Total int64  `json:"total_bytes"`
	Rate  int64  `json:"bytes_per_second"`
	ETA   int64  `json:"eta_seconds"` // -1 unknown
}

// LogoffRequest ends the session.
type LogoffRequest struct {
	Reason string `json:"reason"` // "local boot", "reboot", "poweroff", or a failure
	Error  string `json:"error,omitempty"`
	Hint   string `json:"hint,omitempty"`
	// Reported says that the error was told as the end of an operation already.
	Reported bool `json:"reported,omitempty"`
}

// PublishResponse names the version that a capture made.
type PublishResponse struct {
	Image    string `json:"image"`
	Sequence uint64 `json:"sequence"`
	Version  string `json:"version"`
}

// Session is a multicast session that a deploy gets its frames from (docs/multicast.md).
type Session struct {
	Session uint64         `json:"session,string"`
	Group   netip.AddrPort `json:"group"`
	Control netip.AddrPort `json:"control"` // where reports go
	Payload int64          `json:"payload"` // bytes
	Sender  []byte         `json:"sender"`  // Ed25519 public key that signs digests and status
	Table   []byte         `json:"table"`   // where the frames lie in the payload: package multicast
	Waiting SessionWaiting `json:"waiting"`
	Parts   *SessionParts  `json:"parts,omitempty"` // of a cast
}

// SessionParts are the parts of a cast whose frames a session sends.
type SessionParts struct {
	Cast  string `json:"cast"`
	First uint64 `json:"first"`
	End   uint64 `json:"end"` // the one after the last
}

// SessionWaiting is what a session that has not begun waits for; all zero once it runs.
type SessionWaiting struct {
	Machines int   `json:"machines"`            // it begins when so many have joined
	Present  int   `json:"present"`             // how many have joined
	StartsAt int64 `json:"starts_at,omitempty"` // it begins then at the latest, seconds since 1970; 0: no time is set
	Manual   bool  `json:"manual,omitempty"`    // an operator starts it
}

// SessionJoin asks for a place in a session.
type SessionJoin struct {
	Session uint64 `json:"session,string,omitempty"` // which it is; by the time there may be another one
	Nonce   []byte `json:"nonce"`                    // 16 random bytes; whoever asks again with them keeps the place
	AES     bool   `json:"aes"`                      // the machine has AES instructions
	Need    []byte `json:"need"`                     // the blocks that it needs: blocks.Set
}

// SessionPlace is a place in a session.
type SessionPlace struct {
	Receiver uint32 `json:"receiver"`
	Group    []byte `json:"group_secret"`
	Own      []byte `json:"own_secret"`
}

// Problem is the body of every answer that is not 2xx (RFC 9457, application/problem+json).
type Problem struct {
	Code    string   `json:"code"`
	Title   string   `json:"title"`             // cause, for people
	Hint    string   `json:"hint,omitempty"`    // what to do
	Missing []string `json:"missing,omitempty"` // CodeIncomplete: chunk ids
}

// Codes of problems that the client acts on.
const (
	CodeUnauthorized = "unauthorized" // log on again
	CodePending      = "pending"      // not adopted
	CodeIncomplete   = "incomplete"   // capture again: chunks are missing
	CodeCancelled    = "cancelled"
	CodeStoreFull    = "store-full"
	CodeNotFound     = "not-found"
	CodeInvalid      = "invalid"
	CodeVersion      = "protocol-version"
	CodeInternal     = "internal"
	CodeForbidden    = "forbidden" // never allowed to this caller
	CodeConflict     = "conflict"  // does not fit the present state
	CodeBusy         = "busy"      // try later
)

func (p *Problem) Error() string { return p.Title }
