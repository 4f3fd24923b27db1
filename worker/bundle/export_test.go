package bundle

// Teller returns a Watcher's way to tell of updates, without a project.
func Teller() (tell func(Update), updates <-chan Update) {
	w := &Watcher{updates: make(chan Update, 1)}
	return w.tell, w.updates
}

// ParseConfig reads a configuration that is not in a file.
var ParseConfig = parseConfig

// Watched returns the folders that a Watcher watches.
func (w *Watcher) Watched() []string { return w.events.WatchList() }
