package server

import (
	"context"
	"errors"
	"net/netip"

	"clonecast/internal/bootparam"
	"clonecast/internal/protocol"
	"clonecast/server/httpboot"
	"clonecast/server/machines"
	"clonecast/server/tasks"
)

// decider decides what PCs boot. Asking changes nothing of the machines.
type decider struct {
	server *Server
	tasks  *tasks.Service
	boots  *boots
}

// Decide is asked for every PC that boots from the network.
func (d *decider) Decide(ctx context.Context, c httpboot.Client) (httpboot.Decision, error) {
	m, known, err := d.identify(ctx, c)
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
	token, ok := d.boots.begin(c)
	if !ok {
		return localDisk("the appliance did not register after several starts: starting from the local disk"), nil
	}
	return httpboot.Decision{
		Action: httpboot.Appliance, Class: appliance.Class, Args: appliance.CommandLine, Reason: reason,
		Params: bootparam.Params{Server: d.server.urlAt(c.Server), Token: token, MAC: c.MAC},
	}, nil
}

// Sent is told of boot files that were sent.
func (d *decider) Sent(token, name string, to netip.Addr) { d.boots.sent(token, name, to) }

// identify finds the machine that asks: by what is known of it, with its UUID in either byte order, or because it has
// said exactly the same before it registered the last time.
func (d *decider) identify(ctx context.Context, c httpboot.Client) (machines.Machine, bool, error) {
	uuids := []string{c.UUID}
	if swapped := swapUUID(c.UUID); swapped != c.UUID {
		uuids = append(uuids, swapped)
	}
	for _, uuid := range uuids {
		m, known, err := d.server.machines.Identify(ctx,
			machines.Evidence{UUID: uuid, Serial: c.Serial, MACs: []string{c.MAC}})
		if err != nil || known {
			return m, known, err
		}
	}
	id, ok := d.boots.machine(c)
	if !ok {
		return machines.Machine{}, false, nil
	}
	m, err := d.server.machines.Get(ctx, id)
	if problem := new(protocol.Problem); errors.As(err, &problem) && problem.Code == protocol.CodeNotFound {
		return machines.Machine{}, false, nil // it was removed
	}
	return m, err == nil, err
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
