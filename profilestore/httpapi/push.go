package httpapi

import (
	"context"
	"errors"
	"strings"

	"connectrpc.com/connect"

	"pilotlight/profilestore"
	"pilotlight/profilestore/httpapi/pyroscope"
)

const (
	pushPrefix    = "/push.v1.PusherService/"
	pushProcedure = pushPrefix + "Push"
)

func (a *api) push(ctx context.Context, req *connect.Request[pyroscope.PushRequest]) (*connect.Response[pyroscope.PushResponse], error) {
	batch, err := readPush(req.Msg)
	if err == nil && len(batch) > 0 {
		err = a.store.Append(ctx, batch)
	}
	if err != nil {
		return nil, connectError(ctx, err)
	}
	return connect.NewResponse(&pyroscope.PushResponse{}), nil
}

// connectError is an error as Connect tells it.
func connectError(ctx context.Context, err error) error {
	recordOf(ctx).err = err
	e := asError(err)
	answer := connect.NewError(connectCode(e), errors.New(e.Message))
	answer.Meta().Set(codeHeader, string(e.Code))
	return answer
}

// readPush turns a message into a batch. When a profile started, the store reads in it.
func readPush(msg *pyroscope.PushRequest) ([]profilestore.Encoded, error) {
	var batch []profilestore.Encoded
	for i, s := range msg.Series {
		var name string
		labels := make(map[string]string, len(s.Labels))
		seen := make(map[string]bool, len(s.Labels))
		for _, l := range s.Labels {
			if seen[l.Name] {
				return nil, badRequest("", "series %d: label %.40q is there twice: send it once", i, l.Name)
			}
			seen[l.Name] = true
			if l.Name == "__name__" {
				name = l.Value
			} else if !strings.HasPrefix(l.Name, "__") {
				labels[l.Name] = l.Value
			}
		}
		if name == "" {
			return nil, badRequest("", "series %d: no label __name__: send the kind of profile in it, as process_cpu", i)
		}
		set := profilestore.NewLabels(labels)
		for j, sample := range s.Samples {
			e := profilestore.Encoded{Name: name, Labels: set, Pprof: sample.RawProfile}
			if sample.ID != "" {
				var err error
				if e.ID, err = profilestore.ParseID(sample.ID); err != nil {
					return nil, badRequest("", "series %d, sample %d: %v", i, j, err)
				}
			}
			batch = append(batch, e)
		}
	}
	return batch, nil
}
