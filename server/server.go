// Package server is "clonecast serve": one process that leads PCs from their first DHCP
// packet to a deployed disk.
//
//	OpenData   the data directory: certificates, signing key, store, database
//	Open       binds every port, or none
//	Serve      answers until its context ends
//
// What a PC does at its start is decided here (decide.go): the appliance if a task waits
// for it or if it is unknown, its local disk in every other case.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"clonecast/internal/chunkstore"
	"clonecast/internal/multicast/querier"
	"clonecast/internal/netboot"
	"clonecast/server/api"
	"clonecast/server/dhcp"
	"clonecast/server/httpboot"
	"clonecast/server/link"
	"clonecast/server/listen"
	"clonecast/server/machines"
	"clonecast/server/radv"
	"clonecast/server/sessions"
	"clonecast/server/tasks"
	"clonecast/server/tftp"
)

// Appliance is the boot image of a hardware class.
type Appliance struct {
	Class       string
	Directory   string // with netboot.KernelFile, netboot.InitramfsFile and the boot programs
	CommandLine string // of the class
	Disk        string // the class's disk rule
}

// Options say how to serve.
type Options struct {
	Interface   string
	DHCP        dhcp.Mode
	First, Last netip.Addr // of the dynamic range of the interface's network, DHCP mode full
	// Networks are further networks, behind relays, and what their PCs are told; that of the interface may be among them.
	Networks  []dhcp.Subnet
	HTTPPort  int
	HTTPSPort int
	// MulticastRate is how many bytes per second multicast sessions may put on the wire together;
	// 0: as fast as the interface.
	MulticastRate float64
	Appliances    []Appliance // the first one is for machines whose class is not known
	Build         string      // of this program
	Log           *slog.Logger
}

// Server has bound its ports.
type Server struct {
	opts     Options
	data     *Data
	at       atomic.Pointer[link.State] // of the interface when it last had an address
	api      *api.API
	machines *machines.Registry
	sessions *sessions.Manager
	https    *http.Server
	tls      *tls.Config
	local    *http.Server
	boot     *httpboot.Server
	tftp     *tftp.Server
	dhcp     *dhcp.Server
	leaf     *leaf
	radv     *bound[*radv.Server]
	querier  currentQuerier
	reopen   bool // DHCP could not be opened on the interface as it is
	reserved dhcp.ReservationTable
	files    bootFiles
	closers  []func() error

	httpListener, httpsListener *listen.Listener
	localListener               net.Listener
}

// Open binds every port. After an error nothing stays bound.
func Open(ctx context.Context, data *Data, o Options) (s *Server, err error) {
	at, err := addressesOf(o.Interface)
	if err != nil {
		return nil, err
	}
	s = &Server{opts: o, data: data}
	s.at.Store(&at)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
			s = nil
		}
	}()
	s.machines = machines.New(data.DB, time.Now, o.Log, s.reserve)
	orders := tasks.NewService(data.DB, time.Now, o.Log)
	decider := &decider{server: s, tasks: orders, boots: newBoots(time.Now)}
	s.reserve()
	s.openSessions(ctx, orders)
	s.api = api.New(api.Config{
		DB: data.DB, Machines: s.machines, Tasks: orders, Sessions: s.sessions, Store: data.Store, Log: o.Log,
		Now: time.Now, Status: s.status, Build: o.Build, Seen: decider.boots.registered, DiskRule: decider.diskRule,
	})
	s.closers = append(s.closers, s.api.Close)
	if s.files, err = openBootFiles(o.Appliances); err != nil {
		return s, err
	}
	s.closers = append(s.closers, s.files.Close)
	if err := s.openHTTPS(ctx); err != nil {
		return s, err
	}
	if err := s.openLocal(ctx); err != nil {
		return s, err
	}
	return s, s.openBoot(ctx, decider)
}

