package httpboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Server is a plain HTTP server with limits that fit firmware: short requests,
// long downloads.
type Server struct {
	listener net.Listener
	http     *http.Server
}

// Bounds of the open connections. A PC needs one or two.
const (
	maxConnections = 1024
	maxPerHost     = 16
)

// New makes a server on a listener.
func New(l net.Listener, h http.Handler, log *slog.Logger) *Server {
	return &Server{
		listener: newLimitListener(l, maxConnections, maxPerHost),
		http: &http.Server{
			Handler:           h,
			ReadHeaderTimeout: 10 * time.Second,
			ReadTimeout:       30 * time.Second,
			WriteTimeout:      15 * time.Minute, // an initramfs over a slow link
			IdleTimeout:       30 * time.Second,
			MaxHeaderBytes:    16 << 10,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
	}
}

// Addr tells where the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Serve answers until ctx ends; downloads under way get five seconds more.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if s.http.Shutdown(wait) != nil {
			_ = s.http.Close()
		}
	})
	defer stop()
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP boot: %w", err)
	}
	return nil
}

// Close frees the port without Serve.
func (s *Server) Close() error { return errors.Join(s.http.Close(), s.listener.Close()) }
