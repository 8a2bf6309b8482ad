// Package story plays the main job once: a PC with a dual-boot disk is captured over the network and two blank PCs
// become it. The end-to-end test judges what comes of it, the demo tells it to a person.
package story

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"clonecast/qemu-tests/lab"
	"clonecast/qemu-tests/testdisk"
	"clonecast/qemu-tests/vm"
)

// shortHash finds the hash over all files, of which eight digits are enough to see.
var shortHash = regexp.MustCompile(`\b([0-9a-f]{8})[0-9a-f]{24}\b`)

// Image is the name under which PC A is captured.
const Image = "lab-pc"

// Room is what the story leaves behind: a server that runs and three PCs, switched off.
type Room struct {
	Net      *lab.Network
	Server   *lab.Server
	Original string // the disk of A before the story
	A, B, C  *lab.PC
	Captured Captured // the engine's summary of A's capture
	Deployed Deployed // of the deploy to a blank disk
}

// Captured is what a capture reports.
type Captured struct {
	Allocated int64 `json:"bytes_allocated"`
	Read      int64 `json:"bytes_read"`
	Stored    int64 `json:"bytes_stored"`
	Seconds   float64
}

// Deployed is what a deploy reports.
type Deployed struct {
	Compared int64 `json:"bytes_compared"`
	Kept     int64 `json:"bytes_kept"`
	Written  int64 `json:"bytes_written"`
	Fetched  int64 `json:"bytes_fetched"`
	Followed int64 `json:"bytes_followed"`
	Cast     struct {
		Multicast int64  `json:"bytes_multicast"`
		Unicast   int64  `json:"fetched_unicast"`
		Cause     string // why it left the group
	} `json:"multicast"`
	Seconds float64
}

// Say is told of each step as it begins.
type Say func(format string, args ...any)

// Open makes the room: PCs for a dual-boot disk, which have UEFI firmware if that has a GPT; a network, the server in
// the DHCP mode and with further arguments.
func Open(t vm.T, original, dhcp string, say Say, args ...string) *Room {
	t.Helper()
	r := &Room{Original: original, Net: lab.NewNetwork(t)}
	partitions, uefi := len(testdisk.Partitions(t, original)), testdisk.IsGPT(t, original)
	say("the dual-boot disk of PC A has %d partitions, with NTFS and Linux; by UEFI: %v", partitions, uefi)
	r.A = r.Net.PC(1, testdisk.Copy(t, original))
	size := Size(t, original)
	r.B = r.Net.PC(2, lab.BlankDisk(t, size))
	r.C = r.Net.PC(3, lab.BlankDisk(t, size+128<<20))
	for _, pc := range []*lab.PC{r.A, r.B, r.C} {
		pc.UEFI = uefi
	}
	if dhcp == lab.ProxyDHCP {
		r.Net.SiteDHCP()
	}
	say("start the server (DHCP mode %s): it makes its keys and builds the appliance", dhcp)
	r.Server = r.Net.NewServer(dhcp, args...)
	r.Server.Watch = tellProgress(say)
	r.Server.Start()
	return r
}

// Capture boots A by PXE, adopts it and captures it.
func (r *Room) Capture(t vm.T, say Say) {
	t.Helper()
	say("switch on PC A: it boots from the network")
	a := r.A.Boot()
	m := r.Server.WaitRegistered(r.A)
	say("PC A is registered, %s: adopt it and order the capture of its disk", m.State)
	r.Server.Adopt(r.A)
	task := r.Server.Capture(r.A, Image)
	done := r.Server.WaitTask(task, nil)
	done.Result(t, r.A, &r.Captured)
	a.Wait()
	say("captured %s of %s on the disk: %s in the store, %.1f s",
		mib(r.Captured.Allocated), mib(Size(t, r.A.Disk)), mib(r.Captured.Stored), r.Captured.Seconds)
}

// Deploy boots B and C by PXE, adopts them and deploys the image to both at once.
func (r *Room) Deploy(t vm.T, say Say) {
	t.Helper()
	say("switch on the blank PCs B (same disk size) and C (larger disk)")
	b, c := r.B.Boot(), r.C.Boot()
	r.Server.WaitRegistered(r.B)
	r.Server.WaitRegistered(r.C)
	r.Server.Adopt(r.B)
	r.Server.Adopt(r.C)
	say("PCs B and C are registered and adopted: deploy the image to both")
	task := r.Server.Deploy(Image, r.B, r.C)
	done := r.Server.WaitTask(task, nil)
	b.Wait()
	c.Wait()
	for _, pc := range []*lab.PC{r.B, r.C} {
		var d Deployed
		done.Result(t, pc, &d)
		r.Deployed = d
		say("deployed to %s: %s compared, %s written, %s fetched, %.1f s",
			pc.Name, mib(d.Compared), mib(d.Written), mib(d.Fetched), d.Seconds)
	}
}

// BootBoth boots both systems of PCs from their disks, without network; all PCs at once, because a booting one mostly
// waits for one processor.
func BootBoth(t vm.T, say Say, pcs ...*lab.PC) {
	t.Helper()
	var linux []*vm.VM
	for _, pc := range pcs {
		linux = append(linux, pc.BootDisk("linux"))
	}
	for i, pc := range pcs {
		started := linux[i].WaitLine(testdisk.LinuxStarted)[0]
		say("%s boots from its disk: %s", pc.Name, shortHash.ReplaceAllString(started, "$1…"))
		linux[i].Wait()
		windows := pc.BootDisk(testdisk.WindowsTag)
		say("%s boots from its disk: %s", pc.Name, windows.WaitLine(testdisk.WindowsStarted)[0])
		windows.Kill()
	}
}

// Size of a file.
func Size(t vm.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatalf("size of %s: %v", filepath.Base(path), err)
	}
	return info.Size()
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
