package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"clonecast/internal/chunk"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/image"
	"clonecast/internal/multicast"
	"clonecast/internal/multicast/packet"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"
)

// Patience and limits of multicast sessions.
const (
	maxSessions = 3              // that a deploy tries to get its frames from
	waitAtMost  = 12 * time.Hour // for a session to begin; as long as a token is valid
	waitingPoll = 3 * time.Second
	maxSession  = 256 << 20 // bytes of a session's description
)

// multicastResult says how the frames of a deploy by multicast came.
type multicastResult struct {
	Multicast int64   `json:"bytes_multicast"`
	Unicast   int64   `json:"fetched_unicast"`
	Loss      float64 `json:"loss"` // share of the packets of the last session

	// State is "done" if all came in sessions, "unicast" if some of it had to be fetched from the server apart from them.
	State string `json:"state"`

	// Why the machine left the group: a word for programs, a text, and what to do.
	Cause  string `json:"cause,omitempty"`
	Reason string `json:"reason,omitempty"`
	Hint   string `json:"hint,omitempty"`
}

// reception is how a deploy gets its frames: in the task's multicast sessions, and by unicast what these do not bring.
// It is a deploy.Source. What is wrong with a session is a note, never a failed deploy.
type reception struct {
	transfer
	track   *tracker
	ordered bool                   // the operation wants multicast
	whole   *image.Manifest        // as the sender knows it
	parts   *protocol.SessionParts // of a cast: the session must be of these
	offer   *protocol.Session      // a session that was not joined yet
	session *multicast.ImageSource
	id      uint64                  // of that session
	cancel  context.CancelCauseFunc // of what it does
	tries   int
	joined  bool // one of them
	done    multicastResult
	notes   []string
}

// reception asks for the session of an operation.
func (a *Agent) reception(
	ctx context.Context, op *protocol.Operation, m *image.Manifest, track *tracker,
) (*reception, error) {
	r := &reception{
		transfer: transfer{a.client}, ordered: op.Multicast, track: track, done: multicastResult{State: "done"},
	}
	if !op.Multicast {
		return r, nil
	}
	whole := *m
	whole.Disks = slices.Clone(m.Disks) // partitions that are kept are still in the session
	r.whole = &whole
	offer, err := r.ask(ctx, 0)
	if err == nil {
		r.offer = &offer
		return r, nil
	}
	if end := ending(ctx, err); end != nil {
		return nil, fmt.Errorf("ask for the multicast session: %w", end)
	}
	r.note("no multicast session, all comes by unicast: %v", err)
	return r, nil
}

// ask asks for the session, if there is one that has what is wanted.
func (r *reception) ask(ctx context.Context, known uint64) (protocol.Session, error) {
	if r.parts == nil {
		return r.transfer.ask(ctx, known, nil)
	}
	s, err := r.transfer.ask(ctx, known, r.parts)
	if err == nil && (s.Parts == nil || *s.Parts != *r.parts) {
		err = errNoSession
	}
	return s, err
}

// source is where the frames come from. Without a session it is the server, which can also send differences.
func (r *reception) source() deploy.Source {
	if r.offer == nil {
		return deploy.Source{Name: "the server", Frames: r.transfer.Frames, Deltas: r.Deltas}
	}
	return deploy.Source{Name: "a multicast session", Frames: r.Frames, Prepare: r.Prepare}
}

// note tells the screen and the server what a person should know.
func (r *reception) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.console.Say("note: %s", text)
	r.notes = append(r.notes, text)
}

// ending gives the error that ends a deploy also if it could go on by unicast, or nil.
func ending(ctx context.Context, err error) error {
	var problem *protocol.Problem
	var away *awayError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, errSuperseded), errors.As(err, &away),
		errors.As(err, &problem) && problem.Code == protocol.CodeCancelled:
		return err
	}
	return nil
}

// Prepare implements deploy.Source: it waits in a session for it to begin, while the disk is still as it was.
func (r *reception) Prepare(ctx context.Context, ids []chunk.ID) error { return r.enter(ctx, ids) }

// enter joins a session for chunks and waits until it begins. Without one r.session is nil and the cause is noted.
func (r *reception) enter(ctx context.Context, ids []chunk.ID) error {
	for r.session == nil && r.tries < maxSessions {
		r.tries++
		err := r.join(ctx, ids)
		if err == nil {
			return nil
		}
		r.leave()
		if end := ending(ctx, err); end != nil {
			return end
		}
		r.note("multicast session: %v", err)
		if errors.Is(err, errNoSession) || errors.Is(err, errNeverBegan) {
			r.tries = maxSessions
		}
	}
	return nil
}

