package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"clonecast/internal/image"
	"clonecast/internal/protocol"
	"clonecast/server/tasks"
)

// followed tells what became of the capture that an operation follows: the id of its version once
// it is published, or the reason why there will be none.
func (a *API) followed(ctx context.Context, op tasks.Operation) (version string, err error) {
	name, o, found, err := a.Tasks.Of(ctx, op.TaskID, op.From, protocol.OpCapture)
	switch {
	case err != nil:
		return "", err
	case !found:
		return "", &protocol.Problem{Code: protocol.CodeNotFound, Title: "task " + op.TaskID + " has no capture to follow"}
	}
	if done := o.Published(); done != "" {
		var p protocol.PublishResponse
		err := json.Unmarshal([]byte(done), &p)
		return p.Version, err
	}
	if tasks.Over(o.State) {
		return "", &protocol.Problem{Code: protocol.CodeConflict, Title: castFailure(name, o),
			Hint: "order it again when that is solved; a disk that was written to meanwhile does not boot until then"}
	}
	return "", nil
}

func castFailure(machine string, op tasks.Operation) string {
	if op.State == tasks.Failed {
		return fmt.Sprintf("the capture of %s has failed: %s", machine, op.Error)
	}
	return fmt.Sprintf("the capture of %s was cancelled", machine)
}

// followPatience is how long a follower waits for news before it hears that there are none.
const followPatience = 5 * time.Second

// followCast tells a follower what there is, once that is more than it knows.
func (a *API) followCast(w http.ResponseWriter, r *http.Request) error {
	var known protocol.Followed
	if err := readJSON(w, r, &known); err != nil {
		return err
	}
	received(w)
	end := time.NewTimer(followPatience)
	defer end.Stop()
	op, _, err := a.running(r, protocol.OpFollow)
	if err != nil {
		return err
	}
	next, stop := a.Tasks.Watch(op.TaskID, false)
	defer stop()
	for {
		news, changed := a.captures.news(op.TaskID), next()
		op, _, err := a.running(r, protocol.OpFollow)
		if err != nil {
			return err
		}
		var now protocol.Followed
		if c, err := a.captures.cast(op); err == nil {
			now = c.state()
		}
		if now.Version, err = a.followed(r.Context(), op); err != nil {
			return err
		}
		if now.Version != "" || now.Cast != "" && now != (protocol.Followed{Cast: known.Cast, Parts: known.Parts}) {
			return writeJSON(w, now)
		}
		select {
		case <-news:
		case <-changed:
		case <-end.C:
			return writeJSON(w, now)
		case <-r.Context().Done():
			return r.Context().Err()
		}
	}
}

// follows gives the cast that the caller follows, if it is the one that the path names.
func (a *API) follows(r *http.Request) (*cast, error) {
	op, _, err := a.running(r, protocol.OpFollow)
	if err != nil {
		return nil, err
	}
	c, err := a.captures.cast(op)
	if err == nil && c.id.String() != r.PathValue("cast") {
		err = noCast()
	}
	return c, err
}

// nextParts makes the call that describes the session of the parts that the caller does not have.
func (a *API) nextParts(
	r *http.Request, op tasks.Operation,
) (func(context.Context, string, tasks.Operation) (protocol.Session, error), error) {
	part, err := strconv.ParseUint(r.URL.Query().Get("from"), 10, 64)
	if err != nil {
		return nil, invalidBody("from must be the number of a part")
	}
	c, err := a.captures.cast(op)
	if err != nil {
		return nil, err
	}
	parts, manifest, err := c.from(part)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, machine string, op tasks.Operation) (protocol.Session, error) {
		return a.Sessions.Follow(ctx, machine, op, parts, manifest)
	}, nil
}

func (a *API) followOutline(w http.ResponseWriter, r *http.Request) error {
	c, err := a.follows(r)
	if err != nil {
		return err
	}
	return writeEnvelope(w, c.outline)
}

func (a *API) followPart(w http.ResponseWriter, r *http.Request) error {
	c, err := a.follows(r)
	if err != nil {
		return err
	}
	number, err := strconv.ParseUint(r.PathValue("number"), 10, 64)
	if err != nil {
		return invalidBody("%q is no number of a part", r.PathValue("number"))
	}
	envelope, ok := c.part(number)
	if !ok {
		return &protocol.Problem{Code: protocol.CodeNotFound, Title: fmt.Sprintf("there is no part %d yet", number)}
	}
	return writeEnvelope(w, envelope)
}

// publishes tells whether a task has made a version, which its other machines then deploy.
func publishes(t tasks.Task, id image.VersionID) bool {
	for _, r := range t.Runs {
		for _, op := range r.Operations {
			var p protocol.PublishResponse
			if done := op.Published(); done != "" && json.Unmarshal([]byte(done), &p) == nil && p.Version == id.String() {
				return true
			}
		}
	}
	return false
}
