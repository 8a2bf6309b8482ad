package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"clonecast/server/api"
	"clonecast/server/sessions"

	"github.com/spf13/cobra"
)

func newSessionCmd() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use: "session", Short: "Look after the multicast sessions of deploys",
		Long: `Look after the multicast sessions of deploys, which 'clonecast task run deploy --multicast' orders.
A session has the number of its task; the task's first machine that asks for it makes it, so it is there
once a machine has booted. Later sessions of a task, for machines that came late, are called 7-2, 7-3.

` + exitHelp,
	}
	c.flags(cmd)
	cmd.AddCommand(newSessionListCmd(&c), newSessionShowCmd(&c), newSessionStartCmd(&c), newSessionAddCmd(&c),
		newSessionMachineCmd(&c, "drop", "Cancel a machine's run and let the session go on without it", "is dropped from"),
		newSessionMachineCmd(&c, "retry", "Queue a machine's failed or cancelled run anew", "is expected again in"))
	return cmd
}

func newSessionListCmd(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the multicast sessions, the newest first", Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error { return runSessionList(cmd.Context(), c, cmd.OutOrStdout()) },
	}
}

func runSessionList(ctx context.Context, c *connection, w io.Writer) error {
	cl, err := c.open(ctx)
	if err != nil {
		return err
	}
	var list []sessions.Session
	if err := cl.call(ctx, "GET", "/api/v1/sessions", nil, &list); err != nil {
		return err
	}
	if c.json {
		return printList(w, "session", list)
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(w,
			"no sessions yet: clonecast task run deploy --multicast --machine M --machine N --image NAME")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SESSION\tSTATE\tWHAT\tMACHINES\tSENT\tRATE\tMADE")
	for _, s := range list {
		rate := ""
		if s.Rate > 0 {
			rate = megabits(s.Rate)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			s.ID, s.State, s.Title, countStates(s.Machines), share(s.Sent, s.Payload), rate, ago(s.Created))
	}
	return t.Flush()
}

// countStates says how many machines are in which state, in the order in which they go through them.
func countStates(machines []sessions.MachineState) string {
	count := map[string]int{}
	for _, m := range machines {
		count[m.State]++
	}
	var parts []string
	for _, state := range []string{
		sessions.Expected, sessions.Waiting, sessions.Receiving, sessions.Unicast,
		sessions.Done, sessions.Failed, sessions.Dropped,
	} {
		if count[state] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[state], state))
		}
	}
	return strings.Join(parts, ", ")
}

func megabits(bytes int64) string { return fmt.Sprintf("%.0f Mbit/s", float64(bytes)*8/1e6) }

func share(part, whole int64) string {
	if whole == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f %%", 100*float64(part)/float64(whole))
}

func newSessionShowCmd(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "show SESSION", Short: "Show how a session goes, and each of its machines", Args: words("SESSION"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runSession(cmd.Context(), c, "GET", a[0], "", cmd.OutOrStdout(), printSession)
		},
	}
}

func newSessionStartCmd(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "start SESSION", Short: "Start a session now, with the machines that wait in it", Args: words("SESSION"),
		RunE: func(cmd *cobra.Command, a []string) error {
			show := func(w io.Writer, s sessions.Session) error {
				_, err := fmt.Fprintf(w, "session %s has begun: %s\n", s.ID, countStates(s.Machines))
				return err
			}
			return runSession(cmd.Context(), c, "POST", a[0], "/start", cmd.OutOrStdout(), show)
		},
	}
}

// runSession calls the server and prints the session that it answers with.
func runSession(
	ctx context.Context, c *connection, method, id, rest string,
	w io.Writer, show func(io.Writer, sessions.Session) error,
) error {
	cl, err := c.open(ctx)
	if err != nil {
		return err
	}
	var s sessions.Session
	if err := cl.call(ctx, method, "/api/v1/sessions/"+url.PathEscape(id)+rest, nil, &s); err != nil {
		return err
	}
	if c.json {
		return printJSON(w, s)
	}
	return show(w, s)
}

// newSessionMachineCmd makes a command that does something with one machine of a session.
func newSessionMachineCmd(c *connection, verb, short, done string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " SESSION MACHINE", Short: short, Args: words("SESSION", "MACHINE"),
		RunE: func(cmd *cobra.Command, a []string) error {
			rest := "/machines/" + url.PathEscape(a[1]) + "/" + verb
			show := func(w io.Writer, s sessions.Session) error {
				_, err := fmt.Fprintf(w, "%s %s session %s\n", a[1], done, s.ID)
				return err
			}
			return runSession(cmd.Context(), c, "POST", a[0], rest, cmd.OutOrStdout(), show)
		},
	}
}

