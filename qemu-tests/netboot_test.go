package qemutests

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"clonecast/internal/netboot"
	"clonecast/qemu-tests/lab"
	"clonecast/qemu-tests/vm"
	"clonecast/server/dhcp"
	"clonecast/server/httpboot"
	"clonecast/server/listen"
	"clonecast/server/radv"
	"clonecast/server/tftp"
)

// The network boot services by themselves: firmware that exists is the judge of DHCP, TFTP and the boot scripts. What a
// whole server makes of them is tested with the built program elsewhere.

const (
	bootServerVariable = "CLONECAST_TEST_BOOT_SERVER" // "mode address": run as the boot server, see bootServer
	noTask             = "no task: starting from the local disk"
)

// bootMarker is a boot sector that writes BOOTED-FROM-DISK to the first serial port and stops.
func bootMarker() []byte {
	code := "\xfa\x31\xc0\x8e\xd8" + // cli; xor ax,ax; mov ds,ax
		"\xbc\x00\x7c\xbe\x28\x7c\xba\xf8\x03" + // mov sp,7c00; mov si,7c28; mov dx,3f8
		"\xac\x84\xc0\x74\x12\x88\xc4" + // next: lodsb; test al,al; jz end; mov ah,al
		"\x83\xc2\x05\xec\x83\xea\x05\xa8\x20\x74\xf5" + // wait: line status; until the transmitter is empty
		"\x88\xe0\xee\xeb\xe9" + // mov al,ah; out dx,al; jmp next
		"\xf4\xeb\xfd" + // end: hlt; jmp end
		"\r\nBOOTED-FROM-DISK\r\n\x00"
	sector := make([]byte, 1<<20)
	copy(sector, code)
	sector[510], sector[511] = 0x55, 0xaa
	return sector
}

func markedDisk(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, bootMarker(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestNetbootBIOSLocal boots a BIOS PC with nothing to do from its disk, by way of the server's decision.
func TestNetbootBIOSLocal(t *testing.T) {
	net := lab.NewNetwork(t)
	startBootServer(t, net, dhcp.Full, lab.Address)
	pc := net.PC(1, markedDisk(t)).Boot()
	pc.WaitLine(`clonecast: ` + noTask)
	pc.WaitLine(`BOOTED-FROM-DISK`)
}

// TestNetbootProxy does the same beside a site's DHCP server on another machine.
func TestNetbootProxy(t *testing.T) {
	site, ours := lab.NewNetwork(t), lab.NewNetwork(t)
	site.SiteDHCP()
	const address = "10.99.0.2"
	for _, line := range []string{
		"ip -n " + ours.Namespace + " addr flush dev " + lab.Bridge,
		"ip -n " + ours.Namespace + " addr add " + address + "/24 dev " + lab.Bridge,
		"ip -n " + ours.Namespace + " addr add fe80::2/64 dev " + lab.Bridge + " nodad",
		"ip -n " + ours.Namespace + " link add cable type veth peer name cable netns " + site.Namespace,
		"ip -n " + ours.Namespace + " link set cable master " + lab.Bridge + " up",
		"ip -n " + site.Namespace + " link set cable master " + lab.Bridge + " up",
	} {
		words := strings.Fields(line)
		if text, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, text)
		}
	}
	startBootServer(t, ours, dhcp.Proxy, address)
	pc := site.PC(2, markedDisk(t)).Boot()
	pc.WaitLine(`http://10\.99\.0\.2/boot/ipxe\.\.\. ok`)
	pc.WaitLine(`BOOTED-FROM-DISK`)
}

// TestNetbootUEFI boots a UEFI PC: its firmware loads iPXE by TFTP, iPXE the script, and the script gives back control
// to the firmware, which goes on to its next boot entry.
func TestNetbootUEFI(t *testing.T) {
	net := lab.NewNetwork(t)
	server := startBootServer(t, net, dhcp.Full, lab.Address)
	computer := net.PC(3, markedDisk(t))
	computer.UEFI = true
	pc := computer.Boot()
	pc.WaitLine(`clonecast: ` + noTask)
	pc.WaitLine(`BdsDxe: .*Boot000[2-9]`)
	out := server.output()
	for _, want := range []string{
		"msg=TFTP", "name=snponly.efi", "uefi=true", "uuid=c10eca57-0000-4000-8000-000000000003", "serial=SN-0003",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the server's log has no %q", want)
		}
	}
}

