// Package agent is the appliance's conversation with the server, and the operations
// that the server orders.
//
//	register until adopted (or give up and boot the local disk)
//	log on
//	repeat: next operation, run it, report its end; none: log off, boot the local disk
//
// The server is whoever holds a certificate that the CA built into the appliance
// signed for the host of its URL, over TLS 1.3; there is no fallback. A call that fails
// because the network or the server is away is repeated with growing pauses, so that a
// server may restart in the middle of an operation. A server that forgot the session
// is logged on to again; the operation goes on if the server still names the same one.
//
// While an operation runs its progress goes out once a second; the answer may cancel it.
// A failure is shown, sent to the server and returned; the caller reboots.
//
// Which disk is meant is the server's rule (package diskrule) applied to the disks that are
// really there: no match, or more than one, is refused before anything is touched. A
// version is deployed only if its manifest is signed by a key built into the
// appliance and its id is the one that the operation names.
package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"clonecast/initramfs/console"
	"clonecast/internal/protocol"
)

// Config is what an agent works with.
type Config struct {
	Server    string              // base URL, https
	CAs       []*x509.Certificate // who may sign the server's certificate
	Keys      []ed25519.PublicKey // who may sign manifests
	BootToken string
	Build     string // name and build of the appliance, for the manifest's engine field
	Inventory func() protocol.Facts
	Console   *console.Console
	Disks     Disks
	Disk      string // rule that names the disk when an operation has none

	// LoadModule makes sure that the kernel has a module; nil where the kernel sees to it.
	LoadModule func(name string) error

	// GiveUp is how long the server may be away before a call fails; zero means the default.
	GiveUp time.Duration
}

const (
	defaultGiveUp = 30 * time.Minute
	// firstContact is how long a machine that knows nothing yet looks for the server.
	firstContact = 5 * time.Minute
	defaultPoll  = 5 * time.Second
	defaultWait  = 10 * time.Minute
)

// Outcome is what the machine does when the agent is done.
type Outcome int

// Outcomes of Run.
const (
	LocalBoot Outcome = iota // restart; the server then says: local disk
	Reboot
	Poweroff
)

// Agent runs one boot.
type Agent struct {
	config Config
	client *client
	// patience is how long a disk may take to appear.
	patience time.Duration
	// partChunks is the length of a cast's parts.
	partChunks int
	// halfWritten tells whether the last operation left a disk that does not start.
	halfWritten bool
	orderWait   time.Duration
	orderPoll   time.Duration
	// adopted is how long a machine that was adopted just now waits for its first task, zero for others.
	adopted time.Duration
	// reported tells whether the end of the last operation was told.
	reported bool
}

// newBoot names a boot that the server did not name.
func newBoot() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// New makes an agent.
func New(config Config) (*Agent, error) {
	if config.GiveUp == 0 {
		config.GiveUp = defaultGiveUp
	}
	if config.BootToken == "" {
		config.BootToken = newBoot()
	}
	c, err := newClient(config)
	if err != nil {
		return nil, err
	}
	return &Agent{config: config, client: c, patience: diskPatience, partChunks: partChunks, orderWait: orderWait,
		orderPoll: defaultPoll}, nil
}

// Run talks to the server until there is nothing left to do.
func (a *Agent) Run(ctx context.Context) (Outcome, error) {
	machine, err := a.register(ctx)
	if errors.Is(err, errNotAdopted) {
		a.say("this machine was not adopted; going on to the local disk")
		return LocalBoot, nil
	}
	if err != nil {
		return LocalBoot, err
	}
	if err := a.client.logon(ctx, machine.MachineID); err != nil {
		return LocalBoot, fmt.Errorf("log on: %w", err)
	}
	outcome, err := a.work(ctx)
	a.logoff(ctx, outcome, err)
	return outcome, err
}

// Report tells the server why the boot before this one of the agent failed: a crash
// cannot tell itself.
func (a *Agent) Report(ctx context.Context, failure error) error {
	machine, err := a.register(ctx)
	if err != nil {
		return err
	}
	if err := a.client.logon(ctx, machine.MachineID); err != nil {
		return fmt.Errorf("log on: %w", err)
	}
	a.logoff(ctx, LocalBoot, failure)
	return nil
}

