package api

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"
	"clonecast/server/machines"
	"clonecast/server/tasks"
)

// site is a server with a real store and a real database, that can be restarted.
type site struct {
	t     *testing.T
	dir   string
	api   *API
	store *local.Store
	tls   *httptest.Server
	local *httptest.Server
}

func newSite(t *testing.T) *site {
	s := &site{t: t, dir: t.TempDir()}
	store, err := local.Create(filepath.Join(s.dir, "store"), local.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.start(store)
	t.Cleanup(s.stop)
	return s
}

func (s *site) start(store *local.Store) {
	s.store = store
	s.api = newAPI(s.t, filepath.Join(s.dir, "x.db"), store)
	s.tls = httptest.NewUnstartedServer(nil)
	s.tls.Config = s.api.NewServer(&tls.Config{MinVersion: tls.VersionTLS13}, false)
	s.tls.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	s.tls.StartTLS()
	s.local = httptest.NewUnstartedServer(nil) // stands for the Unix socket
	s.local.Config = s.api.NewServer(nil, true)
	s.local.Start()
}

func (s *site) stop() {
	s.tls.Close()
	s.local.Close()
	for _, err := range []error{s.api.Sessions.Close(), s.api.Close(), s.api.DB.Close(), s.store.Close()} {
		if err != nil {
			s.t.Error(err)
		}
	}
}

// restart is what a stop and start of the server are to machines.
func (s *site) restart() {
	s.t.Helper()
	s.stop()
	store, err := local.Open(filepath.Join(s.dir, "store"), local.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		s.t.Fatal(err)
	}
	s.start(store)
}

// call sends a body (JSON unless it is bytes) and gives the answer's bytes, or its Problem.
func (s *site) call(base *httptest.Server, token, method, path string, body any) ([]byte, error) {
	s.t.Helper()
	content, raw := body.([]byte)
	if !raw && body != nil {
		var err error
		if content, err = json.Marshal(body); err != nil {
			s.t.Fatal(err)
		}
	}
	r, err := http.NewRequest(method, base.URL+path, bytes.NewReader(content))
	if err != nil {
		s.t.Fatal(err)
	}
	if !raw {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := base.Client().Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= 300 {
		p := &protocol.Problem{}
		if err := json.Unmarshal(b, p); err != nil || p.Code == "" {
			s.t.Errorf("%s %s: %s is no problem document: %s", method, path, response.Status, b)
		}
		return nil, p
	}
	return b, nil
}

// must is a call that succeeds; its JSON answer goes to result.
func (s *site) must(base *httptest.Server, token, method, path string, body, result any) {
	s.t.Helper()
	b, err := s.call(base, token, method, path, body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	if err := json.Unmarshal(b, result); err != nil {
		s.t.Fatalf("%s %s: %v in %s", method, path, err, b)
	}
}

func (s *site) refused(code, token, path string, body any) {
	s.t.Helper()
	method := "POST"
	if path == protocol.PathManifest {
		method = "GET"
	}
	_, err := s.call(s.tls, token, method, path, body)
	var p *protocol.Problem
	if !errors.As(err, &p) || p.Code != code {
		s.t.Errorf("%s: %v (%+v), want code %s", path, err, p, code)
	}
}

// pc registers a machine, adopts it, and logs it on.
func (s *site) pc(name string, n int) (token string) {
	s.t.Helper()
	id := s.register(name, n)
	s.must(s.local, "", "POST", "/api/v1/machines/"+id+"/adopt", map[string]string{"name": name}, &machines.Machine{})
	return s.logon(id, "boot1")
}

func (s *site) register(name string, n int) string {
	s.t.Helper()
	var answer protocol.RegisterResponse
	facts := protocol.Facts{
		UUID:  "uuid-" + name,
		NICs:  []protocol.NIC{{Name: "eth0", MAC: fmt.Sprintf("02:00:00:00:00:%02x", n), Booted: true}},
		Disks: []protocol.Disk{{Name: "sda", Serial: "disk-" + name, Bytes: 1 << 30, LogicalSector: 512}},
	}
	request := protocol.RegisterRequest{Version: protocol.Version, Facts: facts}
	s.must(s.tls, "", "POST", protocol.PathRegister, request, &answer)
	return answer.MachineID
}

func (s *site) logon(id, boot string) string {
	s.t.Helper()
	var answer protocol.LogonResponse
	s.must(s.tls, "", "POST", protocol.PathLogon, protocol.LogonRequest{MachineID: id, BootToken: boot}, &answer)
	return answer.Token
}

func (s *site) order(o Order) tasks.Task {
	s.t.Helper()
	var answer Ordered
	s.must(s.local, "", "POST", "/api/v1/tasks", o, &answer)
	return *answer.Task
}

func (s *site) next(token, kind string) protocol.Operation {
	s.t.Helper()
	var op protocol.Operation
	s.must(s.tls, token, "POST", protocol.PathNext, struct{}{}, &op)
	if op.Kind != kind {
		s.t.Fatalf("next operation is %+v, want %s", op, kind)
	}
	return op
}

func (s *site) report(token string, op protocol.Operation, state string) protocol.StatusResponse {
	s.t.Helper()
	var answer protocol.StatusResponse
	s.must(s.tls, token, "POST", protocol.PathStatus, protocol.Status{
		TaskID: op.TaskID, Index: op.Index, State: state, Result: json.RawMessage(`{"bytes":1}`),
	}, &answer)
	return answer
}

// disk is a captured disk made by hand: some chunks, their frames, the manifest.
type disk struct {
	ids      []chunk.ID
	frames   [][]byte
	plain    map[chunk.ID][]byte
	manifest *image.Manifest
}

func newDisk(t *testing.T, name string, seed byte, chunks int) disk {
	t.Helper()
	enc, err := chunk.NewEncoder(zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	d := disk{plain: map[chunk.ID][]byte{}}
	random := rand.NewChaCha8([32]byte{seed})
	for range chunks {
		plain := make([]byte, chunk.Size)
		_, _ = random.Read(plain)
		id := chunk.Sum(plain)
		d.ids, d.plain[id] = append(d.ids, id), plain
		d.frames = append(d.frames, enc.AppendFrame(nil, []chunk.Entry{{ID: id, Length: len(plain)}}, plain))
	}
	length := quantity.Bytes(chunks) * chunk.Size
	d.manifest = &image.Manifest{
		Image: name, Created: 1, Comment: "a lie", Origin: "a lie", Creator: "a lie", Engine: "test",
		Disks: []image.Disk{{
			Size: length + 1<<20, LogicalSector: 512, PhysicalSector: 512, TableKind: "none",
			Partitions: []image.Partition{{Number: 1, Mode: image.ModeRaw, Content: image.Content{
				Start: 1 << 20, Length: length, Extents: []quantity.Extent{{Length: length}}, Chunks: d.ids,
			}}},
		}},
	}
	return d
}

func (d disk) binary(t *testing.T) []byte {
	t.Helper()
	b, err := d.manifest.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func idBytes(ids ...chunk.ID) []byte {
	var b []byte
	for _, id := range ids {
		b = append(b, id[:]...)
	}
	return b
}

// capture sends a disk as the appliance does, and gives the version.
func (s *site) capture(token string, d disk) protocol.PublishResponse {
	s.t.Helper()
	s.send(token, d, 0, len(d.ids))
	var published protocol.PublishResponse
	s.must(s.tls, token, "POST", protocol.PathPublish, d.binary(s.t), &published)
	return published
}

func (s *site) send(token string, d disk, from, to int) {
	s.t.Helper()
	missing, err := s.call(s.tls, token, "POST", protocol.PathMissing, idBytes(d.ids[from:to]...))
	if err != nil {
		s.t.Fatal(err)
	}
	for i, m := range missing {
		if m == 1 {
			s.must(s.tls, token, "POST", protocol.PathFrame, d.frames[from+i], &struct{}{})
		}
	}
}

// fetch gets chunks as the appliance does and verifies them.
func (s *site) fetch(token string, ids ...chunk.ID) map[chunk.ID][]byte {
	s.t.Helper()
	b, err := s.call(s.tls, token, "POST", protocol.PathChunks, idBytes(ids...))
	if err != nil {
		s.t.Fatal(err)
	}
	decoder, err := chunk.NewDecoder()
	if err != nil {
		s.t.Fatal(err)
	}
	defer decoder.Close()
	got := map[chunk.ID][]byte{}
	for len(b) > 0 {
		h, err := chunk.ParseFrameHeader(b)
		if err != nil {
			s.t.Fatal(err)
		}
		_, plain, err := decoder.Decode(b[:h.Size()], nil)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, e := range h.Entries {
			got[e.ID], plain = bytes.Clone(plain[:e.Length]), plain[e.Length:]
		}
		b = b[h.Size():]
	}
	return got
}

func TestCaptureAndDeploy(t *testing.T) {
	s := newSite(t)
	a, b := s.pc("a", 1), s.pc("b", 2)
	task := s.order(Order{Kind: "capture", Machines: []string{"a"}, Image: "win", Comment: "first", Then: "poweroff"})
	s.next(b, protocol.OpNone)
	op := s.next(a, protocol.OpCapture)
	d := newDisk(t, "win", 1, 5)

	s.send(a, d, 0, 3)
	s.refused(protocol.CodeIncomplete, a, protocol.PathPublish, d.binary(t))
	published := s.capture(a, d)
	var again protocol.PublishResponse
	s.must(s.tls, a, "POST", protocol.PathPublish, d.binary(t), &again) // the answer was lost
	if diff := cmp.Diff(published, again); diff != "" {
		t.Errorf("published twice (-first +second):\n%s", diff)
	}
	s.report(a, op, protocol.StateDone)
	s.next(a, protocol.OpPoweroff)
	s.must(s.tls, a, "POST", protocol.PathLogoff, protocol.LogoffRequest{Reason: "poweroff"}, &struct{}{})
	s.refused(protocol.CodeUnauthorized, a, protocol.PathNext, struct{}{})
	s.must(s.local, "", "GET", "/api/v1/tasks/"+task.ID, nil, &task)
	if task.State != tasks.Done {
		t.Errorf("task is %+v", task)
	}
	var detail ImageDetail
	s.must(s.local, "", "GET", "/api/v1/images/win@1", nil, &detail)
	if detail.ID != published.Version || detail.Comment != "first" || detail.Origin != "a" || detail.Creator != "root" {
		t.Errorf("version is %+v; comment, origin and creator come from the order", detail.Version)
	}

	for _, bad := range []string{"first", "7", "2:last"} {
		var problem *protocol.Problem
		order := Order{Kind: "deploy", Machines: []string{"b"}, Image: "win", Grow: bad}
		_, err := s.call(s.local, "", "POST", "/api/v1/tasks", order)
		if !errors.As(err, &problem) || problem.Code != protocol.CodeInvalid {
			t.Errorf("an order to grow %q: %v", bad, err)
		}
	}
	var plan Ordered
	order := Order{Kind: "deploy", Machines: []string{"b"}, Image: "win", Grow: "last", DryRun: true}
	s.must(s.local, "", "POST", "/api/v1/tasks", order, &plan)
	if len(plan.Machines) != 1 || len(plan.Machines[0].Plan) != 1 {
		t.Fatalf("plan %+v, want one machine with one disk", plan.Machines)
	}
	on := plan.Machines[0].Plan[0]
	if len(on.Growth) != 1 || !strings.Contains(on.Growth[0].String(), "partition 1 (no file system): stays at 1.2 MiB") {
		t.Errorf("growth %+v, want what becomes of partition 1", on.Growth)
	}
	if n := len(on.Regions) - 1; n < 0 || on.Regions[n].Fate != deploy.Write || on.Regions[n].Differ == 0 {
		t.Errorf("regions %+v, want that the partition is written", on.Regions)
	}
	s.order(Order{Kind: "deploy", Machines: []string{"b"}, Image: "win", Grow: "last"})
	if op = s.next(b, protocol.OpDeploy); op.Grow != "last" {
		t.Errorf("operation %+v, want Grow \"last\"", op)
	}
	envelope, err := s.call(s.tls, b, "GET", protocol.PathManifest, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, id, err := image.Open(envelope, s.store.TrustedKeys())
	if err != nil || id.String() != op.Version || !cmp.Equal(m.Disks, d.manifest.Disks) {
		t.Fatalf("manifest %s, %v; operation says %s", id, err, op.Version)
	}
	if diff := cmp.Diff(d.plain, s.fetch(b, d.ids...)); diff != "" {
		t.Error("deployed chunks differ from the captured ones")
	}
	s.report(b, op, protocol.StateDone)
	s.refused(protocol.CodeCancelled, b, protocol.PathChunks, idBytes(d.ids...))
	s.next(b, protocol.OpNone)
}

// A machine that deploys gets chunks as differences from chunks of the parent version, and
// from no others.
func TestDeltas(t *testing.T) {
	s := newSite(t)
	a := s.pc("a", 1)
	first, second, other := newDisk(t, "win", 1, 2), newDisk(t, "win", 2, 2), newDisk(t, "secret", 3, 2)
	nearly := bytes.Clone(first.plain[first.ids[0]])
	nearly[5] ^= 1
	second.replace(t, 0, nearly)
	for _, d := range []disk{first, second, other} {
		s.order(Order{Kind: "capture", Machines: []string{"a"}, Image: d.manifest.Image})
		op := s.next(a, protocol.OpCapture)
		s.capture(a, d)
		s.report(a, op, protocol.StateDone)
	}
	s.order(Order{Kind: "deploy", Machines: []string{"a"}, Image: "win"})
	op := s.next(a, protocol.OpDeploy)
	envelope, err := s.call(s.tls, a, "GET", protocol.PathParent, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := image.Open(envelope, s.store.TrustedKeys())
	if err != nil || m.Sequence != 1 || m.Image != "win" {
		t.Fatalf("parent is %s@%d, %v", m.Image, m.Sequence, err)
	}
	d, err := chunk.NewDeltaDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	get := func(base chunk.ID, known []byte) int {
		t.Helper()
		b, err := s.call(s.tls, a, "POST", protocol.PathDeltas, idBytes(second.ids[0], base))
		if err != nil {
			t.Fatal(err)
		}
		_, plain, err := d.Decode(b, nil, func(id chunk.ID) []byte { return map[chunk.ID][]byte{base: known}[id] })
		if err != nil || !bytes.Equal(plain, nearly) {
			t.Fatalf("the difference gives %d bytes, %v", len(plain), err)
		}
		return len(b)
	}
	if n := get(first.ids[0], first.plain[first.ids[0]]); n > 1000 {
		t.Errorf("%d bytes are sent for one that changed", n)
	}
	for name, base := range map[string]chunk.ID{
		"none": {}, "another image's": other.ids[0], "the version's own": second.ids[1],
	} {
		if n := get(base, nil); n < int(chunk.Size) {
			t.Errorf("base %s: %d bytes", name, n)
		}
	}
	s.refused(protocol.CodeForbidden, a, protocol.PathDeltas, idBytes(other.ids[0], first.ids[0]))
	s.refused(protocol.CodeInvalid, a, protocol.PathDeltas, idBytes(second.ids[0]))
	s.report(a, op, protocol.StateDone)
	s.refused(protocol.CodeCancelled, a, protocol.PathDeltas, idBytes(second.ids[0], first.ids[0]))

	s.order(Order{Kind: "deploy", Machines: []string{"a"}, Image: "win@1"})
	s.next(a, protocol.OpDeploy)
	if _, err := s.call(s.tls, a, "GET", protocol.PathParent, nil); err == nil {
		t.Error("the first version has a parent")
	}
}

// replace gives a disk another chunk k.
func (d *disk) replace(t *testing.T, k int, plain []byte) {
	t.Helper()
	enc, err := chunk.NewEncoder(zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	delete(d.plain, d.ids[k])
	id := chunk.Sum(plain)
	d.ids[k], d.plain[id] = id, plain
	d.frames[k] = enc.AppendFrame(nil, []chunk.Entry{{ID: id, Length: len(plain)}}, plain)
}

// The server goes away in the middle of a capture and of a deploy. The machine's token
// holds, and nothing is sent twice.
func TestRestartInTheMiddle(t *testing.T) {
	s := newSite(t)
	a := s.pc("a", 1)
	s.order(Order{Kind: "capture", Machines: []string{"a"}, Image: "win"})
	op := s.next(a, protocol.OpCapture)
	d := newDisk(t, "win", 1, 6)
	s.send(a, d, 0, 4)
	s.restart()
	if again := s.next(a, protocol.OpCapture); !reflect.DeepEqual(again, op) {
		t.Errorf("after the restart: %+v, want %+v", again, op)
	}
	missing, err := s.call(s.tls, a, "POST", protocol.PathMissing, idBytes(d.ids...))
	if err != nil || !bytes.Equal(missing, []byte{0, 0, 0, 0, 1, 1}) {
		t.Errorf("missing after the restart: %v, %v", missing, err)
	}
	s.capture(a, d)
	s.report(a, op, protocol.StateDone)

	s.order(Order{Kind: "deploy", Machines: []string{"a"}, Image: "win@1"})
	s.next(a, protocol.OpDeploy)
	if got := s.fetch(a, d.ids[:3]...); len(got) != 3 {
		t.Errorf("%d chunks before the restart", len(got))
	}
	s.restart()
	if got := s.fetch(a, d.ids[3:]...); len(got) != 3 {
		t.Errorf("%d chunks after the restart", len(got))
	}
}

// The server dies after a version was published and before the database knows: the machine
// that publishes again gets the same version.
func TestPublishOnce(t *testing.T) {
	s := newSite(t)
	a := s.pc("a", 1)
	d := newDisk(t, "win", 1, 3)
	for n := range uint64(2) {
		s.order(Order{Kind: "capture", Machines: []string{"a"}, Image: "win"})
		op := s.next(a, protocol.OpCapture)
		published := s.capture(a, d)
		if _, err := s.api.DB.Exec("UPDATE operations SET published = ''"); err != nil {
			t.Fatal(err)
		}
		s.restart()
		if again := s.capture(a, d); again != published || again.Sequence != n+1 {
			t.Errorf("published again: %+v, want %+v as number %d", again, published, n+1)
		}
		s.report(a, op, protocol.StateDone)
		// The clock of versions has seconds: what is ordered in the same one is not told apart.
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
	}
	if list, err := s.store.Versions(t.Context(), "win"); err != nil || len(list) != 2 {
		t.Errorf("%d versions, %v; want one for each order", len(list), err)
	}
}

// A frame that was stored with one image holds chunks of another one, too. A machine that
// deploys the other one gets its chunks and nothing else.
func TestChunksOfOtherVersions(t *testing.T) {
	s := newSite(t)
	a := s.pc("a", 1)
	secret, public := newDisk(t, "secret", 1, 4), newDisk(t, "public", 2, 3)
	// Both have chunks 1 and 3 of the first in common; it was stored in one frame.
	public.manifest.Disks[0].Partitions[0].Content.Chunks = []chunk.ID{secret.ids[1], public.ids[1], secret.ids[3]}
	public.ids = public.manifest.Disks[0].Partitions[0].Content.Chunks
	enc, err := chunk.NewEncoder(zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	var plain []byte
	var entries []chunk.Entry
	for _, id := range secret.ids {
		plain = append(plain, secret.plain[id]...)
		entries = append(entries, chunk.Entry{ID: id, Length: len(secret.plain[id])})
	}
	secret.frames = [][]byte{enc.AppendFrame(nil, entries, plain)}
	for _, d := range []disk{secret, public} {
		s.order(Order{Kind: "capture", Machines: []string{"a"}, Image: d.manifest.Image})
		op := s.next(a, protocol.OpCapture)
		if d.manifest.Image == "secret" {
			s.must(s.tls, a, "POST", protocol.PathFrame, d.frames[0], &struct{}{})
		}
		s.capture(a, d)
		s.report(a, op, protocol.StateDone)
	}
	s.order(Order{Kind: "deploy", Machines: []string{"a"}, Image: "public"})
	s.next(a, protocol.OpDeploy)
	want := map[chunk.ID][]byte{}
	for i, from := range []disk{secret, public, secret} {
		want[public.ids[i]] = from.plain[public.ids[i]]
	}
	if got := s.fetch(a, public.ids...); !cmp.Equal(got, want) {
		t.Errorf("the machine gets %d chunks, want the %d of its version and no other", len(got), len(want))
	}
}

func TestPermissions(t *testing.T) {
	s := newSite(t)
	a, b := s.pc("a", 1), s.pc("b", 2)
	mine, other := newDisk(t, "mine", 1, 2), newDisk(t, "other", 2, 2)
	for _, d := range []disk{mine, other} {
		s.order(Order{Kind: "capture", Machines: []string{"a"}, Image: d.manifest.Image})
		op := s.next(a, protocol.OpCapture)
		s.capture(a, d)
		s.report(a, op, protocol.StateDone)
	}
	dataCalls := map[string]any{
		protocol.PathMissing: idBytes(mine.ids...), protocol.PathFrame: mine.frames[0], protocol.PathPublish: mine.binary(t),
		protocol.PathManifest: nil, protocol.PathChunks: idBytes(mine.ids...),
	}
	for path, body := range dataCalls { // nothing runs
		s.refused(protocol.CodeCancelled, a, path, body)
	}
	s.order(Order{Kind: "deploy", Machines: []string{"a"}, Image: "mine"})
	for path, body := range dataCalls { // ordered, but not begun
		s.refused(protocol.CodeCancelled, a, path, body)
	}
	s.next(a, protocol.OpDeploy)
	s.refused(protocol.CodeForbidden, a, protocol.PathChunks, idBytes(mine.ids[0], other.ids[0]))
	for _, path := range []string{protocol.PathMissing, protocol.PathFrame, protocol.PathPublish} {
		s.refused(protocol.CodeForbidden, a, path, dataCalls[path])
	}
	s.refused(protocol.CodeCancelled, b, protocol.PathChunks, idBytes(mine.ids...))
	s.refused(protocol.CodeCancelled, b, protocol.PathManifest, nil)

	s.order(Order{Kind: "capture", Machines: []string{"b"}, Image: "third"})
	op := s.next(b, protocol.OpCapture)
	s.refused(protocol.CodeForbidden, b, protocol.PathPublish, mine.binary(t)) // under another name
	s.refused(protocol.CodeForbidden, b, protocol.PathChunks, idBytes(mine.ids...))
	damaged := bytes.Clone(other.frames[0])
	damaged[len(damaged)-1] ^= 1
	s.refused(protocol.CodeInvalid, b, protocol.PathFrame, damaged)
	s.refused(protocol.CodeInvalid, b, protocol.PathFrame, make([]byte, chunk.MaxFrameSize+1))
	s.refused(protocol.CodeInvalid, b, protocol.PathMissing, make([]byte, 32*(protocol.MaxIDs+1)))
	s.refused(protocol.CodeInvalid, b, protocol.PathMissing, make([]byte, 33))
	s.refused(protocol.CodeInvalid, b, protocol.PathPublish, []byte("no manifest"))
	s.refused(protocol.CodeInvalid, b, protocol.PathStatus, []byte(`{"state":"running"} x`))
	s.refused(protocol.CodeInvalid, b, protocol.PathStatus, bytes.Repeat([]byte(" "), protocol.MaxBody+1))
	s.refused(protocol.CodeNotFound, a, protocol.PathStatus, protocol.Status{TaskID: op.TaskID, State: "done"})

	// Cancelled: the machine hears of it, and its data calls end at once.
	s.must(s.local, "", "POST", "/api/v1/tasks/"+op.TaskID+"/cancel", nil, &tasks.Task{})
	s.refused(protocol.CodeCancelled, b, protocol.PathFrame, mine.frames[0])
	if !s.report(b, op, protocol.StateRunning).Cancel {
		t.Error("the machine does not hear that its task is cancelled")
	}
}

func TestStrangersAndPendingMachines(t *testing.T) {
	s := newSite(t)
	id := s.register("a", 1)
	s.refused(protocol.CodePending, "", protocol.PathLogon, protocol.LogonRequest{MachineID: id})
	s.refused(protocol.CodeNotFound, "", protocol.PathLogon, protocol.LogonRequest{MachineID: "ffffffffffffffff"})
	s.refused(protocol.CodeVersion, "", protocol.PathRegister, protocol.RegisterRequest{Version: 99})
	s.refused(protocol.CodeInvalid, "", protocol.PathRegister, protocol.RegisterRequest{Version: protocol.Version})
	order := Order{Kind: "deploy", Machines: []string{"nobody"}, Image: "win"}
	_, err := s.call(s.local, "", "POST", "/api/v1/tasks", order)
	if p := (*protocol.Problem)(nil); !errors.As(err, &p) || p.Code != protocol.CodeNotFound {
		t.Errorf("deploy of an image that is not there: %v", err)
	}

	token := s.pc("b", 2)
	if s.logon(mustFind(t, s, "b"), "boot2") == token {
		t.Error("two log-ons have one token")
	}
	s.refused(protocol.CodeUnauthorized, token, protocol.PathNext, struct{}{}) // the later boot ended the earlier
	var hash string
	err = s.api.DB.QueryRow("SELECT token_hash FROM machine_sessions").Scan(&hash)
	if err != nil || len(hash) != 64 || strings.Contains(hash, token) {
		t.Errorf("database keeps %q, %v", hash, err)
	}
	if _, err := s.api.DB.Exec("UPDATE machine_sessions SET expires = 1"); err != nil {
		t.Fatal(err)
	}
	s.refused(protocol.CodeUnauthorized, s.pcExpired(), protocol.PathNext, struct{}{})
}

// pcExpired logs on and lets the token's time run out.
func (s *site) pcExpired() string {
	token := s.logon(mustFind(s.t, s, "b"), "boot3")
	if _, err := s.api.DB.Exec("UPDATE machine_sessions SET expires = 1"); err != nil {
		s.t.Fatal(err)
	}
	return token
}

func mustFind(t *testing.T, s *site, name string) string {
	t.Helper()
	var m MachineDetail
	s.must(s.local, "", "GET", "/api/v1/machines/"+name, nil, &m)
	return m.ID
}

func TestLogin(t *testing.T) {
	s := newSite(t)
	if err := SetPassword(t.Context(), s.api.DB, "correct horse"); err != nil {
		t.Fatal(err)
	}
	const machinesPath = "/api/v1/machines"
	var answer LoginAnswer
	s.must(s.tls, "", "POST", "/api/v1/login", Login{"admin", "correct horse"}, &answer)
	var list []machines.Machine
	s.must(s.tls, answer.Token, "GET", machinesPath, nil, &list)
	s.refused(protocol.CodeUnauthorized, s.pc("a", 1), "/api/v1/logout", struct{}{}) // a machine is no admin
	s.refused(protocol.CodeUnauthorized, answer.Token, protocol.PathNext, struct{}{})
	s.restart()
	s.must(s.tls, answer.Token, "GET", machinesPath, nil, &list)
	s.must(s.tls, answer.Token, "POST", "/api/v1/logout", struct{}{}, &struct{}{})
	if _, err := s.call(s.tls, answer.Token, "GET", machinesPath, nil); err == nil {
		t.Error("the token works after the log-out")
	}
	s.refused(protocol.CodeUnauthorized, "", "/api/v1/login", Login{"root", "correct horse"})
	for range freeFailures - 1 {
		s.refused(protocol.CodeUnauthorized, "", "/api/v1/login", Login{"admin", "guess"})
	}
	s.refused(protocol.CodeBusy, "", "/api/v1/login", Login{"admin", "correct horse"})
}

// A PC with the identity of one that is active right now is turned away and noted.
func TestDuplicateIdentityAtLogon(t *testing.T) {
	s := newSite(t)
	token := s.pc("a", 1)
	id := mustFind(t, s, "a")
	s.next(token, protocol.OpNone)
	body, _ := json.Marshal(protocol.LogonRequest{MachineID: id})
	r := httptest.NewRequest("POST", protocol.PathLogon, bytes.NewReader(body))
	r.RemoteAddr = "10.99.0.66:4000"
	w := httptest.NewRecorder()
	s.api.ServeHTTP(w, r)
	if w.Code != http.StatusConflict {
		t.Errorf("the twin gets %d %s", w.Code, w.Body)
	}
	s.next(token, protocol.OpNone) // the first one goes on
	var m MachineDetail
	s.must(s.local, "", "GET", "/api/v1/machines/a", nil, &m)
	if !strings.Contains(m.Note, "10.99.0.66") {
		t.Errorf("note is %q", m.Note)
	}
}

func TestFollow(t *testing.T) {
	s := newSite(t)
	a := s.pc("a", 1)
	image := s.image(a)
	task := s.order(Order{Kind: "deploy", Machines: []string{"a"}, Image: image})
	op := s.next(a, protocol.OpDeploy)
	const short = time.Second // for the body; the answer may take longer
	usual := s.api.patience
	s.api.patience = short
	response, err := s.local.Client().Get(s.local.URL + "/api/v1/tasks/" + task.ID + "/follow")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	d := json.NewDecoder(response.Body)
	var seen tasks.Task
	if err := d.Decode(&seen); err != nil || seen.State != tasks.Running {
		t.Fatalf("first line: %+v, %v", seen, err)
	}
	s.api.patience = usual
	time.Sleep(2 * short)
	s.report(a, op, protocol.StateDone)
	for seen.State == tasks.Running {
		seen = tasks.Task{}
		if err := d.Decode(&seen); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Decode(&seen); err != io.EOF || seen.State != tasks.Done {
		t.Errorf("end of the stream: %v, state %s", err, seen.State)
	}
}

// image captures something and gives its name.
func (s *site) image(token string) string {
	s.t.Helper()
	s.order(Order{Kind: "capture", Machines: []string{"a"}, Image: "img"})
	op := s.next(token, protocol.OpCapture)
	s.capture(token, newDisk(s.t, "img", 9, 1))
	s.report(token, op, protocol.StateDone)
	return "img"
}

// Nothing that a stranger or a machine sends may bring the server down or get an answer
// that is neither data nor a problem document.
func FuzzBodies(f *testing.F) {
	f.Add(0, []byte(`{"version":1,"facts":{"uuid":"u","nics":[{"mac":"02:00:00:00:00:01"}],"disks":[{"bytes":-1}]}}`))
	f.Add(1, []byte(`{"machine_id":"x"}`))
	f.Add(2, []byte(`{}`))
	f.Add(3, []byte(`{"task_id":"1","index":-1,"state":"done","result":{},"progress":{"phase":"x"}}`))
	f.Add(4, []byte(`{"reason":"x","error":"y"}`))
	f.Add(5, make([]byte, 32))
	f.Add(6, []byte("CCF1"))
	f.Add(7, []byte("CCMANI"))
	f.Add(8, make([]byte, 32))
	f.Add(10, []byte("CCOUT1\n\x00"))
	f.Add(11, make([]byte, 72))
	f.Add(9, []byte(`{"kind":"deploy","machines":["a"],"image":"img@1","dry_run":true}`))
	paths := []string{
		protocol.PathRegister, protocol.PathLogon, protocol.PathNext, protocol.PathStatus, protocol.PathLogoff,
		protocol.PathMissing, protocol.PathFrame, protocol.PathPublish, protocol.PathChunks, "/api/v1/tasks",
		protocol.PathOutline, protocol.PathPart,
	}
	var store chunkstore.Store
	opened, err := local.Create(filepath.Join(f.TempDir(), "store"), local.Options{})
	if err != nil {
		f.Fatal(err)
	}
	store = opened
	f.Cleanup(func() { opened.Close() })
	a := newAPI(f, filepath.Join(f.TempDir(), "x.db"), store)
	local := a.NewServer(nil, true)
	send := func(token, path string, body []byte) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", path, bytes.NewReader(body)).WithContext(local.BaseContext(nil))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		return w
	}
	m, err := a.Machines.Register(f.Context(), protocol.Facts{UUID: "fuzz"}, "x")
	if err != nil {
		f.Fatal(err)
	}
	if _, err := a.Machines.Adopt(f.Context(), m.ID, machines.Adoption{Name: "a"}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, which int, body []byte) {
		if which < 0 || which >= len(paths) {
			return
		}
		logon, _ := json.Marshal(protocol.LogonRequest{MachineID: m.ID, BootToken: "b"})
		var token protocol.LogonResponse
		if err := json.Unmarshal(send("", protocol.PathLogon, logon).Body.Bytes(), &token); err != nil {
			t.Fatal(err)
		}
		if active, err := a.Tasks.Active(t.Context(), m.ID); err != nil || len(active) == 0 {
			_, err := a.Tasks.Create(t.Context(), tasks.New{
				Title: "x", Machines: []string{m.ID},
				Operations: []protocol.Operation{{Kind: "capture", Image: "img", Cast: true}},
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		send(token.Token, protocol.PathNext, []byte("{}"))
		w := send(token.Token, paths[which], body)
		if w.Code == http.StatusInternalServerError {
			t.Errorf("%s answers %d %s to %q", paths[which], w.Code, w.Body, body)
		}
		if w.Code >= 300 && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s answers %d %q", paths[which], w.Code, w.Body)
		}
	})
}
