package bringup

import (
	"testing"
	"time"
)

// This machine has at least memory and a CPU, whatever it is.
func TestInventoryOfThisMachine(t *testing.T) {
	facts := Inventory("")
	if facts.Memory <= 0 || facts.Uptime <= 0 || facts.Firmware == "" {
		t.Errorf("Inventory = %+v", facts)
	}
}

func TestHostPort(t *testing.T) {
	tests := map[string]string{
		"https://10.99.0.1:8443": "10.99.0.1:8443", "https://clonecast.example": "clonecast.example:443",
		"https://[fd99::1]:8443": "[fd99::1]:8443", "http://10.99.0.1": "", "https://": "", "": "",
	}
	for in, want := range tests {
		if got, err := hostPort(in); got != want || (err == nil) != (want != "") {
			t.Errorf("hostPort(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestClockIsNeverSetBack(t *testing.T) {
	if err := SetClock(time.Unix(0, 0)); err != nil {
		t.Errorf("SetClock to the past = %v, want no change", err)
	}
	if err := SeedEntropy(); err != nil {
		t.Error(err)
	}
}
