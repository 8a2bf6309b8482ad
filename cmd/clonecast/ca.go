package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"clonecast/server"

	"github.com/spf13/cobra"
)

// caOptions are what the commands of the certificate authority share.
type caOptions struct {
	data string
	json bool
}

func newCACmd() *cobra.Command {
	var o caOptions
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Look after the certificate authority that PCs trust",
		Long: `Look after the certificate authority that PCs trust. It lives for ten years. Three years before its end the
next start of the server makes a successor, and every appliance that is built from then on trusts both; the
successor signs the server's certificate in the last 14 months. So nothing need be done, unless a start is refused
because no authority is valid: the computer's clock was wrong when it was made, or is wrong now.`,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&o.data, "data", server.DefaultDirectory, "data `DIR` of the server on this computer")
	f.BoolVar(&o.json, "json", false, jsonUsage)
	cmd.AddCommand(
		&cobra.Command{
			Use: "show", Short: "Show the authorities and until when they are valid", Args: words(),
			RunE: func(cmd *cobra.Command, _ []string) error { return runCAShow(o, cmd.OutOrStdout()) },
		},
		&cobra.Command{
			Use: "renew", Short: "Make a successor now; the server must not run", Args: words(),
			RunE: func(cmd *cobra.Command, _ []string) error { return runCARenew(o, cmd.OutOrStdout()) },
		})
	return cmd
}

func runCAShow(o caOptions, w io.Writer) error {
	list, err := server.Authorities(o.data, time.Now())
	if err != nil {
		return err
	}
	if o.json {
		for _, a := range list {
			if err := writeEvent(w, "authority", a); err != nil {
				return err
			}
		}
		return writeEvent(w, "summary", map[string]int{"authorities": len(list)})
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no authority yet: the first 'clonecast serve' makes one")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FILE\tSTATE\tFROM\tUNTIL\tNAME")
	for _, a := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n",
			a.File, a.State, a.From.Format(time.DateOnly), a.Until.Format(time.DateOnly), a.Name)
	}
	return t.Flush()
}

func runCARenew(o caOptions, w io.Writer) error {
	a, err := server.RenewAuthority(o.data, time.Now())
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(w, a)
	}
	_, err = fmt.Fprintf(w, "%s: valid until %s; it %s\n"+
		"start the server: it builds its appliances again, and PCs get them at their next network boot\n",
		a.File, a.Until.Format(time.DateOnly), a.State)
	return err
}
