package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/fault"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// addrFlag is in every command that talks to a cluster.
type addrFlag struct {
	Addr    string        `help:"gRPC address of any node." default:"127.0.0.1:7070"`
	Timeout time.Duration `help:"How long to wait for an answer." default:"30s"`
}

// objectFlags name one object: by the positional name, or by --id.
type objectFlags struct {
	Class string `arg:"" help:"The class, such as Counter, or my-worker/Counter: a worker's class may be named without the worker where no other class has that name."`
	ID    string `name:"id" help:"The object's id instead of its name." placeholder:"HEX" env:"-"`
}

// oneObject names one object whole.
type oneObject struct {
	objectFlags

	Name *string `arg:"" optional:"" help:"The object's name."`
}

// choose calls name or id with what the object is named by; cmd is the command, for errors.
func (o oneObject) choose(cmd string, name, id func(string)) error {
	switch {
	case (o.Name == nil) == (o.ID == ""):
		return usagef("%s: want exactly one of NAME and --id", cmd)
	case o.Name != nil:
		name(*o.Name)
	default:
		id(o.ID)
	}
	return nil
}

// dial connects to the node and says what to do when nobody is there.
func (f addrFlag) dial() (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+f.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", f.Addr, err)
	}
	return conn, nil
}

// with runs fn with a connection and a deadline.
func (f addrFlag) with(ctx context.Context, fn func(context.Context, *grpc.ClientConn) error) error {
	conn, err := f.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	if err := fn(ctx, conn); err != nil {
		return f.explain(err)
	}
	return nil
}

// explain turns a status into words for a person.
func (f addrFlag) explain(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	if reason := fault.ReasonOfStatus(s); reason != "" {
		return fmt.Errorf("%s: %s", reason, s.Message())
	}
	if strings.Contains(s.Message(), "connection refused") || strings.Contains(s.Message(), "connection error") {
		return fmt.Errorf("no node answers at %s: start one with 'holdfast dev', or name one with --addr (%s)", f.Addr, s.Message())
	}
	return fmt.Errorf("%s: %s", s.Code(), s.Message())
}

type callCmd struct {
	addrFlag
	objectFlags

	RequestID string   `help:"Names this call, so that it can be made again when its outcome is not known: the same id, method and arguments never have a second effect, and get the first reply." placeholder:"ID" env:"-"`
	Existing  bool     `help:"Fail with UNKNOWN_OBJECT, and run nothing, if the object does not exist."`
	Args      []string `arg:"" help:"NAME METHOD [JSON], or METHOD [JSON] with --id. Of a worker's class a JSON array is the arguments, anything else the one argument." name:"name method json"`
}

// Run implements the command.
func (c *callCmd) Run(ctx context.Context, e env) error {
	req := &holdfastv1.CallRequest{Class: c.Class, Existing: c.Existing}
	if c.RequestID != "" {
		req.RequestId = &c.RequestID
	}
	args := c.Args
	if c.ID != "" {
		req.Object = &holdfastv1.CallRequest_Id{Id: c.ID}
	} else {
		req.Object = &holdfastv1.CallRequest_Name{Name: args[0]}
		args = args[1:]
	}
	switch len(args) {
	case 2:
		req.Json = args[1]
		fallthrough
	case 1:
		req.Method = args[0]
	default:
		return usagef("call: want CLASS NAME METHOD [JSON], or CLASS --id HEX METHOD [JSON]")
	}
	return c.with(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := holdfastv1.NewObjectsClient(conn).Call(ctx, req)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(e.stdout, resp.GetJson())
		return err
	})
}

type newIDCmd struct {
	addrFlag

	Class string `arg:"" help:"The class, such as Counter, or my-worker/Counter: a worker's class may be named without the worker where no other class has that name."`
}

// Run implements the command.
func (c *newIDCmd) Run(ctx context.Context, e env) error {
	return c.with(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		drawn, err := holdfastv1.NewObjectsClient(conn).NewUniqueID(ctx, &holdfastv1.NewUniqueIDRequest{Class: c.Class})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(e.stdout, drawn.GetId())
		return err
	})
}

