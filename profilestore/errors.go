package profilestore

import "errors"

// Code is the kind of an [Error], in the words of the HTTP API.
type Code string

// The codes with the HTTP status that belongs to each.
const (
	BadRequest          Code = "bad_request"          // 400
	PayloadTooLarge     Code = "payload_too_large"    // 413: one of the limits of a profile or a batch
	Unprocessable       Code = "unprocessable"        // 422: a query that needs more than the memory it may use
	TooManyRequests     Code = "too_many_requests"    // 429: too many series
	Unavailable         Code = "unavailable"          // 503: the disk fails, or the store is being closed
	InsufficientStorage Code = "insufficient_storage" // 507: disk full; retry later
)

// Error is what went wrong for a reason that the caller can mend. Every error of [Store] that is not an
// Error is from the context or the operating system.
type Error struct {
	Code    Code
	Param   string // name of the offending query parameter; "" when there is none
	Message string // one line: the input and the mend
	Err     error  // cause, may be nil
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ErrClosed is the cause of errors after [Store.Close].
var ErrClosed = errors.New("store is closed")
