package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"clonecast/internal/protocol"
	"clonecast/server/api"
	"clonecast/server/tasks"

	"github.com/spf13/cobra"
)

func newTaskCmd() *cobra.Command {
	var c connection
	cmd := &cobra.Command{Use: "task", Short: "Order captures and deploys, watch and cancel them"}
	c.flags(cmd)
	run := &cobra.Command{Use: "run", Short: "Order a task"}
	run.AddCommand(newTaskCaptureCmd(&c), newTaskDeployCmd(&c), newTaskCastCmd(&c))
	cmd.AddCommand(run, newTaskListCmd(&c), newTaskShowCmd(&c), newTaskCancelCmd(&c), newTaskTablesCmd(&c))
	return cmd
}

// orderFlags are what capture and deploy share.
type orderFlags struct {
	api.Order
	follow, yes bool
}

func (o *orderFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&o.Machines, "machine", nil, "`MACHINE` by name, id or MAC")
	f.StringVar(&o.Image, "image", "", "`IMAGE`")
	f.StringArrayVar(&o.Disks, "disk", nil, "`RULE` that names the disk, as serial=…; "+
		"once for each disk of an image with several; see 'clonecast disk list --help' "+
		"(default: the rule of the hardware class)")
	f.StringArrayVar(&o.Policies, "policy", nil, policyUsage)
	f.BoolVar(&o.Unseen, "unseen", false,
		"order although the machine's disks, as they were last seen, do not fit the rule")
	f.StringVar(&o.Then, "then", "",
		"what the machine does afterwards: `poweroff|reboot` (default: it starts from its disk)")
	f.BoolVar(&o.follow, "follow", false, "wait, and show how it goes")
	require(cmd, "machine", "image")
}

// addCapture adds the flags of what is captured.
func (o *orderFlags) addCapture(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.Comment, "comment", "", "why this version is made, `TEXT`")
	cmd.Flags().BoolVar(&o.AllDisks, "all-disks", false, "capture every disk that fits the rule as one version")
	cmd.Flags().BoolVar(&o.Force, "force", false, "capture a hibernated system as well")
	cmd.Flags().BoolVar(&o.Replay, "replay", false, "let the machine replay the journals of file systems "+
		"that were not unmounted: changes the disk that is captured")
	cmd.Flags().BoolVar(&o.Fill, "fill-bad-sectors", false, "store zeroes in the place of sectors that cannot be read")
}

// addDeploy adds the flags of what is overwritten.
func (o *orderFlags) addDeploy(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.Grow, "grow", "", "`PARTITIONS` that take the free room behind them: last, or numbers as 2,3")
	cmd.Flags().BoolVar(&o.NoTrim, "no-trim", false, "do not tell the disk which blocks are free")
	cmd.Flags().BoolVar(&o.yes, "yes", false, "do not ask")
}

// check finds what cannot be on the command line.
func (o *orderFlags) check(cmd *cobra.Command) error {
	switch {
	case o.Then != "" && o.Then != protocol.OpPoweroff && o.Then != protocol.OpReboot:
		return usage(cmd, fmt.Errorf("--then %q is neither poweroff nor reboot", o.Then))
	}
	return nil
}

