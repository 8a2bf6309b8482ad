package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"clonecast/internal/protocol"
)

// credentials gives the session's token and number.
func (c *client) credentials() (session string, generation int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session, c.generation
}

// logon begins a session.
func (c *client) logon(ctx context.Context, machine string) error {
	c.mu.Lock()
	c.machine = machine
	c.mu.Unlock()
	return c.newSession(ctx)
}

func (c *client) newSession(ctx context.Context) error {
	c.setSession("")
	request := protocol.LogonRequest{MachineID: c.machine, BootToken: c.token}
	var r protocol.LogonResponse
	if err := c.json(withoutRelogon(ctx), protocol.PathLogon, request, &r, c.giveUp); err != nil {
		return err
	}
	if r.Token == "" {
		return errors.New("the server gave no token")
	}
	c.setSession(r.Token)
	return nil
}

func (c *client) setSession(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = token
	if token != "" {
		c.generation++
	}
}

// next asks for the next operation.
func (c *client) next(ctx context.Context) (*protocol.Operation, error) {
	var op protocol.Operation
	if err := c.json(ctx, protocol.PathNext, struct{}{}, &op, c.giveUp); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.op = &op
	return &op, nil
}

// current is the operation that the session works on.
func (c *client) current() *protocol.Operation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.op
}

// status reports. A running operation's report is not worth waiting for.
func (c *client) status(ctx context.Context, s protocol.Status) (cancel bool, err error) {
	return c.report(ctx, s, s.State == protocol.StateRunning)
}

// tell reports what the server must know, however long it is away.
func (c *client) tell(ctx context.Context, s protocol.Status) (cancel bool, err error) {
	return c.report(ctx, s, false)
}

func (c *client) report(ctx context.Context, s protocol.Status, once bool) (cancel bool, err error) {
	k := call{path: protocol.PathStatus, giveUp: c.giveUp, once: once}
	if op := c.current(); op != nil {
		s.TaskID, s.Index = op.TaskID, op.Index
	}
	var r protocol.StatusResponse
	err = c.exchange(ctx, k, s, &r)
	return r.Cancel, err
}

// finish reports the end of the current operation.
func (c *client) finish(ctx context.Context, s protocol.Status) error {
	if _, err := c.status(ctx, s); err != nil {
		return fmt.Errorf("report the end of the operation: %w", err)
	}
	return nil
}

// relogon begins a new session in place of the given one, unless another call did so
// already. The server must still name the same operation.
func (c *client) relogon(ctx context.Context, old int) error {
	c.relog.Lock()
	defer c.relog.Unlock()
	if _, now := c.credentials(); now != old {
		return nil
	}
	c.console.Say("server %s has forgotten the session; logging on again", c.base.Host)
	if err := c.newSession(ctx); err != nil {
		return err
	}
	op := c.current()
	if op == nil || op.Kind == protocol.OpNone {
		return nil
	}
	var again protocol.Operation
	if err := c.json(withoutRelogon(ctx), protocol.PathNext, struct{}{}, &again, c.giveUp); err != nil {
		return err
	}
	if again.Kind != op.Kind || again.TaskID != op.TaskID || again.Index != op.Index {
		return errSuperseded
	}
	return nil
}

type relogonKey struct{}

// withoutRelogon marks calls that are part of logging on.
func withoutRelogon(ctx context.Context) context.Context {
	return context.WithValue(ctx, relogonKey{}, true)
}

func mayRelogon(ctx context.Context) bool { return ctx.Value(relogonKey{}) == nil }

// heartbeat is the pause between two reports of a running operation.
const heartbeat = time.Second
