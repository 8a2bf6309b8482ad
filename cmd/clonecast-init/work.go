package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"clonecast/initramfs/agent"
	"clonecast/initramfs/bringup"
	"clonecast/initramfs/console"
	"clonecast/internal/bootparam"
	"clonecast/internal/protocol"

	"golang.org/x/sys/unix"
)

// settings are what the appliance was built with and booted with.
type settings struct {
	built  bootparam.Appliance
	params bootparam.Params
	cas    []*x509.Certificate
	keys   []ed25519.PublicKey
}

// diskPatience is how long a machine that shows no disk yet is waited for before it registers.
const diskPatience = 5 * time.Second

// work does everything from devices to operations and returns the exit code.
func work(ctx context.Context, screen *console.Console) int {
	outcome, err := boot(ctx, screen)
	if err != nil {
		screen.Fail(err.Error(), agent.Hint(err))
		return exitFailed
	}
	return map[agent.Outcome]int{
		agent.LocalBoot: exitLocalBoot,
		agent.Reboot:    exitReboot,
		agent.Poweroff:  exitPoweroff,
	}[outcome]
}

func boot(ctx context.Context, screen *console.Console) (agent.Outcome, error) {
	failure := checkMemory("/")
	if crash := os.Getenv(crashVariable); crash != "" {
		failure = &crashError{crash}
	} else if failure != nil {
		screen.Fail(failure.Error(), agent.Hint(failure))
	}
	a, err := prepare(ctx, screen)
	if failure == nil && err == nil {
		return a.Run(ctx)
	}
	if failure == nil {
		return 0, err
	}
	if err == nil { // what there is of the appliance may be enough to tell the server
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		err = a.Report(limited, failure)
	}
	var crashed *crashError
	if errors.As(failure, &crashed) {
		return agent.LocalBoot, err
	}
	if err != nil {
		screen.Say("the server cannot be told: %v", err)
	}
	return agent.LocalBoot, failure
}

// prepare makes devices and network ready to talk to the server.
func prepare(ctx context.Context, screen *console.Console) (*agent.Agent, error) {
	s, err := readSettings()
	if err != nil {
		return nil, err
	}
	bringup.Quiet(s.params.Debug)
	limitMemory()
	screen.Say("clonecast appliance %s (%s), server %s", s.built.Build, s.built.Class, s.params.Server)
	if err := bringup.SeedEntropy(); err != nil {
		return nil, err
	}
	for _, ca := range s.cas { // nothing was built before its certificate authorities were
		if err := bringup.SetClock(ca.NotBefore.Add(time.Minute)); err != nil {
			screen.Say("%v", err)
		}
	}
	loader, err := bringup.NewLoader(func(err error) { screen.Say("%v", err) })
	if err != nil {
		return nil, err
	}
	if err := loader.Load(s.built.Always...); err != nil {
		screen.Say("%v", err)
	}
	screen.Say("%d devices looked at", loader.ColdPlug())
	go loader.Watch(ctx)
	if err := bringup.MountEFIVars(); err != nil && s.params.Debug {
		screen.Say("%v", err)
	}
	options := bringup.NetworkOptions{Server: s.params.Server, MAC: s.params.MAC, Say: screen.Say}
	network, err := bringup.Connect(ctx, options)
	if err != nil {
		return nil, err
	}
	screen.Say("%s: address %s, router %s", network.Interface, network.Address, network.Router)
	network.Hold(ctx)
	bringup.WaitDisks(ctx, diskPatience)
	return agent.New(agent.Config{
		Server: s.params.Server, CAs: s.cas, Keys: s.keys, BootToken: s.params.Token,
		LoadModule: func(name string) error { return loader.Load(name) },
		Build:      "clonecast-init " + s.built.Build, Console: screen, Disks: agent.MachineDisks{}, Disk: s.built.Disk,
		Inventory: func() protocol.Facts {
			facts := bringup.Inventory(s.params.MAC)
			facts.Appliance, facts.Class = s.built.Build, s.built.Class
			return facts
		},
	})
}

// crashError is the crash of an earlier child.
type crashError struct{ text string }

func (e *crashError) Error() string { return e.text }

// Hint says what to do.
func (e *crashError) Hint() string { return crashHint }

// limitMemory keeps the heap well below the RAM, half of which the initramfs may take.
func limitMemory() {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		debug.SetMemoryLimit(int64(info.Freeram) * int64(info.Unit) * 3 / 4)
	}
}

func readSettings() (settings, error) {
	var s settings
	class, err := os.ReadFile("/" + bootparam.ClassFile)
	if err != nil {
		return s, fmt.Errorf("settings of the appliance: %w", err)
	}
	if err := json.Unmarshal(class, &s.built); err != nil {
		return s, fmt.Errorf("settings of the appliance: %s: %w", bootparam.ClassFile, err)
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return s, err
	}
	if s.params, err = bootparam.Parse(string(line)); err != nil {
		return s, err
	}
	if s.params.Server == "" {
		s.params.Server = s.built.Server
	}
	if s.params.Server == "" {
		return s, errors.New("neither the kernel command line (clonecast.server) nor the appliance names a server")
	}
	if s.cas, err = readCAs("/" + bootparam.CAFile); err != nil {
		return s, err
	}
	s.keys, err = readKeys("/" + bootparam.KeysFile)
	return s, err
}

// readCAs reads the server's certificate authority, and its successor if there is one already.
func readCAs(path string) ([]*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list []*x509.Certificate
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return list, nil
}

// readKeys reads Ed25519 public keys, in hex, one a line.
func readKeys(path string) ([]ed25519.PublicKey, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var keys []ed25519.PublicKey
	for line := range bytes.Lines(b) {
		text := strings.TrimSpace(string(line))
		if text == "" {
			continue
		}
		key, err := hex.DecodeString(text)
		if err != nil || len(key) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("%s: %.80q is not an Ed25519 public key", path, text)
		}
		keys = append(keys, key)
	}
	return keys, nil
}
