package httpapi

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain makes the child of TestKill9 a server.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Fprintln(os.Stderr, serveChild(dir, os.Getenv(childAddress)))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
