// Command clonecast is the server, the appliance builder and the operator's tool of clonecast.
//
// Each command stands in a file of its own: new<Verb>Cmd declares the flags, run<Verb> does the
// work and is what tests call. Only main exits.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRootCmd().ExecuteContext(ctx)
	stop()
	os.Exit(report(os.Stderr, err))
}

// newRootCmd is the tree of commands; a new command is one more line here.
func newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:           "clonecast",
		Short:         "Re-image rooms full of PCs over the network",
		Long:          "clonecast re-images rooms full of PCs over the network.\n\n" + exitHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err) })
	root.AddCommand(
		newBuildCmd(),
		newDiskCmd(),
		newMulticastCmd(),
		newServeCmd(),
		newMachineCmd(),
		newTaskCmd(),
		newSessionCmd(),
		newImageCmd(),
		newStoreCmd(),
	)
	return root
}