// join joins the session that was offered, or the one that the server has now, and waits until it begins.
func (r *reception) join(ctx context.Context, ids []chunk.ID) error {
	offer := r.offer
	if r.offer = nil; offer == nil {
		fresh, err := r.ask(ctx, 0)
		if err != nil {
			return err
		}
		offer = &fresh
	}
	found, err := multicast.Offered(*offer, sessionHost{r.transfer}, slog.New(warnings{r.console.Say}))
	if err != nil {
		return err
	}
	if r.session, err = multicast.NewImageSource(found, r.whole, offer.Table); err != nil {
		return err
	}
	r.id = offer.Session
	ctx, r.cancel = context.WithCancelCause(ctx)
	patience := time.AfterFunc(waitAtMost, func() { r.cancel(errNeverBegan) })
	stop := r.showWaiting(ctx, offer.Waiting)
	err = r.session.Prepare(ctx, ids)
	stop()
	if !patience.Stop() && err == nil {
		err = errNeverBegan
	}
	if err != nil {
		return err
	}
	r.joined = true
	return r.checkHeard(ctx)
}

var (
	errNoSession  = errors.New("the server has none")
	errForgotten  = errors.New("the session is no longer there")
	errNeverBegan = fmt.Errorf("it has not begun within %v", waitAtMost)
)

// checkHeard finds out whether a session that was left before it began is still there: what it has is then to be had by
// unicast, with its sender's knowledge.
func (r *reception) checkHeard(ctx context.Context) error {
	summary, _ := r.session.Summary()
	if summary.State != packet.StateUnicast {
		return nil
	}
	now, err := r.ask(ctx, r.id)
	if err == nil && now.Session != r.id {
		r.offer, err = &now, errForgotten
	}
	return err
}

// showWaiting shows what the session waits for until the returned function is called.
func (r *reception) showWaiting(ctx context.Context, waiting protocol.SessionWaiting) (stop func()) {
	ctx, end := context.WithCancel(ctx)
	if waiting != (protocol.SessionWaiting{}) {
		waiting.Present++ // this machine is about to be there
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for said := ""; ; {
			if text := waitingText(waiting); text != "" && text != said {
				r.console.Say("%s", text)
				r.track.wait(text)
				said = text
			}
			if pause(ctx, waitingPoll) != nil {
				return
			}
			if now, err := r.ask(ctx, r.id); err == nil && now.Session == r.id {
				waiting = now.Waiting
			}
		}
	})
	return func() {
		end()
		wg.Wait()
	}
}

// waitingText says what a session waits for; empty when it runs.
func waitingText(w protocol.SessionWaiting) string {
	switch {
	case w.Manual:
		return fmt.Sprintf("waiting for an admin to start the session; machines here: %d", w.Present)
	case w.Machines > w.Present:
		return fmt.Sprintf("waiting for %d of %d machines", w.Machines-w.Present, w.Machines)
	case w.StartsAt != 0:
		return fmt.Sprintf("waiting for the session to begin; machines here: %d", w.Present)
	}
	return ""
}

// Frames implements deploy.Source.
func (r *reception) Frames(ctx context.Context, ids []chunk.ID, yield func(frame []byte) error) error {
	rest := newWanted(ids)
	for r.session != nil {
		err := r.session.Frames(ctx, rest.left(), rest.take(yield))
		r.account()
		r.leave()
		if rest.failed != nil {
			return rest.failed
		}
		if err == nil {
			break
		}
		if end := ending(ctx, err); end != nil {
			return end
		}
		r.note("multicast session: %v", err)
		if err := r.enter(ctx, rest.left()); err != nil {
			return err
		}
	}
	left := rest.left()
	if len(left) == 0 {
		return nil
	}
	r.note("multicast session: %d of %d chunks come by unicast", len(left), len(ids))
	r.done.State = "unicast"
	take := rest.take(yield)
	return r.transfer.Frames(ctx, left, func(frame []byte) error {
		r.done.Unicast += int64(len(frame))
		return take(frame)
	})
}

// account adds what the session at hand has brought.
func (r *reception) account() {
	s, _ := r.session.Summary()
	r.done.Multicast += s.Written - s.Fetched
	r.done.Unicast += s.Fetched
	r.done.Loss = s.Loss
	if why := s.Reason; why != packet.ReasonNone {
		r.done.Cause, r.done.Reason, r.done.Hint = why.Cause(), why.String(), why.Hint()
		r.note("multicast session: this machine left the group, %v came by unicast: %s",
			quantity.Bytes(s.Fetched), withHint(why.String(), why.Hint()))
	}
}

// withHint joins what is wrong and what can be done about it.
func withHint(text, hint string) string {
	if hint == "" {
		return text
	}
	return text + "; " + hint
}

