package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-io/holdfast/node"
)

type recoverCmd struct {
	Collect collectCmd `cmd:"" help:"Print, as JSON, what a stopped node has. Run it on every node that is left."`
	Plan    planCmd    `cmd:"" help:"Make one plan of what all nodes that are left have, and print it as JSON. It changes nothing."`
	Apply   applyCmd   `cmd:"" help:"Let a stopped node take its part of the plan. Run it on every node that is left."`
}

// Help implements kong.HelpProvider.
func (*recoverCmd) Help() string {
	return `Use this when a majority of the voters of some shards is lost for good, disks and all: it gives up what only the lost nodes had. Stop all nodes that are left. Then:

  holdfast recover collect --data-dir D > n1.json      (on each of them)
  holdfast recover plan --lost n2,n3 n1.json > plan.json
  holdfast recover apply --data-dir D --plan plan.json --yes   (on each of them)

and start them. Make sure first that the lost nodes can't come back: delete their disks. See docs/operations.md.`
}

type collectCmd struct {
	DataDir string `help:"Data directory of the stopped node." required:"" placeholder:"DIR" env:"-"`
}

// Run implements the command.
func (c *collectCmd) Run(e env) error {
	report, err := node.CollectRecovery(c.DataDir)
	if err != nil {
		return err
	}
	return printJSON(e.stdout, report)
}

type planCmd struct {
	Lost    []string `help:"Names or ids of the nodes that are lost for good." required:"" placeholder:"NODE" env:"-"`
	Reports []string `arg:"" help:"What 'recover collect' printed on each node that is left." placeholder:"FILE"`
}

// Run implements the command.
func (c *planCmd) Run(e env) error {
	var reports []*node.RecoveryReport
	for _, file := range c.Reports {
		var r node.RecoveryReport
		if err := readJSON(file, &r); err != nil {
			return err
		}
		reports = append(reports, &r)
	}
	plan, err := node.PlanRecovery(reports, c.Lost)
	if err != nil {
		return err
	}
	describePlan(e.stderr, plan)
	return printJSON(e.stdout, plan)
}

// describePlan says what a plan does, and what it may lose.
func describePlan(w io.Writer, plan *node.RecoveryPlan) {
	var lost []string
	for _, m := range plan.Lost {
		lost = append(lost, m.String())
	}
	_, _ = fmt.Fprintf(w, "given up as lost, and refused if they come back: %s\n", strings.Join(lost, ", "))
	for i := range plan.Shards {
		_, _ = fmt.Fprintln(w, shardText(&plan.Shards[i]))
	}
	for _, shard := range plan.Hopeless {
		_, _ = fmt.Fprintf(w, "shard %d: no node that is left has any of it: it can't be recovered, and its objects can't be called\n", shard)
	}
	switch len(plan.Shards) {
	case 0:
		_, _ = fmt.Fprintln(w, "no shard has lost its majority with something left of it: there is nothing to recover")
	default:
		_, _ = fmt.Fprintf(w, "%d shards go on from what one node has. What the lost nodes acknowledged without that node is gone, and nobody can say what it was: a shard's writes were on a majority of its voters, which need not have been this one\n", len(plan.Shards))
	}
}

func shardText(s *node.RecoveredShard) string {
	kind := "a learner, which may lack much"
	for _, id := range s.From.Voters {
		if id == s.On.ID {
			kind = "a voter"
		}
	}
	return fmt.Sprintf("shard %d: goes on from the replica on %s, %s: its log ends with index %d of term %d (%d applied)",
		s.Shard, s.On, kind, s.From.LastIndex, s.From.LastTerm, s.From.Applied)
}

type applyCmd struct {
	DataDir string `help:"Data directory of the stopped node." required:"" placeholder:"DIR" env:"-"`
	Plan    string `help:"What 'recover plan' printed." required:"" placeholder:"FILE" env:"-"`
	Yes     bool   `help:"Do it. Without this flag it only says what it would do." env:"-"`
}

// Run implements the command.
func (c *applyCmd) Run(e env) error {
	var plan node.RecoveryPlan
	if err := readJSON(c.Plan, &plan); err != nil {
		return err
	}
	here, err := node.ApplyRecovery(c.DataDir, &plan, !c.Yes)
	if err != nil {
		return err
	}
	for i := range here {
		_, _ = fmt.Fprintln(e.stdout, shardText(&here[i]))
	}
	if !c.Yes {
		_, _ = fmt.Fprintf(e.stdout, "%d shards would go on here, and %d nodes would be refused for good. Nothing is changed: add --yes to do it\n", len(here), len(plan.Lost))
		return nil
	}
	_, err = fmt.Fprintf(e.stdout, "%d shards go on here, and %d nodes are refused for good. Apply the plan on every node that is left, then start them\n", len(here), len(plan.Lost))
	return err
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(v)
}

func readJSON(file string, into any) error {
	raw, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s: not what holdfast recover wrote: %w", file, err)
	}
	return nil
}
