package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"

	"clonecast/builder"
	"clonecast/server"
	"clonecast/server/dhcp"

	"github.com/spf13/cobra"
)

// serveOptions are the command line of "clonecast serve".
type serveOptions struct {
	iface         string
	data          string
	mode          string
	dhcpRange     string
	networks      []string
	wait          bool
	classes       []string
	appliance     string
	httpPort      int
	httpsPort     int
	kernelPackage string
	init          string
	multicastRate string
	verbose       bool
}

func newServeCmd() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve --interface IF",
		Short: "Run the server for the PCs on a network",
		Long: `Run the server for the PCs on the network of an interface. The first start makes everything it needs in
the data directory: certificates, signing key, database, store, admin password (shown once) and the appliance.

DHCP modes: proxy works beside the network's DHCP server and hands out no addresses; full is for a network
that has none; off leaves network boot to the site's DHCP server, which has to be told of clonecast: the start
says how, and DIR/dhcp/ has the lines for dnsmasq, ISC dhcpd and Kea.

--network names a network behind a relay, or the server's own, and what its PCs are told; it may be given again:
  10.98.0.0/24,range=10.98.0.100-10.98.0.200,router=10.98.0.1,dns=10.98.0.53,domain=lab.example,lease=8h
All but the network may be left out; router, dns and ntp may be repeated. Without a router PCs behind a relay are
told the relay. Mode proxy needs it only for networks of public addresses, and only the network itself.

The server follows its interface: another address, a second one, the interface made anew, the cable pulled.

` + exitHelp,
		Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.mode == string(dhcp.Full) && o.dhcpRange == "" && len(o.networks) == 0 {
				return usage(cmd, errors.New("--dhcp full needs --dhcp-range or --network"))
			}
			return runServe(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.iface, "interface", "", "network `IF` of the PCs, with a fixed IPv4 address")
	f.StringVar(&o.data, "data", server.DefaultDirectory, "data `DIR`")
	f.StringVar(&o.mode, "dhcp", string(dhcp.Proxy), "`off|proxy|full`")
	f.StringVar(&o.dhcpRange, "dhcp-range", "", "addresses to hand out in mode full, `FIRST-LAST`")
	f.StringArrayVar(&o.networks, "network", nil, "further `NETWORK` whose PCs are served, as above")
	f.BoolVar(&o.wait, "wait", false, "wait for an interface or address that comes later, instead of ending")
	f.StringSliceVar(&o.classes, "class", []string{"generic-pc"},
		"hardware `CLASS` or file.yaml; may be given again, the first is the default")
	f.StringVar(&o.appliance, "appliance", "", "`DIR` that 'clonecast build' made, instead of building one")
	f.IntVar(&o.httpPort, "http-port", 8080, "`PORT` for network boot")
	f.IntVar(&o.httpsPort, "https-port", 8443, "`PORT` for machines and admins")
	f.StringVar(&o.kernelPackage, "kernel-package", "",
		"Debian kernel package `FILE` for the appliance (default: through apt)")
	f.StringVar(&o.init, "init", "", "clonecast-init program `FILE` for the appliance (default: beside clonecast)")
	f.StringVar(&o.multicastRate, "multicast-rate", "", "what multicast sessions may send together, "+
		"in bits per second, `RATE` as 900M (default: the speed of the interface)")
	require(cmd, "interface")
	f.BoolVar(&o.verbose, "verbose", false, "log every packet and request")
	return cmd
}

func runServe(ctx context.Context, o serveOptions, stdout, stderr io.Writer) error {
	opts, err := o.server(stderr)
	if err != nil {
		return err
	}
	if o.wait {
		if err := server.Wait(ctx, o.iface, opts.Log); err != nil {
			return err
		}
	}
	if err := checkInterface(o.iface); err != nil {
		return err
	}
	if err := server.Check(opts); err != nil { // before an appliance is built for minutes
		return err
	}
	data, err := server.OpenData(ctx, o.data, opts.Log)
	if err != nil {
		return err
	}
	defer data.Close()
	if data.Password != "" {
		fmt.Fprintf(stdout, "first start: everything is kept in %s\n\n    user      admin\n    password  %s\n\n"+
			"write the password down: it is shown this once\n\n", o.data, data.Password)
	}
	if opts.Appliances, err = o.appliances(ctx, data, stdout, newProgressLog(stderr)); err != nil {
		return err
	}
	s, err := server.Open(ctx, data, opts)
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Fprint(stdout, s.Describe())
	if err := s.Serve(ctx); err != nil {
		return err
	}
	fmt.Fprintln(stdout, "stopped; what machines were doing goes on when the server is back")
	return nil
}

