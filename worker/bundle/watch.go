package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Update is a project as it is now: its bundle, or why there is none.
type Update struct {
	Result *Result
	Err    error
}

// Watcher bundles a project again whenever its files change, until it is closed.
type Watcher struct {
	path    string
	root    string   // the project's folder, absolute
	except  []string // folders, absolute
	options Options
	events  *fsnotify.Watcher
	updates chan Update
	stop    chan struct{}
	done    chan struct{} // closed when run has ended

	// What run alone uses.
	lastFile []byte // of the last update, encoded
	lastErr  string
}

const (
	// gatherTime is how long a Watcher waits after a change for others that belong to it: editors and
	// version control write several files.
	gatherTime = 50 * time.Millisecond
	// watchDirsMax bounds the folders that are watched; systems have limits of about this size.
	watchDirsMax = 4_000
)

// Watch begins to watch the project at the path, a folder with a configuration or the
// configuration, but for the folders in except. The first update is the project as it is. Call Close when
// done.
func Watch(path string, o Options, except ...string) (*Watcher, error) {
	file, err := findConfig(path)
	if err != nil {
		return nil, err
	}
	root, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	except = slices.Clone(except)
	for i := range except {
		if except[i], err = filepath.Abs(except[i]); err != nil {
			return nil, fmt.Errorf("watch %s: %w", path, err)
		}
	}
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	w := &Watcher{
		path: path, root: root, except: except, options: o, events: events, updates: make(chan Update, 1),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	go w.run()
	return w, nil
}

// Updates returns where the project's states come: one when it begins, and one whenever a change
// gives another bundle or another error. A state that nobody has taken is replaced by the next.
// Close closes it.
func (w *Watcher) Updates() <-chan Update { return w.updates }

// Close stops watching and returns when nothing of it is left. It must be called once.
func (w *Watcher) Close() error {
	close(w.stop)
	<-w.done
	if err := w.events.Close(); err != nil {
		return fmt.Errorf("watch %s: %w", w.path, err)
	}
	return nil
}

func (w *Watcher) run() {
	defer close(w.done)
	defer close(w.updates)
	w.rebuild()
	var gathered <-chan time.Time // while changes gather
	for {
		select {
		case <-w.stop:
			return
		case event, ok := <-w.events.Events:
			if !ok {
				return
			}
			// Reading files changes their times on some systems, which must not bundle again.
			if gathered == nil && event.Op != fsnotify.Chmod {
				gathered = time.After(gatherTime)
			}
		case _, ok := <-w.events.Errors: // changes were lost
			if !ok {
				return
			}
			if gathered == nil {
				gathered = time.After(gatherTime)
			}
		case <-gathered:
			gathered = nil
			w.rebuild()
		}
	}
}

// rebuild bundles the project and tells of it. Folders are watched before their files are read, so
// that no change falls between.
func (w *Watcher) rebuild() {
	if err := w.watch(nil); err != nil {
		w.tell(Update{Err: err})
		return
	}
	for {
		result, err := Build(w.path, w.options)
		if err != nil {
			w.tell(Update{Err: err})
			return
		}
		before := len(w.events.WatchList())
		if err := w.watch(result.inputs); err != nil {
			w.tell(Update{Err: err})
			return
		}
		if len(w.events.WatchList()) == before {
			w.tell(Update{Result: result})
			return
		}
		// A folder that was not watched had a file of the bundle: it may have changed since.
	}
}

// tell sends an update when it differs from the last, and takes back one that nobody took.
func (w *Watcher) tell(u Update) {
	var file []byte
	var text string
	if u.Err == nil {
		file, u.Err = u.Result.Encode()
	}
	if u.Err != nil {
		text = u.Err.Error()
	}
	if bytes.Equal(file, w.lastFile) && text == w.lastErr {
		return
	}
	w.lastFile, w.lastErr = file, text
	select {
	case <-w.updates:
	default:
	}
	w.updates <- u // there is room: nobody else sends
}

// watch watches the folders of the project, and those of the inputs that are not in it. Packages are
// left out: they change by an installation, which changes the project's package.json as well.
func (w *Watcher) watch(inputs []string) error {
	dirs := make(map[string]bool)
	err := filepath.WalkDir(w.root, func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // gone since its folder was read
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		case p != w.root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || slices.Contains(w.except, p)):
			return fs.SkipDir
		}
		dirs[p] = true
		if len(dirs) > watchDirsMax {
			return fmt.Errorf("it has more than %d folders", watchDirsMax)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("watch %s: %w", w.path, err)
	}
	for _, file := range inputs {
		if !slices.Contains(strings.Split(filepath.ToSlash(file), "/"), "node_modules") {
			dirs[filepath.Dir(file)] = true
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		if err := w.events.Add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	return nil
}
