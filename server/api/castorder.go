package api

import (
	"context"
	"fmt"

	"clonecast/internal/diskrule"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"
	"clonecast/server/tasks"
)

// OrderCast is the kind of an order to capture one machine while others become it.
const OrderCast = "cast"

// castWait is how many seconds the first follower waits for others before each session.
const castWait = 2

// castOrders gives the two orders that a cast is made of.
func (q Order) castOrders() (capture, follow Order) {
	capture, follow = q, q
	capture.Kind, capture.Machines, capture.Disks = protocol.OpCapture, []string{q.From}, q.FromDisk
	capture.Grow, capture.NoTrim = "", false
	follow.Kind = protocol.OpFollow
	follow.Comment, follow.Policies = "", nil
	follow.Force, follow.Fill, follow.Replay, follow.AllDisks = false, false, false, false
	for _, o := range []*Order{&capture, &follow} {
		o.From, o.FromDisk, o.SessionOrder = "", nil, SessionOrder{}
	}
	return capture, follow
}

// castProblem is problem for a cast.
func (q Order) castProblem() string {
	if q.From == "" {
		return "a cast needs from, the machine to capture"
	}
	if err := image.CheckName(q.Image); err != nil {
		return err.Error()
	}
	capture, follow := q.castOrders()
	if problem := capture.problem(); problem != "" {
		return problem
	}
	return follow.problem()
}

// orderCast orders a task whose first machine is captured and whose others follow.
func (a *API) orderCast(ctx context.Context, q Order) (Ordered, error) {
	capture, follow := q.castOrders()
	from, err := a.target(ctx, capture, q.From, make([]diskrule.Want, max(1, len(capture.Disks))))
	if err != nil {
		return Ordered{}, err
	}
	answer := Ordered{From: &from, Machines: []Target{}}
	title := fmt.Sprintf("cast %s from %s", q.Image, from.Name)
	n := tasks.New{Creator: callerOf(ctx).admin, Title: title, Machines: []string{from.ID}}
	wants := castWants(from.Disks, len(follow.Disks))
	for _, ref := range q.Machines {
		t, err := a.target(ctx, follow, ref, wants)
		if err != nil {
			return Ordered{}, err
		}
		if t.ID == from.ID {
			return Ordered{}, &protocol.Problem{Code: protocol.CodeInvalid,
				Title: fmt.Sprintf("machine %s cannot be captured and overwritten at once", t.Name)}
		}
		answer.Machines = append(answer.Machines, t)
		n.Machines = append(n.Machines, t.ID)
	}
	first, others := capture.operation(), follow.operation()
	first.Cast, others.From = true, from.ID
	if q.Multicast {
		others.Multicast, others.Start = true, &protocol.StartRule{WaitSeconds: castWait}
	}
	n.First, n.Operations = q.then(first), q.then(others)
	return a.create(ctx, q, n, answer)
}

// castWants tells what the captured disks look for in a target, as far as the server knows them.
func castWants(disks []protocol.Disk, rules int) []diskrule.Want {
	if len(disks) == 0 {
		return make([]diskrule.Want, max(1, rules))
	}
	var wants []diskrule.Want
	for _, d := range disks {
		wants = append(wants, diskrule.Want{Model: d.Model, Size: quantity.Bytes(d.Bytes)})
	}
	return wants
}
