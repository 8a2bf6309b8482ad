package agent

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"clonecast/internal/blockdev"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"
)

// diskFacts makes a disk of another size or with another first byte of content.
func diskFacts(t *testing.T, serial string, blank bool, size int64, content byte) blockdev.Facts {
	t.Helper()
	d := diskFile(t, serial, blank)
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !blank {
		if _, err := f.WriteAt([]byte{content}, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	d.Size = quantity.Bytes(size)
	return d
}

func readDisk(t *testing.T, d blockdev.Facts) []byte {
	t.Helper()
	b, err := os.ReadFile(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// runOn lets an agent with these disks do the server's operation, and gives its last report.
func runOn(t *testing.T, s *testServer, op protocol.Operation, disks ...blockdev.Facts) (protocol.Status, error) {
	t.Helper()
	op.TaskID, op.Index = "t"+op.Kind, 0
	s.ops, s.statuses = []protocol.Operation{op}, nil
	b := newBench(t, s, disks[0])
	b.agent.config.Disks = fileDisks(disks)
	_, err := b.run()
	if len(s.statuses) != 1 {
		t.Fatalf("%d reports, %v", len(s.statuses), err)
	}
	return s.statuses[0], err
}

func TestSeveralDisks(t *testing.T) {
	s := newTestServer(t, newAuthority(t, nil))
	a, b := diskFacts(t, "a", false, diskSize, 1), diskFacts(t, "b", false, diskSize+1<<20, 2)
	stick := diskFacts(t, "stick", false, diskSize, 3)
	stick.Bus = "usb"
	st, err := runOn(t, s, protocol.Operation{Kind: protocol.OpCapture, Image: "two"}, a, b, stick)
	if err == nil || !strings.Contains(st.Error, "2 disks fit") || st.Hint == "" {
		t.Fatalf("capture of one of two disks: %+v, %v", st, err)
	}
	st, err = runOn(t, s, protocol.Operation{Kind: protocol.OpCapture, Image: "two", AllDisks: true}, a, b, stick)
	if err != nil || st.State != protocol.StateDone ||
		!strings.HasPrefix(st.Notes[1], "disk 2: partition 1 is copied block by block") {
		t.Fatalf("%+v, %v", st, err)
	}
	deploy := protocol.Operation{Kind: protocol.OpDeploy, Image: "two", Version: s.published.Version}

	// The sizes tell which is which, whatever the order; the stick is no target.
	x, y := diskFacts(t, "x", true, diskSize, 0), diskFacts(t, "y", true, diskSize+1<<20, 0)
	if st, err := runOn(t, s, deploy, stick, y, x); err != nil || st.State != protocol.StateDone {
		t.Fatalf("%+v, %v", st, err)
	}
	if !bytes.Equal(readDisk(t, x), readDisk(t, a)) || !bytes.Equal(readDisk(t, y), readDisk(t, b)) || len(s.tables) != 0 {
		t.Errorf("the targets differ from the sources, or the table of a blank disk was saved: %v", s.tables)
	}

	// Twins are told apart by rules only.
	x, y = diskFacts(t, "x", true, diskSize+1<<20, 0), diskFacts(t, "y", true, diskSize+1<<20, 0)
	if st, err := runOn(t, s, deploy, x, y); err == nil || !strings.Contains(st.Error, "cannot be told") ||
		!strings.Contains(st.Hint, "one rule for each disk") {
		t.Fatalf("%+v, %v", st, err)
	}
	deploy.Disks = []string{"serial=y", "serial=x"}
	if st, err := runOn(t, s, deploy, x, y); err != nil {
		t.Fatalf("%+v, %v", st, err)
	}
	if !bytes.Equal(readDisk(t, y)[:diskSize], readDisk(t, a)) || !bytes.Equal(readDisk(t, x), readDisk(t, b)) {
		t.Error("the rules' targets differ from the sources")
	}
	deploy.Disks = []string{"serial=y"}
	if st, err := runOn(t, s, deploy, x, y); err == nil ||
		!strings.Contains(st.Error, "the image has 2 disks: 1 disk fits") {
		t.Fatalf("%+v, %v", st, err)
	}
}

func TestPoliciesAndSavedTable(t *testing.T) {
	s := newTestServer(t, newAuthority(t, nil))
	source := diskFacts(t, "source", false, diskSize, 1)
	capture := protocol.Operation{Kind: protocol.OpCapture, Image: "lab", Policies: []string{"2:1=skip"}}
	if st, err := runOn(t, s, capture, source); err == nil || !strings.Contains(st.Error, "a policy is for disk 2") {
		t.Fatalf("%+v, %v", st, err)
	}
	capture.Policies = nil
	if st, err := runOn(t, s, capture, source); err != nil {
		t.Fatalf("%+v, %v", st, err)
	}
	deploy := protocol.Operation{
		Kind: protocol.OpDeploy, Image: "lab", Version: s.published.Version, Policies: []string{"1=skip"},
	}
	target := diskFacts(t, "target", false, diskSize, 7)
	before := readDisk(t, target)
	st, err := runOn(t, s, deploy, target)
	if err != nil {
		t.Fatalf("%+v, %v", st, err)
	}
	if after := readDisk(t, target); !bytes.Equal(before[1<<20:], after[1<<20:]) {
		t.Error("the kept partition was changed")
	}
	if len(s.tables) != 0 { // nothing differs, so nothing is written and nothing saved
		t.Errorf("saved %v", s.tables)
	}

	deploy.Policies = nil
	f, err := os.OpenFile(target.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("boot code"), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if st, err = runOn(t, s, deploy, target); err != nil ||
		!strings.Contains(strings.Join(st.Notes, "\n"), "is saved: clonecast task tables t") {
		t.Fatalf("%+v, %v", st, err)
	}
	wantDisk(t, target, readDisk(t, source))
	c := s.tables["0"]
	if c.Empty() || string(c.Areas[0].Data[:9]) != "boot code" {
		t.Errorf("saved %+v", c)
	}
	var r deployResult
	if err := json.Unmarshal(st.Result, &r); err != nil || !strings.Contains(r.Disk, "serial target") {
		t.Errorf("result %s, %v", st.Result, err)
	}
	deploy.Policies = []string{"1=raw"}
	if st, err = runOn(t, s, deploy, target); err == nil || !strings.Contains(st.Error, "a deploy cannot raw") {
		t.Errorf("%+v, %v", st, err)
	}
}
