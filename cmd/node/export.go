package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/client/objectfile"
	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

type exportCmd struct {
	addrFlag
	oneObject

	Output string        `short:"o" required:"" help:"The file to write. It has this name when it is whole, and .partial behind it until then." placeholder:"FILE" env:"-"`
	Resume bool          `help:"Go on with a FILE.partial that an export of the same class left, behind the last object that it has whole." env:"-"`
	Retry  time.Duration `help:"How long to go on trying while no object comes whole, such as when owners change." default:"1m" env:"-"`
}

// Help says what a person should know before.
func (*exportCmd) Help() string {
	return `Writes what an object, or without NAME and --id every object of the class, has stored: name, keys and values, alarm and dead alarm. Each object is as it was at one moment, after all that was acknowledged before the export came to it; different objects are of different moments. Calls go on meanwhile. The ids of past requests are not exported.

The file is checksummed: 'holdfast import FILE --check' reads it. docs/format/export.md has its format.`
}

// Run implements the command.
func (c *exportCmd) Run(ctx context.Context, e env) error {
	req := &holdfastv1.ExportObjectsRequest{Class: c.Class}
	if c.Name != nil || c.ID != "" {
		err := c.choose("export",
			func(name string) { req.Object = &holdfastv1.ExportObjectsRequest_Name{Name: name} },
			func(id string) { req.Object = &holdfastv1.ExportObjectsRequest_Id{Id: id} })
		if err != nil {
			return err
		}
	}
	if _, err := os.Lstat(c.Output); err == nil {
		return fmt.Errorf("%s exists already: name another file, or remove it", c.Output)
	}
	x := &exporter{req: req, progress: progress{out: e.stderr}}
	if err := x.open(c.Output+".partial", c.Resume); err != nil {
		return err
	}
	err := c.export(ctx, x)
	if err == nil {
		err = x.finish(c.Output)
	}
	if err != nil {
		return errors.Join(err, x.leave())
	}
	total := x.mark.Total
	if _, err := fmt.Fprintf(e.stdout, "exported %d objects with %d keys, %s, to %s\n", total.Objects, total.Entries, sizeText(total.Bytes), c.Output); err != nil {
		return err
	}
	if total.Skipped > 0 {
		return fmt.Errorf("%d objects are not in the file: their import was not finished; import them to the end, or again", total.Skipped)
	}
	return nil
}

