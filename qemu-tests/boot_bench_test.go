package qemutests

import (
	"slices"
	"testing"
	"time"

	"clonecast/qemu-tests/lab"
)

// BenchmarkRegistration measures the time from the start of a virtual PC to its registration with the server:
// ROM, DHCP, boot program, kernel, appliance, logon. Each round is a PC that the server does not know yet.
// The median is reported.
func BenchmarkRegistration(b *testing.B) {
	network := lab.NewNetwork(b)
	server := network.NewServer(lab.FullDHCP)
	server.Start()
	var seconds []float64
	for number := 1; b.Loop(); number++ {
		pc := network.PC(number, lab.BlankDisk(b, 64<<20))
		begun := time.Now()
		machine := pc.Boot()
		server.WaitRegistered(pc)
		seconds = append(seconds, time.Since(begun).Seconds())
		machine.Kill()
	}
	slices.Sort(seconds)
	b.Logf("seconds to registration, sorted: %.1f", seconds)
	b.ReportMetric(seconds[len(seconds)/2], "s-to-registration")
	b.ReportMetric(0, "ns/op")
}