type statusCmd struct {
	addrFlag

	Output string `short:"o" help:"text or json." default:"text" enum:"text,json"`
}

// Run implements the command.
func (c *statusCmd) Run(ctx context.Context, e env) error {
	return c.with(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		st, err := holdfastv1.NewAdminClient(conn).Status(ctx, &holdfastv1.StatusRequest{})
		if err != nil {
			return err
		}
		if c.Output == "json" {
			return printStatusJSON(e.stdout, st)
		}
		return printStatusText(e.stdout, st)
	})
}

// The JSON of status is a contract that scripts rely on: lists are never null.
type (
	statusJSON struct {
		ClusterID string      `json:"cluster_id"`
		Nodes     []nodeJSON  `json:"nodes"`
		Shards    []shardJSON `json:"shards"`
		Classes   []classJSON `json:"classes"`
		Warnings  []string    `json:"warnings"`
	}
	nodeJSON struct {
		Name      string            `json:"name"`
		ID        string            `json:"id"`
		State     string            `json:"state"`
		Addresses map[string]string `json:"addresses"`
		Owns      int32             `json:"owns"`
		Version   string            `json:"version"`
		Drained   bool              `json:"drained"`
		DiskFull  bool              `json:"disk_full"`
	}
	shardJSON struct {
		ID       uint32   `json:"id"`
		Owner    string   `json:"owner"`
		Voters   []string `json:"voters"`
		Learners []string `json:"learners"`
		Moving   string   `json:"moving"`
		Term     uint64   `json:"term"`
	}
	classJSON struct {
		Name      string `json:"name"`
		Service   string `json:"service"`
		UniqueKey string `json:"unique_key"`
	}
)

func printStatusJSON(w io.Writer, st *holdfastv1.StatusResponse) error {
	out := statusJSON{
		ClusterID: st.GetClusterId(), Nodes: []nodeJSON{}, Shards: []shardJSON{}, Classes: []classJSON{},
		Warnings: append([]string{}, st.GetWarnings()...),
	}
	for _, n := range st.GetNodes() {
		a := n.GetAddresses()
		out.Nodes = append(out.Nodes, nodeJSON{
			Name: n.GetName(), ID: n.GetId(), State: n.GetState(), Owns: n.GetOwns(), Version: n.GetVersion(),
			Drained: n.GetDrained(), DiskFull: n.GetDiskFull(),
			Addresses: map[string]string{
				"grpc": a.GetGrpc(), "peer": a.GetPeer(), "gossip": a.GetGossip(), "http": a.GetHttp(), "admin": a.GetAdmin(),
			},
		})
	}
	for _, s := range st.GetShards() {
		out.Shards = append(out.Shards, shardJSON{
			ID: s.GetId(), Owner: s.GetOwner(), Moving: s.GetMoving(), Term: s.GetTerm(),
			Voters: append([]string{}, s.GetVoters()...), Learners: append([]string{}, s.GetLearners()...),
		})
	}
	for _, cl := range st.GetClasses() {
		out.Classes = append(out.Classes, classJSON{Name: cl.GetName(), Service: cl.GetService(), UniqueKey: cl.GetUniqueKey()})
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}

// printStatusText groups shards that look alike, since hundreds of rows tell a person nothing.
func printStatusText(w io.Writer, st *holdfastv1.StatusResponse) error {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	_, _ = fmt.Fprintf(tw, "CLUSTER %s\n\nNODE\tID\tSTATE\tOWNS\tGRPC\tPEER\tVERSION\n", st.GetClusterId())
	for _, n := range st.GetNodes() {
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", n.GetName(), n.GetId(), stateText(n), n.GetOwns(),
			n.GetAddresses().GetGrpc(), n.GetAddresses().GetPeer(), n.GetVersion())
	}
	_, _ = fmt.Fprintf(tw, "\nSHARDS\tOWNER\tVOTERS\tLEARNERS\tMOVING\n")
	type look struct{ owner, voters, learners, moving string }
	count := make(map[look]int)
	var order []look
	for _, s := range st.GetShards() {
		l := look{s.GetOwner(), strings.Join(s.GetVoters(), ","), strings.Join(s.GetLearners(), ","), s.GetMoving()}
		if l.owner == "" {
			l.owner = "(nobody)"
		}
		if count[l] == 0 {
			order = append(order, l)
		}
		count[l]++
	}
	for _, l := range order {
		_, _ = fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%s\n", count[l], l.owner, l.voters, l.learners, l.moving)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, warning := range st.GetWarnings() {
		if _, err := fmt.Fprintln(w, "warning:", warning); err != nil {
			return err
		}
	}
	return nil
}