// export reads until everything is there.
func (c *exportCmd) export(ctx context.Context, x *exporter) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	admin := holdfastv1.NewAdminClient(conn)
	for since := time.Now(); ; {
		before := x.mark.Offset
		err := x.read(ctx, admin)
		if err == nil {
			return nil
		}
		if x.mark.Offset > before {
			since = time.Now()
		}
		again := status.Code(err) == codes.Unavailable || fault.ReasonOf(err) == fault.Overloaded
		if !again || x.w == nil || time.Since(since) > c.Retry {
			return c.explain(err)
		}
		if err := x.rollback(); err != nil {
			return err
		}
		x.progress.note("trying again: " + c.explain(err).Error())
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// exporter writes what comes into a file.
type exporter struct {
	req      *holdfastv1.ExportObjectsRequest
	progress progress

	f      *os.File
	buf    *bufio.Writer
	header objectfile.Header
	w      *objectfile.Writer // nil before there is a header
	mark   objectfile.Mark    // behind the last object that is whole
	within placement.ObjectID // the object that has begun
}

// open begins the file, or goes on with one.
func (x *exporter) open(path string, resume bool) error {
	flags := os.O_RDWR | os.O_CREATE | os.O_EXCL
	if resume {
		flags = os.O_RDWR
	}
	f, err := os.OpenFile(path, flags, 0o600)
	switch {
	case errors.Is(err, os.ErrExist):
		return fmt.Errorf("%s is there, of an export that was cut off: --resume goes on with it; remove it to begin anew", path)
	case err != nil:
		return fmt.Errorf("export: %w", err)
	}
	x.f, x.buf = f, bufio.NewWriterSize(f, 1<<20)
	if !resume {
		return nil
	}
	header, mark, last, err := objectfile.Recover(f)
	if err == nil && header.One != (x.req.GetObject() != nil) {
		err = errors.New("it is of another export")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w; remove it to begin anew", path, err), f.Close())
	}
	x.header, x.mark = header, mark
	x.behind(last)
	if err := x.rollback(); err != nil {
		return errors.Join(err, f.Close())
	}
	return nil
}

// behind has the next read begin behind an object.
func (x *exporter) behind(last *placement.ObjectID) {
	if last != nil && x.req.GetObject() == nil {
		x.req.After = last.String()
	}
}

// rollback goes back to the last object that is whole.
func (x *exporter) rollback() error {
	if x.mark.Offset == 0 {
		return nil // There is no header yet.
	}
	if err := x.buf.Flush(); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if err := x.f.Truncate(x.mark.Offset); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if _, err := x.f.Seek(x.mark.Offset, io.SeekStart); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	x.w = objectfile.NewWriterAt(x.buf, x.mark)
	return nil
}

// read writes what one stream brings.
func (x *exporter) read(ctx context.Context, admin holdfastv1.AdminClient) error {
	if x.mark.Total.Objects > 0 && x.req.GetObject() != nil {
		return nil // It is there already.
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := admin.ExportObjects(ctx, x.req)
	if err != nil {
		return err
	}
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h := msg.GetHeader(); h != nil {
			if err := x.begin(h); err != nil {
				return err
			}
		}
		for _, p := range msg.GetParts() {
			if err := x.part(p); err != nil {
				return err
			}
		}
		total := x.mark.Total
		x.progress.show(total.Objects, uint64(x.w.Mark().Offset)) //nolint:gosec // not negative
	}
}

// begin writes the header, or sees that the file has the same.
func (x *exporter) begin(h *holdfastv1.ExportHeader) error {
	if x.w != nil {
		if x.header.UniqueKey != h.GetUniqueKey() || x.header.ClusterID != h.GetClusterId() {
			return fmt.Errorf("the file is of class %s of cluster %s, and this is class %s of cluster %s", x.header.Class, x.header.ClusterID, h.GetClass(), h.GetClusterId())
		}
		return nil
	}
	x.header = objectfile.Header{
		Class: h.GetClass(), UniqueKey: h.GetUniqueKey(), ClusterID: h.GetClusterId(), UnixMilli: time.Now().UnixMilli(), One: x.req.GetObject() != nil,
	}
	var err error
	if x.w, err = objectfile.NewWriter(x.buf, x.header); err != nil {
		return err
	}
	x.mark = x.w.Mark()
	return nil
}

func (x *exporter) part(p *holdfastv1.ObjectPart) error {
	switch p := p.GetPart().(type) {
	case *holdfastv1.ObjectPart_Begin:
		b := p.Begin
		o := &objectfile.Object{ID: placement.ObjectID(b.GetId()), Name: b.Name, CommitSequence: b.GetCommitSequence(), Time: b.GetTime()}
		if a := b.GetAlarm(); a != nil {
			o.Alarm = &objectfile.Alarm{Due: a.GetDueUnixMs(), Scheduled: a.GetScheduledUnixMs(), Retries: a.GetRetries()}
		}
		if d := b.GetDeadAlarm(); d != nil {
			o.Dead = &objectfile.Dead{Scheduled: d.GetScheduledUnixMs(), Died: d.GetDiedUnixMs(), Retries: d.GetRetries(), Error: d.GetError()}
		}
		x.within = o.ID
		return x.w.Begin(o)
	case *holdfastv1.ObjectPart_Entry:
		return x.w.Entry(p.Entry.GetKey(), p.Entry.GetValue())
	case *holdfastv1.ObjectPart_End:
		if err := x.w.End(); err != nil {
			return err
		}
		x.whole(x.within)
	case *holdfastv1.ObjectPart_Skipped:
		s := &objectfile.Skipped{ID: placement.ObjectID(p.Skipped.GetId()), Name: p.Skipped.Name, Why: p.Skipped.GetWhy()}
		if err := x.w.Skip(s); err != nil {
			return err
		}
		x.progress.note(fmt.Sprintf("object %s %s is left out: %s", s.ID, nameText(s.Name), s.Why))
		x.whole(s.ID)
	}
	return nil
}

// whole notes that the file has an object whole.
func (x *exporter) whole(id placement.ObjectID) {
	x.mark = x.w.Mark()
	x.behind(&id)
}

// finish ends the file and gives it its name.
func (x *exporter) finish(path string) error {
	if _, err := x.w.Close(); err != nil {
		return err
	}
	if err := errors.Join(x.buf.Flush(), x.f.Sync()); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	x.progress.done(x.mark.Total.Objects, uint64(x.w.Mark().Offset)) //nolint:gosec // not negative
	if err := x.f.Close(); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if err := os.Rename(x.f.Name(), path); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// leave leaves what is whole for --resume, or nothing when that is nothing.
func (x *exporter) leave() error {
	_ = x.buf.Flush()
	err := x.f.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	if x.mark.Total.Objects == 0 {
		return errors.Join(err, os.Remove(x.f.Name()))
	}
	return errors.Join(err, fmt.Errorf("what came whole is in %s: --resume goes on with it", x.f.Name()))
}

// progress shows how far it is, once a second.
type progress struct {
	out         io.Writer
	began, last time.Time
	first       uint64 // bytes that were there before
	lastBytes   uint64
	noted       string
}

func (p *progress) show(objects, bytes uint64) {
	now := time.Now()
	switch {
	case p.began.IsZero():
		p.began, p.last, p.first, p.lastBytes = now, now, bytes, bytes
	case now.Sub(p.last) >= time.Second:
		p.print(objects, bytes, float64(bytes-p.lastBytes)/now.Sub(p.last).Seconds())
		p.last, p.lastBytes = now, bytes
	}
}

// done shows all of it, if it took long enough for anything to be shown before.
func (p *progress) done(objects, bytes uint64) {
	if took := time.Since(p.began); !p.began.IsZero() && took >= time.Second {
		p.print(objects, bytes, float64(bytes-p.first)/took.Seconds())
	}
}

func (p *progress) print(objects, bytes uint64, rate float64) {
	_, _ = fmt.Fprintf(p.out, "%d objects, %s, %s/s\n", objects, sizeText(bytes), sizeText(uint64(max(rate, 0))))
}

// note shows something else, unless that is what it showed last.
func (p *progress) note(text string) {
	if text != p.noted {
		_, _ = fmt.Fprintln(p.out, text)
	}
	p.noted = text
}

// sizeText is a number of bytes for people.
func sizeText(bytes uint64) string {
	units := []string{"KiB", "MiB", "GiB", "TiB"}
	if bytes < 1<<10 {
		return fmt.Sprintf("%d B", bytes)
	}
	value := float64(bytes) / (1 << 10)
	for len(units) > 1 && value >= 1<<10 {
		value, units = value/(1<<10), units[1:]
	}
	return fmt.Sprintf("%.1f %s", value, units[0])
}
