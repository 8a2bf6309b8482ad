package sitedhcp

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"clonecast/internal/await"
	"clonecast/internal/netboot"
	"clonecast/internal/nettest"
)

var facts = Facts{Server: "10.99.0.1", HTTP: "http://10.99.0.1:8080"}

// daemon is a site's DHCP server: its configuration around our lines, and its command line.
type daemon struct {
	file    string
	config  func(dir, lines string) string
	command func(dir, config string) []string
}

var daemons = map[string]daemon{
	"dnsmasq": {
		"dnsmasq.conf",
		func(dir, lines string) string {
			return "port=0\ninterface=site\nbind-interfaces\nuser=root\ndhcp-range=10.99.0.100,10.99.0.200,1h\n" +
				"no-ping\ndhcp-leasefile=" + dir + "/leases\nconf-file=" + lines + "\n"
		},
		func(dir, config string) []string {
			return []string{"dnsmasq", "--no-daemon", "--conf-file=" + config}
		},
	},
	"ISC dhcpd": {
		"isc-dhcpd.conf",
		func(dir, lines string) string {
			return "authoritative;\nping-check false;\ninclude \"" + lines + "\";\n" +
				"subnet 10.99.0.0 netmask 255.255.255.0 { range 10.99.0.100 10.99.0.200; }\n"
		},
		func(dir, config string) []string {
			return []string{"dhcpd", "-4", "-f", "-d", "-cf", config, "-lf", filepath.Join(dir, "leases"),
				"-pf", filepath.Join(dir, "pid"), "site"}
		},
	},
	"Kea": {
		"kea-dhcp4.json",
		func(dir, lines string) string {
			return `{ "Dhcp4": {
				"interfaces-config": { "interfaces": [ "site" ], "dhcp-socket-type": "raw" },
				"lease-database": { "type": "memfile", "persist": false },
				"loggers": [ { "name": "kea-dhcp4", "severity": "INFO", "output_options": [ { "output": "stderr" } ] } ],
				"subnet4": [ { "id": 1, "subnet": "10.99.0.0/24", "pools": [ { "pool": "10.99.0.100 - 10.99.0.200" } ] } ],
				<?include "` + lines + `"?>
			} }`
		},
		func(dir, config string) []string { return []string{"kea-dhcp4", "-c", config} },
	},
}

func option(code uint8, value string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(code), []byte(value)))
}

// pxe is what firmware of an architecture sends.
func pxe(kind netboot.Kind, arch netboot.Arch) []dhcpv4.Modifier {
	return []dhcpv4.Modifier{
		option(60, fmt.Sprintf("%s:Arch:%05d:UNDI:003016", kind, arch)),
		option(93, string([]byte{byte(arch >> 8), byte(arch)})),
		option(55, "\x01\x03\x06\x2b\x36\x3c\x42\x43\x61"),
	}
}

// Every kind of client gets the boot file that clonecast itself would name, from each of the three servers.
func TestLines(t *testing.T) {
	const script, program = "http://10.99.0.1:8080/boot/ipxe", "http://10.99.0.1:8080/boot/programs/snponly.efi"
	const retries = int(await.Limit / (2 * time.Second))
	ipxe := func(features string, m []dhcpv4.Modifier) []dhcpv4.Modifier {
		return append(m, option(77, "iPXE"), option(175, features))
	}
	clients := map[string]struct {
		send  []dhcpv4.Modifier
		file  string
		class string // where it matters
	}{
		"BIOS":          {pxe(netboot.PXEClient, netboot.BIOS), "undionly.kpxe", ""},
		"UEFI":          {pxe(netboot.PXEClient, netboot.UEFI64), "snponly.efi", ""},
		"UEFI as EBC":   {pxe(netboot.PXEClient, netboot.UEFIEBC), "snponly.efi", ""},
		"UEFI HTTP":     {pxe(netboot.HTTPClient, netboot.UEFI64HTTP), program, "HTTPClient"},
		"iPXE, BIOS":    {ipxe("\x13\x01\x01\x18\x01\x01", pxe(netboot.PXEClient, netboot.BIOS)), script, ""},
		"iPXE, UEFI":    {ipxe("\x21\x01\x01\x13\x01\x01\x24\x01\x01", pxe(netboot.PXEClient, netboot.UEFI64)), script, ""},
		"BIOS, no HTTP": {ipxe("\x21\x01\x01\x18\x01\x01", pxe(netboot.PXEClient, netboot.BIOS)), "undionly.kpxe", ""},
		"UEFI, no HTTP": {ipxe("\x24\x01\x01", pxe(netboot.PXEClient, netboot.UEFI64)), "snponly.efi", ""},
	}
	for name, d := range daemons {
		t.Run(name, func(t *testing.T) {
			nettest.Isolate(t, "ip link set lo up", "ip link add site type veth peer name pc",
				"ip addr add 10.99.0.2/24 dev site", "ip link set site up", "ip link set pc up")
			d.start(t)
			client, err := nclient4.New("pc", nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(retries))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			for what, c := range clients {
				if name == "dnsmasq" && strings.Contains(what, "no HTTP") {
					c.file = script // it cannot tell, as its lines say
				}
				offer, err := client.DiscoverOffer(t.Context(), c.send...)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				file := offer.BootFileNameOption()
				if file == "" {
					file = offer.BootFileName
				}
				file = strings.TrimRight(file, "\x00")
				if file != c.file || !offer.ServerIPAddr.Equal(net.IPv4(10, 99, 0, 1)) ||
					c.class != "" && offer.ClassIdentifier() != c.class {
					t.Errorf("%s is told %q at %s, class %q; want %q", what, file, offer.ServerIPAddr, offer.ClassIdentifier(), c.file)
				}
			}
		})
	}
}

// start runs the server in the test's network, with files of its own.
func (d daemon) start(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	if err := Write(filepath.Join(dir, "lines"), facts); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "config")
	text := d.config(dir, filepath.Join(dir, "lines", d.file))
	for name, b := range map[string]string{config: text, filepath.Join(dir, "leases"): ""} {
		if err := os.WriteFile(name, []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	words := d.command(dir, config)
	var out bytes.Buffer
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin", "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR="+dir,
		"KEA_LOG_CHECK_DIR="+dir)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (make deps installs it)", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", words[0], out.Bytes())
		}
	})
}

// The summary names every file, so that it is whole where the folder cannot be read.
func TestSummary(t *testing.T) {
	text, err := Summary(facts, "/data/dhcp")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"DHCP is off", "next server 10.99.0.1", "http://10.99.0.1:8080/boot/ipxe\n", "undionly.kpxe\n", "snponly.efi\n",
		"http://10.99.0.1:8080/boot/programs/snponly.efi", "/data/dhcp",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if _, err := Files(Facts{Server: "10.99.0.1", HTTP: "http://" + strings.Repeat("a", 200)}); err == nil {
		t.Error("a URL that no packet carries was written")
	}
}
