package main

import (
	"io"
	"log/slog"
)

// newProgressLog is for people who watch a command: no time, one line a step.
func newProgressLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			info := a.Key == slog.LevelKey && a.Value.String() == slog.LevelInfo.String()
			if len(groups) == 0 && (a.Key == slog.TimeKey || info) {
				return slog.Attr{}
			}
			return a
		},
	}))
}
