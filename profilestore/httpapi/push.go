package httpapi

import (
	"context"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect"

	"pilotlight/profilestore"
	"pilotlight/profilestore/httpapi/pyroscope"
)

const (
	pushPrefix    = "/push.v1.PusherService/"
	pushProcedure = pushPrefix + "Push"
)

func (a *api) push(ctx context.Context, req *connect.Request[pyroscope.PushRequest]) (*connect.Response[pyroscope.PushResponse], error) {
	batch, err := readPush(req.Msg, time.Now())
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
	return connect.NewError(statuses[e.Code].connect, errors.New(e.Message))
}

// readPush turns a message into a batch. now is when it arrived.
func readPush(msg *pyroscope.PushRequest, now time.Time) ([]profilestore.Encoded, error) {
	var batch []profilestore.Encoded
	budget := int64(maxInflated)
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
			var err error
			if sample.ID != "" {
				if e.ID, err = profilestore.ParseID(sample.ID); err != nil {
					return nil, badRequest("", "series %d, sample %d: %v", i, j, err)
				}
			}
			var inflated int64
			e.Time, e.Duration, inflated, err = profileTime(sample.RawProfile, budget)
			if budget -= inflated; budget < 0 {
				return nil, tooLarge("inflated profiles are", maxInflated)
			}
			if err != nil {
				return nil, badRequest("", "series %d, sample %d: not a pprof profile: %v", i, j, err)
			}
			if e.Time == 0 {
				e.Time = now.UnixNano() - int64(e.Duration)
			}
			batch = append(batch, e)
		}
	}
	return batch, nil
}
