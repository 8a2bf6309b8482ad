package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"clonecast/internal/blockdev"
	"clonecast/internal/quantity"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

func TestDiskList(t *testing.T) {
	disks := []blockdev.Facts{
		{
			Name: "nvme0n1", Path: "/dev/nvme0n1", Size: 500107862016, LogicalSector: 512,
			Model: "KIOXIA", Serial: "61F", Bus: "nvme",
		},
		{
			Name: "sdb", Path: "/dev/sdb", Size: 32 * quantity.GiB, LogicalSector: 512,
			Serial: "4C5", Bus: "usb", Removable: true,
		},
	}
	list := func(rule string, ruled, asJSON bool) (string, string, int) {
		var out, stderr bytes.Buffer
		cmd := &cobra.Command{}
		cmd.SetOut(&out)
		cmd.SetErr(&stderr)
		code := report(&stderr, runDiskList(disks, rule, ruled, newReporter(cmd, asJSON)))
		return out.String(), stderr.String(), code
	}

	out, stderr, code := list("bus=nvme", true, false)
	want := "DISK          SIZE       BUS   MODEL   SERIAL  NOTES\n" +
		"/dev/nvme0n1  465.8 GiB  nvme  KIOXIA  61F     FITS\n" +
		"/dev/sdb      32.0 GiB   usb   -       4C5     removable, does not fit: its bus is usb\n"
	if diff := cmp.Diff(want, out); diff != "" || stderr != "" || code != exitOK {
		t.Errorf("exit code %d, %s; -want +got\n%s", code, stderr, diff)
	}

	_, stderr, code = list("serial~*", true, false)
	want = `clonecast: error: 2 disks fit the rule "serial~*": KIOXIA, serial 61F, 465.8 GiB (nvme0n1): fits; ` +
		"disk without model, serial 4C5, 32.0 GiB (sdb): fits\n" +
		"clonecast: hint: name the disk by its serial number: serial=…\n"
	if diff := cmp.Diff(want, stderr); diff != "" || code != exitRefused {
		t.Errorf("exit code %d; -want +got\n%s", code, diff)
	}
	if _, _, code := list("sda", true, false); code != exitUsage {
		t.Errorf("a rule that is none: exit code %d", code)
	}
	if out, _, code := list("", false, false); code != exitOK || bytes.Contains([]byte(out), []byte("fit")) {
		t.Errorf("without a rule: exit code %d\n%s", code, out)
	}

	out, _, _ = list("", true, true)
	var got struct {
		Type  string
		Disks []listedDisk
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || got.Type != "summary" || len(got.Disks) != 2 {
		t.Fatalf("%v in %s", err, out)
	}
	if usb := got.Disks[1]; !*got.Disks[0].Fits || *usb.Fits ||
		usb.Reason != "it is on USB, and the rule has no serial, wwn or bus" {
		t.Errorf("%s", out)
	}
}
