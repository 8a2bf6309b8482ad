package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"clonecast/internal/blockdev"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/clone"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/image"
	"clonecast/internal/multicast"
	"clonecast/internal/multicast/blocks"
	"clonecast/internal/text"

	"github.com/spf13/cobra"
)

func newMulticastCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "multicast",
		Short: "Send a version or a file to many computers at once, without a server",
		Long: `Send a version or a file to many computers of one network at once, without a server. The sender shows a pairing
code, and receivers need it: everything is encrypted, and nobody without the code can read or change it. With
--key-file both ends use a secret of their own instead.`,
	}
	cmd.AddCommand(newMulticastSendCmd(), newMulticastReceiveCmd())
	return cmd
}

type multicastSendOptions struct {
	store, file, iface, keyFile, maxRate string
	receivers                            int
	json                                 bool
}

func newMulticastSendCmd() *cobra.Command {
	var opts multicastSendOptions
	cmd := &cobra.Command{
		Use:   "send (IMAGE[@VERSION] --store DIR | --file FILE) --interface IF",
		Short: "Send a version or a file to all who wait for it",
		Long: `Send a version of an image, or any file, to all computers that run ` +
			"`clonecast multicast receive`" + `.
Sending begins when as many receivers wait as --receivers says. Others may join until it ends; one that is
too slow for the rest continues alone. The command ends when every receiver is done or gone.`,
		Args: words("[IMAGE]"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runMulticastSend(cmd.Context(), a, opts, newReporter(cmd, opts.json))
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.store, "store", "", "`DIR` of the store that has the image")
	f.StringVar(&opts.file, "file", "", "`FILE` to send instead of an image")
	f.StringVar(&opts.iface, "interface", "", "network interface `IF` to send on")
	f.IntVar(&opts.receivers, "receivers", 1, "begin when this many receivers wait")
	f.StringVar(&opts.maxRate, "max-rate", "",
		"bits per second on the wire at most, `RATE` as 900M (default: the speed of the interface)")
	f.StringVar(&opts.keyFile, "key-file", "", "`FILE` with a secret that receivers have too, instead of a pairing code")
	f.BoolVar(&opts.json, "json", false, jsonUsage)
	require(cmd, "interface")
	return cmd
}

func runMulticastSend(ctx context.Context, names []string, opts multicastSendOptions, rep *reporter) error {
	defer rep.close()
	if (len(names) == 1) == (opts.file != "") || (len(names) == 1) != (opts.store != "") {
		return withCode(exitUsage, errors.New("name either an image and its --store, or a --file"),
			"run 'clonecast multicast send --help' for how it is used")
	}
	maxRate, err := parseRate(opts.maxRate)
	if err != nil {
		return withCode(exitUsage, fmt.Errorf("--max-rate %w", err), "")
	}
	if opts.receivers < 1 {
		return withCode(exitUsage, errors.New("--receivers must be at least 1"), "")
	}
	if err := checkInterface(opts.iface); err != nil {
		return err
	}
	pairing, signer, err := senderPairing(opts.keyFile)
	if err != nil {
		return err
	}
	var offer *offer
	if opts.file != "" {
		offer, err = offerFile(opts.file)
	} else {
		offer, err = offerImage(ctx, opts.store, names[0])
	}
	if err != nil {
		return err
	}
	defer offer.close()
	if code := pairing.Code(); code != "" {
		rep.printf("pairing code: %s\n", code)
		if err := rep.event("pairing", map[string]string{"code": code}); err != nil {
			return err
		}
	}
	summary, err := multicast.Send(ctx, multicast.SendOptions{
		Interface: opts.iface, Pairing: pairing, Signer: signer, Receivers: opts.receivers, MaxRate: maxRate,
		Payload: offer.size, Source: offer.source, Details: offer.details, Log: slog.New(reportLog{rep}),
		Progress: func(done, total int64) { rep.progress("send", done, total) },
	})
	if err != nil {
		return err
	}
	rep.printf("%s\n", sendOutcome(summary))
	err = rep.summary(sendSummary{
		Payload: summary.Payload, Wire: summary.Wire,
		Seconds: summary.Seconds, Goodput: mbit(summary.Payload, summary.Seconds),
		Blocks: summary.Blocks, Repair: summary.Repair, Receivers: summary.Receivers,
	})
	if err != nil {
		return err
	}
	return lost(summary)
}

// lost is the error of a session that left somebody without the payload.
func lost(s multicast.SendSummary) error {
	var bad []string
	for _, r := range s.Receivers {
		if r.State != "done" {
			bad = append(bad, fmt.Sprintf("%s %s", r.Address, r.State))
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return withCode(exitFailed,
		fmt.Errorf("%d of %d receivers did not finish: %s", len(bad), len(s.Receivers), strings.Join(bad, ", ")),
		"run the command again for these: a deploy fetches only what differs")
}

type sendSummary struct {
	Payload   int64                       `json:"bytes_payload"`
	Wire      uint64                      `json:"bytes_wire"`
	Seconds   float64                     `json:"seconds"`
	Goodput   float64                     `json:"goodput_mbit"`
	Blocks    int                         `json:"blocks"`
	Repair    uint64                      `json:"repair_symbols"`
	Receivers []multicast.ReceiverSummary `json:"receivers"`
}

func mbit(bytes int64, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return float64(bytes) * 8 / 1e6 / seconds
}

func sendOutcome(s multicast.SendSummary) string {
	out := fmt.Sprintf("sent %d bytes in %.1f s, %.0f Mbit/s, %.3f bytes on the wire for each",
		s.Payload, s.Seconds, mbit(s.Payload, s.Seconds), float64(s.Wire)/float64(s.Payload))
	for _, r := range s.Receivers {
		out += fmt.Sprintf("\n  %s: %s, %.1f %% lost", r.Address, r.State, 100*r.Loss)
		if r.Reason != "" {
			out += ", left the group: " + r.Reason
		}
		if r.Hint != "" {
			out += "\n    hint: " + r.Hint
		}
	}
	return out
}

// senderPairing makes the code and the key of a session, or takes the secret of a key file.
func senderPairing(keyFile string) (multicast.Pairing, ed25519.PrivateKey, error) {
	pairing, signer, err := multicast.NewPairing()
	if err != nil || keyFile == "" {
		return pairing, signer, err
	}
	pairing, err = readKeyFile(keyFile)
	return pairing, signer, err
}

func readKeyFile(name string) (multicast.Pairing, error) {
	content, err := readInput(name, 1<<20)
	if err != nil {
		return multicast.Pairing{}, err
	}
	pairing, err := multicast.KeyFile(content)
	if err != nil {
		return multicast.Pairing{}, withCode(exitUsage, fmt.Errorf("%s: %w", name, err), "")
	}
	return pairing, nil
}

// parseRate reads bits per second with a decimal unit and gives bytes per second.
func parseRate(s string) (float64, error) {
	if s == "" {
		return 0, nil
	}
	units := map[string]float64{"": 1, "k": 1e3, "M": 1e6, "G": 1e9}
	number := strings.TrimRight(s, "kMG")
	unit, known := units[s[len(number):]]
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !known || !(n*unit >= 1e6 && n*unit <= 1e12) {
		return 0, fmt.Errorf("%q is no rate between 1M and 1000G", s)
	}
	return n * unit / 8, nil
}

type multicastReceiveOptions struct {
	file, iface, keyFile, code, saveTable string
	yes, json                             bool
}

func newMulticastReceiveCmd() *cobra.Command {
	var opts multicastReceiveOptions
	cmd := &cobra.Command{
		Use:   "receive (DISK | --file FILE) --interface IF (--code CODE | --key-file FILE)",
		Short: "Receive what a sender offers",
		Long: `Wait for a session on the interface and receive what it offers. --code is what the sender
shows. An image is deployed to DISK, a block device or a disk image file: only what differs is
fetched and written, and the command shows what it is about to overwrite and asks, unless --yes is
given. A file is written beside its place and takes it when it is complete and verified.`,
		Args: words("[DISK]"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runMulticastReceive(cmd.Context(), a, opts, newReporter(cmd, opts.json), cmd.InOrStdin())
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.file, "file", "", "`FILE` to write")
	f.StringVar(&opts.iface, "interface", "", "network interface `IF` to receive on")
	f.StringVar(&opts.code, "code", "", "the sender's pairing `CODE`")
	f.StringVar(&opts.keyFile, "key-file", "", "`FILE` with the secret that the sender uses")
	f.StringVar(&opts.saveTable, "save-table", "",
		"`FILE` for the disk's old partition table (default: beside a disk image file, or in the current directory)")
	f.BoolVar(&opts.yes, "yes", false, "overwrite without asking")
	f.BoolVar(&opts.json, "json", false, jsonUsage)
	require(cmd, "interface")
	return cmd
}

func runMulticastReceive(
	ctx context.Context, disks []string, opts multicastReceiveOptions, rep *reporter, in io.Reader,
) error {
	defer rep.close()
	if (len(disks) == 1) == (opts.file != "") {
		return withCode(exitUsage, errors.New("name either a disk or a --file"),
			"run 'clonecast multicast receive --help' for how it is used")
	}
	pairing, err := receiverPairing(opts)
	if err != nil {
		return err
	}
	if err := receivable(disks, opts); err != nil {
		return err
	}
	found, err := multicast.Find(ctx, opts.iface, pairing, slog.New(reportLog{rep}))
	if err != nil {
		return err
	}
	defer found.Close()
	var details sessionDetails
	if err := json.Unmarshal(found.Description.Details, &details); err != nil {
		return fmt.Errorf("the sender's description: %w", err)
	}
	switch {
	case details.Kind == kindFile && opts.file != "":
		return receiveFile(ctx, found, opts.file, rep)
	case details.Kind == kindImage && opts.file == "":
		return receiveImage(ctx, found, details, disks[0], opts, rep, in)
	case details.Kind == kindImage:
		return withCode(exitRefused, errors.New("the sender offers an image, which goes to a disk"),
			"name the disk instead of --file")
	}
	return withCode(exitRefused,
		fmt.Errorf("the sender offers a %s, which does not go to a disk", text.Escape(details.Kind)), "use --file")
}

// receivable tells before a session is waited for what would stop it: the interface, the disk, the file.
func receivable(disks []string, opts multicastReceiveOptions) error {
	if err := checkInterface(opts.iface); err != nil {
		return err
	}
	if opts.file == "" {
		dev, err := openDisk(disks[0], blockdev.OpenExclusive)
		if err != nil {
			return err
		}
		return dev.Close()
	}
	if err := notInStore(opts.file); err != nil {
		return err
	}
	if info, err := os.Stat(opts.file); err == nil && !info.Mode().IsRegular() {
		return withCode(exitUsage, fmt.Errorf("%s is no file", opts.file), "")
	} else if err == nil && !opts.yes {
		return withCode(exitRefused, fmt.Errorf("%s exists", opts.file), "add --yes to overwrite it")
	}
	return writableDirectory(opts.file)
}

// checkInterface names the network interfaces that there are if one is not.
func checkInterface(name string) error {
	if _, err := net.InterfaceByName(name); err == nil {
		return nil
	}
	all, err := net.Interfaces()
	if err != nil {
		return err
	}
	var names []string
	for _, i := range all {
		names = append(names, i.Name)
	}
	return withCode(exitNotFound, fmt.Errorf("there is no network interface %q", name),
		"there are "+strings.Join(names, ", "))
}

// receiveImage deploys an image that comes by multicast.
func receiveImage(
	ctx context.Context, found *multicast.Found, details sessionDetails, path string,
	opts multicastReceiveOptions, rep *reporter, in io.Reader,
) error {
	started := time.Now()
	manifest, id, err := image.Open(details.Envelope, []ed25519.PublicKey{details.Key})
	if err != nil {
		return fmt.Errorf("the sender's manifest: %w", err)
	}
	if len(manifest.Disks) != 1 {
		return withCode(exitRefused, fmt.Errorf("%s@%d holds %d disks, this command deploys one",
			manifest.Image, manifest.Sequence, len(manifest.Disks)), "")
	}
	source, err := multicast.NewImageSource(found, manifest, details.Table)
	if err != nil {
		return err
	}
	defer source.Close()
	dev, err := openDisk(path, blockdev.OpenExclusive)
	if err != nil {
		return absent(err, path, clone.Geometry{Size: manifest.Disks[0].Size})
	}
	defer dev.Close()
	if !opts.yes {
		if err := confirm(ctx, rep.stderr, in, []*blockdev.Device{dev}, manifest); err != nil {
			return err
		}
	}
	tables := tableSaver{paths: []string{path}, file: opts.saveTable, rep: rep}
	disks := []deploy.Disk{{Image: &manifest.Disks[0], Target: dev, Geometry: geometry(dev)}}
	session := deploy.Source{Name: "a multicast session", Frames: source.Frames, Prepare: source.Prepare}
	results, err := deploy.Run(ctx, disks, deploy.Options{Verify: dev.Block},
		deploy.Means{Source: session, SaveTable: tables.save, Progress: bytesProgress(rep)})
	if errors.Is(err, multicast.ErrGone) {
		return withCode(exitFailed,
			fmt.Errorf("deploy %s@%d to %s: %w", manifest.Image, manifest.Sequence, path, err), senderStopped)
	}
	if err != nil {
		return diskError(fmt.Errorf("deploy %s@%d to %s: %w", manifest.Image, manifest.Sequence, path, err))
	}
	result := results[0]
	if result.Written > 0 {
		if err := dev.RereadPartitions(); err != nil {
			rep.warn("the kernel still shows the old partitions of %s: %v", path, err)
		}
	}
	summary, joined := source.Summary()
	if !joined { // the sender waits for everybody, also for who needs nothing
		if err := source.Frames(ctx, nil, nil); err != nil {
			return err
		}
		summary, _ = source.Summary()
	}
	took := time.Since(started)
	rep.printf("%s, %s\n%s\n", deployOutcome(manifest, path, result), rate(result.Compared, took), receiveOutcome(summary))
	return rep.summary(struct {
		receiveSummary
		Deploy deploySummary `json:"deploy"`
	}{newReceiveSummary(summary), deploySummary{
		Image: manifest.Image, Sequence: manifest.Sequence, Version: id.String(),
		Compared: int64(result.Compared), Kept: int64(result.Kept), Differ: int64(result.Differ),
		Written: int64(result.Written), Fetched: int64(result.Fetched), Verified: int64(result.Verified),
		Seconds: took.Seconds(), SavedTables: tables.saved,
	}})
}

// senderStopped is the hint when the sender went away.
const senderStopped = "the sender was stopped: start it again, then run this again with its new code; " +
	"what a disk has is kept"

func receiverPairing(opts multicastReceiveOptions) (multicast.Pairing, error) {
	switch {
	case (opts.code == "") == (opts.keyFile == ""):
		return multicast.Pairing{}, withCode(exitUsage, errors.New("either --code or --key-file is needed"),
			"the sender shows the code; without one of them nothing can be received")
	case opts.keyFile != "":
		return readKeyFile(opts.keyFile)
	}
	pairing, err := multicast.ParseCode(opts.code)
	return pairing, withCode(exitUsage, err, "")
}

// receiveFile writes the payload to a file in the same directory, which takes the name when it is whole.
func receiveFile(ctx context.Context, found *multicast.Found, name string, rep *reporter) error {
	f, err := createPart(name)
	if err != nil {
		return err
	}
	geo := found.Geometry()
	summary, err := found.Receive(ctx, blocks.FullSet(geo.Count()), func(b int, plain []byte) error {
		_, err := f.WriteAt(plain, geo.Offset(b))
		return err
	}, func(done, total int64) { rep.progress("receive", done, total) })
	if errors.Is(err, multicast.ErrGone) {
		err = withCode(exitFailed, err, senderStopped)
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err != nil {
		return errors.Join(err, f.discard())
	}
	if err := f.finish(true); err != nil {
		return err
	}
	rep.printf("received %s: %s\n", text.Escape(name), receiveOutcome(summary))
	return rep.summary(newReceiveSummary(summary))
}

func receiveOutcome(s multicast.ReceiveSummary) string {
	if s.Payload == 0 {
		return "nothing had to be received"
	}
	out := fmt.Sprintf("%d bytes in %.1f s, %.0f Mbit/s, %.1f %% of the packets lost",
		s.Payload, s.Seconds, mbit(s.Payload, s.Seconds), 100*s.Loss)
	if s.Fetched > 0 {
		out += fmt.Sprintf(", %d bytes by unicast: %v", s.Fetched, s.Reason)
	}
	if hint := s.Reason.Hint(); hint != "" {
		out += "\nhint: " + hint
	}
	return out
}

type receiveSummary struct {
	Payload int64   `json:"bytes_payload"`
	Wire    uint64  `json:"bytes_wire"`
	Seconds float64 `json:"seconds"`
	Goodput float64 `json:"goodput_mbit"`
	Blocks  int     `json:"blocks"`
	Repair  int     `json:"repair_symbols"`
	Loss    float64 `json:"loss"`
	Fetched int64   `json:"fetched_unicast"`
	State   string  `json:"state"`
	Cause   string  `json:"cause,omitempty"`
	Reason  string  `json:"reason,omitempty"`
	Hint    string  `json:"hint,omitempty"`

	Paths []string `json:"paths"`
}

func newReceiveSummary(s multicast.ReceiveSummary) receiveSummary {
	out := receiveSummary{
		Payload: s.Payload, Wire: s.Wire, Seconds: s.Seconds, Goodput: mbit(s.Payload, s.Seconds),
		Blocks: s.Blocks, Repair: s.Rebuilt, Loss: s.Loss, Fetched: s.Fetched,
		State: s.State.String(), Cause: s.Reason.Cause(), Hint: s.Reason.Hint(), Paths: s.Paths.Names(),
	}
	if s.Reason != 0 {
		out.Reason = s.Reason.String()
	}
	return out
}

// sessionDetails say what a session's payload is.
type sessionDetails struct {
	Kind     string            `json:"kind"`
	Name     string            `json:"name"`
	Envelope []byte            `json:"envelope,omitempty"` // of an image: the signed manifest
	Key      ed25519.PublicKey `json:"key,omitempty"`      // that signed it; the pairing vouches for it
	Table    []byte            `json:"table,omitempty"`    // where the frames are
}

const (
	kindFile  = "file"
	kindImage = "image"
)

// offer is what a sender sends.
type offer struct {
	size    int64
	source  multicastSource
	details []byte
	closer  io.Closer
}

type multicastSource interface {
	Block(b int, buf []byte) error
}

func (o *offer) close() { o.closer.Close() }

// offerImage offers the chunks of a version. The store is pinned until the offer is closed.
func offerImage(ctx context.Context, dir, ref string) (*offer, error) {
	store, err := openStore(dir)
	if err != nil {
		return nil, err
	}
	o, err := imageOf(ctx, store, ref)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return o, nil
}

func imageOf(ctx context.Context, store *local.Store, ref string) (*offer, error) {
	pin, err := store.Pin(ctx)
	if err != nil {
		return nil, err
	}
	manifest, _, err := findVersion(ctx, store, ref)
	if err != nil {
		return nil, errors.Join(diskError(err), pin.Close())
	}
	envelope, err := store.Manifest(ctx, manifest.Image, manifest.Sequence)
	if err != nil {
		return nil, errors.Join(err, pin.Close())
	}
	payload, err := multicast.NewImagePayload(store, manifest)
	if err != nil {
		return nil, errors.Join(err, pin.Close())
	}
	for _, key := range store.TrustedKeys() {
		if _, _, err := image.Open(envelope, []ed25519.PublicKey{key}); err != nil {
			continue
		}
		details, err := json.Marshal(sessionDetails{
			Kind: kindImage, Name: ref, Envelope: envelope, Key: key, Table: payload.Table(),
		})
		return &offer{payload.Size(), payload, details, closers{pin, store}}, err
	}
	return nil, errors.Join(fmt.Errorf("image %s: no key of the store signed it", ref), pin.Close())
}

// closers are closed one after the other.
type closers []io.Closer

func (c closers) Close() error {
	var all error
	for _, one := range c {
		all = errors.Join(all, one.Close())
	}
	return all
}

func offerFile(name string) (*offer, error) {
	f, err := openInput(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = withCode(exitUsage, fmt.Errorf("%s is no file", name), "")
	}
	if err == nil && (info.Size() < 1 || info.Size() > blocks.MaxPayload) {
		err = withCode(exitUsage, fmt.Errorf("%s holds %d bytes, which cannot be sent", name, info.Size()), "")
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	details, err := json.Marshal(sessionDetails{Kind: kindFile, Name: filepath.Base(name)})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &offer{info.Size(), multicast.FileSource(f, info.Size()), details, f}, nil
}

// reportLog shows warnings of the engine to the user.
type reportLog struct{ rep *reporter }

func (reportLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }
func (l reportLog) WithAttrs([]slog.Attr) slog.Handler             { return l }
func (l reportLog) WithGroup(string) slog.Handler                  { return l }
func (l reportLog) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool {
		line += fmt.Sprintf("; %s: %v", a.Key, a.Value)
		return true
	})
	l.rep.warn("%s", line)
	return nil
}
