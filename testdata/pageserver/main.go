// Pageserver serves the page and the API on a store of its own, which is empty at first and gone at the end: what
// the browser tests push their profiles to. It prints its URL, and ends when its standard input does. Its argument is
// the directory of --source-root.
package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"

	"pilotlight/profilestore"
	"pilotlight/profilestore/httpapi"
	"pilotlight/ui"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "pageserver:", err)
		os.Exit(1)
	}
}

func run() error {
	dir, err := os.MkdirTemp("", "pilotlight-page-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	store, err := profilestore.Open(dir, profilestore.Options{})
	if err != nil {
		return err
	}
	defer store.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var source string
	if len(os.Args) > 1 {
		source = os.Args[1]
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	server := httpapi.NewServer(httpapi.NewHandler(store, httpapi.Options{UI: ui.Handler(), Logger: log, SourceRoot: source}))
	go func() {
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, "pageserver:", err)
		}
		server.Close()
	}()
	fmt.Printf("http://%s\n", listener.Addr())
	server.Serve(listener)
	return nil
}
