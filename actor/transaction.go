package actor

import (
	"errors"
	"fmt"
)

// Errors of transactions.
var (
	// ErrInTransaction says that something was called that would end, or reach beyond, the
	// transaction around it: DeleteAll, Sync, Confirm or Yield. Call it before or after.
	ErrInTransaction = errors.New("can't be called within a transaction")
	// ErrTransactionEnded says that a transaction's Storage was used when the transaction was over.
	ErrTransactionEnded = errors.New("the transaction is over")
)

var (
	errCommitted  = fmt.Errorf("%w: it has committed; was its Storage kept outside of its function?", ErrTransactionEnded)
	errRolledBack = fmt.Errorf("%w: it was rolled back", ErrTransactionEnded)
)

// transaction is one call of Storage.Transaction. Its object's lock guards it.
type transaction struct {
	mark  mark
	ended error // why it can't be used any more
}

// Transaction calls fn, and takes back all that was written meanwhile if fn returns an error, which
// Transaction returns, or panics. The object itself is not reset by an error. What a transaction
// wrote becomes durable together with the rest of its event, and is seen by reads inside it at once.
//
// While fn runs no other event of the object does, so that a transaction never meets a conflict:
// whatever would let one in, or make a part durable by itself, is refused with ErrInTransaction
// (Yield, Confirm, Sync, WaitUntil, calls of other objects, and DeleteAll as in Durable Objects).
// Transactions nest: an inner one that fails takes back what it has written, an outer one that fails
// also what its inner ones have.
//
// tx is the same storage, for fn alone: it is refused with ErrTransactionEnded afterwards. What is
// written by way of the Storage that Transaction was called on is part of the transaction too.
func (s *Storage) Transaction(fn func(tx *Storage) error) error {
	tx, end, err := s.Begin()
	if err != nil {
		return err
	}
	returned := false
	defer func() {
		if !returned { // fn panics. Nothing is recovered: the stack stays as it is.
			_ = end(false)
		}
	}()
	err = fn(tx)
	returned = true
	if err != nil {
		_ = end(false) // It may be over already: with its event, or an outer one.
		return err
	}
	return end(true)
}

// Begin begins what Transaction does with a function, for a class whose code goes on elsewhere meanwhile:
// it lasts until end is called, once, in the same turn, or, within a section of Block or
// BlockConcurrency, in a later one of the same event. end returns what has ended the transaction before,
// if something has: its event, or one around it.
func (s *Storage) Begin() (tx *Storage, end func(commit bool) error, err error) {
	t, err := s.o.beginTransaction(s)
	if err != nil {
		return nil, nil, err
	}
	end = func(commit bool) error {
		if commit {
			return s.o.endTransaction(t, errCommitted)
		}
		return s.o.endTransaction(t, errRolledBack)
	}
	return &Storage{o: s.o, unconfirmed: s.unconfirmed, tx: t}, end, nil
}

func (i *incarnation) beginTransaction(s *Storage) (*transaction, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := s.usable(); err != nil {
		return nil, err
	}
	t := &transaction{mark: i.w.mark()}
	i.transactions = append(i.transactions, t)
	return t, nil
}

// endTransaction ends a transaction. It returns what ended it, if something has before.
func (i *incarnation) endTransaction(t *transaction, how error) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case t.ended != nil:
		return t.ended
	case i.over != nil: // What was open is discarded, and what is open now is another's.
		t.ended = i.over
		return i.over
	}
	i.end(t, how)
	return nil
}

// end ends a transaction that is open, and those that were begun within it and are open, which can
// only be those of other goroutines: all of them commit, or all are rolled back. The caller holds
// the lock.
func (i *incarnation) end(t *transaction, how error) {
	depth := t.mark.depth
	for _, inner := range i.transactions[depth:] {
		inner.ended = how
	}
	i.transactions = i.transactions[:depth]
	if errors.Is(how, errRolledBack) {
		i.w.rollbackTo(t.mark)
		i.charge()
	} else {
		i.w.keep(t.mark)
	}
}

// abandonTransactions rolls back what a goroutine that its event does not wait for has left open. The
// caller holds the lock.
func (i *incarnation) abandonTransactions() {
	if i.over == nil && len(i.transactions) > 0 {
		i.end(i.transactions[0], errRolledBack)
	}
}

// notInTransaction refuses what may not be called within a transaction. The caller holds the lock.
func (i *incarnation) notInTransaction(what string) error {
	if len(i.transactions) > 0 {
		return fmt.Errorf("%s %w", what, ErrInTransaction)
	}
	return nil
}
