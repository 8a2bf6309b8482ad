package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"clonecast/internal/protocol"
	"clonecast/server/api"
	"clonecast/server/machines"
	"clonecast/server/tasks"

	"github.com/spf13/cobra"
)

func newMachineCmd() *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use:   "machine",
		Short: "List, adopt and remove the PCs that the server knows",
		Long: `PCs that boot from the network register and wait: nothing happens to them until they are adopted.
MACHINE is a name, an id or its beginning, or a MAC address.`,
	}
	c.flags(cmd)
	cmd.AddCommand(newMachineListCmd(&c), newMachineShowCmd(&c), newMachineAdoptCmd(&c), newMachineRemoveCmd(&c))
	return cmd
}

func newMachineListCmd(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List all machines", Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error { return runMachineList(cmd.Context(), c, cmd.OutOrStdout()) },
	}
}

func runMachineList(ctx context.Context, c *connection, w io.Writer) error {
	cl, err := c.open(ctx)
	if err != nil {
		return err
	}
	var list []api.MachineLine
	if err := cl.call(ctx, "GET", "/api/v1/machines", nil, &list); err != nil {
		return err
	}
	if c.json {
		return printList(w, "machine", list)
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no machines yet: boot a PC from the network and it registers")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tNAME\tSTATE\tMAC\tADDRESS\tLAST SEEN\tHARDWARE\tNOTE")
	for _, m := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.ID, m.Name, m.State, m.MAC(), m.Address, ago(m.LastSeen),
			strings.TrimSpace(m.Facts.Manufacturer+" "+m.Facts.Product), strings.Join(notesOf(m), "; "))
	}
	return t.Flush()
}

// notesOf is what a person should know of a machine: what it does now, and which of its disks do not start.
func notesOf(m api.MachineLine) []string {
	var notes []string
	if op := m.Doing; op != nil {
		notes = append(notes, "task "+op.TaskID+": "+describeOperation(*op))
	}
	for _, d := range m.Unfinished {
		notes = append(notes, describeUnfinished(d))
	}
	if m.Note != "" {
		notes = append(notes, m.Note)
	}
	return notes
}

// describeUnfinished says of a disk that it is not whole.
func describeUnfinished(d tasks.UnfinishedDisk) string {
	return fmt.Sprintf("disk %s is half written with %s and does not start (task %s)", d.Name, d.Image, d.Task)
}

// makeWhole is the command that makes a machine's disks whole.
func makeWhole(machine, image string) string {
	return "clonecast task run deploy --machine " + machine + " --image " + image
}

// ago says roughly how long ago something was.
func ago(at time.Time) string {
	if at.IsZero() {
		return "never"
	}
	switch d := time.Since(at); {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", d/time.Hour)
	}
	return at.Local().Format("2006-01-02")
}

func newMachineShowCmd(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "show MACHINE", Short: "Show a machine, its hardware and what it has to do", Args: words("MACHINE"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runMachineShow(cmd.Context(), c, a[0], cmd.OutOrStdout())
		},
	}
}

func runMachineShow(ctx context.Context, c *connection, ref string, w io.Writer) error {
	cl, err := c.open(ctx)
	if err != nil {
		return err
	}
	var m api.MachineDetail
	if err := cl.call(ctx, "GET", "/api/v1/machines/"+url.PathEscape(ref), nil, &m); err != nil {
		return err
	}
	if c.json {
		return printJSON(w, m)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s\t%s\n", name, value)
		}
	}
	f := m.Facts
	line("name", m.Name)
	line("id", m.ID)
	line("state", m.State)
	line("note", m.Note)
	line("hardware", strings.TrimSpace(f.Manufacturer+" "+f.Product))
	line("serial", f.Serial)
	line("uuid", f.UUID)
	line("firmware", f.Firmware)
	line("cpu", f.CPU)
	line("memory", gigabytes(f.Memory))
	for _, n := range f.NICs {
		line("network", strings.TrimSpace(n.MAC+" "+n.Name+" "+n.Driver))
	}
	for _, d := range f.Disks {
		line("disk", describeDisk(d))
	}
	line("address", m.Address)
	line("reserved", m.ReservedIP)
	line("class", f.Class)
	line("registered", m.Registered.Local().Format(time.DateTime))
	line("last seen", ago(m.LastSeen))
	if m.Doing != nil {
		line("does", "task "+m.Doing.TaskID+": "+describeOperation(*m.Doing))
	}
	for _, d := range m.Unfinished {
		line("not whole", describeUnfinished(d))
		line("hint", makeWhole(m.Name, d.Image))
	}
	for _, task := range m.Tasks {
		line("task", task.ID+" "+task.Title+" ("+task.State+")")
	}
	for i, h := range m.History {
		if i > 0 {
			line("until "+h.LastSeen.Local().Format(time.DateOnly), fmt.Sprintf("%d disks, %d network cards, serial %s",
				len(h.Facts.Disks), len(h.Facts.NICs), h.Facts.Serial))
		}
	}
	return t.Flush()
}

// gigabytes gives a size as disks are labelled, in the unit that fits it.
func gigabytes(n int64) string {
	if n <= 0 {
		return ""
	}
	for _, u := range []struct {
		unit string
		size float64
	}{{"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}} {
		if float64(n) >= 0.95*u.size {
			return fmt.Sprintf("%.1f %s", float64(n)/u.size, u.unit)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

// describeDisk names a disk by what is printed on it.
func describeDisk(d protocol.Disk) string {
	text := gigabytes(d.Bytes)
	for _, s := range []string{d.Model, d.Serial, d.Bus, d.Name} {
		if s != "" {
			text += ", " + s
		}
	}
	return text
}

func describeDisks(disks []protocol.Disk) string {
	var texts []string
	for _, d := range disks {
		texts = append(texts, describeDisk(d))
	}
	return strings.Join(texts, " and ")
}

func newMachineAdoptCmd(c *connection) *cobra.Command {
	var name, ip string
	cmd := &cobra.Command{
		Use: "adopt MACHINE", Short: "Let a machine be given tasks, name it, reserve its address", Args: words("MACHINE"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runMachineAdopt(cmd.Context(), c, a[0], name, ip, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "its `NAME`, as a host name")
	cmd.Flags().StringVar(&ip, "ip", "", "`ADDRESS` that is reserved for it (DHCP mode full), or none")
	return cmd
}

func runMachineAdopt(ctx context.Context, c *connection, ref, name, ip string, w io.Writer) error {
	cl, err := c.open(ctx)
	if err != nil {
		return err
	}
	var m machines.Machine
	body := map[string]string{"name": name, "ip": ip}
	if err := cl.call(ctx, "POST", "/api/v1/machines/"+url.PathEscape(ref)+"/adopt", body, &m); err != nil {
		return err
	}
	if c.json {
		return printJSON(w, m)
	}
	_, err = fmt.Fprintf(w, "adopted %s (%s)\n", m.Name, m.ID)
	return err
}

func newMachineRemoveCmd(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "remove MACHINE", Short: "Forget a machine; when it boots again it is unknown", Args: words("MACHINE"),
		RunE: func(cmd *cobra.Command, a []string) error {
			cl, err := c.open(cmd.Context())
			if err != nil {
				return err
			}
			var m machines.Machine
			if err := cl.call(cmd.Context(), "DELETE", "/api/v1/machines/"+url.PathEscape(a[0]), nil, &m); err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), m)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "removed %s (%s)\n", m.Name, m.ID)
			return err
		},
	}
}
