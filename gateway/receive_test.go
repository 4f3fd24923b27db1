package gateway

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/fault"
)

// So many requests arrive at once, and others wait; slow ones let others pass, until there are too many.
func TestReceiversBoundWhatIsOnItsWayIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const most = 3
		r := newReceivers(most)
		whole := make(chan struct{})
		var begun atomic.Int64 // The clock lets one begin: that orders nothing with the reads here.
		results := make(chan error, 10)
		begin := func(ctx context.Context) {
			go func() {
				results <- r.receive(ctx, func() error {
					begun.Add(1)
					<-whole
					return nil
				})
			}()
			synctest.Wait()
		}
		const earlier = 10 * time.Millisecond
		begin(t.Context())
		<-time.After(earlier)
		for range most {
			begin(t.Context())
		}
		if begun.Load() != most {
			t.Fatalf("%d of %d arrive at once, want %d", begun.Load(), most+1, most)
		}
		gone, leave := context.WithCancel(t.Context())
		begin(gone)
		leave()
		if err := <-results; status.Code(err) != codes.Canceled {
			t.Errorf("a caller that went away while it waited: got %v", err)
		}
		// The first is slow now, and lets who waits pass. When there are too many slow ones, no more are
		// taken in.
		<-time.After(receiveGrace - earlier)
		synctest.Wait()
		if begun.Load() != most+1 {
			t.Errorf("%d arrive beside a slow one", begun.Load()-1)
		}
		<-time.After(earlier)
		synctest.Wait()
		read := false
		if err := r.receive(t.Context(), func() error { read = true; return nil }); fault.ReasonOf(err) != fault.Overloaded || read {
			t.Errorf("beside too many slow ones: got %v, read: %v", err, read)
		}
		for range 2 {
			whole <- struct{}{}
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if err := r.receive(t.Context(), func() error { return errStopping }); fault.ReasonOf(err) != fault.NoOwner {
			t.Errorf("beside fewer slow ones: got %v", err)
		}
		close(whole)
		for range most - 1 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if len(r.slots) != 0 || r.slow.Load() != 0 {
			t.Errorf("%d slots are taken and %d slow with nobody there", len(r.slots), r.slow.Load())
		}
	})
}
