package node

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/code"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/router"
)

// unknownClass is the label of calls whose class is not known here: what callers may invent is no label.
const unknownClass = "(unknown)"

// classMetric is one number of each class.
type classMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*actor.Tally) float64
}

// classHistogram is one histogram of each class.
type classHistogram struct {
	desc  *prometheus.Desc
	value func(*actor.Tally) *actor.Durations
}

func classDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("holdfast_"+name, help, append([]string{"class"}, labels...), nil)
}

func classCounter(name, help string, value func(*actor.Tally) uint64) classMetric {
	return classMetric{classDesc(name, help), prometheus.CounterValue, func(t *actor.Tally) float64 { return float64(value(t)) }}
}

func classGauge(name, help string, value func(*actor.Tally) int) classMetric {
	return classMetric{classDesc(name, help), prometheus.GaugeValue, func(t *actor.Tally) float64 { return float64(value(t)) }}
}

var (
	classMetrics = []classMetric{
		classCounter("calls_total", "Calls answered by the objects of this node.", func(t *actor.Tally) uint64 { return t.Calls }),
		classCounter("calls_refused_total", "Of these, calls that never began.", func(t *actor.Tally) uint64 { return t.Refused }),
		classCounter("object_calls_total", "Calls that objects made of others.", func(t *actor.Tally) uint64 { return t.CallsMade }),
		classCounter("storage_reads_total", "Keys read.", func(t *actor.Tally) uint64 { return t.Reads }),
		classCounter("storage_read_bytes_total", "Keys and values read, in bytes.", func(t *actor.Tally) uint64 { return t.ReadBytes }),
		classCounter("storage_writes_total", "Keys written.", func(t *actor.Tally) uint64 { return t.Writes }),
		classCounter("storage_written_bytes_total", "Keys and values written, in bytes.", func(t *actor.Tally) uint64 { return t.WrittenBytes }),
		classCounter("storage_deletes_total", "Keys deleted; all keys of an object at once count as one.", func(t *actor.Tally) uint64 { return t.Deletes }),
		classCounter("object_activations_total", "Objects loaded into memory.", func(t *actor.Tally) uint64 { return t.Activations }),
		classCounter("object_evictions_total", "Idle objects dropped from memory.", func(t *actor.Tally) uint64 { return t.Evictions }),
		classCounter("object_resets_total", "Objects reset by a panic or an abort.", func(t *actor.Tally) uint64 { return t.Resets }),
		classGauge("objects", "Objects in memory.", func(t *actor.Tally) int { return t.Objects }),
		classGauge("streams", "Streams whose handlers run.", func(t *actor.Tally) int { return t.Streams }),
		classCounter("stream_messages_received_total", "Messages of streams that objects took.", func(t *actor.Tally) uint64 { return t.MessagesReceived }),
		classCounter("stream_messages_sent_total", "Messages of streams that objects sent.", func(t *actor.Tally) uint64 { return t.MessagesSent }),
		classCounter("alarm_runs_total", "Alarm handlers begun.", func(t *actor.Tally) uint64 { return t.AlarmRuns }),
		classCounter("alarm_failures_total", "Alarm handlers that failed.", func(t *actor.Tally) uint64 { return t.AlarmFailures }),
		classCounter("alarm_retries_total", "Retries set for alarms whose handlers failed.", func(t *actor.Tally) uint64 { return t.AlarmRetries }),
		classCounter("alarm_deaths_total", "Alarms given up after their last retry.", func(t *actor.Tally) uint64 { return t.AlarmDeaths }),
		classGauge("alarms_in_flight", "Alarms that are due and not through: handed to their objects, or to be handed over again.", func(t *actor.Tally) int { return t.AlarmsInFlight }),
	}
	classHistograms = []classHistogram{
		{classDesc("call_duration_seconds", "From a call's delivery to its object's mailbox to its answer; streams excepted."), func(t *actor.Tally) *actor.Durations { return &t.CallTime }},
		{classDesc("mailbox_wait_seconds", "What calls waited in their objects' mailboxes."), func(t *actor.Tally) *actor.Durations { return &t.MailboxWait }},
		{classDesc("handler_duration_seconds", "What handlers of calls took, with all that they waited for; streams excepted."), func(t *actor.Tally) *actor.Durations { return &t.Handler }},
		{classDesc("output_gate_wait_seconds", "What answers and handlers waited for a commit, or for the confirmation that this node is the owner; only those that had to."), func(t *actor.Tally) *actor.Durations { return &t.GateWait }},
		{classDesc("alarm_duration_seconds", "What alarm handlers took."), func(t *actor.Tally) *actor.Durations { return &t.AlarmTime }},
		{classDesc("alarm_delay_seconds", "How late alarm handlers began."), func(t *actor.Tally) *actor.Durations { return &t.AlarmDelay }},
	}
	forwardedDesc = classDesc("forwarded_calls_total", "Calls sent on to other nodes, each try.")
	retriesDesc   = classDesc("call_retries_total", "Tries of calls after the first.")
	errorsDesc    = classDesc("call_errors_total", "Calls that came in at this node, from callers and its objects, and failed.", "code", "reason")
	storedDesc    = classDesc("stored_bytes", "Disk space that objects take on this node, as owner and as replica: an estimate, up to a minute old, without what is not yet in tables.")
)