func newSessionAddCmd(c *connection) *cobra.Command {
	var yes, unseen bool
	cmd := &cobra.Command{
		Use: "add SESSION MACHINE", Short: "Deploy to one more machine, which joins late", Args: words("SESSION", "MACHINE"),
		Long: `Order the deploy of a session's task for one more machine, and let it join the session. What will be
overwritten is shown first; --yes answers the question.`,
		RunE: func(cmd *cobra.Command, a []string) error {
			return runSessionAdd(cmd.Context(), c, a[0], a[1], yes, unseen,
				cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&unseen, "unseen", false, "add it although its disks, as they were last seen, do not fit the rule")
	return cmd
}

func runSessionAdd(
	ctx context.Context, c *connection, id, machine string, yes, unseen bool,
	stdin io.Reader, stdout, stderr io.Writer,
) error {
	cl, err := c.open(ctx)
	if err != nil {
		return err
	}
	path := "/api/v1/sessions/" + url.PathEscape(id) + "/machines/" + url.PathEscape(machine) + "/add"
	var added api.Added
	if err := cl.call(ctx, "POST", path, map[string]bool{"dry_run": true}, &added); err != nil {
		return err
	}
	m := added.Machine
	disk := "its disks are not known yet"
	switch {
	case m.Problem != "":
		disk = "refused: " + m.Problem
	case len(m.Disks) > 0:
		disk = describeDisks(m.Disks)
	}
	fmt.Fprintf(stderr, "%s@%d will overwrite:\n  %s  %s\n", added.Version.Image, added.Version.Sequence, m.Name, disk)
	if m.Problem == "" && !yes {
		if err := askYes(ctx, stderr, stdin, "nothing was ordered", "--yes confirms"); err != nil {
			return err
		}
	}
	if err := cl.call(ctx, "POST", path, map[string]bool{"unseen": unseen}, &added); err != nil {
		return err
	}
	if c.json {
		return printJSON(stdout, added.Session)
	}
	_, err = fmt.Fprintf(stdout, "%s is expected in session %s: start or restart it from the network\n",
		m.Name, added.Session.ID)
	return err
}

func printSession(w io.Writer, s sessions.Session) error {
	fmt.Fprintf(w, "session %s: %s, %s\n", s.ID, s.Title, sessionState(s))
	if s.Error != "" {
		fmt.Fprintf(w, "  error     %s\n", s.Error)
	}
	if s.State != "waiting" {
		line := fmt.Sprintf("%s of %s, %s", gigabytes(s.Sent), gigabytes(s.Payload), share(s.Sent, s.Payload))
		if s.State == "running" {
			line += fmt.Sprintf(", %s of at most %s", megabits(s.Rate), megabits(s.MaxRate))
			if left, known := timeLeft(s.Payload-s.Sent, payloadRate(s)); known && s.Sent < s.Payload {
				line += ", " + roundTime(left) + " left"
			}
		} else if s.Seconds > 0 {
			took := time.Duration(s.Seconds * 1e9).Round(time.Second)
			line += fmt.Sprintf(" in %s, %s", took, megabits(int64(float64(s.Payload)/s.Seconds)))
		}
		fmt.Fprintf(w, "  sent      %s\n  repair    %d symbols; %s on the wire\n", line, s.Repair, gigabytes(s.Wire))
	}
	fmt.Fprintf(w, "  group     %s\n  machines  %s\n\n", s.Group, countStates(s.Machines))
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  MACHINE\tSTATE\tHAS\tLOST\tWHY")
	for _, m := range s.Machines {
		has, loss := "", ""
		if m.Address != "" {
			has, loss = share(m.Finished, m.Needed), fmt.Sprintf("%.1f %%", 100*m.Loss)
			if m.Needed == 0 {
				has = "all"
			}
		}
		why := m.Reason
		if m.Fetched > 0 {
			why = strings.TrimPrefix(why+"; "+gigabytes(m.Fetched)+" by unicast", "; ")
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n", m.Name, m.State, has, loss, why)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	printHints(w, s.Machines)
	return nil
}

// payloadRate is how many bytes of the payload go out per second: the rate counts headers and repairs too.
func payloadRate(s sessions.Session) float64 {
	if s.Wire == 0 {
		return 0
	}
	return float64(s.Rate) * float64(s.Sent) / float64(s.Wire)
}

// printHints says once what can be done for the machines that share a cause.
func printHints(w io.Writer, machines []sessions.MachineState) {
	var order []string
	names := map[string][]string{}
	for _, m := range machines {
		if m.Hint == "" {
			continue
		}
		if names[m.Hint] == nil {
			order = append(order, m.Hint)
		}
		names[m.Hint] = append(names[m.Hint], m.Name)
	}
	for _, hint := range order {
		fmt.Fprintf(w, "\nhint for %s: %s\n", strings.Join(names[hint], ", "), hint)
	}
}

// sessionState says in words where a session stands.
func sessionState(s sessions.Session) string {
	switch {
	case s.Waiting != nil && s.Waiting.Manual:
		return fmt.Sprintf("waiting: %s there; it begins with 'clonecast session start %s'",
			are(s.Waiting.Present, s.Waiting.Machines), s.ID)
	case s.Waiting != nil:
		text := fmt.Sprintf("waiting: %s there", are(s.Waiting.Present, s.Waiting.Machines))
		if s.Rule.At > 0 {
			return text + "; it begins at " + time.Unix(s.Rule.At, 0).Local().Format("2006-01-02 15:04")
		}
		if s.Waiting.StartsAt > 0 {
			text += "; it begins at " + time.Unix(s.Waiting.StartsAt, 0).Local().Format(time.TimeOnly) + " at the latest"
		}
		return text
	case s.State == "running":
		return "running since " + s.Began.Local().Format(time.TimeOnly)
	case s.Began.IsZero():
		return "ended without having begun"
	}
	return "ended at " + s.Ended.Local().Format(time.TimeOnly)
}

func are(part, whole int) string { return fmt.Sprintf("%d of %d machines are", part, whole) }
