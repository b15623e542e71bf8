package spool

import "github.com/prometheus/client_golang/prometheus"

// What became of profiles when they were offered to the server, or instead of that.
const (
	resultSent    = "sent"
	resultRefused = "refused" // for good
	resultFailed  = "failed"  // to be offered again
	resultKept    = "kept"    // written to disk
)

type metrics struct {
	profiles *prometheus.CounterVec
	dropped  prometheus.Counter
	damaged  prometheus.Counter
	seconds  prometheus.Histogram
}

func newMetrics() *metrics {
	m := &metrics{
		profiles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilotlight_send_profiles_total",
			Help: "Profiles by what became of sending them: sent, refused by the server, failed and to be sent again, kept on disk until then.",
		}, []string{"result"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pilotlight_spool_dropped_profiles_total",
			Help: "Spooled profiles that were lost because there was no room for them: the oldest.",
		}),
		damaged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pilotlight_spool_damaged_files_total",
			Help: "Spooled batches that could not be read and were set aside.",
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "pilotlight_send_seconds",
			Help:    "Time until the server answered to a batch.",
			Buckets: prometheus.ExponentialBuckets(0.002, 3, 10), // 2 ms to 40 s
		}),
	}
	for _, result := range []string{resultSent, resultRefused, resultFailed, resultKept} {
		m.profiles.WithLabelValues(result) // a rate needs its zero
	}
	return m
}

func (m *metrics) result(result string, profiles int) {
	m.profiles.WithLabelValues(result).Add(float64(profiles))
}

func (m *metrics) register(r prometheus.Registerer, f *files) error {
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{
		m.profiles, m.dropped, m.damaged, m.seconds,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pilotlight_spool_bytes",
			Help: "Size of the profiles that wait on disk for the server.",
		}, func() float64 { return float64(f.size()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pilotlight_spool_batches",
			Help: "Batches, one a window, that wait on disk for the server.",
		}, func() float64 { return float64(f.batches()) }),
	} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}
