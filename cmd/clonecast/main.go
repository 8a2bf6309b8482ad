// Command clonecast is the server, the appliance builder and the operator's tool of clonecast.
//
// Each command stands in a file of its own: new<Verb>Cmd declares the flags, run<Verb> does the
// work and is what tests call. Only main exits. What all commands have in common is in one place each:
// exit.go has the exit codes and how errors look, usage.go what is said of a wrong command line,
// signals.go what an interruption is, output.go what a full disk behind standard output is.
package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := interruptible(context.Background())
	code := execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// execute does what a command line says and gives the exit code.
func execute(ctx context.Context, words []string, stdin io.Reader, stdout, stderr io.Writer) int {
	out := &output{to: stdout}
	root := newRootCmd()
	root.SetArgs(words)
	root.SetIn(stdin)
	root.SetOut(out)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil && out.error() == nil {
		return exitOK
	}
	err = oneLine(words, interruption(ctx, outputError(err, out.error())))
	if wantsJSON(words) {
		reportJSON(out, err)
	}
	return report(stderr, err)
}

// newRootCmd is the tree of commands; a new command is one more line here.
func newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:               "clonecast",
		Short:             "Re-image rooms full of PCs over the network",
		Long:              "clonecast re-images rooms full of PCs over the network.\n\n" + exitHelp,
		Version:           engine()[len("clonecast "):],
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: harmless,
	}
	root.AddCommand(
		newBuildCmd(),
		newDiskCmd(),
		newMulticastCmd(),
		newServeCmd(),
		newCACmd(),
		newMachineCmd(),
		newTaskCmd(),
		newSessionCmd(),
		newImageCmd(),
		newStoreCmd(),
	)
	ownManners(root)
	return root
}