// classCollector reads what the parts have counted of each class.
type classCollector struct {
	n      *Node
	stored storedBytes
}

// Describe implements prometheus.Collector.
func (c *classCollector) Describe(ch chan<- *prometheus.Desc) {
	for i := range classMetrics {
		ch <- classMetrics[i].desc
	}
	for i := range classHistograms {
		ch <- classHistograms[i].desc
	}
	for _, d := range []*prometheus.Desc{forwardedDesc, retriesDesc, errorsDesc, storedDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *classCollector) Collect(ch chan<- prometheus.Metric) {
	if !c.n.isReady() {
		return
	}
	names := c.n.facts.view.Load().runs
	for _, class := range c.n.manager.Stats().Classes {
		name, ok := names[class.Class]
		if !ok {
			continue // It was deleted, or is not known yet.
		}
		for i := range classMetrics {
			m := &classMetrics[i]
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(&class.Tally), name)
		}
		for i := range classHistograms {
			h := &classHistograms[i]
			ch <- histogram(h.desc, h.value(&class.Tally), name)
		}
	}
	for _, class := range c.n.router.Stats() {
		c.collectRouted(ch, &class)
	}
	for name, bytes := range c.stored.get(c.n) {
		ch <- prometheus.MustNewConstMetric(storedDesc, prometheus.GaugeValue, float64(bytes), name)
	}
}

func (c *classCollector) collectRouted(ch chan<- prometheus.Metric, s *router.ClassStats) {
	name := unknownClass
	if s.UniqueKey != "" {
		class, ok := c.n.facts.ByKey(s.UniqueKey)
		if !ok {
			return // It was deleted.
		}
		name = class.Name
		ch <- prometheus.MustNewConstMetric(forwardedDesc, prometheus.CounterValue, float64(s.Forwarded), name)
		ch <- prometheus.MustNewConstMetric(retriesDesc, prometheus.CounterValue, float64(s.Retries), name)
	}
	for kind, n := range s.Errors {
		ch <- prometheus.MustNewConstMetric(errorsDesc, prometheus.CounterValue, float64(n), name, code.Code(kind.Code).String(), string(kind.Reason)) //nolint:gosec // a code
	}
}

func histogram(desc *prometheus.Desc, d *actor.Durations, class string) prometheus.Metric {
	buckets := make(map[float64]uint64, len(actor.DurationBounds))
	var count uint64
	for i, bound := range actor.DurationBounds {
		count += d.Counts[i]
		buckets[bound.Seconds()] = count
	}
	count += d.Counts[len(actor.DurationBounds)]
	return prometheus.MustNewConstHistogram(desc, count, d.Sum.Seconds(), buckets, class)
}

// storedBytes is what classes take of the disk, asked for now and then: it looks at every shard.
type storedBytes struct {
	mu      sync.Mutex
	asked   time.Time
	classes map[string]uint64 // by name
}

const storedBytesFor = time.Minute

// get returns the bytes by class. The caller must not change the map.
func (s *storedBytes) get(n *Node) map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.classes != nil && time.Since(s.asked) < storedBytesFor {
		return s.classes
	}
	classes := make(map[string]uint64)
	for key, class := range n.facts.view.Load().byKey {
		bytes, err := n.store.ClassBytes(key, n.id.Shards)
		if err != nil {
			return s.classes // The last ones, until the store answers.
		}
		classes[class.Name] = bytes
	}
	s.asked, s.classes = time.Now(), classes
	return classes
}
