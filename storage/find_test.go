package storage_test

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-io/holdfast/placement"
	"github.com/holdfast-io/holdfast/storage"
)

func TestFindObjectsByTheirNames(t *testing.T) {
	t.Parallel()
	s := openMem(t, vfs.NewMem())
	defer closeStore(t, s)
	names := []*string{1: new("ab"), 2: nil, 3: new("a"), 4: new("b"), 5: new("abc"), 6: new("AB"), 7: new("ab\x00"), 8: new("")}
	b := s.NewBatch()
	for i, name := range names {
		if i == 0 {
			continue
		}
		record, err := storage.Record{Name: name, Class: "C"}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		b.Set(storage.AppendObjectKey(nil, 1, ref(byte(i)), storage.KindRecord, nil), record)
		for k := range 3 {
			b.Set(storage.AppendObjectKey(nil, 1, ref(byte(i)), storage.KindKV, fmt.Append(nil, k)), []byte("v"))
		}
	}
	if err := b.Commit(true); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	at := func(i byte) *placement.ObjectID { id := ref(i).ID; return &id }
	for _, tt := range []struct {
		prefix       string
		after        *placement.ObjectID
		limit, looks int
		want         []byte
		last         *placement.ObjectID
	}{
		{"ab", nil, 10, 100, []byte{1, 5, 7}, nil},
		{"ab", at(1), 10, 100, []byte{5, 7}, nil},
		{"ab", nil, 2, 100, []byte{1, 5}, at(5)},
		{"ab", nil, 3, 100, []byte{1, 5, 7}, at(7)},
		{"ab", nil, 10, 4, []byte{1}, at(4)},
		{"ab", at(4), 10, 4, []byte{5, 7}, nil},
		{"ab", at(8), 10, 4, nil, nil},
		{"", nil, 10, 100, []byte{1, 3, 4, 5, 6, 7, 8}, nil}, // What has no name has no prefix.
		{"none", nil, 10, 8, nil, nil},
		{"none", nil, 10, 7, nil, at(7)},
	} {
		list, last, err := s.FindObjects(1, "C", tt.after, tt.prefix, tt.limit, tt.looks)
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		for _, o := range list {
			for i := range byte(9) {
				if ref(i).ID == o.ID {
					got = append(got, i)
				}
			}
		}
		if diff := cmp.Diff(tt.want, got) + cmp.Diff(tt.last, last); diff != "" {
			t.Errorf("%q after %v, at most %d of %d: (-want +got)\n%s", tt.prefix, tt.after, tt.limit, tt.looks, diff)
		}
	}
}
