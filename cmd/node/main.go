// Command holdfast runs a node of a Holdfast cluster and talks to one.
//
// Results go to standard output, everything else to standard error. The exit status is 0 when the
// command did what it says, 1 when it failed, and 2 when the command line is wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"unicode/utf8"

	"github.com/alecthomas/kong"
)

// Exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

type cli struct {
	Config kong.ConfigFlag `help:"Read flags from this YAML file; the command line and the environment win." placeholder:"FILE"`

	Dev      devCmd         `cmd:"" help:"Run one node on loopback, with everything on and its data in .holdfast/."`
	Serve    serveCmd       `cmd:"" help:"Run a node of a cluster."`
	Call     callCmd        `cmd:"" help:"Call a method of an object and print the reply as JSON."`
	NewID    newIDCmd       `cmd:"" name:"new-id" help:"Draw the id of a new object of a class, for 'call --id'."`
	Status   statusCmd      `cmd:"" help:"Show nodes, shards, owners, replicas and what is moving."`
	Objects  objectsCmd     `cmd:"" help:"List the objects of a class that have stored data."`
	Object   objectCmd      `cmd:"" help:"Show one object's stored keys and its owner."`
	Class    classCmd       `cmd:"" help:"List the classes of the cluster, rename one, or delete one with its objects."`
	Export   exportCmd      `cmd:"" help:"Write what an object, or every object of a class, has stored into a file."`
	Import   importCmd      `cmd:"" help:"Put the objects of an exported file into a cluster."`
	Alarms   alarmsCmd      `cmd:"" help:"List a class's alarms, and arm again those that were given up."`
	Evict    evictCmd       `cmd:"" help:"Drop one object from memory; its next call loads it again."`
	Deploy   deployCmd      `cmd:"" help:"Bundle a wrangler project and have the cluster run it."`
	Deploys  deploymentsCmd `cmd:"" name:"deployments" help:"List what workers run, and where, or what one has run before."`
	Back     rollbackCmd    `cmd:"" name:"rollback" help:"Have a worker run an earlier deployment's bundle again."`
	Undeploy undeployCmd    `cmd:"" help:"End a worker; what its objects have stored stays."`
	Logs     logsCmd        `cmd:"" help:"Follow what a worker logs, on all nodes."`
	Drain    drainCmd       `cmd:"" help:"Take ownership of everything off a node and keep it off; its replicas stay. For planned work on a machine."`
	Remove   removeCmd      `cmd:"" help:"Move every replica off a node and bar it for good."`
	Recover  recoverCmd     `cmd:"" help:"Bring shards back that have lost a majority of their voters for good, from what is left."`
	Health   healthCmd      `cmd:"" help:"Ask a node whether it is ready; the exit status answers. For container health checks."`
	Version  versionCmd     `cmd:"" help:"Print the version."`
}

// env is what commands act on besides their own flags.
type env struct {
	stdout io.Writer
	stderr io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], env{stdout: os.Stdout, stderr: os.Stderr})
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, e env) int {
	for _, arg := range args {
		if !utf8.ValidString(arg) { // The parser would put something else in its place.
			_, _ = fmt.Fprintf(e.stderr, "holdfast: argument %.64q: must be UTF-8\n", arg)
			return exitUsage
		}
	}
	var c cli
	exited := -1
	parser, err := kong.New(&c,
		kong.Name("holdfast"),
		kong.Description("Durable Objects on your own machines: small single-threaded objects, each with a name, private durable storage and exactly one owner in the cluster.\n\nEvery flag of dev and serve can also be given as HOLDFAST_… in the environment (--data-dir as HOLDFAST_DATA_DIR)."),
		kong.DefaultEnvars("HOLDFAST"),
		kong.Configuration(loadConfig),
		kong.Writers(e.stdout, e.stderr),
		kong.Exit(func(code int) { exited = code }),
		kong.UsageOnError(),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(e),
	)
	if err != nil {
		_, _ = fmt.Fprintln(e.stderr, "holdfast:", err)
		return exitUsage
	}
	kctx, err := parser.Parse(args)
	if exited >= 0 { // --help
		return exited
	}
	if err != nil {
		_, _ = fmt.Fprintf(e.stderr, "holdfast: %v\nRun 'holdfast --help' or 'holdfast COMMAND --help'.\n", err)
		return exitUsage
	}
	err = kctx.Run()
	var usage *usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		_, _ = fmt.Fprintf(e.stderr, "holdfast: %v\nRun 'holdfast %s --help'.\n", err, kctx.Selected().Name)
		return exitUsage
	default:
		_, _ = fmt.Fprintf(e.stderr, "holdfast: %v\n", err)
		return exitFailed
	}
}

// usageError is a command line that parses but makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...)}
}
