package conformance_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The page and the suite can be read side by side: under each heading the page has the section's facts,
// in their order, and none besides.
func TestThePageHasEveryFact(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	span := regexp.MustCompile("^`([^`]+)`$")
	for _, s := range sections {
		_, rest, ok := strings.Cut(string(raw), "\n## "+s.heading+"\n")
		if !ok {
			t.Errorf("the page has no heading %q", s.heading)
			continue
		}
		rest, _, _ = strings.Cut(rest, "\n## ")
		var onPage, inSuite []string
		for line := range strings.Lines(rest) {
			cells := strings.Split(strings.TrimSpace(line), "|")
			if len(cells) < 4 {
				continue
			}
			if m := span.FindStringSubmatch(strings.TrimSpace(cells[3])); m != nil {
				onPage = append(onPage, m[1])
			}
		}
		for _, f := range s.facts {
			inSuite = append(inSuite, f.says)
		}
		want(t, "what the page has under "+s.heading, onPage, inSuite)
	}
}
