package frame

import (
	"strings"

	"google.golang.org/grpc/metadata"
)

// BareMethod returns a method's own name, given as "/package.Service/Method" or bare.
func BareMethod(method string) string {
	if strings.HasPrefix(method, "/") {
		return method[strings.LastIndexByte(method, '/')+1:]
	}
	return method
}

// WithoutReserved deletes the keys that are Holdfast's own from a caller's metadata, and returns it:
// what names the object is the stub's business.
func WithoutReserved(md metadata.MD) metadata.MD {
	for key := range md {
		if strings.HasPrefix(key, "holdfast-") {
			delete(md, key)
		}
	}
	return md
}
