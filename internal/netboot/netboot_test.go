package netboot

import (
	"strings"
	"testing"
)

func TestParseVendorClass(t *testing.T) {
	tests := []struct {
		class string
		kind  Kind
		arch  Arch
	}{
		{"PXEClient:Arch:00000:UNDI:002001", PXEClient, BIOS},
		{"PXEClient:Arch:00007:UNDI:003016", PXEClient, UEFI64},
		{"HTTPClient:Arch:00016:UNDI:003001", HTTPClient, UEFI64HTTP},
		{"PXEClient", PXEClient, BIOS},
		{"PXEClient:Arch:", PXEClient, BIOS},
		{"PXEClient:Arch:99999:UNDI:002001", PXEClient, BIOS},
		{"PXEClient:Arch:-1", PXEClient, BIOS},
		{"PXEClientele", NoBoot, 0},
		{"MSFT 5.0", NoBoot, 0},
		{"", NoBoot, 0},
		{"\x00<b>", NoBoot, 0},
	}
	for _, test := range tests {
		kind, arch := ParseVendorClass(test.class)
		if kind != test.kind || arch != test.arch {
			t.Errorf("ParseVendorClass(%q) = %v, %v, want %v, %v", test.class, kind, arch, test.kind, test.arch)
		}
	}
}

func TestBootFile(t *testing.T) {
	const http = "http://10.99.0.1"
	tests := map[string]struct {
		client Client
		want   string
	}{
		"BIOS":             {Client{Kind: PXEClient, Arch: BIOS}, "undionly.kpxe"},
		"UEFI":             {Client{Kind: PXEClient, Arch: UEFI64}, "snponly.efi"},
		"UEFI called EBC":  {Client{Kind: PXEClient, Arch: UEFIEBC}, "snponly.efi"},
		"UEFI HTTP":        {Client{Kind: HTTPClient, Arch: UEFI64HTTP}, "http://10.99.0.1/boot/programs/snponly.efi"},
		"iPXE":             {Client{Kind: PXEClient, Arch: BIOS, IPXE: true}, "http://10.99.0.1/boot/ipxe"},
		"iPXE of any arch": {Client{Kind: PXEClient, Arch: 4711, IPXE: true}, "http://10.99.0.1/boot/ipxe"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := DefaultPrograms().BootFile(test.client, http)
			if err != nil || got != test.want {
				t.Errorf("BootFile(%+v) = %q, %v, want %q", test.client, got, err, test.want)
			}
		})
	}
}

func TestBootFileRejects(t *testing.T) {
	tests := map[string]struct {
		client Client
		http   string
		want   string
	}{
		"no program":   {Client{Kind: PXEClient, Arch: UEFIARM64}, "http://a", "no boot program for UEFI ARM64"},
		"unknown arch": {Client{Kind: PXEClient, Arch: 4711}, "http://a", "architecture 4711"},
		"no client":    {Client{}, "http://a", "wants no boot file"},
		"too long":     {Client{IPXE: true}, "http://" + strings.Repeat("a", 120), "DHCP carries 127"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := DefaultPrograms().BootFile(test.client, test.http)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("BootFile = %q, %v, want an error with %q", got, err, test.want)
			}
		})
	}
}

func TestArch(t *testing.T) {
	for a := range Arch(64) {
		if a.HTTP() && !a.Known() || a.UEFI() && a.CPU() == "" {
			t.Errorf("%v: contradicts itself", a)
		}
	}
	if !UEFI64HTTP.UEFI() || BIOS.UEFI() || Arch(4711).Known() {
		t.Error("UEFI or Known is wrong")
	}
	if got, want := strings.Join(DefaultPrograms().Names(), " "), "snponly.efi undionly.kpxe"; got != want {
		t.Errorf("Names() = %q, want %q", got, want)
	}
}

func FuzzParseVendorClass(f *testing.F) {
	f.Add("PXEClient:Arch:00007:UNDI:003016")
	f.Fuzz(func(t *testing.T, class string) {
		kind, arch := ParseVendorClass(class)
		if kind == NoBoot && arch != 0 {
			t.Fatalf("ParseVendorClass(%q) = %v, %v", class, kind, arch)
		}
		if kind != NoBoot && !strings.HasPrefix(class, kind.String()) {
			t.Fatalf("ParseVendorClass(%q) = %v", class, kind)
		}
	})
}

// FuzzOptions reads options 77, 175 and 43 of any content: only iPXE's word makes an iPXE, and a boot item has four
// bytes of the packet.
func FuzzOptions(f *testing.F) {
	f.Add([]byte("\x04iPXE"), []byte("\x13\x01\x01\xff"), []byte("\x47\x04\x80\x00\x00\x00\xff"))
	f.Add([]byte("iPXE"), []byte("\x00\x21\x01\x01"), []byte("\x06\x01\x08\x47\x09"))
	f.Fuzz(func(t *testing.T, class, features, vendor []byte) {
		if IsIPXE(class, features) && !strings.Contains(string(class), "iPXE") {
			t.Fatalf("IsIPXE(%q, %q)", class, features)
		}
		item := BootItem(vendor)
		if item != nil && (len(item) != 4 || !strings.Contains(string(vendor), "\x47\x04"+string(item))) {
			t.Fatalf("BootItem(%q) = %q", vendor, item)
		}
	})
}
