// Package lab is the room of the end-to-end tests and the demo: a network of its own, the built server on it, and
// virtual PCs that boot from it.
//
// A Network is a network namespace with a bridge, 10.99.0.1/24; PCs are on taps of the bridge. The server's
// programs run inside the namespace, so that their DHCP reaches nobody else and tests can run side by side.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"clonecast/qemu-tests/vm"
)

// Address is the server's address in every lab network; Bridge its interface.
const (
	Address = "10.99.0.1"
	Bridge  = "br0"
)

// Network is one network namespace.
type Network struct {
	Namespace string
	t         vm.T
	taps      int
}

var networks atomic.Int32

// NewNetwork makes a network that is removed at the end of the test.
func NewNetwork(t vm.T) *Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatalf("a network namespace needs root; ordinary users call EnterUserNamespace first")
	}
	removeStale()
	n := &Network{Namespace: fmt.Sprintf("clonecast-lab-%d-%d", os.Getpid(), networks.Add(1)), t: t}
	n.addNamespace(n.Namespace)
	ip := func(args ...string) { n.must("ip", append([]string{"-n", n.Namespace}, args...)...) }
	ip("link", "set", "lo", "up")
	ip("link", "add", Bridge, "type", "bridge", "mcast_snooping", "0", "stp_state", "0", "forward_delay", "0")
	ip("addr", "add", Address+"/24", "dev", Bridge)
	ip("addr", "add", "fd99::1/64", "dev", Bridge, "nodad")
	ip("link", "set", Bridge, "up")
	return n
}

// removeStale removes the networks of test programs that were killed.
func removeStale() {
	names, _ := filepath.Glob("/run/netns/clonecast-lab-*")
	for _, path := range names {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(path), "clonecast-lab-%d-", &pid); err != nil {
			continue
		}
		if syscall.Kill(pid, 0) == syscall.ESRCH {
			exec.Command("ip", "netns", "delete", filepath.Base(path)).Run()
		}
	}
}

func (n *Network) addNamespace(name string) {
	n.t.Helper()
	n.must("ip", "netns", "add", name)
	n.t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "delete", name).CombinedOutput(); err != nil {
			n.t.Errorf("delete network namespace %s: %v: %s", name, err, out)
		}
	})
}

func (n *Network) must(name string, args ...string) {
	n.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		n.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// Tap plugs a cable into the bridge: the name of the tap device for one PC.
func (n *Network) Tap() string {
	n.t.Helper()
	tap := fmt.Sprintf("tap%d", n.taps)
	n.taps++
	n.must("ip", "-n", n.Namespace, "tuntap", "add", tap, "mode", "tap")
	n.must("ip", "-n", n.Namespace, "link", "set", tap, "master", Bridge, "up")
	return tap
}

// Lose makes the switch lose a share of the IPv4 packets to and from each PC that has a cable, each packet for itself.
func (n *Network) Lose(percent int) {
	n.t.Helper()
	in := func(args ...string) {
		n.t.Helper()
		n.must("ip", append([]string{"netns", "exec", n.Namespace}, args...)...)
	}
	in("ethtool", "-K", Bridge, "tso", "off", "gso", "off", "tx-udp-segmentation", "off") // or many would be lost as one
	for i := range n.taps {
		chain := func(hook string) string {
			return fmt.Sprintf(`chain %s { type filter hook %s device "tap%d" priority 0; `+
				`meta protocol ip numgen random mod 100 < %d drop; };`, hook, hook, i, percent)
		}
		in("nft", fmt.Sprintf("table netdev lossy%d { %s %s }", i, chain("ingress"), chain("egress")))
	}
}

// Command prepares a program that runs inside the network.
func (n *Network) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.Namespace, name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// SiteDHCP connects a computer of its own, 10.99.0.3, that runs dnsmasq as the DHCP server
// of a site that knows nothing of network boot.
func (n *Network) SiteDHCP() {
	n.t.Helper()
	site := &Network{Namespace: n.Namespace + "-site", t: n.t}
	n.addNamespace(site.Namespace)
	n.must("ip", "-n", n.Namespace, "link", "add", "site", "type", "veth", "peer", "name", "eth0", "netns", site.Namespace)
	n.must("ip", "-n", n.Namespace, "link", "set", "site", "master", Bridge, "up")
	n.must("ip", "-n", site.Namespace, "addr", "add", "10.99.0.3/24", "dev", "eth0")
	n.must("ip", "-n", site.Namespace, "link", "set", "eth0", "up")
	site.daemon("dnsmasq", "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0",
		"--interface=eth0", "--bind-interfaces", "--user=root", "--no-ping",
		"--dhcp-leasefile="+n.t.TempDir()+"/leases", "--dhcp-range=10.99.0.100,10.99.0.200,1h")
}

// daemon starts a program whose output goes to the log and that ends with the test.
func (n *Network) daemon(label, name string, args ...string) *Process {
	n.t.Helper()
	p := startProcess(n.t, label, n.Command(context.Background(), name, args...))
	n.t.Cleanup(p.Kill)
	return p
}

// EnterUserNamespace makes an ordinary user root of namespaces of its own, by running the program again in them. It
// returns at once for root, and otherwise only with an error.
func EnterUserNamespace() error {
	if os.Geteuid() == 0 {
		return nil
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return fmt.Errorf("tests with networks run as root, or as a user with the unshare program: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	argv := append([]string{unshare, "--user", "--map-root-user", "--net", "--mount", "sh", "-c",
		`mount -t tmpfs tmpfs /run && exec "$0" "$@"`, self}, os.Args[1:]...)
	return errors.Join(
		errors.New("enter a user namespace (does this kernel allow it? run as root otherwise)"),
		syscall.Exec(unshare, argv, os.Environ()),
	)
}
