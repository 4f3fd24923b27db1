package storage

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// smallDisk is a filesystem that has so many bytes free.
type smallDisk struct {
	vfs.FS
	free uint64
}

// GetDiskUsage implements vfs.FS.
func (d *smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: d.free}, nil
}

// A store does not open where it could not write out what its logs have.
func TestOpenNeedsRoom(t *testing.T) {
	t.Parallel()
	disk := &smallDisk{vfs.NewMem(), minFreeBytes}
	s, err := Open("data", Options{FS: disk, CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if free, err := s.FreeDisk(); err != nil || free != minFreeBytes {
		t.Errorf("free: %d, %v", free, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	reopen := func(free uint64, words ...string) {
		t.Helper()
		disk.free = free
		s, err := Open("data", Options{FS: disk, CacheBytes: 1 << 20})
		if err == nil {
			err = s.Close()
		}
		if (err == nil) != (len(words) == 0) {
			t.Errorf("with %d bytes free: %v", free, err)
		}
		for _, word := range words {
			if err != nil && !strings.Contains(err.Error(), word) {
				t.Errorf("%v does not say %q", err, word)
			}
		}
	}
	reopen(minFreeBytes-1, "67108863 bytes free", "make room")
	reopen(minFreeBytes)
	f, err := disk.Create("data/999999.log", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(make([]byte, 60<<20))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	reopen(70<<20, "at least", "make room")
}

func TestFatalTextTellsAFullDisk(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("write: %w", syscall.ENOSPC), "the disk is full"},
		{errors.New("pebble: fatal commit error: write 000004.log: no space left on device"), "make room"},
		{errors.New("pebble: fatal commit error: input/output error"), "the store failed"},
	} {
		if got := fatalText(tc.err); !strings.Contains(got, tc.want) || !strings.Contains(got, tc.err.Error()) {
			t.Errorf("%v: %s", tc.err, got)
		}
	}
}
