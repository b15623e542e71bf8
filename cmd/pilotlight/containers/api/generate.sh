#!/bin/bash
# Writes runtimes.pb.go, with the generator of the module that go.mod names.
set -euo pipefail
plugin=$(mktemp -d)
trap 'rm -r "$plugin"' EXIT
go build -o "$plugin/protoc-gen-go" google.golang.org/protobuf/cmd/protoc-gen-go
protoc --plugin="$plugin/protoc-gen-go" --go_out=. --go_opt=paths=source_relative runtimes.proto
# The version of protoc is the distribution's and changes nothing below it.
sed -i '/^\/\/ \tprotoc  *v/d' runtimes.pb.go
