package multicast

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

func TestWireless(t *testing.T) {
	sysfs := t.TempDir()
	for _, dir := range []string{"wlan0/phy80211", "wlan1/wireless", "eth0/device"} {
		if err := os.MkdirAll(filepath.Join(sysfs, "class/net", dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]bool{"wlan0": true, "wlan1": true, "eth0": false, "none": false} {
		if got := wireless(sysfs, name); got != want {
			t.Errorf("%s is Wi-Fi: %v, want %v", name, got, want)
		}
	}
}

func TestOtherSubnet(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{"127.0.0.1": false, "127.9.9.9": false, "192.0.2.1": true} {
		if got := otherSubnet(lo, netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is in another subnet than lo: %v, want %v", address, got, want)
		}
	}
}
