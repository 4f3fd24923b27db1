package chaos

import (
	"bytes"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/test/e2e/internal/registers"
)

// TestTimelineHasEveryFault: the picture can be drawn, and names each fault.
func TestTimelineHasEveryFault(t *testing.T) {
	r := Report{
		Config: Config{Nodes: 3, Seed: 7, Dir: t.TempDir()},
		Report: registers.Report{Step: step, Lasted: time.Minute, Acked: make([]int, 241), Failed: make([]int, 241)},
	}
	for i := range r.Acked {
		r.Acked[i], r.Failed[i] = 300+i%40, i%7
	}
	for i, k := range kinds {
		at := time.Duration(2+5*i) * time.Second
		r.Windows = append(r.Windows, registers.Window{Kind: k.name, Began: at, End: at + 3*time.Second})
	}
	if len(colors) < len(kinds) {
		t.Errorf("%d colors for %d kinds", len(colors), len(kinds))
	}
	if err := r.write(); err != nil {
		t.Fatal(err)
	}
	svg, err := os.ReadFile(filepath.Join(r.Config.Dir, timelineFile+".svg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		if !strings.Contains(string(svg), ">"+k.name+"<") {
			t.Errorf("the picture does not name %s", k.name)
		}
	}
	raw, err := os.ReadFile(filepath.Join(r.Config.Dir, timelineFile+".png"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := png.Decode(bytes.NewReader(raw)); err != nil {
		t.Error(err)
	}
}