// server checks the command line.
func (o serveOptions) server(stderr io.Writer) (server.Options, error) {
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	opts := server.Options{
		Interface: o.iface, DHCP: dhcp.Mode(o.mode), HTTPPort: o.httpPort, HTTPSPort: o.httpsPort, Build: version,
		Log: slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})),
	}
	rate, err := parseRate(o.multicastRate)
	if err != nil {
		return opts, withCode(exitUsage, fmt.Errorf("--multicast-rate %w", err), "")
	}
	opts.MulticastRate = rate
	switch opts.DHCP {
	case dhcp.Off, dhcp.Proxy, dhcp.Full:
	default:
		return opts, withCode(exitUsage, fmt.Errorf("--dhcp %q is none of off, proxy, full", o.mode), "")
	}
	for _, text := range o.networks {
		n, err := dhcp.ParseSubnet(text)
		if err != nil {
			return opts, withCode(exitUsage, fmt.Errorf("--network: %w", err), "")
		}
		if opts.DHCP != dhcp.Full && !reflect.DeepEqual(n, dhcp.Subnet{Prefix: n.Prefix}) {
			return opts, withCode(exitUsage, fmt.Errorf("--network %s: --dhcp %s hands out no addresses", n.Prefix, o.mode),
				"give the network alone")
		}
		opts.Networks = append(opts.Networks, n)
	}
	if o.dhcpRange == "" {
		return opts, nil
	}
	if opts.First, opts.Last, err = dhcp.ParseRange(o.dhcpRange); err != nil {
		return opts, withCode(exitUsage, fmt.Errorf("--dhcp-range %w", err), "")
	}
	return opts, nil
}

// appliances gives the boot images, and builds those that are not there or were built
// from something else.
func (o serveOptions) appliances(
	ctx context.Context, data *server.Data, stdout io.Writer, log *slog.Logger,
) ([]server.Appliance, error) {
	if o.appliance != "" {
		r, err := builder.ReadResult(o.appliance)
		if err != nil {
			return nil, withCode(exitFailed, err, "'clonecast build CLASS --output DIR' makes an appliance")
		}
		return []server.Appliance{{Class: r.Class, Directory: o.appliance, CommandLine: r.CommandLine, Disk: r.Disk}}, nil
	}
	var list []server.Appliance
	for _, name := range o.classes {
		options, err := buildOptions{
			class: name, kernelPackage: o.kernelPackage, init: o.init, cache: filepath.Join(o.data, "cache"),
		}.builderOptions()
		if err != nil {
			return nil, err
		}
		options.CA, options.ManifestKeys, options.Log = data.CA(), data.Store.TrustedKeys(), log
		options.Output = filepath.Join(o.data, "appliances", options.Class.Name)
		r, err := o.build(ctx, options, stdout)
		if err != nil {
			return nil, fmt.Errorf("build the appliance of class %s: %w", options.Class.Name, err)
		}
		list = append(list, server.Appliance{
			Class: r.Class, Directory: options.Output, CommandLine: r.CommandLine, Disk: r.Disk,
		})
	}
	return list, nil
}

// build makes an appliance unless the same inputs made the one that is there.
func (o serveOptions) build(ctx context.Context, options builder.Options, stdout io.Writer) (builder.Result, error) {
	inputs, err := inputsOf(options)
	if err != nil {
		return builder.Result{}, err
	}
	stamp := options.Output + ".inputs"
	if made, err := os.ReadFile(stamp); err == nil && string(made) == inputs {
		if r, err := builder.ReadResult(options.Output); err == nil {
			return r, nil
		}
	}
	fmt.Fprintf(stdout, "building the appliance of class %s, once\n", options.Class.Name)
	if err := os.MkdirAll(filepath.Dir(options.Output), 0o700); err != nil {
		return builder.Result{}, err
	}
	r, err := builder.Build(ctx, options)
	if err != nil {
		return builder.Result{}, err
	}
	return r, os.WriteFile(stamp, []byte(inputs), 0o600)
}

// inputsOf names everything that an appliance is made of, but for packages that apt chooses.
func inputsOf(options builder.Options) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%q\n%q\n%+v\n%s\n",
		version, options.CA, options.ManifestKeys, options.Class, options.KernelPackage)
	path := options.Init
	if path == "" {
		var err error
		if path, err = builder.FindInit(); err != nil {
			return "", err
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read clonecast-init: %w", err)
	}
	defer f.Close()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read clonecast-init: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
