package profilestore

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	appendSeconds prometheus.Histogram
	bytes         prometheus.Gauge
	profiles      *prometheus.CounterVec
	quarantined   prometheus.Counter
}

// What became of a profile: the label "result" of pilotlight_store_profiles_total.
const (
	resultStored  = "stored"
	resultDouble  = "double"
	resultRefused = "refused" // by its content, its time or a limit
	resultFailed  = "failed"  // by the disk, or given up by the caller
	resultExpired = "expired" // deleted by retention
)

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		appendSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "pilotlight_store_append_seconds",
			Help:    "Time from the arrival of a batch to the answer, fsync included.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		bytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pilotlight_store_bytes",
			Help: "Size of all segments on disk.",
		}),
		profiles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilotlight_store_profiles_total",
			Help: "Profiles by what became of them: stored, double, refused, failed, expired.",
		}, []string{"result"}),
		quarantined: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pilotlight_store_quarantined_blocks",
			Help: "Damaged records and profiles found since the start; their bytes are kept and not served.",
		}),
	}
	for _, r := range []string{resultStored, resultDouble, resultRefused, resultFailed, resultExpired} {
		m.profiles.WithLabelValues(r)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.appendSeconds, m.bytes, m.profiles, m.quarantined} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
