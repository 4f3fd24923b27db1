package web

import (
	"net/netip"
	"strings"
)

// A plain URL is one that the parser would leave as it is: of http or https, with a host in lower case and a path,
// without anything to be decoded, resolved or left out. Nearly every URL of a request is one, and reading its
// components off costs a twentieth of parsing it.

// plainBytesMax is how long a plain URL may be: each of the three places of marks has ten bits.
const plainBytesMax = 1<<10 - 1

// byteSet says of each ASCII character whether it is in a set.
type byteSet [128]bool

func setOf(ranges ...string) (s byteSet) {
	for _, r := range ranges {
		if len(r) == 3 && r[1] == '-' {
			for c := r[0]; c <= r[2]; c++ {
				s[c] = true
			}
			continue
		}
		for i := range len(r) {
			s[r[i]] = true
		}
	}
	return s
}

// What stays as it is in a host, but for the parts between its dots that other rules are for; in a path, but for dots
// after a slash; and in a query.
var (
	plainHost  = setOf("a-z", "0-9", "-.")
	plainPath  = setOf("a-z", "A-Z", "0-9", "/_~!$&()*+,;=:@.-")
	plainQuery = setOf("a-z", "A-Z", "0-9", "/_~!$&()*+,;=:@.-?%")
)

// span returns how many bytes at the beginning of s are in the set.
func (b *byteSet) span(s string) int {
	for i := range len(s) {
		if s[i] >= 128 || !b[s[i]] {
			return i
		}
	}
	return len(s)
}

// plainURL says of a plain URL where its host, the port and its path end.
func plainURL(s string) (hostEnd, pathStart, queryStart int, ok bool) {
	if len(s) > plainBytesMax {
		return 0, 0, 0, false
	}
	defaultPort := "80"
	begin := len("http://")
	if !strings.HasPrefix(s, "http://") {
		if !strings.HasPrefix(s, "https://") {
			return 0, 0, 0, false
		}
		defaultPort, begin = "443", len("https://")
	}
	hostEnd = begin + plainHost.span(s[begin:])
	if !isPlainHost(s[begin:hostEnd]) {
		return 0, 0, 0, false
	}
	pathStart = hostEnd
	if strings.HasPrefix(s[hostEnd:], ":") {
		for pathStart++; pathStart < len(s) && '0' <= s[pathStart] && s[pathStart] <= '9'; pathStart++ {
		}
		if port := s[hostEnd+1 : pathStart]; port == "" || len(port) > 4 || port[0] == '0' || port == defaultPort {
			return 0, 0, 0, false // Of five digits it may be too large.
		}
	}
	if !strings.HasPrefix(s[pathStart:], "/") {
		return 0, 0, 0, false
	}
	queryStart = pathStart + plainPath.span(s[pathStart:])
	if strings.Contains(s[pathStart:queryStart], "/.") {
		return 0, 0, 0, false
	}
	query := s[queryStart:]
	ok = query == "" || len(query) > 1 && query[0] == '?' && plainQuery.span(query) == len(query)
	return hostEnd, pathStart, queryStart, ok
}

// isPlainHost says of lower case letters, digits, hyphens and dots whether they are an IPv4 address as it is written,
// or a domain that stays as it is.
func isPlainHost(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	if last == "" || last[0] < 'a' {
		_, err := netip.ParseAddr(host)
		return err == nil
	}
	return host[0] != '.' && !strings.Contains(host, "..") && !strings.Contains(host, "--")
}
