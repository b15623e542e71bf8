package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"connectrpc.com/connect"

	"pilotlight/profilestore"
)

// Codes of errors that only HTTP knows, beside those of profilestore.
const (
	codeUnauthenticated  profilestore.Code = "unauthenticated"
	codeForbidden        profilestore.Code = "forbidden"
	codeNotFound         profilestore.Code = "not_found"
	codeMethodNotAllowed profilestore.Code = "method_not_allowed"
	codeUnimplemented    profilestore.Code = "unimplemented" // a part of Pyroscope's API
	codeInternal         profilestore.Code = "internal"
	codeCanceled         profilestore.Code = "canceled" // the client is gone: seen by the log alone
)

// codeHeader has the code of an error where the answer's form has another's codes, which are fewer.
const codeHeader = "Pilotlight-Error"

// statusCanceled is what the log shows for a request whose client hung up; nginx made it customary.
const statusCanceled = 499

var statuses = map[profilestore.Code]struct {
	http    int
	connect connect.Code
}{
	profilestore.BadRequest:          {http.StatusBadRequest, connect.CodeInvalidArgument},
	codeUnauthenticated:              {http.StatusUnauthorized, connect.CodeUnauthenticated},
	codeForbidden:                    {http.StatusForbidden, connect.CodePermissionDenied},
	codeNotFound:                     {http.StatusNotFound, connect.CodeUnimplemented}, // what Connect calls an unknown procedure
	codeMethodNotAllowed:             {http.StatusMethodNotAllowed, connect.CodeUnimplemented},
	codeUnimplemented:                {http.StatusNotImplemented, connect.CodeUnimplemented},
	profilestore.PayloadTooLarge:     {http.StatusRequestEntityTooLarge, connect.CodeResourceExhausted},
	profilestore.Unprocessable:       {http.StatusUnprocessableEntity, connect.CodeInvalidArgument},
	profilestore.TooManyRequests:     {http.StatusTooManyRequests, connect.CodeResourceExhausted},
	codeInternal:                     {http.StatusInternalServerError, connect.CodeInternal},
	codeCanceled:                     {statusCanceled, connect.CodeCanceled},
	profilestore.Unavailable:         {http.StatusServiceUnavailable, connect.CodeUnavailable},
	profilestore.InsufficientStorage: {http.StatusInsufficientStorage, connect.CodeResourceExhausted},
}

func badRequest(param, format string, args ...any) *profilestore.Error {
	return &profilestore.Error{Code: profilestore.BadRequest, Param: param, Message: fmt.Sprintf(format, args...)}
}

// asError gives every error its code. What nobody foresaw is for the log: it may hold paths, and the client
// cannot mend it.
func asError(err error) *profilestore.Error {
	var e *profilestore.Error
	switch {
	case errors.As(err, &e) && statuses[e.Code].http != 0:
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return &profilestore.Error{Code: profilestore.Unprocessable, Message: fmt.Sprintf("this took longer than %v: choose a shorter range or a narrower selector, or send again what was sent", requestTimeout), Err: err}
	case errors.Is(err, context.Canceled):
		return &profilestore.Error{Code: codeCanceled, Message: "the client hung up", Err: err}
	}
	return &profilestore.Error{Code: codeInternal, Message: "internal error: the server's log has it under this request ID", Err: err}
}

// connectCode is an error's code as Connect has it. Of what took too long it says that it may be tried again, not that
// something is wrong with it.
func connectCode(e *profilestore.Error) connect.Code {
	if e.Code == profilestore.Unprocessable && errors.Is(e, context.DeadlineExceeded) {
		return connect.CodeDeadlineExceeded
	}
	return statuses[e.Code].connect
}

type errorBody struct {
	Code      profilestore.Code `json:"code"`
	Message   string            `json:"message"`
	Param     string            `json:"param,omitempty"`
	RequestID string            `json:"request_id"`
}

// writeError answers with an error in the form that the path's clients read.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	e := asError(err)
	rec := recordOf(r.Context())
	rec.err = err
	status := statuses[e.Code]
	var body any = struct {
		Error errorBody `json:"error"`
	}{errorBody{e.Code, e.Message, e.Param, rec.id}}
	if strings.HasPrefix(r.URL.Path, pushPrefix) || strings.HasPrefix(r.URL.Path, querierPrefix) {
		body = struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		}{connectCode(e).String(), e.Message}
	}
	h := w.Header()
	h.Set(codeHeader, string(e.Code))
	switch e.Code {
	case profilestore.TooManyRequests, profilestore.Unavailable:
		h.Set("Retry-After", "5")
	case profilestore.PayloadTooLarge:
		// What was not read of the body stands between this answer and the next request.
		h.Set("Connection", "close")
	}
	writeJSON(w, r, status.http, body)
}

// writeJSON marshals before it writes, so that an error can still become a status.
func writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // names of C++ templates are full of < and >
	if err := enc.Encode(v); err != nil {
		panic(fmt.Errorf("marshal %T: %w", v, err)) // a type of this package that JSON does not know
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	write(w, r, b.String())
}

// write sends the last part of an answer. That the client is gone is for the log; there is nobody to tell.
func write[B []byte | string](w http.ResponseWriter, r *http.Request, body B) {
	if _, err := w.Write([]byte(body)); err != nil && r.Context().Err() == nil {
		recordOf(r.Context()).err = fmt.Errorf("write answer: %w", err)
	}
}
