package main

import (
	"clonecast/server/api"

	"github.com/spf13/cobra"
)

func newTaskCastCmd(c *connection) *cobra.Command {
	o := orderFlags{Order: api.Order{Kind: api.OrderCast}}
	cmd := &cobra.Command{
		Use:   "cast --from M --machine N [--machine …] --image NAME",
		Short: "Capture a machine while others become it",
		Args:  words(),
		Long: `Save a machine's disk as a new version of an image, and overwrite the disks of other machines with
it meanwhile. They boot once the version is whole; when the capture fails they fail with its cause, and what
was written to does not boot until the next deploy. What will be overwritten is shown first; --yes answers
the question. --disk and --grow are for the machines that are overwritten, --policy for the capture.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(cmd); err != nil {
				return err
			}
			return runOrder(cmd.Context(), c, o, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.add(cmd)
	f := cmd.Flags()
	f.StringVar(&o.From, "from", "", "the `MACHINE` to capture, by name, id or MAC")
	require(cmd, "from")
	f.StringArrayVar(&o.FromDisk, "from-disk", nil,
		"`RULE` that names the disk to capture (default: the rule of the hardware class)")
	f.BoolVar(&o.Multicast, "multicast", false, "send what is captured to all of them in multicast sessions")
	o.addCapture(cmd)
	o.addDeploy(cmd)
	return cmd
}
