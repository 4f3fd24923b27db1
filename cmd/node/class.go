package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"

	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

type classCmd struct {
	List   listClassesCmd `cmd:"" default:"1" help:"List the classes of the cluster, with the unique keys that the ids of their objects are derived from."`
	Rename renameClassCmd `cmd:"" help:"Give a class another name. Its objects stay as they are; a program that has the class under its former name runs it on."`
	Delete deleteClassCmd `cmd:"" help:"Delete a class and everything that its objects have stored."`
}

type listClassesCmd struct{ addrFlag }

// Run implements the command.
func (c *listClassesCmd) Run(ctx context.Context, e env) error {
	return c.with(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		st, err := holdfastv1.NewAdminClient(conn).Status(ctx, &holdfastv1.StatusRequest{})
		if err != nil {
			return err
		}
		tw := tabwriter.NewWriter(e.stdout, 0, 4, 2, ' ', 0)
		_, _ = fmt.Fprintln(tw, "CLASS\tUNIQUE KEY\tSERVICE")
		for _, class := range st.GetClasses() {
			_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\n", class.GetName(), class.GetUniqueKey(), class.GetService())
		}
		return tw.Flush()
	})
}

type renameClassCmd struct {
	addrFlag

	From string `arg:"" help:"The class's name."`
	To   string `arg:"" help:"Its new name, which no class has."`
}

// Help says what a person should know before.
func (*renameClassCmd) Help() string {
	return `The objects of the class stay as they are, with their ids, data and alarms, and run on: the ids of a class are derived from its unique key, which is the name that it was created under, and which it keeps.

Calls by the former name are refused with UNKNOWN_CLASS from then on, also those that objects of other classes make; calls by the gRPC service go on. A node whose program still has the class under its former name runs it. Other nodes than the one asked learn of the change within some seconds.`
}

// Run implements the command.
func (c *renameClassCmd) Run(ctx context.Context, e env) error {
	return c.with(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		if _, err := holdfastv1.NewAdminClient(conn).RenameClass(ctx, &holdfastv1.RenameClassRequest{From: c.From, To: c.To}); err != nil {
			return err
		}
		_, err := fmt.Fprintf(e.stdout, "class %s is now %s\n", c.From, c.To)
		return err
	})
}

type deleteClassCmd struct {
	addrFlag

	Class string        `arg:"" help:"The class."`
	Yes   string        `help:"Delete it: the name of the class once more. Without, say only how many objects it has." placeholder:"CLASS" env:"-"`
	Wait  time.Duration `help:"How long to wait until nothing of it is left, showing how far it is; 0 does not wait." default:"10m" env:"-"`
}

// Help says what a person should know before.
func (*deleteClassCmd) Help() string {
	return `Everything that the objects of the class have stored goes, with their alarms, pending and dead, and nothing brings it back: 'holdfast export' makes a copy before. Objects that run are reset, and calls are refused with UNKNOWN_CLASS from then on.

The deletion is recorded first, and then every owner of a shard deletes what lies there: it is finished whatever becomes of this command, or of nodes. A node that starts with a program that still has the class registers it again, as a new class without objects.`
}

// Run implements the command.
func (c *deleteClassCmd) Run(ctx context.Context, e env) error {
	switch {
	case c.Wait < 0:
		return usagef("--wait %s: must not be negative", c.Wait)
	case c.Yes != "" && c.Yes != c.Class:
		return usagef("--yes %s: is not the class to delete, which is %s", c.Yes, c.Class)
	}
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	admin := holdfastv1.NewAdminClient(conn)
	count, err := c.count(ctx, e, admin, &holdfastv1.ListObjectsRequest{Class: c.Class}, "objects counted")
	if err != nil {
		return c.explain(err)
	}
	if c.Yes == "" {
		return fmt.Errorf("class %s has %d objects, and nothing brings them back: 'holdfast class delete %s --yes %s' deletes them", c.Class, count, c.Class, c.Class)
	}
	call, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	resp, err := admin.DeleteClass(call, &holdfastv1.DeleteClassRequest{Class: c.Class})
	if err != nil {
		return c.explain(err)
	}
	if c.Wait > 0 {
		wait, cancel := context.WithTimeout(ctx, c.Wait)
		defer cancel()
		if err := c.waitGone(wait, e, admin, resp.GetUniqueKey()); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(e.stdout, "class %s is deleted, with %d objects\n", c.Class, count)
	return err
}

// waitGone shows progress until nothing of the class is left.
func (c *deleteClassCmd) waitGone(ctx context.Context, e env, admin holdfastv1.AdminClient, key string) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := c.count(ctx, e, admin, &holdfastv1.ListObjectsRequest{UniqueKey: key}, "objects left")
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("class %s is deleted, but %s was not enough to see all its objects go; the cluster goes on by itself", c.Class, c.Wait)
		case err != nil:
			return fmt.Errorf("class %s is deleted, and the cluster goes on by itself, but how far it is can't be seen: %w", c.Class, c.explain(err))
		case left == 0:
			return nil
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// count counts objects, and shows how far it is.
func (c *deleteClassCmd) count(ctx context.Context, e env, admin holdfastv1.AdminClient, req *holdfastv1.ListObjectsRequest, what string) (int, error) {
	req.PageSize = pageSize
	for count := 0; ; {
		call, cancel := context.WithTimeout(ctx, c.Timeout)
		page, err := admin.ListObjects(call, req)
		cancel()
		if err != nil {
			return 0, err
		}
		if count += len(page.GetObjects()); count > 0 {
			_, _ = fmt.Fprintf(e.stderr, "%d %s\n", count, what)
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			return count, nil
		}
	}
}