// bootServerProcess is a boot server inside a lab network.
type bootServerProcess struct{ log string }

func (p bootServerProcess) output() string {
	b, _ := os.ReadFile(p.log) // missing: the checks of its content fail
	return string(b)
}

// startBootServer runs the test program again as boot server, since a Go program cannot move all of its threads into
// another network.
func startBootServer(t *testing.T, net *lab.Network, mode dhcp.Mode, address string) bootServerProcess {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := bootServerProcess{log: filepath.Join(t.TempDir(), "server.log")}
	out, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := net.Command(ctx, self, "-test.run=^TestBootServer$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s", bootServerVariable, mode, address))
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed
		_ = out.Close()
		if t.Failed() {
			t.Logf("boot server:\n%s", p.output())
		}
	})
	end := time.Now().Add(vm.Patience)
	for ; !strings.Contains(p.output(), "msg=serving"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the boot server does not start")
		}
	}
	return p
}

// TestBootServer is the boot server's process and no test of its own.
func TestBootServer(t *testing.T) {
	mode, address, ok := strings.Cut(os.Getenv(bootServerVariable), " ")
	if !ok {
		t.Skip("runs for other tests only")
	}
	if err := bootServer(dhcp.Mode(mode), address); err != nil {
		t.Fatal(err)
	}
}

// local sends every PC to its disk.
type local struct{ log *slog.Logger }

func (l local) Decide(_ context.Context, c httpboot.Client) (httpboot.Decision, error) {
	l.log.Info("asked", "mac", c.MAC, "uuid", c.UUID, "serial", c.Serial, "uefi", c.UEFI)
	return httpboot.Decision{Reason: noTask}, nil
}

// Sent has nothing to count: no PC is sent into an appliance.
func (local) Sent(_, _ string, _ netip.Addr) {}

func bootServer(mode dhcp.Mode, address string) error {
	ctx := context.Background()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	programs := map[string][]byte{}
	for _, name := range netboot.DefaultPrograms().Names() {
		data, err := os.ReadFile("/usr/lib/ipxe/" + name)
		if err != nil {
			return err
		}
		programs[name] = data
	}
	config := dhcp.Config{
		Mode: mode, Address: netip.MustParsePrefix(address + "/24"),
		HTTP: "http://" + address, Programs: netboot.DefaultPrograms(),
		Subnets: []dhcp.Subnet{{
			Prefix: netip.MustParsePrefix("10.99.0.0/24"),
			First:  netip.MustParseAddr("10.99.0.100"), Last: netip.MustParseAddr("10.99.0.200"),
		}},
	}
	handler, err := dhcp.NewHandler(config, &dhcp.ReservationTable{}, &dhcp.MemoryLeases{}, time.Now())
	if err != nil {
		return err
	}
	scripts, err := httpboot.NewHandler(httpboot.Config{Decider: local{log}, Programs: programs, Log: log})
	if err != nil {
		return err
	}
	addresses, err := dhcp.Open(ctx, handler, dhcp.Options{Interface: lab.Bridge, Log: log})
	if err != nil {
		return err
	}
	first, err := tftp.Open(ctx, tftp.Config{Address: address + ":69", Files: programs, Log: log})
	if err != nil {
		return err
	}
	listener, err := listen.Open(ctx, []netip.Addr{config.Address.Addr()}, 80)
	if err != nil {
		return err
	}
	web := httpboot.New(listener, scripts, log)
	router, err := radv.Open(ctx, lab.Bridge, log)
	if err != nil {
		return err
	}
	log.Info("serving")
	group, ctx := errgroup.WithContext(ctx)
	for _, serve := range []func(context.Context) error{addresses.Serve, first.Serve, web.Serve, router.Serve} {
		group.Go(func() error { return serve(ctx) })
	}
	return group.Wait()
}