// openSessions prepares for multicast, with a querier where that is allowed.
func (s *Server) openSessions(ctx context.Context, orders *tasks.Service) {
	s.querier = currentQuerier{newBound(func(ctx context.Context) (*querier.Server, error) {
		return querier.Open(ctx, s.opts.Interface, s.address().Addr(), s.opts.Log)
	}, func(err error) {
		s.opts.Log.Warn("switches with IGMP snooping may drop multicast: this computer cannot stand in for a querier",
			"error", err)
	})}
	s.querier.start(ctx)
	s.closers = append(s.closers, closed(s.querier.Close))
	s.sessions = sessions.New(sessions.Config{
		Orders: orders, Store: s.data.Store, Interface: s.opts.Interface, MaxRate: s.opts.MulticastRate,
		Log: s.opts.Log, Now: time.Now, Querier: s.querier,
	})
	s.closers = append(s.closers, s.sessions.Close)
}

// address is the one that PCs are told, with its network.
func (s *Server) address() netip.Prefix { return s.at.Load().Address() }

func (s *Server) ip() string { return s.address().Addr().String() }

func (s *Server) hostPort(port int) string { return net.JoinHostPort(s.ip(), fmt.Sprint(port)) }

// URL is where machines and admins reach the API.
func (s *Server) URL() string { return "https://" + s.hostPort(s.opts.HTTPSPort) }

// urlAt is URL for a PC that has reached the server at an address.
func (s *Server) urlAt(address netip.Addr) string {
	if !slices.Contains(s.at.Load().IPs(), address) {
		return s.URL()
	}
	return "https://" + net.JoinHostPort(address.String(), fmt.Sprint(s.opts.HTTPSPort))
}

func (s *Server) openHTTPS(ctx context.Context) error {
	l, err := listen.Open(ctx, s.at.Load().IPs(), s.opts.HTTPSPort)
	if err != nil {
		return explainPort("tcp", s.opts.HTTPSPort, fmt.Errorf("listen for HTTPS: %w", err))
	}
	s.opts.HTTPSPort = l.Port() // tests take any
	s.closers = append(s.closers, closed(l.Close))
	addresses := func() ([]netip.Addr, error) { return allAddresses(s.opts.Interface) }
	s.leaf = &leaf{authorities: s.data.authorities, directory: s.data.Directory, addresses: addresses, now: time.Now}
	if _, err := s.leaf.get(nil); err != nil {
		return err
	}
	s.httpsListener = l
	s.tls = &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: s.leaf.get, NextProtos: []string{"http/1.1"}}
	s.https = s.api.NewServer(s.tls, false)
	return nil
}

func (s *Server) openLocal(ctx context.Context) error {
	path := s.data.Socket()
	// Whoever left it is gone: the data directory's lock is ours.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove an old socket: %w", err)
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("listen for the command line at %s: %w", path, err)
	}
	s.closers = append(s.closers, closed(l.Close))
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("protect %s: %w", path, err)
	}
	s.local, s.localListener = s.api.NewServer(nil, true), l
	return nil
}

// openBoot binds what PCs need before they speak HTTPS.
func (s *Server) openBoot(ctx context.Context, d httpboot.Decider) error {
	programs, err := bootPrograms(s.opts.Appliances)
	if err != nil {
		return err
	}
	handler, err := httpboot.NewHandler(httpboot.Config{Decider: d, Files: s.files, Programs: programs, Log: s.opts.Log})
	if err != nil {
		return err
	}
	if s.httpListener, err = listen.Open(ctx, s.at.Load().IPs(), s.opts.HTTPPort); err != nil {
		return explainPort("tcp", s.opts.HTTPPort, fmt.Errorf("listen for HTTP boot: %w", err))
	}
	s.opts.HTTPPort = s.httpListener.Port()
	s.boot = httpboot.New(s.httpListener, handler, s.opts.Log)
	s.closers = append(s.closers, closed(s.boot.Close))
	if err := s.writeSiteLines(); err != nil {
		return err
	}
	if s.opts.DHCP == dhcp.Off {
		return s.openTFTP(ctx, programs) // the site's DHCP server may point here
	}
	if s.opts.DHCP == dhcp.Full {
		if err := otherServer(ctx, s.opts.Interface); err != nil {
			return err
		}
	}
	h, err := s.dhcpHandler()
	if err != nil {
		return err
	}
	if s.dhcp, err = dhcp.Open(ctx, h, dhcp.Options{Interface: s.opts.Interface, Log: s.opts.Log}); err != nil {
		return explainPort("udp", dhcp.ServerPort, explainPort("udp", dhcp.PXEPort, err))
	}
	s.closers = append(s.closers, closed(s.dhcp.Close))
	s.radv = newBound(func(ctx context.Context) (*radv.Server, error) {
		return radv.Open(ctx, s.opts.Interface, s.opts.Log)
	}, func(err error) { s.opts.Log.Warn("PCs will search for an IPv6 router for some seconds", "error", err) })
	s.radv.start(ctx)
	s.closers = append(s.closers, closed(s.radv.Close))
	return s.openTFTP(ctx, programs)
}