// stateText is a node's state with what else keeps it from owning.
func stateText(n *holdfastv1.Node) string {
	text := n.GetState()
	if n.GetDrained() {
		text += ",drained"
	}
	if n.GetDiskFull() {
		text += ",disk-full"
	}
	return text
}

type objectsCmd struct {
	addrFlag

	Class  string `arg:"" help:"The class, such as Counter or my-worker/Counter."`
	Prefix string `help:"List those only whose name begins with this." placeholder:"TEXT" env:"-"`
	After  string `help:"Begin behind this id, the last one of an earlier list." placeholder:"HEX" env:"-"`
	Limit  int    `help:"Stop after so many; 0 lists all." default:"0"`
}

// Run implements the command.
func (c *objectsCmd) Run(ctx context.Context, e env) error {
	return c.with(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		admin := holdfastv1.NewAdminClient(conn)
		req := &holdfastv1.ListObjectsRequest{Class: c.Class, NamePrefix: c.Prefix, After: c.After, PageSize: pageSize}
		return printPages(e.stdout, c.Limit, func(token string) (lines []string, next string, err error) {
			if req.PageToken = token; token != "" {
				req.After = "" // The token says it.
			}
			page, err := admin.ListObjects(ctx, req)
			for _, o := range page.GetObjects() {
				lines = append(lines, o.GetId()+" "+nameText(o.Name))
			}
			return lines, page.GetNextPageToken(), err
		})
	})
}

// pageSize is how many lines a list asks for at a time.
const pageSize = 1000

// printPages prints lines, page by page, and stops after so many; 0: at the end. page returns one page,
// and the token of the next: empty for the first page, and when there is no other.
func printPages(w io.Writer, limit int, page func(token string) (lines []string, next string, err error)) error {
	token := ""
	for printed := 0; ; {
		lines, next, err := page(token)
		if err != nil {
			return err
		}
		for _, line := range lines {
			if _, err := fmt.Fprintln(w, line); err != nil {
				return err
			}
			if printed++; printed == limit {
				return nil
			}
		}
		if token = next; token == "" {
			return nil
		}
	}
}

type objectCmd struct {
	addrFlag
	oneObject
}

// Run implements the command.
func (c *objectCmd) Run(ctx context.Context, e env) error {
	req := &holdfastv1.ShowObjectRequest{Class: c.Class}
	err := c.choose("object",
		func(name string) { req.Object = &holdfastv1.ShowObjectRequest_Name{Name: name} },
		func(id string) { req.Object = &holdfastv1.ShowObjectRequest_Id{Id: id} })
	if err != nil {
		return err
	}
	return c.with(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		o, err := holdfastv1.NewAdminClient(conn).ShowObject(ctx, req)
		if err != nil {
			return err
		}
		alarm := "-"
		if o.AlarmUnixMs != nil {
			alarm = alarmText(o.GetAlarmUnixMs(), o.GetAlarmDueUnixMs(), o.GetAlarmRetries())
		}
		_, _ = fmt.Fprintf(e.stdout, "id       %s\nname     %s\nshard    %d\nowner    %s\nalarm    %s\ncommits  %d\n",
			o.GetId(), nameText(o.Name), o.GetShard(), o.GetOwner(), alarm, o.GetCommitSequence())
		if d := o.GetDeadAlarm(); d != nil {
			_, _ = fmt.Fprintf(e.stdout, "dead     %s\n", deadText(d))
		}
		if o.GetImportUnfinished() {
			_, _ = fmt.Fprintln(e.stdout, "import   unfinished: calls are refused until the object is imported again")
		}
		for _, entry := range o.GetEntries() {
			if _, err := fmt.Fprintf(e.stdout, "  %q = %s\n", entry.GetKey(), entry.GetDiagnostic()); err != nil {
				return err
			}
		}
		if o.GetMore() {
			_, _ = fmt.Fprintf(e.stdout, "  … and more keys (the first %d are shown)\n", len(o.GetEntries()))
		}
		return nil
	})
}

