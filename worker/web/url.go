package web

import (
	"regexp"
	"strings"

	"github.com/nlnwa/whatwg-url/url"
)

// What a URL may hold, in bytes: more than any proxy passes. And its user name and password, since the parser takes
// quadratic time for them: 1.4 s for 16 KiB of "@".
const (
	urlBytesMax         = 256 << 10
	credentialsBytesMax = 2 << 10
)

// authority is what comes after the scheme and the slashes: at most, also before tabs and line feeds are taken out.
var authority = regexp.MustCompile(`^[\x00-\x20]*(?i:(?:https?|wss?|ftp|file):[/\\\s]*|[a-z][a-z0-9+.\s-]*:\s*/[/\s]*|[/\\\s]+)([^/?#]*)`)

func tooLong(input string) bool {
	switch {
	case len(input) > urlBytesMax:
		return true
	case len(input) <= credentialsBytesMax:
		return false
	}
	m := authority.FindStringSubmatch(input)
	return m != nil && strings.LastIndexByte(m[1], '@') > credentialsBytesMax
}

var urlParser = url.NewParser()

// parseURL parses a URL by the URL standard, relative to base unless that is empty. The answer is what
// urlRecord says.
func parseURL(input, base string) (record string, ok bool) {
	if tooLong(input) || tooLong(base) {
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

var isAuthority = map[string]bool{"username": true, "password": true, "host": true, "hostname": true}

// setURL sets one component of a serialised URL as the setters of the URL class do, which ignore what does
// not fit.
func setURL(href, component, value string) string {
	u, err := urlParser.Parse(href)
	if err != nil {
		return href // which came from here, and so is a URL
	}
	if len(href)+len(value) > urlBytesMax || len(u.Username())+len(u.Password())+len(value) > credentialsBytesMax && isAuthority[component] {
		return urlRecord(u)
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
