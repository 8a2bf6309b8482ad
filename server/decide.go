package server

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"clonecast/internal/bootparam"
	"clonecast/internal/protocol"
	"clonecast/server/httpboot"
	"clonecast/server/machines"
	"clonecast/server/tasks"
)

// A PC that is sent into the appliance this often within loopWindow and never registers
// goes to its local disk: an appliance that does not work on some hardware must not
// keep the PC in a loop.
const (
	maxBoots   = 4
	loopWindow = 30 * time.Minute
	maxBooters = 4096 // MACs that are remembered
)

// decider decides what PCs boot. Asking changes nothing but the counters above.
type decider struct {
	server *Server
	tasks  *tasks.Service
	now    func() time.Time

	mu    sync.Mutex
	boots map[string]boots // by MAC
}

type boots struct {
	count int
	since time.Time
}

// Decide is asked for every PC that boots from the network.
func (d *decider) Decide(ctx context.Context, c httpboot.Client) (httpboot.Decision, error) {
	evidence := machines.Evidence{UUID: c.UUID, Serial: c.Serial, MACs: []string{c.MAC}}
	m, known, err := d.server.machines.Identify(ctx, evidence)
	if err != nil {
		return httpboot.Decision{}, err
	}
	reason := "this PC is new: it registers"
	switch {
	case known && m.State != protocol.MachineAdopted:
		return localDisk(m.Name + " waits for adoption: starting from the local disk"), nil
	case known:
		wants, err := d.tasks.Wants(ctx, m.ID)
		if err != nil {
			return httpboot.Decision{}, err
		}
		if !wants {
			return localDisk(m.Name + " has no task: starting from the local disk"), nil
		}
		reason = m.Name + " has a task"
	}
	appliance, ok := d.appliance(m)
	if !ok {
		return localDisk("the server has no appliance: starting from the local disk"), nil
	}
	if !d.count(c.MAC) {
		return localDisk("the appliance did not register after several starts: starting from the local disk"), nil
	}
	return httpboot.Decision{
		Action: httpboot.Appliance, Class: appliance.Class, Args: appliance.CommandLine, Reason: reason,
		Params: bootparam.Params{Server: d.server.URL(), Token: rand.Text(), MAC: c.MAC},
	}, nil
}

func localDisk(reason string) httpboot.Decision {
	return httpboot.Decision{Action: httpboot.Local, Reason: reason}
}

// appliance chooses the boot image: that of the class which worked the last time.
func (d *decider) appliance(m machines.Machine) (Appliance, bool) {
	list := d.server.opts.Appliances
	for _, a := range list {
		if a.Class == m.Facts.Class {
			return a, true
		}
	}
	if len(list) == 0 {
		return Appliance{}, false
	}
	return list[0], true
}

// diskRule gives the disk rule that is built into a machine's appliance.
func (d *decider) diskRule(m machines.Machine) string {
	a, _ := d.appliance(m)
	return a.Disk
}

// count tells whether a PC may boot the appliance once more.
func (d *decider) count(mac string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	b := d.boots[mac]
	if now.Sub(b.since) > loopWindow {
		b = boots{since: now}
	}
	if b.count >= maxBoots {
		return false
	}
	if d.boots == nil || len(d.boots) >= maxBooters { // a flood of invented MACs costs only the memory of loops
		d.boots = map[string]boots{}
	}
	b.count++
	d.boots[mac] = b
	return true
}

// seen forgets the boots of a PC whose appliance registered.
func (d *decider) seen(macs []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, mac := range macs[:min(len(macs), 64)] {
		delete(d.boots, mac)
	}
}