func newTaskCaptureCmd(c *connection) *cobra.Command {
	o := orderFlags{Order: api.Order{Kind: protocol.OpCapture}}
	cmd := &cobra.Command{
		Use: "capture --machine M --image NAME", Short: "Save a machine's disk as a new version of an image", Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(cmd); err != nil {
				return err
			}
			return runOrder(cmd.Context(), c, o, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.add(cmd)
	o.addCapture(cmd)
	return cmd
}

func newTaskDeployCmd(c *connection) *cobra.Command {
	o := orderFlags{Order: api.Order{Kind: protocol.OpDeploy}}
	var session sessionFlags
	cmd := &cobra.Command{
		Use:   "deploy --machine M [--machine N …] --image NAME[@VERSION]",
		Short: "Overwrite the machines' disks with an image",
		Args:  words(),
		Long: `Overwrite the machines' disks with an image. What will be overwritten is shown first;
--yes answers the question.

With --multicast the image is sent once for all machines. The transfer begins when all of them
are there, or five minutes after the first one, so that a PC that does not come holds nobody
up: it joins late. 'clonecast session show TASK' shows how it goes.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(cmd); err != nil {
				return err
			}
			if err := session.order(cmd, time.Now(), &o.SessionOrder); err != nil {
				return err
			}
			return runOrder(cmd.Context(), c, o, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.add(cmd)
	o.addDeploy(cmd)
	session.add(cmd)
	return cmd
}

func runOrder(ctx context.Context, c *connection, o orderFlags, stdin io.Reader, stdout, stderr io.Writer) error {
	cl, err := c.open(ctx)
	if err != nil {
		return err
	}
	if o.Kind != protocol.OpCapture {
		if err := confirmDeploy(ctx, cl, o, stdin, stderr); err != nil {
			return err
		}
	}
	var done api.Ordered
	if err := cl.call(ctx, "POST", "/api/v1/tasks", o.Order, &done); err != nil {
		return err
	}
	if o.follow {
		return follow(ctx, cl, done.Task.ID, c.json, stdout)
	}
	if c.json {
		return printJSON(stdout, done.Task)
	}
	_, err = fmt.Fprintf(stdout, "task %s: %s\n"+
		"start or restart the machine from the network; then: clonecast task show %s --follow\n",
		done.Task.ID, done.Task.Title, done.Task.ID)
	if err == nil && o.Multicast {
		_, err = fmt.Fprintf(stdout, "its multicast session: clonecast session show %s\n", done.Task.ID)
	}
	return err
}

// confirmDeploy shows what will be overwritten and lets a person type how many machines
// that are.
func confirmDeploy(ctx context.Context, cl *client, o orderFlags, stdin io.Reader, w io.Writer) error {
	dry := o.Order
	dry.DryRun = true
	var plan api.Ordered
	if err := cl.call(ctx, "POST", "/api/v1/tasks", dry, &plan); err != nil {
		return err
	}
	size := showSource(w, o, plan)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var refused []string
	if plan.From != nil && plan.From.Problem != "" {
		refused = append(refused, plan.From.Name)
	}
	for _, m := range plan.Machines {
		disk := "its disks are not known yet"
		if m.Problem != "" {
			disk = "refused: " + m.Problem
			refused = append(refused, m.Name)
		}
		if len(m.Disks) > 0 {
			disk = describeDisks(m.Disks)
		}
		if len(m.Disks) == 1 && len(m.Plan) == 0 && m.Problem == "" && m.Disks[0].Bytes < size {
			disk += " (smaller than the captured disk: the machine may refuse)"
		}
		fmt.Fprintf(t, "  %s\t%s\n", m.Name, disk)
		for _, d := range m.Plan {
			for _, g := range d.Growth {
				fmt.Fprintf(t, "  \tgrow: %v\n", g)
			}
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(refused) > 0 && !o.Unseen {
		return withCode(exitRefused,
			fmt.Errorf("the rule does not name one disk of %s: nothing was ordered", strings.Join(refused, ", ")),
			"name the disk by its serial number: --disk serial=…; if the machine has other disks by now: --unseen")
	}
	if o.yes {
		return nil
	}
	want := fmt.Sprint(len(plan.Machines))
	if err := askable(stdin, "nothing was ordered", "--yes confirms"); err != nil {
		return err
	}
	question := fmt.Sprintf("Type the number of machines (%s) to overwrite their disks: ", want)
	return askFor(ctx, w, stdin, question, want, "nothing was ordered")
}

// showSource says what the machines will hold, and gives the size of its disks as far as that is
// known.
func showSource(w io.Writer, o orderFlags, plan api.Ordered) (size int64) {
	if v := plan.Version; v != nil {
		fmt.Fprintf(w, "%s@%d of %s (%s) will overwrite:\n",
			v.Image, v.Sequence, v.Created.Local().Format("2006-01-02 15:04"), gigabytes(v.DiskBytes))
		return v.DiskBytes
	}
	disk := "its disks are not known yet"
	if len(plan.From.Disks) > 0 {
		disk = describeDisks(plan.From.Disks)
	}
	if plan.From.Problem != "" {
		disk = "refused: " + plan.From.Problem
	}
	for _, d := range plan.From.Disks {
		size += d.Bytes
	}
	fmt.Fprintf(w, "%s (%s) is captured as %s, and will overwrite:\n", plan.From.Name, disk, o.Image)
	return size
}

func newTaskListCmd(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the newest tasks", Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error { return runTaskList(cmd.Context(), c, cmd.OutOrStdout()) },
	}
}

func runTaskList(ctx context.Context, c *connection, w io.Writer) error {
	cl, err := c.open(ctx)
	if err != nil {
		return err
	}
	var list []tasks.Task
	if err := cl.call(ctx, "GET", "/api/v1/tasks", nil, &list); err != nil {
		return err
	}
	if c.json {
		return printList(w, "task", list)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TASK\tSTATE\tWHAT\tHOW FAR\tMACHINES\tORDERED\tBY")
	for _, task := range list {
		var names []string
		for _, r := range task.Runs[:min(len(task.Runs), 4)] {
			names = append(names, r.Machine)
		}
		if more := len(task.Runs) - len(names); more > 0 {
			names = append(names, fmt.Sprintf("and %d more", more))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", task.ID, task.State, task.Title, howFar(task),
			strings.Join(names, ", "), ago(task.Created), task.Creator)
	}
	return t.Flush()
}

// maxCause bounds the cause of a failure in a list; 'task show' has it whole.
const maxCause = 60

// howFar sums up in a few words how far a task is and why it failed: of one machine what it does, of several how
// many are where.
func howFar(t tasks.Task) string {
	count := map[string]int{}
	share, silent, cause := 0.0, 0, ""
	for _, r := range t.Runs {
		count[r.State]++
		for _, op := range r.Operations {
			if op.Silent {
				silent++
			}
			if op.State == tasks.Failed && cause == "" {
				cause = r.Machine + ": " + op.Error
			}
			if p := op.Progress; op.State == tasks.Running && p != nil && p.Total > 0 {
				share += float64(p.Done) / float64(p.Total)
			}
			if len(t.Runs) == 1 && op.State == tasks.Running {
				return strings.TrimPrefix(describeOperation(op), op.Kind+" "+op.Image+": running: ")
			}
		}
	}
	if runes := []rune(cause); len(runes) > maxCause {
		cause = string(runes[:maxCause-1]) + "…"
	}
	var parts []string
	for _, state := range []string{tasks.Queued, tasks.Running, tasks.Done, tasks.Failed, tasks.Cancelled} {
		n := count[state]
		if n == 0 || len(t.Runs) == 1 && state != tasks.Failed {
			continue
		}
		part := fmt.Sprintf("%d %s", n, state)
		switch {
		case state == tasks.Failed && len(t.Runs) == 1:
			part = cause
		case state == tasks.Failed:
			part += " (" + cause + ")"
		case state == tasks.Running && share > 0:
			part += fmt.Sprintf(" (%.0f %%)", 100*share/float64(n))
		}
		parts = append(parts, part)
	}
	if silent > 0 {
		parts = append(parts, fmt.Sprintf("%d silent", silent))
	}
	return strings.Join(parts, ", ")
}

func newTaskShowCmd(c *connection) *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "show TASK", Short: "Show how a task goes", Args: words("TASK"),
		RunE: func(cmd *cobra.Command, a []string) error {
			cl, err := c.open(cmd.Context())
			if err != nil {
				return err
			}
			if watch {
				return follow(cmd.Context(), cl, a[0], c.json, cmd.OutOrStdout())
			}
			var t tasks.Task
			if err := cl.call(cmd.Context(), "GET", "/api/v1/tasks/"+url.PathEscape(a[0]), nil, &t); err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), t)
			}
			return printTask(cmd.OutOrStdout(), t)
		},
	}
	cmd.Flags().BoolVar(&watch, "follow", false, "wait until it is over; exit code 1 if it fails, 3 if it is cancelled")
	return cmd
}

func printTask(w io.Writer, t tasks.Task) error {
	fmt.Fprintf(w, "task %s: %s, ordered %s by %s: %s\n",
		t.ID, t.Title, t.Created.Local().Format(time.DateTime), t.Creator, t.State)
	for _, r := range t.Runs {
		for _, op := range r.Operations {
			fmt.Fprintf(w, "  %s: %s\n", r.Machine, describeOperation(op))
			for _, n := range op.Notes {
				fmt.Fprintf(w, "      %s\n", n)
			}
			if op.Hint != "" {
				fmt.Fprintf(w, "      hint: %s\n", op.Hint)
			}
		}
		printUnfinished(w, r)
	}
	return nil
}

// printUnfinished says which disks a run has left half written, and what makes them whole.
func printUnfinished(w io.Writer, r tasks.Run) {
	for _, d := range r.Unfinished {
		fmt.Fprintf(w, "      %s\n", describeUnfinished(d))
	}
	if len(r.Unfinished) > 0 && tasks.Over(r.State) {
		fmt.Fprintf(w, "      hint: %s makes it whole\n", makeWhole(r.Machine, r.Unfinished[0].Image))
	}
}

// printCancelled says in which state a cancelled task leaves the disks of each machine.
func printCancelled(w io.Writer, t tasks.Task) error {
	fmt.Fprintf(w, "task %s is cancelled\n", t.ID)
	for _, r := range t.Runs {
		for _, op := range r.Operations {
			if op.Kind != protocol.OpDeploy && op.Kind != protocol.OpFollow {
				continue
			}
			switch {
			case len(r.Unfinished) > 0:
				fmt.Fprintf(w, "  %s:\n", r.Machine)
				printUnfinished(w, r)
			case op.State == tasks.Done:
				fmt.Fprintf(w, "  %s: its disks are whole\n", r.Machine)
			default:
				fmt.Fprintf(w, "  %s: nothing was written to its disks\n", r.Machine)
			}
		}
	}
	return nil
}

// describeOperation is one line: what, how far, how it ended.
func describeOperation(op tasks.Operation) string {
	text := op.Kind
	if op.Image != "" {
		text += " " + op.Image
	}
	text += ": " + op.State
	if p := op.Progress; p != nil {
		text += ": " + p.Phase
		if p.Total > 0 {
			text += fmt.Sprintf(" %.0f %%", 100*float64(p.Done)/float64(p.Total))
		}
	}
	if op.Silent {
		text += ", silent since " + op.Heard.Local().Format(time.TimeOnly)
	}
	if op.Error != "" {
		text += ": " + op.Error
	}
	return text
}

// follow shows a task until it is over. On a screen each change is a line.
func follow(ctx context.Context, cl *client, id string, asJSON bool, w io.Writer) error {
	response, err := cl.do(ctx, "GET", "/api/v1/tasks/"+url.PathEscape(id)+"/follow", nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	last := map[string]string{}
	shown := time.Time{}
	var t tasks.Task
	for d := json.NewDecoder(response.Body); ; {
		t = tasks.Task{}
		if err := d.Decode(&t); err != nil {
			return fmt.Errorf("follow task %s: the server hung up: %w", id, err)
		}
		over := tasks.Over(t.State)
		switch {
		case asJSON && over:
			err = printJSON(w, t)
		case asJSON:
			err = writeEvent(w, "task", t)
		default:
			err = printChanges(w, t, last, over || time.Since(shown) > logEvery, &shown)
		}
		if err != nil { // nobody looks any more
			return err
		}
		if over {
			break
		}
	}
	return outcome(t)
}

// printChanges prints operations whose line is new; lines that differ only in the
// progress wait until it is their time.
func printChanges(w io.Writer, t tasks.Task, last map[string]string, progress bool, shown *time.Time) error {
	for _, r := range t.Runs {
		for _, op := range r.Operations {
			key := fmt.Sprint(r.MachineID, op.Index)
			line := describeOperation(op)
			state := op.State
			if op.Progress != nil {
				state += op.Progress.Phase
			}
			if last[key] == line || last[key+"state"] == state && !progress {
				continue
			}
			if _, known := last[key]; known || op.State != tasks.Queued {
				if _, err := fmt.Fprintf(w, "%s  %s: %s\n", time.Now().Format(time.TimeOnly), r.Machine, line); err != nil {
					return err
				}
				*shown = time.Now()
			}
			last[key], last[key+"state"] = line, state
			if tasks.Over(op.State) {
				for _, n := range op.Notes {
					if _, err := fmt.Fprintf(w, "          %s\n", n); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// outcome turns the end of a task into an exit code.
func outcome(t tasks.Task) error {
	switch t.State {
	case tasks.Done:
		return nil
	case tasks.Cancelled:
		return withCode(exitRefused, fmt.Errorf("task %s was cancelled", t.ID), "")
	}
	var failed []string
	hint := ""
	for _, r := range t.Runs {
		for _, op := range r.Operations {
			if op.State == tasks.Failed {
				failed, hint = append(failed, r.Machine+": "+op.Error), op.Hint
			}
		}
	}
	return withCode(exitFailed, fmt.Errorf("task %s failed on %s", t.ID, strings.Join(failed, "; ")), hint)
}

func newTaskCancelCmd(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "cancel TASK", Short: "Stop a task on all its machines", Args: words("TASK"),
		RunE: func(cmd *cobra.Command, a []string) error {
			cl, err := c.open(cmd.Context())
			if err != nil {
				return err
			}
			var t tasks.Task
			if err := cl.call(cmd.Context(), "POST", "/api/v1/tasks/"+url.PathEscape(a[0])+"/cancel", nil, &t); err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), t)
			}
			return printCancelled(cmd.OutOrStdout(), t)
		},
	}
}