func (s *Server) openTFTP(ctx context.Context, programs map[string][]byte) (err error) {
	config := tftp.Config{
		Address: s.hostPort(tftpPort), Files: programs, Log: s.opts.Log, Script: func(at netip.Addr) []byte {
			return httpboot.Chain("http://" + net.JoinHostPort(at.String(), fmt.Sprint(s.opts.HTTPPort)))
		},
	}
	if s.tftp, err = tftp.Open(ctx, config); err != nil {
		return explainPort("udp", tftpPort, err)
	}
	s.closers = append(s.closers, closed(s.tftp.Close))
	if err := s.tftp.Follow(ctx, s.at.Load().IPs()); err != nil {
		return explainPort("udp", tftpPort, err)
	}
	return nil
}

const tftpPort = 69

// closed lets a part be closed that its server closed already.
func closed(f func() error) func() error {
	return func() error {
		if err := f(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}

// Serve answers until ctx ends. What machines were doing goes on when the server is back.
func (s *Server) Serve(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for server, listener := range map[*http.Server]net.Listener{
		s.https: tls.NewListener(s.httpsListener, s.tls), s.local: s.localListener,
	} {
		group.Go(func() error {
			stop := context.AfterFunc(ctx, func() { shutdown(server) })
			defer stop()
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve %s: %w", listener.Addr(), err)
			}
			return nil
		})
	}
	group.Go(func() error { return s.boot.Serve(ctx) })
	group.Go(func() error { return s.tftp.Serve(ctx) })
	if s.dhcp != nil {
		group.Go(func() error { return s.dhcp.Serve(ctx) })
	}
	if s.radv != nil {
		group.Go(func() error { return s.radv.serve(ctx) })
	}
	group.Go(func() error { return s.querier.serve(ctx) })
	group.Go(func() error {
		link.Follow(ctx, s.opts.Interface, *s.at.Load(), s.opts.Log, func(now link.State) { s.follow(ctx, now) })
		return nil
	})
	group.Go(func() error { return s.collect(ctx, time.Hour, 24*time.Hour) })
	return group.Wait()
}

// collect removes what no version needs again and again.
func (s *Server) collect(ctx context.Context, first, every time.Duration) error {
	for wait := first; ; wait = every {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		r, err := s.data.Store.Collect(ctx, chunkstore.CollectOptions{MinAge: chunkstore.DefaultMinAge})
		if err != nil && ctx.Err() == nil {
			s.opts.Log.Error("the store is not collected", "error", err)
		} else if err == nil {
			s.opts.Log.Info("store collected", "packs", r.Removed, "bytes", r.Freed,
				"rewritten", r.Rewritten, "condemned", r.Condemned, "kept", len(r.Kept))
		}
	}
}

// shutdown lets calls under way end, for some seconds.
func shutdown(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close()
	}
}

// Close frees the ports. The data stays open: it is its opener's.
func (s *Server) Close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// status is what the API tells of the server.
func (s *Server) status() api.Status {
	st := api.Status{
		Build: s.opts.Build, Interface: s.opts.Interface, DHCP: string(s.opts.DHCP), Appliances: []string{},
		Listening: []string{
			"https://" + s.hostPort(s.opts.HTTPSPort),
			"http://" + s.hostPort(s.opts.HTTPPort) + netboot.ScriptPath,
			"tftp://" + s.ip(),
		},
	}
	for _, a := range s.opts.Appliances {
		st.Appliances = append(st.Appliances, a.Class)
	}
	return st
}

