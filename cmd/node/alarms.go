package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

type alarmsCmd struct {
	List    listAlarmsCmd   `cmd:"" default:"withargs" help:"List the pending alarms of a class, or with --dead those that were given up after their last retry."`
	Rearm   rearmAlarmCmd   `cmd:"" help:"Run a dead alarm again, as if it had never failed."`
	Discard discardAlarmCmd `cmd:"" help:"Forget a dead alarm."`
}

type listAlarmsCmd struct {
	addrFlag

	Class string `arg:"" help:"The class, such as Counter."`
	Dead  bool   `help:"List those that were given up after their last retry."`
	Limit int    `help:"Stop after so many; 0 lists all." default:"0"`
}

// Run implements the command.
func (c *listAlarmsCmd) Run(ctx context.Context, e env) error {
	return c.with(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		admin := holdfastv1.NewAdminClient(conn)
		return printPages(e.stdout, c.Limit, func(token string) (lines []string, next string, err error) {
			return c.page(ctx, admin, &holdfastv1.ListAlarmsRequest{Class: c.Class, PageSize: pageSize, PageToken: token})
		})
	})
}

func (c *listAlarmsCmd) page(ctx context.Context, admin holdfastv1.AdminClient, req *holdfastv1.ListAlarmsRequest) (lines []string, next string, err error) {
	if c.Dead {
		page, err := admin.ListDeadAlarms(ctx, req)
		for _, a := range page.GetAlarms() {
			lines = append(lines, fmt.Sprintf("%s %s %s", a.GetId(), nameText(a.Name), deadText(a)))
		}
		return lines, page.GetNextPageToken(), err
	}
	page, err := admin.ListAlarms(ctx, req)
	for _, a := range page.GetAlarms() {
		lines = append(lines, fmt.Sprintf("%s %s %s", a.GetId(), nameText(a.Name), alarmText(a.GetScheduledUnixMs(), a.GetDueUnixMs(), a.GetRetries())))
	}
	return lines, page.GetNextPageToken(), err
}

func nameText(name *string) string {
	if name == nil {
		return "-"
	}
	return fmt.Sprintf("%q", *name)
}

func timeText(unixMilli int64) string {
	return time.UnixMilli(unixMilli).UTC().Format(time.RFC3339Nano)
}

// alarmText says what an alarm was set for and, when runs of it have failed, when it runs next.
func alarmText(scheduled, due int64, retries uint32) string {
	if retries == 0 {
		return timeText(scheduled)
	}
	return fmt.Sprintf("%s (retry %d at %s)", timeText(scheduled), retries, timeText(due))
}

func deadText(a *holdfastv1.DeadAlarm) string {
	return fmt.Sprintf("%s (died %s, after %d retries: %q)", timeText(a.GetScheduledUnixMs()), timeText(a.GetDiedUnixMs()), a.GetRetries(), a.GetError())
}

type rearmAlarmCmd struct {
	addrFlag
	oneObject
}

// Run implements the command.
func (c *rearmAlarmCmd) Run(ctx context.Context, e env) error {
	req := &holdfastv1.RearmAlarmRequest{Class: c.Class}
	err := c.choose("alarms rearm",
		func(name string) { req.Object = &holdfastv1.RearmAlarmRequest_Name{Name: name} },
		func(id string) { req.Object = &holdfastv1.RearmAlarmRequest_Id{Id: id} })
	if err != nil {
		return err
	}
	return c.with(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		if _, err := holdfastv1.NewAdminClient(conn).RearmAlarm(ctx, req); err != nil {
			return err
		}
		_, err := fmt.Fprintln(e.stdout, "armed")
		return err
	})
}

type discardAlarmCmd struct {
	addrFlag
	oneObject
}

// Run implements the command.
func (c *discardAlarmCmd) Run(ctx context.Context, e env) error {
	req := &holdfastv1.DiscardAlarmRequest{Class: c.Class}
	err := c.choose("alarms discard",
		func(name string) { req.Object = &holdfastv1.DiscardAlarmRequest_Name{Name: name} },
		func(id string) { req.Object = &holdfastv1.DiscardAlarmRequest_Id{Id: id} })
	if err != nil {
		return err
	}
	return c.with(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		if _, err := holdfastv1.NewAdminClient(conn).DiscardAlarm(ctx, req); err != nil {
			return err
		}
		_, err := fmt.Fprintln(e.stdout, "discarded")
		return err
	})
}
