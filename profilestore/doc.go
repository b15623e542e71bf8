// Package profilestore keeps encoded pprof profiles on disk by labels and time, and answers merged stacks,
// time series, label names and values, single profiles and merged pprof over time ranges.
//
// # Writing
//
// [Store.Append] takes a batch, checks every profile of it, writes the batch as one record and returns after
// fsync; batches that arrive together share one fsync. What is acknowledged is there after a crash, once.
// What would not be queryable (too old, too far ahead, malformed) is refused with the reason and never stored.
//
// # Labels
//
// Series labels come with the profile ([Encoded.Labels]). Sample labels are the string labels of the pprof
// samples (pid, comm, thread). Matchers, grouping and label listings take both alike; where a sample carries
// a label that its series has too, the series label counts. Of a label that a sample repeats, the first
// value counts. Numeric pprof labels are kept in the stored profile and are not matched.
//
// # Time
//
// All times are Unix nanoseconds UTC, all intervals half-open; a profile belongs to where it starts.
//
// The files are drawn in FORMAT.md.
package profilestore
