package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/fault"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

func someStatus() *holdfastv1.StatusResponse {
	three := []string{"n1", "n2", "n3"}
	return &holdfastv1.StatusResponse{
		ClusterId: "c0ffee",
		Nodes: []*holdfastv1.Node{
			{Name: "n1", Id: "01", State: "alive", Owns: 2, Version: "v1", Addresses: &holdfastv1.Addresses{Grpc: "h:1", Peer: "h:2"}},
			{Name: "n2", Id: "02", State: "dead", Drained: true},
		},
		Shards: []*holdfastv1.Shard{
			{Id: 0, Owner: "n1", Voters: three, Term: 4},
			{Id: 1, Voters: three},
			{Id: 2, Owner: "n1", Voters: three},
			{Id: 3, Owner: "n1", Voters: []string{"n1"}, Learners: []string{"n2"}, Moving: "adding n2"},
		},
		Warnings: []string{"something is weak"},
	}
}

// Shards that look alike are one line: hundreds of them tell a person nothing.
func TestStatusAsText(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := printStatusText(&out, someStatus()); err != nil {
		t.Fatal(err)
	}
	want := `CLUSTER c0ffee

NODE  ID  STATE         OWNS  GRPC  PEER  VERSION
n1    01  alive         2     h:1   h:2   v1
n2    02  dead,drained  0                 

SHARDS  OWNER     VOTERS    LEARNERS  MOVING
2       n1        n1,n2,n3            
1       (nobody)  n1,n2,n3            
1       n1        n1        n2        adding n2
warning: something is weak
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Scripts rely on the JSON: names are as documented, and lists are never null.
func TestStatusAsJSON(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := printStatusJSON(&out, someStatus()); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Nodes  []map[string]any `json:"nodes"`
		Shards []map[string]any `json:"shards"`
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	wantNode := map[string]any{
		"name": "n1", "id": "01", "state": "alive", "owns": 2.0, "version": "v1", "drained": false, "disk_full": false,
		"addresses": map[string]any{"grpc": "h:1", "peer": "h:2", "gossip": "", "http": "", "admin": ""},
	}
	wantShard := map[string]any{
		"id": 3.0, "owner": "n1", "voters": []any{"n1"}, "learners": []any{"n2"}, "moving": "adding n2", "term": 0.0,
	}
	if diff := cmp.Diff(wantNode, got.Nodes[0]); diff != "" {
		t.Errorf("node (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wantShard, got.Shards[3]); diff != "" {
		t.Errorf("shard (-want +got):\n%s", diff)
	}
	out.Reset()
	empty := &holdfastv1.StatusResponse{Shards: []*holdfastv1.Shard{{}}}
	if err := printStatusJSON(&out, empty); err != nil || strings.Contains(out.String(), "null") {
		t.Errorf("%v, with null:\n%s", err, &out)
	}
}

func TestOthersCanOwn(t *testing.T) {
	t.Parallel()
	st := someStatus()
	st.Nodes = append(st.Nodes, &holdfastv1.Node{Name: "n3", Id: "03", State: "alive", Drained: true}, &holdfastv1.Node{Name: "n4", Id: "04", State: "alive", DiskFull: true})
	for id, want := range map[string]bool{"01": false, "02": true, "03": true, "04": true} {
		if got := othersCanOwn(st, id); got != want {
			t.Errorf("others than %s: %t, want %t", id, got, want)
		}
	}
}

func TestReplicasOn(t *testing.T) {
	t.Parallel()
	st := someStatus()
	st.Shards = append(st.Shards, &holdfastv1.Shard{Voters: []string{"09"}}) // A node that is no member any more goes by its id.
	for id, want := range map[string]int{"01": 4, "02": 4, "09": 1, "08": 0} {
		if got := replicasOn(st, id); got != want {
			t.Errorf("node %s: %d replicas, want %d", id, got, want)
		}
	}
}

// An error says what to do where that is known, and its reason where it has one (P7).
func TestExplain(t *testing.T) {
	t.Parallel()
	f := addrFlag{Addr: "h:1"}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{errors.New("plain"), "plain"},
		{status.FromContextError(os.ErrDeadlineExceeded).Err(), "Unknown: i/o timeout"},
		{status.Error(codes.Unavailable, "dial tcp: connection refused"), "no node answers at h:1: start one with 'holdfast dev', or name one with --addr (dial tcp: connection refused)"},
		{fault.New(fault.UnknownClass, "no such class").GRPCStatus().Err(), "UNKNOWN_CLASS: no such class"},
		{status.Error(codes.OutOfRange, "the handler's own"), "OutOfRange: the handler's own"},
	} {
		if got := f.explain(tt.err).Error(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestReadGossipKey(t *testing.T) {
	t.Parallel()
	if key, err := readGossipKey(""); key != nil || err != nil {
		t.Errorf("without a file: %x, %v", key, err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(" MDEyMzQ1Njc4OWFiY2RlZg==\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if key, err := readGossipKey(file); err != nil || string(key) != "0123456789abcdef" {
		t.Errorf("got %q, %v", key, err)
	}
}