type evictCmd struct {
	addrFlag
	oneObject
}

// Run implements the command.
func (c *evictCmd) Run(ctx context.Context, e env) error {
	req := &holdfastv1.EvictObjectRequest{Class: c.Class}
	err := c.choose("evict",
		func(name string) { req.Object = &holdfastv1.EvictObjectRequest_Name{Name: name} },
		func(id string) { req.Object = &holdfastv1.EvictObjectRequest_Id{Id: id} })
	if err != nil {
		return err
	}
	return c.with(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := holdfastv1.NewAdminClient(conn).EvictObject(ctx, req)
		if err != nil {
			return err
		}
		text := "it was not in memory"
		if resp.GetEvicted() {
			text = "evicted"
		}
		_, err = fmt.Fprintln(e.stdout, text)
		return err
	})
}

type removeCmd struct {
	addrFlag

	Node string `arg:"" help:"Name or id of the node."`
	Wait bool   `help:"Wait until the node holds nothing any more, showing how far it is." default:"true" negatable:""`
}

// Run implements the command.
func (c *removeCmd) Run(ctx context.Context, e env) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	admin := holdfastv1.NewAdminClient(conn)
	call, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	resp, err := admin.RemoveNode(call, &holdfastv1.RemoveNodeRequest{Node: c.Node})
	if err != nil {
		return c.explain(err)
	}
	_, _ = fmt.Fprintf(e.stdout, "node %s (%s) is being removed\n", c.Node, resp.GetId())
	if !c.Wait {
		return nil
	}
	return c.waitGone(ctx, e, admin, resp.GetId())
}

// waitGone shows progress until no shard names the node any more.
func (c *removeCmd) waitGone(ctx context.Context, e env, admin holdfastv1.AdminClient, id string) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	last := -1
	for {
		st, err := admin.Status(ctx, &holdfastv1.StatusRequest{})
		if err != nil {
			return c.explain(err)
		}
		left := replicasOn(st, id)
		if left != last {
			_, _ = fmt.Fprintf(e.stderr, "%d replicas left on %s\n", left, c.Node)
			last = left
		}
		if left == 0 {
			_, err := fmt.Fprintf(e.stdout, "node %s is removed; stop it and delete its data\n", c.Node)
			return err
		}
		select {
		case <-ctx.Done():
			return errors.New("interrupted; the removal goes on, see 'holdfast status'")
		case <-tick.C:
		}
	}
}

// replicasOn counts the replicas on a node; a node without an entry has none.
func replicasOn(st *holdfastv1.StatusResponse, id string) int {
	name := ""
	for _, n := range st.GetNodes() {
		if n.GetId() == id {
			name = n.GetName()
		}
	}
	left := 0
	for _, s := range st.GetShards() {
		for _, list := range [][]string{s.GetVoters(), s.GetLearners()} {
			for _, n := range list {
				if n == name || n == id {
					left++
				}
			}
		}
	}
	return left
}

type healthCmd struct {
	Admin string `help:"Admin address of the node." default:"127.0.0.1:7080"`
}

// Run implements the command.
func (c *healthCmd) Run(ctx context.Context, e env) error {
	host, port, err := net.SplitHostPort(c.Admin)
	if err != nil {
		return usagef("--admin %q: %v", c.Admin, err)
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "127.0.0.1" // The flag may share its variable with serve, which listens there.
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("no node answers at %s: %w", c.Admin, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", strings.TrimSpace(string(body)))
	}
	_, err = fmt.Fprintln(e.stdout, "ready")
	return err
}
