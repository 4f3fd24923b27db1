package main

import (
	"strings"
	"testing"
)

func TestSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]size{"0": 0, "17": 17, "3KiB": 3 << 10, "256MiB": 256 << 20, "1GiB": 1 << 30, "2TiB": 2 << 40} {
		var got size
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s: got %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "-1MiB", "1MB", "1.5GiB", "9223372036854775807KiB", "5%"} {
		var got size
		if err := got.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
}
