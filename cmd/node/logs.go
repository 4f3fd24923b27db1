package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// logsAgain is how long after a lost connection it is tried again.
const logsAgain = time.Second

type logsCmd struct {
	addrFlag

	Worker string `arg:"" help:"The worker."`
	Tail   uint32 `help:"How many lines of before to begin with, of each node." default:"10" env:"-"`
	Level  string `help:"The least level: debug, info, warn or error." default:"debug" enum:"debug,info,warn,error" env:"-"`
	Class  string `help:"Only what objects of this class log; by default all, and the worker's own handlers." placeholder:"NAME" env:"-"`
	Node   string `help:"Only what is logged on this node." placeholder:"NAME" env:"-"`
	JSON   bool   `name:"json" help:"Print an object per line: node, time, class, object, name, level, text." env:"-"`
}

// Help says what a person should know before.
func (*logsCmd) Help() string {
	return `Prints what the worker logs by console, and the errors that it does not catch, on every node that is alive, also one that comes later, until Ctrl-C. Each line has the time, the node, who logs, and the level if it is not info.

Each node keeps the latest 4,096 lines of a worker, and 1 MiB at most, in memory: what is logged faster than it can be sent is lost, and a line on standard error says how much. They are in the node's own log as well.`
}

// Run implements the command.
func (c *logsCmd) Run(ctx context.Context, e env) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	admin := holdfastv1.NewAdminClient(conn)
	req := &holdfastv1.FollowLogsRequest{Worker: c.Worker, Tail: c.Tail, Level: c.Level, Class: c.Class, Node: c.Node}
	begun := false
	for {
		err := c.follow(ctx, e, admin, req, &begun)
		switch {
		case ctx.Err() != nil:
			return nil
		case !begun || status.Code(err) != codes.Unavailable && err != io.EOF: //nolint:errorlint // as gRPC returns it
			return c.explain(err)
		}
		_, _ = fmt.Fprintf(e.stderr, "%s: %s; trying again, lines may be missing\n", c.Addr, status.Convert(err).Message())
		req.Tail = 0
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(logsAgain):
		}
	}
}

// follow prints what comes until the stream ends. begun is set when it has begun.
func (c *logsCmd) follow(ctx context.Context, e env, admin holdfastv1.AdminClient, req *holdfastv1.FollowLogsRequest, begun *bool) error {
	stream, err := admin.FollowLogs(ctx, req)
	if err != nil {
		return err
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		*begun = true
		for _, n := range resp.GetNotices() {
			c.notice(e, n)
		}
		for _, entry := range resp.GetEntries() {
			if err := c.print(e.stdout, entry); err != nil {
				return err
			}
		}
	}
}

func (*logsCmd) notice(e env, n *holdfastv1.LogNotice) {
	if n.GetDropped() > 0 {
		_, _ = fmt.Fprintf(e.stderr, "%s: %d lines were lost: more is logged than can be sent\n", n.GetNode(), n.GetDropped())
	}
	if n.GetError() != "" {
		_, _ = fmt.Fprintf(e.stderr, "%s can't be followed now, and is tried again: %s\n", n.GetNode(), n.GetError())
	}
}

// logLine is an entry in JSON.
type logLine struct {
	Node   string    `json:"node"`
	Time   time.Time `json:"time"`
	Class  string    `json:"class,omitempty"`
	Object string    `json:"object,omitempty"`
	Name   string    `json:"name,omitempty"`
	Level  string    `json:"level"`
	Text   string    `json:"text"`
}

func (c *logsCmd) print(to io.Writer, entry *holdfastv1.LogEntry) error {
	at := time.UnixMilli(entry.GetTimeUnixMs())
	if c.JSON {
		raw, err := json.Marshal(logLine{
			entry.GetNode(), at.UTC(), entry.GetClass(), entry.GetObject(), entry.GetName(), entry.GetLevel(), entry.GetText(),
		})
		if err == nil {
			_, err = fmt.Fprintf(to, "%s\n", raw)
		}
		return err
	}
	level := ""
	if entry.GetLevel() != "info" {
		level = " " + strings.ToUpper(entry.GetLevel())
	}
	who := whoLogs(c.Worker, entry.GetClass(), entry.GetObject(), entry.GetName())
	_, err := fmt.Fprintf(to, "%s %s [%s]%s %s\n", at.Format(logTime), entry.GetNode(), who, level, strings.ReplaceAll(entry.GetText(), "\n", "\n    "))
	return err
}

// logTime is how the time of a line is printed.
const logTime = "15:04:05.000"

// whoLogs says whose JavaScript logs: a worker's own handlers, or an object.
func whoLogs(worker, class, object, name string) string {
	switch {
	case class == "":
		return worker
	case name == "":
		return class + " " + object
	}
	return fmt.Sprintf("%s %q", class, name)
}