// leave leaves the session at hand.
func (r *reception) leave() {
	if r.session != nil {
		r.session.Close()
		r.session = nil
	}
	if r.cancel != nil {
		r.cancel(context.Canceled)
	}
}

// attend shows the session that this machine is done also if it needed nothing of it: others may wait for it.
func (r *reception) attend(ctx context.Context) {
	if r.joined || r.offer == nil {
		return
	}
	if r.enter(ctx, nil) != nil || r.session == nil {
		return // nothing is missing here
	}
	if err := r.session.Frames(ctx, nil, nil); err != nil {
		r.note("multicast session: %v", err)
	}
	r.leave()
}

// result is for the task's report; fetched is how many bytes of frames came altogether.
func (r *reception) result(fetched int64) *multicastResult {
	if !r.ordered {
		return nil
	}
	if !r.joined {
		r.done.State, r.done.Unicast = "unicast", fetched
	}
	return &r.done
}

// wanted keeps track of chunks that are still to come.
type wanted struct {
	ids    []chunk.ID
	lacks  map[chunk.ID]bool
	failed error // of the one who takes the frames
}

func newWanted(ids []chunk.ID) *wanted {
	w := &wanted{ids: ids, lacks: make(map[chunk.ID]bool, len(ids))}
	for _, id := range ids {
		w.lacks[id] = true
	}
	return w
}

// take hands frames on and notes what has come.
func (w *wanted) take(yield func([]byte) error) func([]byte) error {
	return func(frame []byte) error {
		h, err := chunk.ParseFrameHeader(frame)
		if err == nil {
			err = yield(frame)
		}
		if err != nil {
			w.failed = err
			return err
		}
		for _, e := range h.Entries {
			delete(w.lacks, e.ID)
		}
		return nil
	}
}

// left gives the ids that have not come.
func (w *wanted) left() (ids []chunk.ID) {
	for _, id := range w.ids {
		if w.lacks[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

// ask gets the session of the operation; known is one whose table is not needed again. In a cast it is that of the
// parts from the first of these on.
func (t transfer) ask(ctx context.Context, known uint64, parts *protocol.SessionParts) (s protocol.Session, err error) {
	k := call{
		method: http.MethodGet, path: protocol.PathSession, query: url.Values{},
		limit: maxSession, timeout: dataTimeout, giveUp: t.giveUp,
	}
	if known != 0 {
		k.query.Set("known", strconv.FormatUint(known, 10))
	}
	if parts != nil {
		k.query.Set("from", strconv.FormatUint(parts.First, 10))
	}
	answer, err := t.do(ctx, k)
	if err != nil {
		return s, noSession(err, errNoSession)
	}
	if err := json.Unmarshal(answer, &s); err != nil {
		return s, fmt.Errorf("the server's description: %w", err)
	}
	return s, nil
}

// noSession makes the server's "not found" an error of its own.
func noSession(err, own error) error {
	var problem *protocol.Problem
	if errors.As(err, &problem) && problem.Code == protocol.CodeNotFound {
		return fmt.Errorf("%w: %w", own, err)
	}
	return err
}

// sessionHost is the server as a receiver sees it.
type sessionHost struct{ transfer }

// Join implements multicast.Host.
func (h sessionHost) Join(ctx context.Context, q protocol.SessionJoin) (place protocol.SessionPlace, err error) {
	err = h.exchange(ctx, call{path: protocol.PathSessionJoin, giveUp: h.giveUp}, q, &place)
	return place, noSession(err, multicast.ErrGone)
}

// Blocks implements multicast.Host.
func (h sessionHost) Blocks(ctx context.Context, first, count int, read func(io.Reader) error) error {
	_, err := h.do(ctx, call{
		method: http.MethodGet, path: protocol.PathSessionBlocks,
		query:   url.Values{"first": {strconv.Itoa(first)}, "count": {strconv.Itoa(count)}},
		timeout: dataTimeout, once: true, read: read,
	})
	return noSession(err, multicast.ErrGone)
}

// Report implements multicast.Host.
func (h sessionHost) Report(ctx context.Context, report []byte) ([]byte, error) {
	k := h.data(protocol.PathSessionReport, report, packet.MaxSize)
	k.once = true
	answer, err := h.do(ctx, k)
	return answer, noSession(err, multicast.ErrGone)
}

// warnings shows what the multicast engine warns of.
type warnings struct {
	say func(format string, args ...any)
}

func (warnings) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }
func (w warnings) WithAttrs([]slog.Attr) slog.Handler             { return w }
func (w warnings) WithGroup(string) slog.Handler                  { return w }
func (w warnings) Handle(_ context.Context, r slog.Record) error {
	text := "multicast: " + r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += fmt.Sprintf("; %s: %v", a.Key, a.Value)
		return true
	})
	w.say("%s", text)
	return nil
}
