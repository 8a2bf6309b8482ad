package httpboot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"clonecast/internal/netboot"
)

// handler serves the boot paths.
type handler struct {
	config  Config
	scripts scripts
	started time.Time // modification time of the boot programs
}

// NewHandler serves everything below /boot/.
func NewHandler(c Config) (http.Handler, error) {
	s, err := parseScripts()
	if err != nil {
		return nil, fmt.Errorf("parse boot scripts: %w", err)
	}
	h := &handler{config: c, scripts: s, started: time.Now()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+netboot.ScriptPath, h.script)
	mux.HandleFunc("GET "+netboot.FilesPath+"{class}/{name}", h.file)
	mux.HandleFunc("GET "+netboot.ProgramsPath+"{name}", h.program)
	return mux, nil
}

// script answers iPXE. Once the PC is known by its MAC, the answer is a script
// whatever happens, since an HTTP error would leave the PC with nothing to do.
func (h *handler) script(w http.ResponseWriter, r *http.Request) {
	base, err := baseURL(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if r.URL.RawQuery == "" {
		text, err := h.scripts.ask(base)
		h.send(w, text, err)
		return
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	c, err := parseClient(r.URL.RawQuery, from.Addr().Unmap())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if at, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		c.Server = at.AddrPort().Addr().Unmap()
	}
	text, err := h.decide(r, base, c)
	if err != nil {
		h.config.Log.Error("boot decision", "mac", c.MAC, "addr", c.Addr, "error", err)
		text, err = h.scripts.local(c, "the server has a problem: starting from the local disk")
	}
	h.send(w, text, err)
}

func (h *handler) decide(r *http.Request, base string, c Client) ([]byte, error) {
	d, err := h.config.Decider.Decide(r.Context(), c)
	if err != nil {
		return nil, err
	}
	h.config.Log.Info("boot",
		"mac", c.MAC, "addr", c.Addr, "appliance", d.Action == Appliance, "class", d.Class, "reason", d.Reason)
	if d.Action == Local {
		return h.scripts.local(c, d.Reason)
	}
	if d.Params.MAC == "" {
		d.Params.MAC = c.MAC
	}
	for _, name := range []string{netboot.KernelFile, netboot.InitramfsFile} {
		f, err := h.config.Files.OpenBootFile(d.Class, name)
		if err != nil {
			return nil, fmt.Errorf("open %s of class %s: %w", name, d.Class, err)
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	return h.scripts.appliance(base, c, d)
}

func (h *handler) send(w http.ResponseWriter, text []byte, err error) {
	if err != nil {
		h.config.Log.Error("boot script", "error", err)
		http.Error(w, "no boot script", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(text) // a PC that went away needs no answer
}

// file sends a kernel or initramfs, or the range of it that is asked for.
func (h *handler) file(w http.ResponseWriter, r *http.Request) {
	class, name := r.PathValue("class"), r.PathValue("name")
	if !validName(class) || name != netboot.KernelFile && name != netboot.InitramfsFile {
		http.NotFound(w, r)
		return
	}
	f, err := h.config.Files.OpenBootFile(class, name)
	if errors.Is(err, fs.ErrNotExist) {
		http.NotFound(w, r)
		return
	}
	if err != nil {
		h.config.Log.Error("open boot file", "class", class, "name", name, "error", err)
		http.Error(w, "boot file cannot be read", http.StatusInternalServerError)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		h.config.Log.Error("size of boot file", "class", class, "name", name, "error", err)
		http.Error(w, "boot file cannot be read", http.StatusInternalServerError)
		return
	}
	sent := &counter{ResponseWriter: w}
	http.ServeContent(sent, r, "", f.ModTime, f)
	if token := bootToken(r); token != "" && r.Method == http.MethodGet && sent.n == size {
		to, _ := netip.ParseAddrPort(r.RemoteAddr)
		h.config.Decider.Sent(token, name, to.Addr().Unmap())
	}
}

// bootToken gives the token in the URL of a boot file, if it can be one.
func bootToken(r *http.Request) string {
	if len(r.URL.RawQuery) > maxQuery {
		return ""
	}
	token := r.URL.Query().Get(bootKey)
	if len(token) > maxText {
		return ""
	}
	return token
}

// counter counts what is written.
type counter struct {
	http.ResponseWriter
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n += int64(n)
	return n, err
}

// ReadFrom lets the kernel send files without copying them.
func (c *counter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(c.ResponseWriter, r)
	c.n += n
	return n, err
}

func (h *handler) program(w http.ResponseWriter, r *http.Request) {
	data, ok := h.config.Programs[r.PathValue("name")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if base, err := baseURL(r); err == nil && strings.HasPrefix(r.UserAgent(), "iPXE/") {
		h.config.Log.Info("iPXE asks for a boot program and is given the script", "addr", r.RemoteAddr)
		text, err := h.scripts.ask(base)
		h.send(w, text, err)
		return
	}
	// UEFI HTTP boot tells by the type that this is no disk image (UEFI 2.10 §24.7.3.2).
	w.Header().Set("Content-Type", "application/efi")
	http.ServeContent(w, r, "", h.started, bytes.NewReader(data))
}
