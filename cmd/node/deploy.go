package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/worker"
	"github.com/holdfast-io/holdfast/worker/bundle"
)

// partBytes is how much of a bundle goes in one message.
const partBytes = 256 << 10

// uploadTime is how long a deployment may take to be stored, besides the timeout of every command.
const uploadTime = 2 * time.Minute

// waitFlag is in the commands that change what workers run.
type waitFlag struct {
	Wait time.Duration `help:"How long to wait until every node that is alive runs it; 0 does not wait." default:"60s" env:"-"`
}

type deployCmd struct {
	addrFlag
	waitFlag

	Path string `arg:"" help:"A wrangler project: its folder, or its configuration. Or a bundle that --bundle has written."`
	Env  string `help:"The environment of the configuration to take; by default its top level." placeholder:"NAME" env:"-"`
	Out  string `name:"bundle" help:"Write the bundle to this file, and deploy nothing." placeholder:"FILE" env:"-"`
}

// Help says what a person should know before.
func (*deployCmd) Help() string {
	return `The worker is bundled here and stored in the cluster, replicated as everything else is: every node runs it, also one that joins later. Objects go over to the new code between two of their events, and no call fails by it; what handlers have given up their turn for is waited for, at most 10 s, and streams end and are opened again.

The classes that the migrations create, rename and delete are changed with the deployment, or not at all. What a migration deletes, nothing brings back.`
}

// Run implements the command.
func (c *deployCmd) Run(ctx context.Context, e env) error {
	if c.Wait < 0 {
		return usagef("--wait %s: must not be negative", c.Wait)
	}
	file, err := c.file(e)
	if err != nil {
		return err
	}
	if c.Out != "" {
		return os.WriteFile(c.Out, file, 0o600)
	}
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	admin := holdfastv1.NewAdminClient(conn)
	call, cancel := context.WithTimeout(ctx, c.Timeout+uploadTime)
	defer cancel()
	resp, err := upload(call, e, admin, file)
	if err != nil {
		return c.explain(err)
	}
	return c.deployed(ctx, e, c.addrFlag, admin, resp)
}

// file returns the bundle.
func (c *deployCmd) file(e env) ([]byte, error) {
	if info, err := os.Stat(c.Path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("deploy %s: there is no such file or folder", c.Path)
	} else if err == nil && info.Mode().IsRegular() {
		file, err := os.ReadFile(c.Path)
		if err != nil {
			return nil, err
		}
		if _, err := bundle.Decode(file); !errors.Is(err, bundle.ErrFormat) || bytes.HasPrefix(file, []byte("HFBUNDL")) {
			return file, err
		}
	}
	built, err := bundle.Build(c.Path, bundle.Options{Environment: c.Env, Modules: worker.Modules()})
	if err != nil {
		return nil, err
	}
	for _, warning := range built.Warnings {
		_, _ = fmt.Fprintf(e.stderr, "warning: %s\n", warning)
	}
	return built.Encode()
}

// upload sends a bundle in parts, and shows how far it is.
func upload(ctx context.Context, e env, admin holdfastv1.AdminClient, file []byte) (*holdfastv1.DeployResponse, error) {
	stream, err := admin.Deploy(ctx)
	if err != nil {
		return nil, err
	}
	sent, shown := 0, 0
	for part := range slices.Chunk(file, partBytes) {
		if err := stream.Send(&holdfastv1.DeployRequest{Part: part}); errors.Is(err, io.EOF) {
			break // It was refused: CloseAndRecv says why.
		} else if err != nil {
			return nil, err
		}
		if sent += len(part); sent == len(file) || sent-shown >= 1<<20 {
			_, _ = fmt.Fprintf(e.stderr, "%d of %d bytes sent\n", sent, len(file))
			shown = sent
		}
	}
	return stream.CloseAndRecv()
}

// deployed says what was deployed, and waits until it runs everywhere, showing how far that is.
func (f *waitFlag) deployed(ctx context.Context, e env, addr addrFlag, admin holdfastv1.AdminClient, resp *holdfastv1.DeployResponse) error {
	_, _ = fmt.Fprintf(e.stdout, "worker %s: deployment %d\n", resp.GetWorker(), resp.GetNumber())
	for _, change := range resp.GetChanges() {
		_, _ = fmt.Fprintf(e.stdout, "  %s\n", change)
	}
	if f.Wait == 0 {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, f.Wait)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	last := ""
	for {
		call, cancel := context.WithTimeout(ctx, addr.Timeout)
		list, err := admin.ListDeployments(call, &holdfastv1.ListDeploymentsRequest{Worker: resp.GetWorker()})
		cancel()
		if err != nil {
			return addr.explain(err)
		}
		text, done := rollout(list, resp.GetNumber())
		if text != last {
			_, _ = fmt.Fprintln(e.stderr, text)
			last = text
		}
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("interrupted; the nodes go on, see 'holdfast deployments'")
		case <-wait.Done():
			return fmt.Errorf("deployment %d of worker %s is stored, and does not run everywhere after %s: %s", resp.GetNumber(), resp.GetWorker(), f.Wait, text)
		case <-tick.C:
		}
	}
}

