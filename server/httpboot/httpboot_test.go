package httpboot

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"clonecast/internal/bootparam"
)

var update = flag.Bool("update", false, "write the golden scripts")

// decide is a Decider that always says the same and remembers who asked.
type decide struct {
	decision Decision
	err      error
	asked    []Client
	sent     []string
}

func (d *decide) Sent(token, name string, to netip.Addr) {
	d.sent = append(d.sent, token+" "+name+" "+to.String())
}

func (d *decide) Decide(_ context.Context, c Client) (Decision, error) {
	d.asked = append(d.asked, c)
	return d.decision, d.err
}

func newTestHandler(t *testing.T, d Decider) http.Handler {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"default/vmlinuz": "KERNEL-0123456789", "default/initramfs": "INITRAMFS", "half/vmlinuz": "K",
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	h, err := NewHandler(Config{
		Decider: d, Files: Dir{root}, Programs: map[string][]byte{"snponly.efi": []byte("MZ")},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func get(h http.Handler, target string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/", nil)
	path, query, _ := strings.Cut(target, "?")
	r.URL = &url.URL{Path: path, RawQuery: query}
	r.Host = "10.99.0.1"
	r.RemoteAddr = "10.99.0.50:1234"
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

const someMAC = "52:54:00:12:34:56"

func TestScripts(t *testing.T) {
	appliance := Decision{
		Action: Appliance, Class: "default", Args: "console=ttyS0 quiet", Reason: "task 7: deploy win11-lab",
		Params: bootparam.Params{Server: "https://10.99.0.1:8443", Token: "t0k"},
	}
	evil := Decision{Reason: "a\nshell\r\n${x} || reboot; #\"'\\ ü" + strings.Repeat("z", 200)}
	missing, badClass, badArgs := appliance, appliance, appliance
	missing.Class, badClass.Class, badArgs.Args = "half", "../x", "a=${b}"
	tests := map[string]struct {
		query    string
		decision Decision
		err      error
	}{
		"ask": {query: ""},
		"local-bios": {"?mac=" + someMAC + "&platform=pcbios",
			Decision{Reason: "no task: starting from the local disk"}, nil},
		"local-uefi": {"?mac=" + someMAC + "&platform=efi",
			Decision{Reason: "no task: starting from the local disk"}, nil},
		"appliance-bios": {"?mac=" + someMAC + "&platform=pcbios", appliance, nil},
		"appliance-uefi": {"?mac=" + someMAC + "&platform=efi", appliance, nil},
		"hostile-reason": {"?mac=" + someMAC, evil, nil},
		"decider-error":  {"?mac=" + someMAC, Decision{}, errors.New("database is gone")},
		"no-initramfs":   {"?mac=" + someMAC, missing, nil},
		"bad-class":      {"?mac=" + someMAC, badClass, nil},
		"bad-args":       {"?mac=" + someMAC, badArgs, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := get(newTestHandler(t, &decide{decision: test.decision, err: test.err}), "/boot/ipxe"+test.query)
			if w.Code != http.StatusOK {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			golden := filepath.Join("testdata", name+".ipxe")
			if *update {
				if err := os.WriteFile(golden, w.Body.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), w.Body.String()); diff != "" {
				t.Errorf("script (-want +got):\n%s", diff)
			}
		})
	}
}

func TestClientFromQuery(t *testing.T) {
	d := &decide{}
	h := newTestHandler(t, d)
	q := url.Values{
		"mac": {"52-54-00-AB-cd-ef"}, "uuid": {"0A1B2C3D-0000-1111-2222-333344445555"},
		"platform": {"efi"}, "cpu": {"x86_64"}, "serial": {" S/N <b>\x00\x1b[31m\xff 5 "},
		"manufacturer": {strings.Repeat("ö", 300)}, "product": {"i440FX + PIIX"},
	}
	query := strings.NewReplacer("+", "%20", "%2B", "+").Replace(q.Encode())
	if w := get(h, "/boot/ipxe?"+query); w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	want := []Client{{
		MAC: "52:54:00:ab:cd:ef", UUID: "0a1b2c3d-0000-1111-2222-333344445555", Serial: "S/N <b> [31m 5",
		Manufacturer: strings.Repeat("ö", 64), Product: "i440FX + PIIX", CPU: "x86_64",
		UEFI: true, Addr: netip.MustParseAddr("10.99.0.50"),
	}}
	if diff := cmp.Diff(want, d.asked, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("Client (-want +got):\n%s", diff)
	}
}

func TestBadQueries(t *testing.T) {
	d := &decide{}
	h := newTestHandler(t, d)
	for _, query := range []string{
		"mac=", "uuid=x", "mac=52:54:00:12:34", "mac=52:54:00:12:34:5g", "mac=%0a52:54:00:12:34:56",
		"mac=" + someMAC + "%0ashell", "mac=" + someMAC + ";shell", "mac=%zz",
		"mac=" + someMAC + "&serial=" + strings.Repeat("x", 3000),
	} {
		if w := get(h, "/boot/ipxe?"+query); w.Code != http.StatusBadRequest {
			t.Errorf("%.60q: status %d, want 400", query, w.Code)
		}
	}
	for _, host := range []string{"", "a\nshell", "${x}", "a b", strings.Repeat("a", 300)} {
		r := httptest.NewRequest("GET", "/boot/ipxe", nil)
		r.Host = host
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != http.StatusBadRequest {
			t.Errorf("Host %.20q: status %d, want 400", host, w.Code)
		}
	}
	if len(d.asked) != 0 {
		t.Errorf("the Decider was asked about %+v", d.asked)
	}
}

func TestFiles(t *testing.T) {
	h := newTestHandler(t, &decide{})
	tests := map[string]struct {
		code int
		body string
	}{
		"/boot/files/default/vmlinuz":   {200, "KERNEL-0123456789"},
		"/boot/files/default/initramfs": {200, "INITRAMFS"},
		"/boot/programs/snponly.efi":    {200, "MZ"},
		"/boot/files/default/other":     {code: 404},
		"/boot/files/half/initramfs":    {code: 404},
		"/boot/files/none/vmlinuz":      {code: 404},
		"/boot/files/.default/vmlinuz":  {code: 404},
		"/boot/programs/undionly.kpxe":  {code: 404},
		"/boot/programs/":               {code: 404},
		"/boot/":                        {code: 404},
		"/etc/passwd":                   {code: 404},
	}
	for path, test := range tests {
		w := get(h, path)
		if w.Code != test.code || test.code == 200 && w.Body.String() != test.body {
			t.Errorf("GET %s = %d %q, want %d %q", path, w.Code, w.Body, test.code, test.body)
		}
	}
	w := get(h, "/boot/files/default/vmlinuz", "Range", "bytes=7-9")
	if w.Code != http.StatusPartialContent || w.Body.String() != "012" {
		t.Errorf("range: %d %q", w.Code, w.Body)
	}
	for _, path := range []string{
		"/boot/files/../../etc/passwd", "/boot/files/default/../../x", "/boot/files/%2e%2e/vmlinuz",
	} {
		r := httptest.NewRequest("GET", path, nil)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code == http.StatusOK {
			t.Errorf("GET %s = 200", path)
		}
	}
	post := httptest.NewRecorder()
	h.ServeHTTP(post, httptest.NewRequest("POST", "/boot/ipxe?mac="+someMAC, nil))
	if post.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d", post.Code)
	}
}

// What was sent as a whole is reported with the token of its boot, and nothing else is.
func TestSent(t *testing.T) {
	d := &decide{}
	h := newTestHandler(t, d)
	const file = "/boot/files/default/vmlinuz"
	for _, r := range []*httptest.ResponseRecorder{
		get(h, file), get(h, file+"?boot="), get(h, file+"?boot=A", "Range", "bytes=3-"),
		get(h, file+"?boot=A", "If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT"),
		get(h, "/boot/files/half/initramfs?boot=A"), get(h, file+"?boot="+strings.Repeat("A", 200)),
	} {
		if len(d.sent) != 0 {
			t.Errorf("%v was reported after an answer of %d", d.sent, r.Code)
		}
	}
	head := httptest.NewRequest("HEAD", file+"?boot=A", nil)
	h.ServeHTTP(httptest.NewRecorder(), head)
	get(h, file+"?boot=A")
	get(h, "/boot/files/default/initramfs?boot=B")
	want := []string{"A vmlinuz 10.99.0.50", "B initramfs 10.99.0.50"}
	if diff := cmp.Diff(want, d.sent); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
}

// iPXE that is told to load a boot program would load itself for ever.
func TestProgramForIPXE(t *testing.T) {
	h := newTestHandler(t, &decide{})
	const program = "/boot/programs/snponly.efi"
	if w := get(h, program, "User-Agent", "iPXE/1.21.1+ (g4e456)"); !strings.Contains(w.Body.String(), "/boot/ipxe?mac=") {
		t.Errorf("iPXE was given\n%s", w.Body)
	}
	if w := get(h, program, "User-Agent", "UefiHttpBoot/1.0"); w.Body.String() != "MZ" {
		t.Errorf("firmware was given\n%s", w.Body)
	}
	if got := string(Chain("http://10.99.0.1:8080")); !strings.HasPrefix(got, "#!ipxe\nchain") ||
		!strings.Contains(got, " http://10.99.0.1:8080/boot/ipxe ") {
		t.Errorf("Chain:\n%s", got)
	}
}

// A link in the folder must not lead out of it.
func TestDirStaysInside(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "c"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(dir, "c", "vmlinuz")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if f, err := (Dir{root}).OpenBootFile("c", "vmlinuz"); err == nil {
		t.Errorf("opened %v through a link", f)
	}
}

func TestServer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(l, newTestHandler(t, &decide{}), slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	// One host's idle connections are bounded, and later ones are closed at once.
	var conns []net.Conn
	for range maxPerHost + 1 {
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if _, err := conns[maxPerHost].Read(make([]byte, 1)); err == nil {
		t.Error("a connection above the limit of a host stays open")
	}
	for _, c := range conns {
		c.Close()
	}
	r, err := http.Get("http://" + s.Addr().String() + "/boot/files/default/vmlinuz")
	for i := 0; err != nil && i < 50; i++ { // until the server has seen the closes
		r, err = http.Get("http://" + s.Addr().String() + "/boot/files/default/vmlinuz")
	}
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err != nil || string(body) != "KERNEL-0123456789" {
		t.Errorf("body %q, %v", body, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func FuzzQuery(f *testing.F) {
	f.Add("mac=52:54:00:12:34:56&uuid=0a1b2c3d-0000-1111-2222-333344445555&serial=%0ashell&product=a%20b",
		"reason", "console=ttyS0")
	f.Add("mac=52-54-00-12-34-56", "x\nshell ${y}", "a || b")
	f.Add("mac=00:00:00:00:00:00", "0", "0&")
	f.Fuzz(func(t *testing.T, query, reason, args string) {
		s, err := parseScripts()
		if err != nil {
			t.Fatal(err)
		}
		c, err := parseClient(query, netip.Addr{})
		if err != nil {
			return
		}
		for _, text := range []string{c.UUID, c.Serial, c.Manufacturer, c.Product, c.CPU} {
			if len(text) > maxText || strings.ContainsAny(text, "\x00\n\r\x1b") {
				t.Fatalf("text %q", text)
			}
		}
		d := Decision{Action: Appliance, Class: "c", Reason: reason, Args: args, Params: bootparam.Params{MAC: c.MAC}}
		for _, make := range []func() ([]byte, error){
			func() ([]byte, error) { return s.local(c, reason) },
			func() ([]byte, error) { return s.appliance("http://a", c, d) },
		} {
			text, err := make()
			if err != nil {
				continue
			}
			if strings.Contains(string(text), "${") || !plainLines(string(text)) {
				t.Fatalf("injected:\n%s", text)
			}
		}
	})
}

// plainLines tells whether each line begins with a command of the templates and
// has no more alternatives than they write.
func plainLines(script string) bool {
	for line := range strings.Lines(script) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "", "#!ipxe", "echo", "imgfree", "kernel", "initrd", "boot", ":failed", "exit", "sanboot":
		default:
			return false
		}
		limit := 1
		if word == "echo" {
			limit = 0
		}
		if strings.Count(line, "||") > limit || strings.ContainsAny(line[1:], ";&\"'\\") {
			return false
		}
	}
	return true
}
