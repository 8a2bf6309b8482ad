// Package sparse keeps what anybody on the network can cause from filling the log: each message is said once an hour
// for each thing that it is about, and only so many in a minute.
//
// Memory is bounded: of a flood of invented senders the last thousand are remembered.
package sparse

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Limits.
const (
	remembered = 1024
	again      = time.Hour
	perMinute  = 20
)

// Log says things seldom.
type Log struct {
	log *slog.Logger
	now func() time.Time

	mu     sync.Mutex
	said   *simplelru.LRU[string, time.Time]
	minute time.Time // when the present minute began
	count  int       // of messages in it
}

// New makes a Log.
func New(log *slog.Logger, now func() time.Time) *Log {
	said, _ := simplelru.NewLRU[string, time.Time](remembered, nil) // fails for sizes below one only
	return &Log{log: log, now: now, said: said}
}

// Warn logs a message unless one of the same key was logged within an hour.
func (l *Log) Warn(key, message string, args ...any) { l.say(slog.LevelWarn, key, message, args) }

// Info is Warn for what is no fault.
func (l *Log) Info(key, message string, args ...any) { l.say(slog.LevelInfo, key, message, args) }

func (l *Log) say(level slog.Level, key, message string, args []any) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if last, known := l.said.Get(key); known && now.Sub(last) < again {
		return
	}
	if now.Sub(l.minute) >= time.Minute {
		l.minute, l.count = now, 0
	}
	l.count++
	switch {
	case l.count > perMinute+1:
		return // not remembered as said: it may come in a quieter minute
	case l.count == perMinute+1:
		l.log.Warn("too many different messages about packets: the others of this minute are left out")
		return
	}
	l.said.Add(key, now)
	l.log.Log(context.Background(), level, message, args...)
}
