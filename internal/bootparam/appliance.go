package bootparam

// Files that the builder puts into the appliance and the appliance reads,
// relative to its root.
const (
	CAFile    = "etc/clonecast/ca.pem"        // certificate authority of the server, PEM
	KeysFile  = "etc/clonecast/manifest-keys" // Ed25519 public keys in hex, one a line
	ClassFile = "etc/clonecast/class.json"    // Appliance
	ModuleDir = "lib/modules"                 // <kernel>/modules.dep and so on
)

// Appliance is the content of ClassFile: what the builder made.
type Appliance struct {
	Class  string   `json:"class"`            // name of the hardware class
	Kernel string   `json:"kernel"`           // release, as uname -r
	Build  string   `json:"build"`            // names the inputs: equal inputs, equal id
	Always []string `json:"always"`           // modules to load that no device asks for
	Disk   string   `json:"disk,omitempty"`   // rule that names the disk when a task has none
	Server string   `json:"server,omitempty"` // base URL, used when the command line names none
}