// rollout says on which nodes a deployment runs, and whether that is all of them, or a later one has come.
func rollout(list *holdfastv1.ListDeploymentsResponse, number uint64) (text string, done bool) {
	var on, not []string
	for _, w := range list.GetWorkers() {
		if w.GetNumber() > number {
			return fmt.Sprintf("deployment %d has taken its place", w.GetNumber()), true
		}
		for _, n := range w.GetNodes() {
			switch {
			case n.GetNumber() == number:
				on = append(on, n.GetNode())
			case n.GetError() != "":
				not = append(not, fmt.Sprintf("%s (%s)", n.GetNode(), n.GetError()))
			default:
				not = append(not, n.GetNode())
			}
		}
	}
	switch {
	case len(not) == 0:
		text = "running on " + strings.Join(on, ", ")
	case len(on) == 0:
		text = "not yet running on " + strings.Join(not, ", ")
	default:
		text = "running on " + strings.Join(on, ", ") + "; not yet on " + strings.Join(not, ", ")
	}
	return text, len(not) == 0
}

type deploymentsCmd struct {
	addrFlag

	Worker string `arg:"" optional:"" help:"The worker whose history to list; by default what all workers run."`
}

// Run implements the command.
func (c *deploymentsCmd) Run(ctx context.Context, e env) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	call, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	list, err := holdfastv1.NewAdminClient(conn).ListDeployments(call, &holdfastv1.ListDeploymentsRequest{Worker: c.Worker})
	if err != nil {
		return c.explain(err)
	}
	tw := tabwriter.NewWriter(e.stdout, 0, 4, 2, ' ', 0)
	if c.Worker == "" {
		_, _ = fmt.Fprintln(tw, "WORKER\tDEPLOYMENT\tBUNDLE\tCLASSES\tNODES")
		for _, w := range list.GetWorkers() {
			text, _ := rollout(&holdfastv1.ListDeploymentsResponse{Workers: []*holdfastv1.Worker{w}}, w.GetNumber())
			if w.GetHash() == "" {
				text = "undeployed"
			}
			_, _ = fmt.Fprintf(tw, "%s\t%d\t%s\t%s\t%s\n", w.GetName(), w.GetNumber(), shortHash(w.GetHash()), strings.Join(w.GetClasses(), ","), text)
		}
		return tw.Flush()
	}
	_, _ = fmt.Fprintln(tw, "DEPLOYMENT\tTIME\tBUNDLE\tBYTES\t")
	for _, d := range list.GetHistory() {
		note := ""
		switch {
		case d.GetHash() == "":
			note = "undeployed"
		case d.GetRollbackOf() != 0:
			note = fmt.Sprintf("rolled back to %d", d.GetRollbackOf())
		}
		_, _ = fmt.Fprintf(tw, "%d\t%s\t%s\t%d\t%s\n", d.GetNumber(), time.UnixMilli(d.GetCreatedUnixMs()).UTC().Format(time.RFC3339), shortHash(d.GetHash()), d.GetSize(), note)
	}
	return tw.Flush()
}

func shortHash(hash string) string {
	if hash == "" {
		return "-"
	}
	return hash[:min(len(hash), 12)]
}

type rollbackCmd struct {
	addrFlag
	waitFlag

	Worker string `arg:"" help:"The worker."`
	Number uint64 `arg:"" optional:"" help:"The deployment to go back to, as 'holdfast deployments WORKER' lists them; by default the last that ran something else."`
}

// Help says what a person should know before.
func (*rollbackCmd) Help() string {
	return `The bundle of that deployment is deployed again, under a new number. What objects have stored stays as it is. A deployment from before a migration is refused, as its classes are not those that there are: deploy code that has them.`
}

// Run implements the command.
func (c *rollbackCmd) Run(ctx context.Context, e env) error {
	if c.Wait < 0 {
		return usagef("--wait %s: must not be negative", c.Wait)
	}
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	admin := holdfastv1.NewAdminClient(conn)
	call, cancel := context.WithTimeout(ctx, c.Timeout+uploadTime)
	defer cancel()
	resp, err := admin.Rollback(call, &holdfastv1.RollbackRequest{Worker: c.Worker, Number: c.Number})
	if err != nil {
		return c.explain(err)
	}
	return c.deployed(ctx, e, c.addrFlag, admin, resp)
}

type undeployCmd struct {
	addrFlag

	Worker string `arg:"" help:"The worker."`
}

// Help says what a person should know before.
func (*undeployCmd) Help() string {
	return `The worker's objects end, and calls of them are refused with UNKNOWN_CLASS. What they have stored stays, with their alarms, and is there when the worker is deployed again; a migration deletes it.`
}

// Run implements the command.
func (c *undeployCmd) Run(ctx context.Context, e env) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	call, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if _, err := holdfastv1.NewAdminClient(conn).Undeploy(call, &holdfastv1.UndeployRequest{Worker: c.Worker}); err != nil {
		return c.explain(err)
	}
	_, err = fmt.Fprintf(e.stdout, "worker %s is deployed no more; what its objects have stored stays\n", c.Worker)
	return err
}
