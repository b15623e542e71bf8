// Package api has the messages of the container runtimes' gRPC services that package containers sends and reads,
// generated from runtimes.proto. The modules of CRI and containerd have them too, and with them gRPC's own server and
// client, gogo/protobuf and OCI specifications that nothing here needs.
package api

//go:generate ./generate.sh
