package qemutests

import (
	"path/filepath"
	"testing"

	"clonecast/qemu-tests/lab"
	"clonecast/qemu-tests/story"
	"clonecast/qemu-tests/testdisk"
	"clonecast/qemu-tests/vm"
)

// sessionRate lets the session last long enough for a PC to boot meanwhile: the image has 54 MB.
const sessionRate = "8M"

// TestMulticast deploys an image to three PCs in one session, through a switch that loses 3 % of the packets to and
// from each of them. B is switched off in the middle and on again; C joins when the session has run a while. All three
// become the original.
func TestMulticast(t *testing.T) {
	say := func(format string, args ...any) { t.Logf("*** "+format, args...) }
	original := testdisk.DualBootOriginal(t, 2048)
	net := lab.NewNetwork(t)
	server := net.NewServerAt(filepath.Join(t.TempDir(), "data"), lab.FullDHCP, "--multicast-rate", sessionRate)
	server.Start()
	lab.Clonecast(t, "disk", "capture", original, story.Image, "--store", filepath.Join(server.Data, "store")).OK(t)
	blank := func(n int) *lab.PC { return net.PC(n, lab.BlankDisk(t, story.Size(t, original))) }
	a, b, c := blank(1), blank(2), blank(3)
	on := func(pc *lab.PC) *vm.VM { return pc.Boot(vm.Memory(256)) }
	machines := map[*lab.PC]*vm.VM{}
	for _, pc := range []*lab.PC{a, b, c} {
		machines[pc] = on(pc)
	}
	for _, pc := range []*lab.PC{a, b, c} {
		server.WaitRegistered(pc)
	}
	say("from now on the switch loses 3 %% of all packets")
	net.Lose(3)
	server.Adopt(a)
	server.Adopt(b)
	task := server.Multicast(story.Image, a, b)
	server.WaitSession(task, "a fifth is sent", func(s lab.Session) bool {
		return s.State == "running" && s.Sent > s.Payload/5
	})
	say("switch B off and on again; let C join")
	machines[b].Kill()
	machines[b] = on(b)
	server.Adopt(c)
	server.CLI("session", "add", task, c.Name, "--yes").OK(t)
	server.WaitTask(task, nil)
	ended := server.WaitSession(task, "it has ended", func(s lab.Session) bool { return s.State == "ended" })
	if len(ended.Machines) != 3 {
		t.Errorf("%+v; want three machines in the session", ended)
	}
	attempts := map[*lab.PC]int{a: 1, b: 2, c: 1}
	var multicast, unicast int64
	for _, pc := range []*lab.PC{a, b, c} {
		machines[pc].Wait()
		m := judgeReceived(t, server.Task(task), pc, attempts[pc])
		multicast, unicast = multicast+m.Multicast, unicast+m.Unicast
		testdisk.Equal(t, original, pc.Disk)
	}
	story.BootBoth(t, say, a, b, c)
	// An emulated PC that stands still for long may have to leave the group, but not all of them.
	if multicast <= unicast {
		t.Errorf("%d bytes came by multicast and %d by unicast, want most by multicast", multicast, unicast)
	}
}

// received is what a PC says of the session that it was deployed in.
type received struct {
	Multicast int64 `json:"bytes_multicast"`
	Unicast   int64 `json:"fetched_unicast"`
	Loss      float64
	State     string
	Reason    string
}

// judgeReceived checks what a PC says of how it was deployed, and how often that was begun.
func judgeReceived(t *testing.T, task lab.Task, pc *lab.PC, attempts int) received {
	t.Helper()
	for _, run := range task.Runs {
		if run.Machine == pc.Name && run.Operations[0].Attempts != attempts {
			t.Errorf("the deploy to %s was begun %d times, want %d", pc.Name, run.Operations[0].Attempts, attempts)
		}
	}
	var result struct {
		Written   int64 `json:"bytes_written"`
		Kept      int64 `json:"bytes_kept"`
		Seconds   float64
		Multicast received
	}
	task.Result(t, pc, &result)
	t.Logf("%s: %+v", pc.Name, result)
	if m := result.Multicast; m.Multicast == 0 || m.Loss == 0 || m.State != "done" {
		t.Errorf("%s: %+v; want it done in the session, by multicast as well, in spite of losses", pc.Name, m)
	}
	return result.Multicast
}
