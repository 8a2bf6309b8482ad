package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/protocol"
)

// statusOf gives the HTTP status of a problem's code.
func statusOf(code string) int {
	switch code {
	case protocol.CodeUnauthorized:
		return http.StatusUnauthorized
	case protocol.CodePending, protocol.CodeForbidden:
		return http.StatusForbidden
	case protocol.CodeNotFound:
		return http.StatusNotFound
	case protocol.CodeIncomplete, protocol.CodeConflict, protocol.CodeCancelled:
		return http.StatusConflict
	case protocol.CodeStoreFull:
		return http.StatusInsufficientStorage
	case protocol.CodeInvalid, protocol.CodeVersion:
		return http.StatusBadRequest
	case protocol.CodeBusy:
		return http.StatusTooManyRequests
	}
	return http.StatusInternalServerError
}

// problemOf turns an error into what the caller may know of it. Causes that are
// nobody's business outside go to the log only.
func (a *API) problemOf(r *http.Request, err error) *protocol.Problem {
	var p *protocol.Problem
	var tooLong *http.MaxBytesError
	var invalid *chunk.InvalidError
	var missing *chunk.MissingError
	var incomplete *chunkstore.IncompleteError
	var length *chunkstore.LengthError
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &tooLong):
		return &protocol.Problem{
			Code: protocol.CodeInvalid, Title: fmt.Sprintf("the body is longer than %d bytes", tooLong.Limit)}
	case errors.As(err, &incomplete):
		p := &protocol.Problem{Code: protocol.CodeIncomplete, Title: incomplete.Error(),
			Hint: "send the missing chunks and publish again"}
		for _, id := range incomplete.Missing[:min(len(incomplete.Missing), protocol.MaxIDs)] {
			p.Missing = append(p.Missing, id.String())
		}
		return p
	case errors.As(err, &length):
		return &protocol.Problem{Code: protocol.CodeInvalid, Title: length.Error()}
	case errors.Is(err, chunkstore.ErrNotFound):
		return &protocol.Problem{Code: protocol.CodeNotFound, Title: err.Error(),
			Hint: "'clonecast image list' shows what there is"}
	case errors.Is(err, chunkstore.ErrFull), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		a.Log.Error("the store is full", "path", r.URL.Path, "error", err)
		return &protocol.Problem{Code: protocol.CodeStoreFull, Title: fullTitle(err),
			Hint: "free space on the server, then start the task again: what was sent already is kept"}
	case errors.As(err, &invalid), errors.As(err, &missing):
		a.Log.Error("the store is damaged", "path", r.URL.Path, "error", err)
		return &protocol.Problem{Code: protocol.CodeInternal, Title: err.Error(),
			Hint: "on the server: clonecast store check --read-data"}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &protocol.Problem{Code: protocol.CodeInvalid, Title: "the body ends early"}
	}
	a.Log.Error("request", "method", r.Method, "path", r.URL.Path, "from", host(r), "error", err)
	return &protocol.Problem{Code: protocol.CodeInternal, Title: "the server has a problem",
		Hint: "the server's log says more"}
}

// fullTitle says that the disk is full, and of the store's reserve where that is the reason.
func fullTitle(err error) string {
	var reserve *chunkstore.ReserveError
	if errors.As(err, &reserve) {
		return "on the server: " + reserve.Error()
	}
	return "the server's disk is full"
}

func (a *API) problem(w http.ResponseWriter, r *http.Request, err error) {
	p := a.problemOf(r, err)
	if p.Code == protocol.CodeUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	if p.Code == protocol.CodeBusy {
		w.Header().Set("Retry-After", retryAfter)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(statusOf(p.Code))
	_ = json.NewEncoder(w).Encode(p) // the caller may be gone
}

func invalidBody(format string, args ...any) error {
	return &protocol.Problem{Code: protocol.CodeInvalid, Title: fmt.Sprintf(format, args...)}
}

func writeJSON(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // the caller may be gone
	return nil
}
