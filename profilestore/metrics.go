package profilestore

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	appendSeconds prometheus.Histogram
	bytes         prometheus.Gauge
	profiles      *prometheus.CounterVec
	quarantined   prometheus.Counter
	flushSeconds  prometheus.Histogram
	compactions   prometheus.Counter
	failures      *prometheus.CounterVec
	headBytes     prometheus.Gauge
	walBytes      prometheus.Gauge
	dictionaries  prometheus.Gauge
	cacheBytes    prometheus.GaugeFunc
	series        prometheus.GaugeFunc
}

// What became of a profile: the label "result" of pilotlight_store_profiles_total.
const (
	resultStored  = "stored"
	resultDouble  = "double"
	resultRefused = "refused" // by its content, its time or a limit
	resultFailed  = "failed"  // by the disk, or given up by the caller
	resultExpired = "expired" // deleted by retention
)

// What is done in the background: the label "task" of pilotlight_store_failures_total.
const (
	taskFlush   = "flush"
	taskCompact = "compact"
	taskRetain  = "retain"
)

func newMetrics(reg prometheus.Registerer, cacheBytes, series func() float64) (*metrics, error) {
	m := &metrics{
		appendSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "pilotlight_store_append_seconds",
			Help:    "Time from the arrival of a batch to the answer, fsync included.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		bytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pilotlight_store_bytes",
			Help: "Size of all blocks and dictionaries on disk.",
		}),
		profiles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilotlight_store_profiles_total",
			Help: "Profiles by what became of them: stored, double, refused, failed, expired.",
		}, []string{"result"}),
		quarantined: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pilotlight_store_quarantined_blocks",
			Help: "Damaged ranges of files found since the start; their bytes are kept and not served.",
		}),
		flushSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "pilotlight_store_flush_seconds",
			Help:    "Time to write a head as blocks.",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 12),
		}),
		compactions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pilotlight_store_compactions_total",
			Help: "Times that blocks or segments of dictionaries were merged into one.",
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilotlight_store_failures_total",
			Help: "Failed work in the background, which is tried again: flush, compact, retain.",
		}, []string{"task"}),
		headBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pilotlight_store_head_bytes",
			Help: "Memory of the samples that are in no block yet.",
		}),
		walBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pilotlight_store_wal_bytes",
			Help: "Size of the write-ahead log's current file.",
		}),
		dictionaries: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pilotlight_store_dictionary_bytes",
			Help: "Memory of the dictionaries that are written to.",
		}),
		cacheBytes: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pilotlight_store_cache_bytes",
			Help: "Memory of tables and dictionaries that were read from disk, and of sums that queries made.",
		}, cacheBytes),
		series: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pilotlight_store_series",
			Help: "Sets of series labels that are stored. At 100,000, profiles with new ones are refused.",
		}, series),
	}
	for _, r := range []string{resultStored, resultDouble, resultRefused, resultFailed, resultExpired} {
		m.profiles.WithLabelValues(r)
	}
	for _, t := range []string{taskFlush, taskCompact, taskRetain} {
		m.failures.WithLabelValues(t)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.appendSeconds, m.bytes, m.profiles, m.quarantined, m.flushSeconds, m.compactions, m.failures, m.headBytes, m.walBytes, m.dictionaries, m.cacheBytes, m.series,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