// bootFiles are the folders of appliances by class.
type bootFiles map[string]*os.Root

func openBootFiles(list []Appliance) (bootFiles, error) {
	b := bootFiles{}
	for _, a := range list {
		root, err := os.OpenRoot(a.Directory)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open appliance %s: %w", a.Class, err), b.Close())
		}
		b[a.Class] = root
	}
	return b, nil
}

// OpenBootFile opens a kernel or initramfs.
func (b bootFiles) OpenBootFile(class, name string) (httpboot.File, error) {
	root, ok := b[class]
	if !ok || name != netboot.KernelFile && name != netboot.InitramfsFile {
		return httpboot.File{}, fmt.Errorf("boot file %q of class %q: %w", name, class, fs.ErrNotExist)
	}
	f, err := root.Open(name)
	if err != nil {
		return httpboot.File{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return httpboot.File{}, errors.Join(err, f.Close())
	}
	return httpboot.File{ReadSeekCloser: f, ModTime: info.ModTime()}, nil
}

func (b bootFiles) Close() error {
	var errs []error
	for _, root := range b {
		errs = append(errs, root.Close())
	}
	return errors.Join(errs...)
}

// bootPrograms reads the programs that DHCP names from the first appliance that has them.
func bootPrograms(list []Appliance) (map[string][]byte, error) {
	programs := map[string][]byte{}
	for _, name := range netboot.DefaultPrograms().Names() {
		var errs []error
		for _, a := range list {
			b, err := os.ReadFile(filepath.Join(a.Directory, name))
			if err == nil {
				programs[name] = b
				break
			}
			errs = append(errs, err)
		}
		if programs[name] == nil {
			return nil, &Problem{Err: fmt.Errorf("read boot program %s: %w", name, errors.Join(errs...)),
				Advice: "'clonecast build' puts the boot programs beside the appliance"}
		}
	}
	return programs, nil
}

// Problem is an error with what to do about it.
type Problem struct {
	Err    error
	Advice string
}

func (p *Problem) Error() string { return p.Err.Error() }
func (p *Problem) Unwrap() error { return p.Err }

// Hint tells what to do.
func (p *Problem) Hint() string { return p.Advice }

// explainPort adds to an error of binding what a person needs to know.
func explainPort(network string, port int, err error) error {
	var known *Problem
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, fs.ErrPermission):
		return &Problem{err, "ports below 1024 and DHCP need root: run it with sudo"}
	case errors.Is(err, syscall.EADDRINUSE):
		if who := holder(network, port); who != "" {
			return &Problem{err, fmt.Sprintf("%s port %d is in use by %s: "+
				"stop it, or give clonecast another port or interface", network, port, who)}
		}
		return err
	}
	return err
}

// Describe says in plain words where the server listens and what to do next.
func (s *Server) Describe() string {
	boot := map[dhcp.Mode]string{
		dhcp.Off:   s.siteSummary(),
		dhcp.Proxy: "PCs that boot from the network are answered beside the network's own DHCP server (ports 67 and 4011)",
		dhcp.Full:  s.rangeSummary(),
	}[s.opts.DHCP]
	where := ""
	if s.data.Directory != DefaultDirectory {
		where = " --data " + s.data.Directory
	}
	return fmt.Sprintf(`clonecast serves %s (%s):
  machines and admins  %s
  network boot         http://%s and TFTP
  %s

what to do next, on this computer:
  1. boot a PC from the network, with Secure Boot off (the boot programs are not signed); it registers and goes on to
     its own disk after two minutes
  2. clonecast machine list%[6]s
     clonecast machine adopt ID --name pc1%[6]s
  3. clonecast task run capture --machine pc1 --image first%[6]s
     and boot the PC again
`, s.opts.Interface, s.address(), s.URL(), s.hostPort(s.opts.HTTPPort), boot, where)
}
