package agent

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"clonecast/initramfs/console"
	"clonecast/internal/chunk"
	"clonecast/internal/image"
	"clonecast/internal/protocol"

	"github.com/klauspost/compress/zstd"
)

func FuzzReadFrames(f *testing.F) {
	e, err := chunk.NewEncoder(zstd.SpeedFastest)
	if err != nil {
		f.Fatal(err)
	}
	plain := []byte("some bytes of a disk, some bytes of a disk")
	frame := e.AppendFrame(nil, []chunk.Entry{{ID: chunk.Sum(plain), Length: len(plain)}}, plain)
	f.Add(frame)
	f.Add(append(frame, frame[:20]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		taken := 0
		err := frameKind.read(bytes.NewReader(b), func(h chunk.FrameHeader, frame []byte) error {
			if len(frame) != h.Size() || !bytes.Equal(frame, b[taken:taken+len(frame)]) {
				t.Fatal("a frame is not what stands in the stream")
			}
			taken += len(frame)
			return nil
		})
		if err == nil && taken != len(b) {
			t.Fatalf("%d of %d bytes taken without error", taken, len(b))
		}
	})
}

type fixedAnswer struct {
	status int
	body   []byte
}

func (a fixedAnswer) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Body: io.NopCloser(bytes.NewReader(a.body)), Header: http.Header{}}, nil
}

// Whatever a server answers, calls end and nothing panics.
func FuzzAnswers(f *testing.F) {
	f.Add(200, []byte(`{"machine_id":"m","state":"adopted","wait_seconds":1,"token":"t","kind":"none","cancel":true}`))
	f.Add(200, []byte(`{"state":"pending","wait_seconds":-9223372036854775808,`+
		`"poll_seconds":9223372036854775807,"message":"\u001b[2J"}`))
	f.Add(409, []byte(`{"code":"incomplete","missing":["00"]}`))
	f.Add(401, []byte(`{"code":"unauthorized"}`))
	f.Add(500, []byte{})
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		screen := &bytes.Buffer{}
		c := &client{console: console.New(time.Now, nil, []io.Writer{screen}),
			base: &url.URL{Scheme: "https", Host: "server"}, http: &http.Client{Transport: fixedAnswer{status, body}}}
		a := &Agent{client: c, config: Config{
			Console: c.console, Inventory: func() protocol.Facts { return protocol.Facts{} },
		}}
		ctx := t.Context()
		var r protocol.RegisterResponse
		_ = c.json(ctx, protocol.PathRegister, struct{}{}, &r, 0)
		_ = seconds(r.PollSeconds, defaultPoll, time.Minute)
		_ = c.logon(ctx, "m")
		_, _ = c.next(ctx)
		_, _ = c.status(ctx, protocol.Status{State: protocol.StateRunning})
		tr := transfer{c}
		_, _ = tr.Missing(ctx, []chunk.ID{{1}})
		_, _ = tr.PutFrame(ctx, nil)
		_, _ = tr.manifest(ctx, image.VersionID{}, Config{})
		_, _, err := tr.Publish(ctx, &image.Manifest{Image: "x"})
		_ = Hint(err)
		if r.Message != "" {
			a.say("%s", r.Message)
		}
		if bytes.ContainsAny(screen.Bytes(), "\x1b\x07\x00") {
			t.Fatalf("control characters on the screen: %q", screen)
		}
	})
}
