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
		gauge("calls_in_flight", "Calls and streams that came in at this node, or were forwarded to it, and have no answer yet."),
		gauge("calls_in_flight_bytes", "What these take of the memory, in bytes."),
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

// isReady says that the parts are there, and the node serves or has.
func (n *Node) isReady() bool {
	select {
	case <-n.ready:
		return true
	default:
		return false
	}
}

func (n *Node) snapshot() *snapshot {
	v := make(map[string]float64)
	if !n.isReady() {
		return &snapshot{v}
	}
	v["ready"] = 1
	v["queued_bytes"] = float64(n.manager.QueuedBytes())
	calls, bytes := n.router.InFlight()
	v["calls_in_flight"], v["calls_in_flight_bytes"] = float64(calls), float64(bytes)
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
