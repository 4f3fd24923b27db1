package web

import (
	"strings"

	"github.com/nlnwa/whatwg-url/url"
)

// What a URL may hold, in bytes: more than any proxy passes.
const urlBytesMax = 1 << 20

var urlParser = url.NewParser()

// parseURL parses a URL by the URL standard, relative to base unless that is empty. The answer is what
// urlRecord says.
func parseURL(input, base string) (record string, ok bool) {
	if len(input)+len(base) > urlBytesMax {
		return "", false
	}
	u, err := parse(input, base)
	if err != nil {
		return "", false
	}
	return urlRecord(u), true
}

func parse(input, base string) (*url.Url, error) {
	if base == "" {
		return urlParser.Parse(input)
	}
	return urlParser.ParseRef(base, input)
}

// setURL sets one component of a serialised URL as the setters of the URL class do, which ignore what does
// not fit.
func setURL(href, component, value string) string {
	u, err := urlParser.Parse(href)
	if err != nil || len(href)+len(value) > urlBytesMax {
		return href
	}
	switch component {
	case "protocol":
		u.SetProtocol(value)
	case "username":
		u.SetUsername(value)
	case "password":
		u.SetPassword(value)
	case "host":
		u.SetHost(value)
	case "hostname":
		u.SetHostname(value)
	case "port":
		u.SetPort(value)
	case "pathname":
		u.SetPathname(value)
	case "search":
		u.SetSearch(value)
	case "hash":
		u.SetHash(value)
	}
	return urlRecord(u)
}

// urlRecord is a URL and its components as url.js reads them: separated by line feeds, which none of them
// can contain.
func urlRecord(u *url.Url) string {
	return strings.Join([]string{
		u.Href(false), u.Protocol(), u.Username(), u.Password(), u.Hostname(), u.Port(), u.Pathname(), u.Search(), u.Hash(),
	}, "\n")
}
