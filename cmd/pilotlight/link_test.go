package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"pilotlight/cmd/pilotlight/agent"
	"pilotlight/profilestore"
)

func TestAnswerKeepsTheKindOfAnError(t *testing.T) {
	for _, tc := range []struct {
		name    string
		err     error
		refused bool
	}{
		{"stored", nil, false},
		{"disk full", &profilestore.Error{Code: profilestore.InsufficientStorage, Message: "no space left"}, false},
		{"damaged batch", errors.New("unexpected EOF"), false},
		{"not a profile", &profilestore.Error{Code: profilestore.BadRequest, Message: "no sample type"}, true},
		{"too many series", &profilestore.Error{Code: profilestore.TooManyRequests, Message: strings.Repeat("x", 2*maxAnswer)}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, err := readAnswer(bytes.NewReader(appendAnswer(nil, 7, tc.err)))
			if err != nil {
				t.Fatal(err)
			}
			if a.sequence != 7 || (a.err == nil) != (tc.err == nil) || agent.Refused(a.err) != tc.refused {
				t.Errorf("answer %d, %v, refused %v; want 7, %v, %v", a.sequence, a.err, agent.Refused(a.err), tc.err, tc.refused)
			}
			if tc.err != nil && !strings.HasPrefix(tc.err.Error(), a.err.Error()) {
				t.Errorf("error %q, want the beginning of %q", a.err, tc.err)
			}
		})
	}
}

// TestSendToStalledStoreHalf writes more than the socket holds to a store half
// that does not read.
func TestSendToStalledStoreHalf(t *testing.T) {
	conn, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	l := newAgentLink(conn)
	ctx, cancel := context.WithCancel(t.Context())
	sent := make(chan error)
	go func() { sent <- l.send(ctx, message{messageBatch, make([]byte, 8<<20)}) }()
	cancel()
	if err := <-sent; err == nil {
		t.Error("8 MiB that nobody read count as sent")
	}
	<-l.broken // half a message is out: the link is of no more use
}
