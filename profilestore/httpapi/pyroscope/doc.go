// Package pyroscope has the messages of Pyroscope's HTTP API, generated from pyroscope.proto. Pyroscope's own module
// has them too, and with them gRPC and an OpenAPI model that nothing here calls.
package pyroscope

//go:generate ./generate.sh
