package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
	"clonecast/server/tasks"
)

// deleteImage removes a version that no unfinished task deploys.
func (a *API) deleteImage(ctx context.Context, ref string) (Version, error) {
	if !strings.Contains(ref, "@") {
		return Version{}, &protocol.Problem{Code: protocol.CodeInvalid,
			Title: "name the version to delete: " + ref + "@NUMBER or " + ref + "@ID"}
	}
	v, err := a.resolve(ctx, ref)
	if err != nil {
		return Version{}, err
	}
	if err := a.notDeployed(ctx, v); err != nil {
		return Version{}, err
	}
	if err := a.Store.Delete(ctx, v.Image, v.Sequence); err != nil {
		return Version{}, err
	}
	a.Log.Info("version deleted",
		"image", v.Image, "sequence", v.Sequence, "version", v.ID.Short(), "by", callerOf(ctx).admin)
	return versionOf(v), nil
}

func (a *API) notDeployed(ctx context.Context, v image.Version) error {
	list, err := a.Tasks.Unfinished(ctx)
	if err != nil {
		return err
	}
	for _, t := range list {
		for _, r := range t.Runs {
			for _, op := range r.Operations {
				if tasks.Over(op.State) {
					continue
				}
				follows := op.Kind == protocol.OpFollow && publishes(t, v.ID)
				if follows || op.Kind == protocol.OpDeploy && op.Version == v.ID.String() {
					return &protocol.Problem{
						Code:  protocol.CodeConflict,
						Title: fmt.Sprintf("task %s deploys %s@%d to %s", t.ID, v.Image, v.Sequence, r.Machine),
						Hint:  "let it end, or: clonecast task cancel " + t.ID,
					}
				}
			}
		}
	}
	return nil
}

// Collect says how to collect what no version needs.
type Collect struct {
	DryRun        bool  `json:"dry_run,omitempty"`
	MinAgeSeconds int64 `json:"min_age_seconds"`
}

// collect answers when the collection is done.
func (a *API) collect(w http.ResponseWriter, r *http.Request) error {
	var q Collect
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	if q.MinAgeSeconds < 0 || q.MinAgeSeconds > 10*365*24*3600 {
		return invalidBody("min_age_seconds is %d, want 0 to ten years", q.MinAgeSeconds)
	}
	received(w)
	options := chunkstore.CollectOptions{DryRun: q.DryRun, MinAge: time.Duration(q.MinAgeSeconds) * time.Second}
	report, err := a.Store.Collect(r.Context(), options)
	if errors.Is(err, chunkstore.ErrBusy) {
		return &protocol.Problem{Code: protocol.CodeConflict, Title: "a collection is running already"}
	}
	if err != nil {
		return err
	}
	if !q.DryRun {
		a.Log.Info("store collected", "packs", report.Removed, "bytes", report.Freed, "rewritten", report.Rewritten,
			"condemned", report.Condemned, "by", callerOf(r.Context()).admin)
	}
	return writeJSON(w, report)
}
