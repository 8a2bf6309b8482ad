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

PCs with Secure Boot on do not start the boot programs, which Microsoft did not sign: switch it off in the firmware
of a PC for the time of its network boots.

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
	if err := server.Preflight(ctx, opts); err != nil {
		return err
	}
	data, err := server.OpenData(ctx, o.data, opts.Log)
	if err != nil {
		return err
	}
	defer data.Close()
	wanted, err := o.appliances(ctx, data, opts, newProgressLog(stderr))
	if err != nil {
		return err
	}
	// All that can be checked is right: from here on it may take minutes.
	password, err := data.FirstPassword(ctx)
	if err != nil {
		return err
	}
	if password != "" {
		fmt.Fprintf(stdout, "first start: everything is kept in %s\n\n    user      admin\n    password  %s\n\n"+
			"write the password down: it is shown this once\n\n", o.data, password)
	}
	for _, w := range wanted {
		a, err := w.make(ctx, stdout)
		if err != nil {
			return err
		}
		opts.Appliances = append(opts.Appliances, a)
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

// wantedAppliance is a boot image that is there, or what it is to be built from.
type wantedAppliance struct {
	result    builder.Result
	directory string
	build     *builder.Options // nil: it is there
	inputs    string
}

// stamp is the file that names what an appliance was built from.
func (w wantedAppliance) stamp() string { return w.directory + ".inputs" }

// appliances gives the boot images. For those that are not there, or were built from something else, it finds
// out whether they can be built.
func (o serveOptions) appliances(
	ctx context.Context, data *server.Data, opts server.Options, log *slog.Logger,
) ([]wantedAppliance, error) {
	if o.appliance != "" {
		r, err := builder.ReadResult(o.appliance)
		if err != nil {
			return nil, withCode(exitFailed, err, "'clonecast build CLASS --output DIR' makes an appliance")
		}
		return []wantedAppliance{{result: r, directory: o.appliance}}, nil
	}
	var list []wantedAppliance
	for _, name := range o.classes {
		options, err := buildOptions{
			class: name, kernelPackage: o.kernelPackage, init: o.init, cache: filepath.Join(o.data, "cache"),
		}.builderOptions()
		if err != nil {
			return nil, err
		}
		options.CA, options.ManifestKeys, options.Log = data.CA(), data.Store.TrustedKeys(), log
		options.Output = filepath.Join(o.data, "appliances", options.Class.Name)
		w, err := o.wanted(ctx, opts, options)
		if err != nil {
			return nil, fmt.Errorf("build the appliance of class %s: %w", options.Class.Name, err)
		}
		list = append(list, w)
	}
	return list, nil
}

// wanted finds out whether an appliance that the same inputs made is there.
func (o serveOptions) wanted(
	ctx context.Context, opts server.Options, options builder.Options,
) (w wantedAppliance, err error) {
	w.directory = options.Output
	if w.inputs, err = inputsOf(options); err != nil {
		return w, err
	}
	if made, err := os.ReadFile(w.stamp()); err == nil && string(made) == w.inputs {
		if w.result, err = builder.ReadResult(options.Output); err == nil {
			return w, nil
		}
	}
	if err := server.PreflightBuild(ctx, o.data, o.kernelPackage == "", opts); err != nil {
		return w, err
	}
	options, err = builder.Ready(ctx, options)
	w.build = &options
	return w, err
}

// make builds the appliance unless it is there.
func (w wantedAppliance) make(ctx context.Context, stdout io.Writer) (server.Appliance, error) {
	if w.build != nil {
		class := w.build.Class.Name
		fmt.Fprintf(stdout, "building the appliance of class %s, once\n", class)
		if err := os.MkdirAll(filepath.Dir(w.directory), 0o700); err != nil {
			return server.Appliance{}, err
		}
		var err error
		if w.result, err = builder.Build(ctx, *w.build); err != nil {
			return server.Appliance{}, fmt.Errorf("build the appliance of class %s: %w", class, err)
		}
		if err := os.WriteFile(w.stamp(), []byte(w.inputs), 0o600); err != nil {
			return server.Appliance{}, err
		}
	}
	return server.Appliance{
		Class: w.result.Class, Directory: w.directory, CommandLine: w.result.CommandLine, Disk: w.result.Disk,
	}, nil
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
