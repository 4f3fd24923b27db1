package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/holdfast-io/holdfast/client/objectfile"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

type importCmd struct {
	addrFlag

	File    string `arg:"" help:"The file, of 'holdfast export'."`
	As      string `help:"Import into this class instead of the one that the objects are from." placeholder:"CLASS" env:"-"`
	Replace bool   `help:"Put what is imported in the place of objects that exist. Without, those are left as they are, and the exit status is 1." env:"-"`
	Check   bool   `help:"Only read the file, and say what it has. No cluster is asked." env:"-"`
}

// Help says what a person should know before.
func (*importCmd) Help() string {
	return `Reads the file to its end first: one that is damaged or was cut off is refused with the place, before anything is imported.

An object that has at most 8 MiB and 9,000 keys is imported at once. A larger one is imported in parts: from the first of them, which takes away what a replaced object had, to the last, calls of the object are refused with IMPORT_UNFINISHED, and the object can't be exported; so are they when the import is cut off between, until the object is imported again. Running objects are reset when they are replaced.

Importing is safe to repeat. After an import that was cut off, run it again: what was imported exists, and is left as it is, or is replaced by the same with --replace.

An object with a name has the id of that name in the class that it is imported into. One without a name keeps its id, and so can only be imported into a class with the same unique key, such as the same class of another cluster.`
}

// Run implements the command.
func (c *importCmd) Run(ctx context.Context, e env) error {
	f, err := os.Open(c.File)
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	defer func() { _ = f.Close() }()
	header, end, err := c.check(ctx, f)
	if err != nil {
		return fmt.Errorf("import %s: %w", c.File, err)
	}
	if c.Check {
		_, err := fmt.Fprintf(e.stdout, "%d objects of class %s with %d keys, %s; %d left out\n", end.Objects, header.Class, end.Entries, sizeText(end.Bytes), end.Skipped)
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("import: %w", err)
	}
	class := header.Class
	if c.As != "" {
		class = c.As
	}
	im := &importing{progress: progress{out: e.stderr}}
	err = c.send(ctx, f, im, &holdfastv1.ImportBegin{Class: class, UniqueKey: header.UniqueKey, Replace: c.Replace})
	if err != nil && im.imported+im.refused == 0 {
		return c.explain(err)
	}
	if _, printed := fmt.Fprintf(e.stdout, "imported %d of %d objects into class %s\n", im.imported, end.Objects, class); err == nil {
		err = printed
	}
	switch {
	case err != nil:
		return fmt.Errorf("the import was cut off; it is safe to import the file again: %w", c.explain(err))
	case im.refused > 0:
		return fmt.Errorf("%d objects were not imported", im.refused)
	}
	return nil
}

// check reads the file to its end.
func (c *importCmd) check(ctx context.Context, f io.Reader) (h objectfile.Header, end objectfile.End, err error) {
	r, err := objectfile.NewReader(f)
	if err != nil {
		return h, end, err
	}
	for {
		item, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return r.Header(), end, nil
		case err != nil:
			return h, end, err
		case ctx.Err() != nil:
			return h, end, context.Cause(ctx)
		}
		if it, ok := item.(*objectfile.End); ok {
			end = *it
		}
	}
}

// importing is an import under way.
type importing struct {
	progress progress

	mu                sync.Mutex
	imported, refused uint64
}

// refusedShown is how many of the refused objects are named.
const refusedShown = 20

// took notes what became of objects.
func (im *importing) took(objects []*holdfastv1.ImportedObject) {
	im.mu.Lock()
	defer im.mu.Unlock()
	for _, o := range objects {
		if o.GetReason() == "" {
			im.imported++
			continue
		}
		if im.refused++; im.refused <= refusedShown {
			im.progress.note(o.GetReason() + ": " + o.GetMessage())
		}
	}
}

func (im *importing) objects() uint64 {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.imported
}

// importMessageBytes is about how much is sent at a time.
const importMessageBytes = 1 << 20

// send sends the file.
func (c *importCmd) send(ctx context.Context, f io.Reader, im *importing, begin *holdfastv1.ImportBegin) error {
	r, err := objectfile.NewReader(f)
	if err != nil {
		return err
	}
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := holdfastv1.NewAdminClient(conn).ImportObjects(ctx)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		for {
			msg, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			im.took(msg.GetObjects())
		}
	}()
	err = sendParts(r, stream, im, begin)
	if err == nil {
		err = stream.CloseSend()
	}
	if err != nil && !errors.Is(err, io.EOF) { // io.EOF: the stream has ended, by an error that it tells.
		cancel()
		<-ended //nolint:errcheck // err says it
		return err
	}
	if err := <-ended; !errors.Is(err, io.EOF) {
		return err
	}
	im.progress.done(im.objects(), uint64(r.Offset())) //nolint:gosec // not negative
	return nil
}

func sendParts(r *objectfile.Reader, stream holdfastv1.Admin_ImportObjectsClient, im *importing, begin *holdfastv1.ImportBegin) error {
	msg := &holdfastv1.ImportObjectsRequest{Begin: begin}
	size := importMessageBytes // The beginning goes by itself, for what is wrong with it to be told at once.
	for {
		item, err := r.Next()
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return err
		}
		if last || size >= importMessageBytes {
			if err := stream.Send(msg); err != nil {
				return err
			}
			im.progress.show(im.objects(), uint64(r.Offset())) //nolint:gosec // not negative
			msg, size = &holdfastv1.ImportObjectsRequest{}, 0
		}
		if last {
			return nil
		}
		parts, bytes := partsOf(item)
		msg.Parts = append(msg.Parts, parts...)
		size += bytes
	}
}

// partsOf is what an item of a file is on the wire, and about how many bytes.
func partsOf(item objectfile.Item) (parts []*holdfastv1.ObjectPart, bytes int) {
	switch it := item.(type) {
	case *objectfile.Object:
		b := &holdfastv1.ObjectBegin{Id: it.ID[:], Name: it.Name, CommitSequence: it.CommitSequence, Time: it.Time}
		if a := it.Alarm; a != nil {
			b.Alarm = &holdfastv1.ObjectAlarm{DueUnixMs: a.Due, ScheduledUnixMs: a.Scheduled, Retries: a.Retries}
		}
		if d := it.Dead; d != nil {
			b.DeadAlarm = &holdfastv1.ObjectDeadAlarm{ScheduledUnixMs: d.Scheduled, DiedUnixMs: d.Died, Retries: d.Retries, Error: d.Error}
		}
		parts = append(parts, &holdfastv1.ObjectPart{Part: &holdfastv1.ObjectPart_Begin{Begin: b}})
		bytes = 256
		if it.Name != nil {
			bytes += len(*it.Name)
		}
	case objectfile.Entries:
		for _, e := range it {
			parts = append(parts, &holdfastv1.ObjectPart{Part: &holdfastv1.ObjectPart_Entry{Entry: &holdfastv1.Entry{Key: e.Key, Value: e.Value}}})
			bytes += len(e.Key) + len(e.Value) + 16
		}
	case *objectfile.ObjectEnd:
		parts = append(parts, &holdfastv1.ObjectPart{Part: &holdfastv1.ObjectPart_End{End: &holdfastv1.ObjectEnd{}}})
		bytes = 8
	}
	return parts, bytes
}
