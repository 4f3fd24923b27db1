package node

import "github.com/prometheus/client_golang/prometheus"

// nodeCollector reads the parts' own counters when Prometheus asks; nothing is counted twice.
type nodeCollector struct{ n *Node }

type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*snapshot) float64
}

// snapshot is the parts' counters at one moment.
type snapshot struct {
	values map[string]float64
}

func counter(name, help string) metric { return newMetric(name, help, prometheus.CounterValue) }
func gauge(name, help string) metric   { return newMetric(name, help, prometheus.GaugeValue) }

func newMetric(name, help string, kind prometheus.ValueType) metric {
	return metric{
		desc:  prometheus.NewDesc("holdfast_"+name, help, nil, nil),
		kind:  kind,
		value: func(s *snapshot) float64 { return s.values[name] },
	}
}

func metrics() []metric {
	return []metric{
		counter("calls_total", "Calls delivered to objects on this node."),
		counter("calls_refused_total", "Calls refused before they ran."),
		counter("object_activations_total", "Objects loaded into memory."),
		counter("object_evictions_total", "Idle objects dropped from memory."),
		counter("object_resets_total", "Objects reset by a panic or an abort."),
		counter("alarm_runs_total", "Alarm handlers begun."),
		counter("alarm_failures_total", "Alarm handlers that failed."),
		counter("alarm_deaths_total", "Alarms given up after their last retry."),
		gauge("alarms_in_flight", "Alarms that are due and not through: handed to their objects, or to be handed over again."),
		gauge("objects", "Objects in memory."),
		gauge("queued_bytes", "Calls waiting or running, in bytes."),
		gauge("owned_shards", "Shards that this node owns."),
		gauge("ready", "1 when the node serves."),
		counter("raft_proposals_total", "Segments and empty proposals taken in."),
		counter("raft_batches_total", "Batches written."),
		counter("raft_syncs_total", "Batches written with an fsync."),
		counter("raft_frames_dropped_total", "Raft frames dropped, to be sent again."),
		counter("raft_ownerships_total", "Ownerships begun."),
		counter("raft_snapshots_sent_total", "Shard snapshots sent."),
		counter("raft_snapshots_received_total", "Shard snapshots installed."),
		gauge("disk_bytes", "Disk space that the store takes."),
		gauge("disk_free_bytes", "Disk space left."),
		gauge("disk_full", "1 when the disk has no room for writes, and they are refused."),
		counter("wal_bytes_total", "Bytes written to the write-ahead log."),
		counter("flushed_bytes_total", "Bytes flushed from memory tables."),
		counter("compacted_bytes_total", "Bytes written by compactions."),
		counter("compactions_total", "Compactions."),
		gauge("read_amplification", "Sorted runs that a read may have to look at."),
	}
}

// Describe implements prometheus.Collector.
func (c *nodeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics() {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *nodeCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.n.snapshot()
	for _, m := range metrics() {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(s))
	}
}

func (n *Node) snapshot() *snapshot {
	v := make(map[string]float64)
	select {
	case <-n.ready:
	default: // The parts may not be there yet.
		return &snapshot{v}
	}
	v["ready"] = 1
	a := n.manager.Stats()
	v["calls_total"], v["calls_refused_total"] = float64(a.Calls), float64(a.Refused)
	v["object_activations_total"], v["object_evictions_total"], v["object_resets_total"] = float64(a.Activations), float64(a.Evictions), float64(a.Resets)
	v["alarm_runs_total"], v["alarm_failures_total"] = float64(a.AlarmRuns), float64(a.AlarmFailures)
	v["alarm_deaths_total"], v["alarms_in_flight"] = float64(a.AlarmDeaths), float64(a.AlarmsInFlight)
	v["objects"], v["queued_bytes"] = float64(a.Objects), float64(a.QueuedBytes)
	for i := range n.id.Shards {
		if node, _, ok := n.host.Leader(shardID(i)); ok && node == n.id.Node {
			v["owned_shards"]++
		}
	}
	r := n.host.Stats()
	v["raft_proposals_total"], v["raft_batches_total"], v["raft_syncs_total"] = float64(r.Proposals), float64(r.Batches), float64(r.Syncs)
	v["raft_frames_dropped_total"], v["raft_ownerships_total"] = float64(r.FramesDropped), float64(r.Elections)
	v["raft_snapshots_sent_total"], v["raft_snapshots_received_total"] = float64(r.SnapshotsSent), float64(r.SnapshotsReceived)
	if n.disk.level() >= diskFull {
		v["disk_full"] = 1
	}
	d := n.store.Metrics()
	v["disk_bytes"], v["disk_free_bytes"], v["wal_bytes_total"] = float64(d.DiskBytes), float64(d.FreeDiskBytes), float64(d.WALBytes)
	v["flushed_bytes_total"], v["compacted_bytes_total"] = float64(d.FlushBytes), float64(d.CompactedBytes)
	v["compactions_total"], v["read_amplification"] = float64(d.Compactions), float64(d.ReadAmp)
	return &snapshot{v}
}
