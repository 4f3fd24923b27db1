package worker

import (
	"context"
	"log/slog"
	"time"

	"github.com/holdfast-io/holdfast/worker/web"
)

// LogEntry is what a worker's JavaScript has logged: by console, or by an error that it did not catch.
type LogEntry struct {
	Time   time.Time
	Worker string
	// Class and Object are of the Durable Object that logs; empty for the worker's own handlers. Name is its
	// name, if it has one that it knows.
	Class, Object, Name string
	Level               slog.Level
	// Text may have several lines, and its stacks have places in the project's files.
	Text string
}

// LogSink takes what workers log. Log is called while JavaScript runs, by any goroutine, and must not block: what it
// can't keep it drops.
type LogSink interface{ Log(entry *LogEntry) }

// LogTo returns a LogSink that logs what workers log.
func LogTo(l *slog.Logger) LogSink { return slogSink{l} }

// slogSink logs as the node does.
type slogSink struct{ logger *slog.Logger }

// Log implements LogSink.
func (s slogSink) Log(e *LogEntry) {
	attrs := []slog.Attr{slog.String("worker", e.Worker)}
	if e.Class != "" {
		attrs = append(attrs, slog.String("class", e.Class), slog.String("object", e.Object))
	}
	if e.Name != "" {
		attrs = append(attrs, slog.String("name", e.Name))
	}
	attrs = append(attrs, slog.String("text", e.Text))
	s.logger.LogAttrs(context.Background(), e.Level, "worker", attrs...)
}

// logger knows whose JavaScript logs.
type logger struct {
	w                   *Worker
	class, object, name string
}

func (l *logger) log(level slog.Level, text string) {
	l.w.cfg.Logs.Log(&LogEntry{
		Time: time.Now(), Worker: l.w.bundle.Name, Class: l.class, Object: l.object, Name: l.name, Level: level, Text: l.w.mapper.MapStack(text),
	})
}

// levelOf is the level of the node's log.
func levelOf(level web.Level) slog.Level {
	switch level {
	case web.Debug:
		return slog.LevelDebug
	case web.Warn:
		return slog.LevelWarn
	case web.Error:
		return slog.LevelError
	case web.Log, web.Info:
	}
	return slog.LevelInfo
}
