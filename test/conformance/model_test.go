package conformance_test

import (
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-io/holdfast/actor"
)

// kept is what an object has.
type kept struct {
	keys map[string]string
	at   int64 // the alarm's time, or momentary; 0: none
	dead bool  // an alarm was given up
	// ringing says that the alarm's handler runs and has neither set nor deleted the alarm: it does not
	// see the one that it runs for.
	ringing bool
}

func (k kept) clone() kept {
	k.keys = maps.Clone(k.keys)
	return k
}

func (k kept) exists() bool { return len(k.keys) > 0 || k.at != 0 || k.dead }

// model is an object within an event.
type model struct {
	now kept
	// commits are what the object had when the event began, and after each part of it that was durable by
	// itself.
	commits []kept
	depth   int // of transactions
	said    string
}

// modelAborts unwinds an event of the model that ends so.
type modelAborts struct{ end ending }

// played plays an event on what an object has.
func played(before kept, do func(p *performance, on platform) error) (m *model, end ending) {
	m = &model{now: before.clone(), commits: []kept{before}}
	p := &performance{}
	defer func() {
		m.said = p.text()
		switch r := recover().(type) {
		case nil:
		case modelAborts:
			end = r.end
		case string: // What the event panics with.
			end = panics
		default:
			panic(r)
		}
		if end == aborts || end == givesUp || end == panics {
			m.now = m.commits[len(m.commits)-1].clone()
		}
		m.commits = append(m.commits, m.now)
	}()
	if err := do(p, inModel{model: m}); err != nil {
		return m, fails
	}
	return m, returns
}

func (k kept) play(e event) (*model, ending) {
	return played(k, func(p *performance, on platform) error { return p.event(on, e) })
}

// alarmRetries is how often an alarm of the programs' class is tried again.
const alarmRetries = 2

// chain returns what the object has, and then after each run of its alarm if that is due in a moment,
// until the alarm is over or is another.
func (k kept) chain() []kept {
	out := []kept{k}
	for retry := 0; k.at == momentary; retry++ {
		k = k.rung(retry)
		out = append(out, k)
	}
	return out
}

// rung is what the object has after a run of its alarm.
func (k kept) rung(retry int) kept {
	begun := k.clone()
	begun.ringing = true
	m, end := played(begun, func(p *performance, on platform) error { return p.ring(on, retry) })
	after := m.now.clone()
	switch {
	case end == givesUp: // Whatever the handler has done.
		after.at = 0
	case !after.ringing: // The handler itself has set or deleted it.
	case end == returns:
		after.at = 0
	case retry >= alarmRetries:
		after.at, after.dead = 0, true
	}
	after.ringing = false
	return after
}

// inModel is the platform of a model.
type inModel struct {
	*model

	over *bool // says that the transaction is; nil: it is for none
}

func (m inModel) usable() error {
	if m.over != nil && *m.over {
		return actor.ErrTransactionEnded
	}
	return nil
}

func (m inModel) get(key string) (string, bool, error) {
	if err := m.usable(); err != nil {
		return "", false, err
	}
	v, ok := m.now.keys[key]
	return v, ok, nil
}

func (m inModel) getMany(keys []string) (map[string]string, error) {
	out := make(map[string]string)
	for _, key := range keys {
		if v, ok := m.now.keys[key]; ok {
			out[key] = v
		}
	}
	return out, m.usable()
}

func (m inModel) put(key, value string) error { return m.putMany(map[string]string{key: value}) }

func (m inModel) putMany(entries map[string]string) error {
	if err := m.usable(); err != nil {
		return err
	}
	maps.Copy(m.now.keys, entries)
	return nil
}

func (m inModel) delete(key string) (bool, error) {
	n, err := m.deleteMany([]string{key})
	return n > 0, err
}

func (m inModel) deleteMany(keys []string) (int, error) {
	before := len(m.now.keys)
	for _, key := range keys {
		delete(m.now.keys, key)
	}
	return before - len(m.now.keys), m.usable()
}

func (m inModel) deleteAll() error {
	if m.depth > 0 {
		return actor.ErrInTransaction
	}
	clear(m.now.keys)
	m.now.at, m.now.dead, m.now.ringing = 0, false, false
	return nil
}

func (m inModel) list(o actor.ListOptions, each func(key, value string)) error {
	var keys []string
	for _, key := range slices.Sorted(maps.Keys(m.now.keys)) {
		if key >= o.Start && (o.StartAfter == "" || key > o.StartAfter) && (o.End == "" || key < o.End) && strings.HasPrefix(key, o.Prefix) {
			keys = append(keys, key)
		}
	}
	if o.Reverse {
		slices.Reverse(keys)
	}
	if o.Limit > 0 && len(keys) > o.Limit {
		keys = keys[:o.Limit]
	}
	walked := maps.Clone(m.now.keys)
	for _, key := range keys {
		each(key, walked[key])
	}
	return m.usable()
}

func (m inModel) transaction(fn func(tx platform) error) (err error) {
	before, over := m.now.clone(), false
	m.depth++
	returned := false
	defer func() {
		m.depth--
		over = true
		if !returned || err != nil {
			m.now = before
		}
	}()
	err = fn(inModel{m.model, &over})
	returned = true
	return err
}

func (m inModel) sync() error {
	if m.depth > 0 {
		return actor.ErrInTransaction
	}
	m.commits = append(m.commits, m.now.clone())
	return nil
}

func (m inModel) setAlarm(at int64) error {
	m.now.at, m.now.ringing = max(at, momentary), false
	return nil
}

func (m inModel) deleteAlarm() error {
	m.now.at, m.now.ringing = 0, false
	return nil
}

func (m inModel) alarm() (int64, error) {
	if m.now.ringing {
		return 0, nil
	}
	return m.now.at, nil
}

func (m inModel) abort(string)             { panic(modelAborts{aborts}) }
func (m inModel) abortWithoutRetry(string) { panic(modelAborts{givesUp}) }
func (m inModel) unconfirmed() platform    { return m }
