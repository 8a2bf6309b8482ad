package main

import (
	"errors"
	"fmt"
	"time"

	"clonecast/server/api"

	"github.com/spf13/cobra"
)

// sessionFlags say on the command line whether a deploy goes by multicast, and when its session begins.
type sessionFlags struct {
	multicast, manually bool
	when                int
	at                  string
	wait                time.Duration
}

func (s *sessionFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&s.multicast, "multicast", false,
		"send the image once for all machines; the transfer begins when all of them are there")
	f.IntVar(&s.when, "start-when", 0, "begin when `N` machines are there, not all; the others join late")
	f.StringVar(&s.at, "start-at", "", "begin at a `TIME`: 14:30, or \"2026-05-31 14:30\"")
	f.BoolVar(&s.manually, "start-manually", false, "begin with 'clonecast session start' only")
	f.DurationVar(&s.wait, "wait", 0, "begin at the latest so long after the first machine is there, "+
		"whoever is missing, `DURATION` as 90s or 10m (default 5m)")
}

// order reads the flags into an order.
func (s sessionFlags) order(cmd *cobra.Command, now time.Time, o *api.SessionOrder) error {
	if !s.multicast {
		for _, name := range []string{"start-when", "start-at", "start-manually", "wait"} {
			if cmd.Flags().Changed(name) {
				return usage(cmd, fmt.Errorf("--%s is for a deploy with --multicast", name))
			}
		}
		return nil
	}
	if cmd.Flags().Changed("start-when") && s.when < 1 {
		return usage(cmd, fmt.Errorf("--start-when %d: at least one machine must be there", s.when))
	}
	if cmd.Flags().Changed("wait") && s.wait < time.Second {
		return usage(cmd, fmt.Errorf("--wait %v is shorter than a second", s.wait))
	}
	*o = api.SessionOrder{
		Multicast: true, StartWhen: s.when, StartManually: s.manually, WaitSeconds: int(s.wait / time.Second),
	}
	if s.at == "" {
		return nil
	}
	at, err := parseStart(s.at, now)
	if err != nil {
		return usage(cmd, err)
	}
	o.StartAt = at
	return nil
}

// parseStart reads a time of today, or one with a date. It must be to come.
func parseStart(text string, now time.Time) (time.Time, error) {
	at, err := time.ParseInLocation("15:04", text, now.Location())
	if err == nil {
		at = time.Date(now.Year(), now.Month(), now.Day(), at.Hour(), at.Minute(), 0, 0, now.Location())
	} else if at, err = time.ParseInLocation("2006-01-02 15:04", text, now.Location()); err != nil {
		if at, err = time.Parse(time.RFC3339, text); err != nil {
			return time.Time{}, fmt.Errorf(
				"--start-at %q is neither a time as 14:30 nor one with a date as \"2026-05-31 14:30\"", text)
		}
	}
	if !at.After(now) {
		return time.Time{}, errors.New("--start-at " + text + " is past; for another day give the date as well")
	}
	return at, nil
}