// errNotAdopted ends a pending machine's patience.
var errNotAdopted = errors.New("the machine was not adopted")

// register tells the server who we are until it has adopted the machine.
func (a *Agent) register(ctx context.Context) (protocol.RegisterResponse, error) {
	started := time.Now()
	shown, said, waited := false, "", false
	for {
		request := protocol.RegisterRequest{
			Version: protocol.Version, BootToken: a.config.BootToken, Facts: a.config.Inventory(),
		}
		var r protocol.RegisterResponse
		if err := a.client.json(ctx, protocol.PathRegister, request, &r, min(firstContact, a.config.GiveUp)); err != nil {
			return r, fmt.Errorf("register: %w", err)
		}
		if !shown {
			shown = true
			a.say("machine %s %s", r.MachineID, r.Name)
		}
		if r.Message != "" && r.Message != said {
			said = r.Message
			a.say("server: %s", r.Message)
		}
		switch r.State {
		case protocol.MachineAdopted:
			if waited {
				a.adopted = a.orderWait * adoptedWaits
			}
			return r, nil
		case protocol.MachinePending:
			waited = true
		default:
			return r, fmt.Errorf("register: the server answered with the unknown state %q", r.State)
		}
		wait := seconds(r.WaitSeconds, defaultWait, 24*time.Hour)
		if said == "" {
			said = "pending"
			a.say("waiting for adoption, at most %v: clonecast machine adopt %s", wait, r.MachineID)
		}
		if time.Since(started) >= wait {
			return r, errNotAdopted
		}
		if err := pause(ctx, min(seconds(r.PollSeconds, defaultPoll, time.Minute), wait-time.Since(started))); err != nil {
			return r, err
		}
	}
}

// seconds turns what the server says into a duration within reason.
func seconds(n int, standard, most time.Duration) time.Duration {
	if n <= 0 {
		return standard
	}
	return min(time.Duration(min(n, 1<<20))*time.Second, most)
}

// work runs operations until the server has none left.
func (a *Agent) work(ctx context.Context) (Outcome, error) {
	var idle time.Time // since when there is nothing to do though a disk is half written
	for {
		a.reported = false
		op, err := a.client.next(ctx)
		if err != nil {
			return LocalBoot, fmt.Errorf("ask for the next operation: %w", err)
		}
		switch op.Kind {
		case protocol.OpNone:
			if a.another(ctx, &idle) {
				continue
			}
			a.say("nothing to do; going on to the local disk")
			return LocalBoot, nil
		case protocol.OpReboot:
			return Reboot, a.client.finish(ctx, protocol.Status{State: protocol.StateDone})
		case protocol.OpPoweroff:
			return Poweroff, a.client.finish(ctx, protocol.Status{State: protocol.StateDone})
		}
		err = a.run(ctx, op)
		idle, a.adopted = time.Time{}, 0
		if errors.Is(err, errCancelled) {
			a.say("task %s: %v", op.TaskID, err)
			continue
		}
		if err != nil {
			return LocalBoot, err
		}
	}
}

func (a *Agent) logoff(ctx context.Context, outcome Outcome, err error) {
	reasons := map[Outcome]string{LocalBoot: "local boot", Reboot: "reboot", Poweroff: "poweroff"}
	request := protocol.LogoffRequest{Reason: reasons[outcome]}
	if err != nil {
		request = protocol.LogoffRequest{Reason: "failure", Error: err.Error(), Hint: Hint(err), Reported: a.reported}
	}
	// The server also learns from silence that the machine is gone.
	if err := a.client.json(ctx, protocol.PathLogoff, request, nil, 10*time.Second); err != nil {
		a.say("log off: %v", err)
	}
}

func (a *Agent) say(format string, args ...any) { a.config.Console.Say(format, args...) }

// Hint gives what to do about err, as far as anything in its chain knows.
func Hint(err error) string {
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		return hinted.Hint()
	}
	return hintOf(err)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
